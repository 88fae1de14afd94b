"""A recipe directory for a test, and functions to run and to interrupt the recipe there."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).parents[2]
PRODUCTS = ("downloads", "data", "dump", "exp", "speakers")  # what a recipe makes in its directory
TIMEOUT = 3600  # seconds, so that nothing hangs for ever; a run takes a minute or two

LANGS = ["de", "es"]
DATA_OPTS = ["--data_opts", "--num_train 12 --num_dev 6 --num_test 6"]
TRAINING = ["--base_model", "tiny_base", "--train_config", "conf/tiny_expert.yaml"]
TUNING = ["--tune_config", "conf/tiny_tune.yaml"]
BASELINES = ["--baselines", "joint sequential"]
OPTIONS = ["--langs", " ".join(LANGS), *DATA_OPTS, *TRAINING, *BASELINES, *TUNING]


@dataclass(frozen=True)
class Ended:
    """Exit status, output and duration of a command."""

    status: int
    stdout: str
    stderr: str
    seconds: float


class Recipe:
    """A copy of a recipe outside the checkout, which uses the code of the checkout.

    Args:
        directory: where the copy is made.
        name: the recipe, a folder of ``egs``.
        system: its folder in there.
    """

    def __init__(self, directory: Path, name: str = "mini_covost", system: str = "lors1"):
        self.directory = directory
        if not directory.exists():
            _copy(ROOT / "egs" / name / system, directory)

    def __truediv__(self, path: str) -> Path:
        return self.directory / path

    @property
    def exp(self) -> Path:
        return self.directory / "exp"

    def run(
        self,
        *options: str,
        environment: dict[str, str] | None = None,
        limit: int | None = None,
        program: str = "run.sh",
    ) -> Ended:
        """Run ``./run.sh`` with `options` to its end; no file may grow beyond `limit` bytes."""
        began = time.monotonic()
        with self.start(*options, environment=environment, limit=limit, program=program) as process:
            try:
                stdout, stderr = process.communicate(timeout=TIMEOUT)
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
        return Ended(process.returncode, stdout, stderr, time.monotonic() - began)

    def run_and_interrupt(self, *options: str, when: Callable[[], bool]) -> Ended:
        """Run the recipe, and press Ctrl-C once `when` is true: SIGINT to the process group."""
        return self.run_and(lambda pid: os.killpg(pid, signal.SIGINT), *options, when=when)

    def run_and(
        self,
        act: Callable[[int], object],
        *options: str,
        when: Callable[[], bool],
        environment: dict[str, str] | None = None,
    ) -> Ended:
        """Run the recipe to its end; call `act` with its process id once `when` is true."""
        began = time.monotonic()
        with self.start(*options, environment=environment) as process:
            while not when():
                assert process.poll() is None, f"ended by itself: {process.communicate()[1]}"
                time.sleep(0.02)
            act(process.pid)
            stdout, stderr = process.communicate(timeout=TIMEOUT)
        return Ended(process.returncode, stdout, stderr, time.monotonic() - began)

    def start(
        self,
        *options: str,
        environment=None,
        limit=None,
        output=subprocess.PIPE,
        program="run.sh",
    ) -> subprocess.Popen:
        """Start ``./run.sh`` with `options`; its output goes to `output`."""

        def prepare() -> None:
            # A shell that starts tests in the background has SIGINT ignored.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        return subprocess.Popen(
            [self / program, *options],
            env={**os.environ, "LORS_PYTHON": sys.executable, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
            preexec_fn=prepare,
        )

    def fork(self, directory: Path, *parts: str) -> Recipe:
        """Return another copy of the recipe, with the same data and these parts of ``exp``."""
        other = Recipe(directory)
        write_configs(other)
        for name in ("downloads", "data", "dump"):
            (other / name).symlink_to(self / name)
        for part in parts:
            shutil.copytree(self.exp / part, other.exp / part, symlinks=True)
        return other

    def status(self, expdir: str = "exp") -> tuple[int, dict[str, dict[str, dict]]]:
        """Return the exit code of ``utils/status``, and stage -> unit -> its entry there."""
        ended = subprocess.run(
            [self / "utils/status", expdir, "--json"],
            cwd=self.directory,
            env={**os.environ, "LORS_PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        stages = json.loads(ended.stdout)["stages"]
        units = {stage["name"]: {u["name"]: u for u in stage["units"]} for stage in stages}
        return ended.returncode, units

    def processes(self) -> list[str]:
        """Return the command lines of all processes that run in the recipe's directory."""
        return list(self.running().values())

    def running(self) -> dict[int, str]:
        """Return these command lines by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if (entry / "cwd").readlink().is_relative_to(self.directory.resolve()):
                    command = (entry / "cmdline").read_text().replace("\0", " ")
                    found[int(entry.name)] = command
            except (OSError, ValueError):
                continue  # no process, or one that has just ended or is another user's
        return found


def run(recipe: Recipe | Path, *options: str) -> subprocess.CompletedProcess:
    """Run ``./run.sh`` of a recipe for two minutes at most; its stderr is part of stdout."""
    return subprocess.run(
        [recipe / "run.sh", *options],
        env={**os.environ, "LORS_PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )


def _copy(source: Path, target: Path) -> None:
    """Copy a recipe directory; links in the copy lead to the same files."""
    target.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.name in PRODUCTS:
            continue
        if entry.is_symlink():
            (target / entry.name).symlink_to(entry.resolve())
        elif entry.is_dir():
            _copy(entry, target / entry.name)
        else:
            shutil.copy2(entry, target / entry.name)


def file_times(directory: Path) -> dict[str, int]:
    """Return the time of the last change of each file below `directory`.

    The tables for training are left out: every run writes them again, with the same content.
    """
    return {
        str(path.relative_to(directory)): path.lstat().st_mtime_ns
        for path in sorted(directory.rglob("*"))
        if not path.is_dir() and path.parent.parent.name != "data"
    }


def state(model: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model directory."""
    return torch.load(model / "model.pth", weights_only=True)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two models have the same weights, bit for bit."""
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


def stages_of(log: str) -> list[str]:
    """Return the names of the stages that begin in a log."""
    return re.findall(r"stage \d+ \((\w+)\): ", log)


def told_to_go_on(log: str) -> list[str]:
    """Return the words of the command that resumes a failed run, without the interpreter."""
    words = shlex.split(re.search(r"go on with:\n\S+ \S+ (cd .*)\n", log)[1])
    words.remove(f"LORS_PYTHON={sys.executable}")
    return words


def derive_config(recipe: Recipe, source: str, target: str, **changes) -> None:
    """Write ``conf/target``: the recipe's own ``conf/source`` with some values changed."""
    config = yaml.safe_load((recipe / f"conf/{source}").read_text(encoding="utf-8"))
    (recipe / f"conf/{target}").write_text(yaml.safe_dump({**config, **changes}))


