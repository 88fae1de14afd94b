"""lors.checkpoint.reader: every file format, read lazily."""

import datetime
import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lors.checkpoint.lora_files import read_peft
from lors.checkpoint.masks import Masks
from lors.checkpoint.reader import Checkpoint
from tests.refusal import refusal
from tests.unit.checkpoint_files import assert_holds, some_state, torch_save, write
from tests.unit.whisper_files import write_peft


@pytest.fixture
def state():
    return some_state()


def test_plain_state_dict(tmp_path, state):
    opened = Checkpoint.open(torch_save(tmp_path / "valid.acc.best.pth", state))
    assert_holds(opened, state)
    assert opened.names() == list(state)


def test_file_format_of_old_pytorch(tmp_path, state):
    path = torch_save(tmp_path / "old.pth", state, _use_new_zipfile_serialization=False)
    assert_holds(Checkpoint.open(path), state)


def test_espnet_training_checkpoint(tmp_path, state):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    stats = {"loss": np.float64(1.5), "n": np.int64(3), "time": datetime.timedelta(seconds=2)}
    content = {
        "model": state,
        "reporter": {"stats": {1: {"train": stats}}, "epoch": 1},
        "optimizers": [optimizer.state_dict()],
        "schedulers": [None],
        "scaler": None,
    }
    assert_holds(Checkpoint.open(torch_save(tmp_path / "checkpoint.pth", content)), state)


def test_whisper_file(tmp_path, state):
    content = {"dims": {"n_mels": 80}, "model_state_dict": state}
    assert_holds(Checkpoint.open(torch_save(tmp_path / "small.pt", content)), state)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        *((name, name) for name in ("m.pth", "m.pt", "m.safetensors", "m.bin", "m/model.bin")),
        *((f"m/{name}", "m") for name in ("model.safetensors", "model.bin", "pytorch_model.bin")),
        ("m/model.safetensors.index.json", "m"),
    ],
)
def test_pointer_of_git_lfs(tmp_path, name, opened):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(POINTER)
    with refusal(path, "Git LFS", f"cd {path.parent} && git lfs pull"):
        Checkpoint.open(tmp_path / opened)


def test_pointer_of_git_lfs_in_place_of_masks_and_adapters(tmp_path):
    (tmp_path / "masks.safetensors").write_text(POINTER)
    with refusal(tmp_path / "masks.safetensors", "git lfs pull"):
        Masks(tmp_path / "masks.safetensors")
    write_peft(tmp_path / "lora", {"x": (torch.ones(2, 2), torch.ones(2, 2))})
    (tmp_path / "lora/adapter_model.safetensors").write_text(POINTER)
    with refusal(tmp_path / "lora/adapter_model.safetensors", "git lfs pull"):
        read_peft(tmp_path / "lora")


def test_safetensors(tmp_path, state):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)
    assert_holds(Checkpoint.open(path), state)


def test_unknown_tensor_name(tmp_path, state):
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    for path in (torch_save(tmp_path / "a.pth", state), tmp_path / "a.safetensors"):
        for method in ("shape", "dtype", "tensor"):
            with pytest.raises(KeyError):
                getattr(Checkpoint.open(path), method)("nothing")


def test_values_stay_on_disk_until_asked_for(tmp_path):
    """Opening 256 MB does not allocate them; measured in a new process."""
    path = torch_save(
        tmp_path / "big.pth", {"big": torch.zeros(64_000_000), "small": torch.ones(1)}
    )
    code = (
        "import re, sys; from lors.checkpoint.reader import Checkpoint\n"
        "def anonymous():\n"
        "    status = open('/proc/self/status').read()\n"
        "    return int(re.search(r'RssAnon:\\s+(\\d+)', status)[1]) / 1024\n"
        "before = anonymous(); opened = Checkpoint.open(sys.argv[1])\n"
        "opened.spec(); opened.tensor('small').sum()\n"
        "print(anonymous() - before)"
    )
    grown = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert float(grown) < 50


def test_fingerprint_depends_on_the_content_only(tmp_path, state):
    fingerprint = Checkpoint.open(torch_save(tmp_path / "a.pth", state)).fingerprint()
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    reordered = torch_save(tmp_path / "b.pth", {"model": dict(reversed(state.items()))})
    assert Checkpoint.open(tmp_path / "a.safetensors").fingerprint() == fingerprint
    assert Checkpoint.open(reordered).fingerprint() == fingerprint
    assert len(fingerprint) == 32


