"""Small trainings through ESPnet: data of noise, in this process, and killed in the middle."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lors.data.datadir import Utterance, write_data_dir

RATE = 16_000


def write_noise(root: Path, langs: Sequence[str], clips: int) -> None:
    """Write ``dump/<lang>/{train,dev}``: a second of noise and two texts for each clip.

    The ids are ``spk<number>-<lang>-<split>``.
    """
    rng = np.random.default_rng(1)
    (root / "audio").mkdir()
    for lang in langs:
        for split in ("train", "dev"):
            rows = []
            for number in range(clips):
                path, speaker = root / f"audio/{lang}-{split}-{number}.flac", f"spk{number}"
                soundfile.write(path, rng.normal(size=RATE) * 0.1, RATE)
                texts = f"{lang} {number} Wort", {"en": f"word {number}"}
                name = f"{speaker}-{lang}-{split}"
                rows.append(Utterance(name, str(path), speaker, lang, *texts, 1.0))
            write_data_dir(root / "dump" / lang / split, rows)


def run_here(command: Sequence[str], out: Path, processes: int) -> None:
    """Run the program of a training in this process, in place of ``lors.recipe.launch``."""
    importlib.import_module(command[2]).main(command[3:])


KEEPING = """import sys
from lors.recipe import train
train.remove_checkpoint = lambda out: None
from {module} import main
sys.exit(main(sys.argv[1:]))
"""


def keep_checkpoints(patch: pytest.MonkeyPatch) -> None:
    """Let trainings in this process leave their optimiser, for :func:`assert_same_training`."""
    patch.setattr("lors.recipe.train.remove_checkpoint", lambda out: None)


def two_processes(module: str, options: Sequence[str], ngpu: int, num_nodes: int = 1) -> list[str]:
    """Return the command of a training by DDP on the CPU, for ``training_command``."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nnodes", "1", "--nproc_per_node", "2", "-m", module, *options]
    launcher += ["--ngpu", "0", "--multiprocessing_distributed", "false"]
    return [*launcher, "--dist_backend", "gloo"]


def kill_and_resume(module: str, words: Sequence[str | Path], out: Path, last: int) -> None:
    """Kill a training and all its processes with SIGKILL after an epoch, and let it go on.

    Args:
        module: program that trains into `out`, and resumes the training in a second call.
        words: its command line.
        out: the training's directory; it keeps the last checkpoint.
        last: number of its epochs.
    """
    command = [sys.executable, "-c", KEEPING.format(module=module), *words]
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while not (out / "checkpoint.pth").exists():
            assert process.poll() is None, "it ended before its first epoch did"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / f"{last}epoch.pth").exists() and not (out / ".done").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert "resumed using" in (out / "train.log").read_text()


def assert_same_training(found: Path, expected: Path) -> None:
    """Compare the best and the last model of two trainings, and their optimisers, bit by bit."""
    for name in ("model.pth", "latest.pth"):
        assert (found / name).resolve().name == (expected / name).resolve().name
        _assert_same(*(torch.load(out / name, weights_only=True) for out in (found, expected)))
    one, other = (
        torch.load(out / "checkpoint.pth", weights_only=False)["optimizers"]
        for out in (found, expected)
    )
    for mine, theirs in zip(one, other, strict=True):
        assert mine["state"].keys() == theirs["state"].keys() and mine["state"]
        for key, moments in mine["state"].items():
            _assert_same(moments, theirs["state"][key])


def _assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() and expected
    assert all(torch.equal(found[name], value) for name, value in expected.items())