def write_configs(recipe: Recipe) -> None:
    """Write configurations of the recipe that are so small that models train within seconds."""
    masks = {"apply_time_warp": False, "num_freq_mask": 1, "freq_mask_width_range": [0, 4]}
    masks |= {"num_time_mask": 1, "time_mask_width_range": [0, 10]}
    training = {"batch_size": 6, "optim_conf": {"lr": 0.005}, "log_interval": 5}
    # A loader process passes batches in files in memory; a limit on file sizes would stop it.
    training["num_workers"] = 0
    derive_config(
        recipe,
        "train_expert.yaml",
        "tiny_expert.yaml",
        **training,
        specaug_conf=masks,
        num_iters_per_epoch=15,
        max_epoch=3,
        scheduler_conf={"max_lr": 0.005, "total_steps": 45},
    )
    layers = {"attention_heads": 2, "linear_units": 32, "num_blocks": 1}
    derive_config(
        recipe,
        "train_base.yaml",
        "tiny_base.yaml",
        **training,
        encoder_conf={"input_layer": "conv1d2", "output_size": 16, **layers},
        decoder_conf=layers,
        num_iters_per_epoch=2,
        max_epoch=2,
        scheduler_conf={"max_lr": 0.005, "total_steps": 4},
    )
    tune = {
        "utterances_per_language": 4,
        "average": {"scaling_coef": [1.0]},
        "task_arithmetic": {"scaling_coef": [0.4, 0.7]},
        "lors": {"rank": [2], "density": [0.2], "scaling_coef": [0.4, 0.7]},
        "lors+boost": {
            **{"method": "lors", "rank": [2], "density": [0.2]},
            **{"boost": [0.05], "scaling_coef": [0.2, 0.4]},
        },
    }
    (recipe / "conf/tiny_tune.yaml").write_text(yaml.safe_dump(tune))
