import argparse
import datetime
import errno
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lors.checkpoint import writer as checkpoint_writer
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.writer import CheckpointWriter
from lors.errors import LorsError, UsageError


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "z.weight": torch.randn(4, 3, generator=generator),
        "a.bias": torch.randn(4, generator=generator).half(),
        "norm.num_batches_tracked": torch.tensor(7),
        "conv.weight": torch.randn(2, 3, 5, generator=generator).bfloat16(),
    }


def write(path, content, **options):
    torch.save(content, path, **options)
    return path


def assert_holds(opened, state):
    assert set(opened.names()) == set(state)
    for name, tensor in state.items():
        assert opened.shape(name) == tuple(tensor.shape)
        assert opened.dtype(name) == tensor.dtype
        assert torch.equal(opened.tensor(name), tensor)


def test_plain_state_dict(tmp_path, state):
    opened = Checkpoint.open(write(tmp_path / "valid.acc.best.pth", state))
    assert_holds(opened, state)
    assert opened.names() == list(state)


def test_file_format_of_old_pytorch(tmp_path, state):
    path = write(tmp_path / "old.pth", state, _use_new_zipfile_serialization=False)
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
    assert_holds(Checkpoint.open(write(tmp_path / "checkpoint.pth", content)), state)


def test_whisper_file(tmp_path, state):
    content = {"dims": {"n_mels": 80}, "model_state_dict": state}
    assert_holds(Checkpoint.open(write(tmp_path / "small.pt", content)), state)


def test_safetensors(tmp_path, state):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)
    assert_holds(Checkpoint.open(path), state)


def test_unknown_tensor_name(tmp_path, state):
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    for path in (write(tmp_path / "a.pth", state), tmp_path / "a.safetensors"):
        for method in ("shape", "dtype", "tensor"):
            with pytest.raises(KeyError):
                getattr(Checkpoint.open(path), method)("nothing")


def test_values_stay_on_disk_until_asked_for(tmp_path):
    """Opening 256 MB must not allocate them: checked in a process of its own."""
    path = write(tmp_path / "big.pth", {"big": torch.zeros(64_000_000), "small": torch.ones(1)})
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
    fingerprint = Checkpoint.open(write(tmp_path / "a.pth", state)).fingerprint()
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    reordered = write(tmp_path / "b.pth", {"model": dict(reversed(state.items()))})
    assert Checkpoint.open(tmp_path / "a.safetensors").fingerprint() == fingerprint
    assert Checkpoint.open(reordered).fingerprint() == fingerprint
    assert len(fingerprint) == 32


@pytest.mark.parametrize("change", ["value", "name", "shape", "dtype", "missing"])
def test_fingerprint_sees_every_change(tmp_path, state, change):
    before = Checkpoint.open(write(tmp_path / "a.pth", state)).fingerprint()
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
    after = Checkpoint.open(write(tmp_path / "b.pth", {**state, **changed})).fingerprint()
    assert after != before


def test_a_pickle_with_code_is_never_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "attacked"),))

    for name, legacy in (("a.pth", False), ("b.pth", True)):
        path = write(
            tmp_path / name, {"model": Attack()}, _use_new_zipfile_serialization=not legacy
        )
        with pytest.raises(LorsError, match="needs code") as caught:
            Checkpoint.open(path)
        assert str(path) in str(caught.value) and "mkdir" in str(caught.value)
        assert "model.state_dict()" in caught.value.hint
    assert not (tmp_path / "attacked").exists()
    path = write(tmp_path / "c.pt", {"args": argparse.Namespace(), "model": {}})
    with pytest.raises(LorsError, match=r"argparse\.Namespace"):
        Checkpoint.open(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("length", [0, 1, 10, 200, 0.5, -1])
def test_truncated_files(tmp_path, state, suffix, length):
    path = tmp_path / f"cut{suffix}"
    with CheckpointWriter(path, {n: (tuple(t.shape), t.dtype) for n, t in state.items()}) as writer:
        for name, tensor in state.items():
            writer.add(name, tensor)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * length) if length == 0.5 else length])
    with pytest.raises(LorsError, match="truncated or corrupt") as caught:
        Checkpoint.open(path)
    assert str(path) in str(caught.value)