@pytest.mark.parametrize("change", ["value", "name", "shape", "dtype", "missing"])
def test_fingerprint_sees_every_change(tmp_path, state, change):
    before = Checkpoint.open(torch_save(tmp_path / "a.pth", state)).fingerprint()
    weight = state.pop("z.weight")
    if change == "value":
        weight = weight.clone()
        weight[0, 0] += 1e-6
    changed = {
        "value": {"z.weight": weight},
        "name": {"y.weight": weight},
        "shape": {"z.weight": weight.reshape(3, 4)},
        "dtype": {"z.weight": weight.view(torch.int32)},
        "missing": {},
    }[change]
    after = Checkpoint.open(torch_save(tmp_path / "b.pth", {**state, **changed})).fingerprint()
    assert after != before


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("length", [0, 1, 10, 200, 0.5, -1])
def test_truncated_files(tmp_path, state, suffix, length):
    path = tmp_path / f"cut{suffix}"
    write(path, state)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * length) if length == 0.5 else length])
    with refusal(path):
        Checkpoint.open(path)


def entry(*offsets, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12),  # overlapping
        ({"a": entry(0, 8), "b": entry(0, 8)}, 8),
        ({"a": entry(0, 8), "b": entry(16, 24)}, 24),  # with a gap
        ({"a": entry(0, 8)}, 24),  # with more values
        ({"a": entry(0, 8, shape=(3,))}, 8),
        ({"a": entry(0, 8, shape=(2**62, 4))}, 8),
        ({"a": entry(0, 2, dtype="F8_E4M3")}, 2),
        ({"a": entry(0, 16, dtype="C64")}, 16),
        ({"half \ud800": entry(0, 8)}, 8),
    ],
)
def test_headers_of_safetensors_that_do_not_fit(tmp_path, header, size):
    text = json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    with refusal(path) as caught:
        Checkpoint.open(path)
    assert caught.value.hint


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_may_not_be_read(tmp_path, state, suffix, monkeypatch):
    path = tmp_path / f"m{suffix}"
    write(path, state)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with refusal("Permission denied") as caught:
        Checkpoint.open(path)
    assert caught.value.where == path and caught.value.hint


def test_directories_with_other_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name, facts in (
        ("pytorch_model.bin", ["ln -s", "pytorch_model.pth"]),
        ("last.ckpt", ["ln -s", "last.pth"]),
        ("model.fp16.safetensors", [f"give {tmp_path / 'model.fp16.safetensors'}"]),
    ):
        (tmp_path / name).write_bytes(b"")
        with refusal(tmp_path, name, *facts):
            Checkpoint.open(tmp_path)
        (tmp_path / name).unlink()


def test_a_bin_of_hugging_face(tmp_path, state):
    torch_save(tmp_path / "pytorch_model.bin", state)
    assert_holds(Checkpoint.open(tmp_path / "pytorch_model.bin"), state)
    assert_holds(Checkpoint.open(tmp_path), state)
    write(tmp_path / "model.safetensors", {"other": torch.ones(1)})
    assert Checkpoint.open(tmp_path).names() == ["other"]


def test_the_command_in_the_hint_opens_a_file_of_another_suffix(tmp_path, state):
    for content in (state, {"state_dict": state, "epoch": 3}):
        path = torch_save(tmp_path / "of lightning.ckpt", content)
        with refusal(path, ".pth") as caught:
            Checkpoint.open(path)
        command = caught.value.hint.split("try ")[1].split(";")[0]
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        assert_holds(Checkpoint.open(tmp_path / "of lightning.pth"), state)
        (tmp_path / "of lightning.pth").unlink()


@pytest.mark.parametrize("path", ["a\0b.pth", "\ud800.pth", "x" * 300 + ".pth", "file/m.pth"])
def test_impossible_paths(tmp_path, path):
    (tmp_path / "file").write_text("")
    with refusal() as caught:
        Checkpoint.open(tmp_path / path)
    assert caught.value.hint


def test_paths_that_are_no_checkpoints(tmp_path):
    for missing in ("none.pth", "none/", "none/model.bin"):
        with refusal(tmp_path / missing):
            Checkpoint.open(f"{tmp_path}/{missing}")
    for name in ("pytorch_model.bin", "model.ckpt"):
        (tmp_path / name).write_bytes(b"")
        with refusal(tmp_path / name, ".pth, .pt, .safetensors", "model.bin"):
            Checkpoint.open(tmp_path / name)
    (tmp_path / "dir.pth").mkdir()
    with refusal(tmp_path / "dir.pth", "model.safetensors"):
        Checkpoint.open(tmp_path / "dir.pth")