def test_damaged_bytes_give_a_clear_error_or_the_tensors(tmp_path, state):
    whole = write(tmp_path / "a.pth", state).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "b.pth"
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        damaged[-1 - random.integers(600)] = random.integers(256)
        path.write_bytes(damaged)
        try:
            Checkpoint.open(path)
        except LorsError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20


def test_other_content(tmp_path, state):
    for content in ([1, 2], {}, {"model": {}}, {"epoch": 3, "weights": state}, torch.ones(2)):
        with pytest.raises(LorsError, match="no model weights found"):
            Checkpoint.open(write(tmp_path / "a.pth", content))
    for content in ({**state, "epoch": 3}, {"model": {**state, "epoch": 3}, "args": None}):
        with pytest.raises(LorsError, match=r"no tensors: epoch \(int\)\n") as caught:
            Checkpoint.open(write(tmp_path / "a.pth", content))
        assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", r"begins with b'version https://git-lfs"),
        (b"<!DOCTYPE html>\n<html></html>", r"begins with b'<!DOCTYPE html>\\n<html>"),
        (pickle.dumps(b"", protocol=2)[:2] + b"<html>", "Unsupported operand 60"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, told):
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(LorsError, match=rf"truncated or corrupt(.|\n)*{told}") as caught:
        Checkpoint.open(tmp_path / "m.pth")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_may_not_be_read(tmp_path, state, suffix, monkeypatch):
    path = tmp_path / f"m{suffix}"
    save(path, state)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(LorsError, match=r"cannot be opened(.|\n)*Permission denied") as caught:
        Checkpoint.open(path)
    assert caught.value.where == path and caught.value.hint


def test_paths_that_are_no_checkpoints(tmp_path):
    for missing in ("none.pth", "none/", "none/model.bin"):
        with pytest.raises(LorsError, match="checkpoint not found"):
            Checkpoint.open(f"{tmp_path}/{missing}")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(LorsError, match=r"ends in \.pth, \.pt, \.safetensors"):
        Checkpoint.open(tmp_path / "model.bin")
    (tmp_path / "dir.pth").mkdir()
    with pytest.raises(LorsError, match="no model in this directory"):
        Checkpoint.open(tmp_path / "dir.pth")


def save(path, state):
    with CheckpointWriter(path, {n: (tuple(t.shape), t.dtype) for n, t in state.items()}) as writer:
        for name, tensor in state.items():
            writer.add(name, tensor)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_writer_round_trip(tmp_path, state, suffix):
    path = tmp_path / "new" / f"model{suffix}"
    save(path, state)
    assert_holds(Checkpoint.open(path), state)
    assert names_in(path.parent) == [path.name]


def test_written_pth_is_an_ordinary_state_dict(tmp_path, state):
    storage = torch.zeros(1_000_000)
    state["view"] = storage[:10]  # must not drag its 4 MB storage into the file
    state["transposed"] = torch.arange(6.0).reshape(2, 3).T
    save(tmp_path / "m.pth", state)
    loaded = torch.load(tmp_path / "m.pth", weights_only=True)
    assert type(loaded) is dict and list(loaded) == list(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert (tmp_path / "m.pth").stat().st_size < 20_000


def test_written_pth_can_be_mapped(tmp_path, state):
    save(tmp_path / "m.pth", state)
    loaded = torch.load(tmp_path / "m.pth", weights_only=True, mmap=True)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        records = [info for info in archive.infolist() if "/data/" in info.filename]
        assert len(records) == len(state)
        for info in records:
            archive.fp.seek(info.header_offset + 26)
            name, extra = (int.from_bytes(archive.fp.read(2), "little") for _ in range(2))
            assert (info.header_offset + 30 + name + extra) % 64 == 0
        assert archive.testzip() is None


def test_same_tensors_same_bytes(tmp_path, state):
    for suffix in (".pth", ".safetensors"):
        save(tmp_path / f"a{suffix}", state)
        save(tmp_path / f"b{suffix}", state)
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_interrupted_write_leaves_the_target_alone(tmp_path, state):
    path = tmp_path / "m.pth"
    path.write_bytes(b"before")
    with (
        pytest.raises(KeyboardInterrupt),
        CheckpointWriter(path, {"x": ((2,), torch.float32)}) as writer,
    ):
        writer.add("x", torch.ones(2))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before" and names_in(tmp_path) == ["m.pth"]


def test_writer_checks_against_the_announcement(tmp_path):
    spec = {"x": ((2,), torch.float32), "y": ((1,), torch.float32)}
    writer = CheckpointWriter(tmp_path / "m.pth", spec)
    with pytest.raises(ValueError, match=r"never added: y"), writer:
        writer.add("x", torch.ones(2))
        for name, tensor in (
            ("x", torch.ones(2)),
            ("y", torch.ones(2)),
            ("y", torch.ones(1).half()),
            ("z", torch.ones(1)),
        ):
            with pytest.raises(ValueError):
                writer.add(name, tensor)
    assert names_in(tmp_path) == []


def test_writer_needs_a_known_suffix(tmp_path):
    with pytest.raises(UsageError, match=r"\.pth, \.safetensors, \.pt"):
        CheckpointWriter(tmp_path / "model.bin", {})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("parent", ["file", "file/sub", "/proc/none", "/proc/none/sub"])
def test_directories_that_cannot_be_made(tmp_path, state, suffix, parent):
    (tmp_path / "file").write_text("")
    path = tmp_path / parent / f"m{suffix}"
    with pytest.raises(LorsError, match="could not be written") as caught:
        save(path, state)
    assert caught.value.where == path and caught.value.got and caught.value.hint


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16])
def test_dtypes_that_safetensors_files_do_not_have(tmp_path, dtype):
    state = {"x": torch.ones(2), "odd": torch.ones(2, dtype=dtype)}
    with pytest.raises(LorsError, match=rf"odd: {dtype}(.|\n)*write a \.pth"):
        save(tmp_path / "new" / "m.safetensors", state)
    assert names_in(tmp_path) == []
    save(tmp_path / "m.pth", state)
    assert_holds(Checkpoint.open(tmp_path / "m.pth"), state)


def test_disk_space_is_checked_first(tmp_path, monkeypatch):
    usage = argparse.Namespace(free=3_000_000)
    monkeypatch.setattr(checkpoint_writer.shutil, "disk_usage", lambda path: usage)
    writer = CheckpointWriter(tmp_path / "m.pth", {"x": ((1_000_000,), torch.float32)})
    with pytest.raises(LorsError, match="not enough disk space") as caught, writer:
        raise AssertionError("must not get here")
    assert "4.0 MB free" in str(caught.value) and "3.0 MB" in str(caught.value)


@pytest.mark.parametrize("size", [90_000, 100])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_disk_that_fills_up_while_writing(tmp_path, suffix, size):
    """A limit on the file size stands in for a full disk; both fail in write().

    Small tensors are buffered, so that closing the file tries to write them once more.
    """
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"before")
    code = (
        "import sys, torch, resource; from lors.checkpoint.writer import CheckpointWriter\n"
        "from lors.errors import LorsError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    size = int(sys.argv[2])\n"
        "    spec = {f'x{i}': ((size,), torch.float32) for i in range(90_000 // size)}\n"
        "    with CheckpointWriter(sys.argv[1], spec) as writer:\n"
        "        for name in spec:\n"
        "            writer.add(name, torch.ones(size))\n"
        "except LorsError as error:\n"
        "    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(size)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "could not be written" in done.stdout and "File too large" in done.stdout
    assert path.read_bytes() == b"before" and names_in(tmp_path) == [path.name]
