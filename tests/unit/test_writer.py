"""lors.checkpoint.writer: whole files, or the file that was there before."""

import argparse
import subprocess
import sys
import zipfile
from unittest import mock

import pytest
import torch

from lors.checkpoint import writer as writer_module
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.writer import CheckpointWriter
from lors.errors import UsageError
from tests.refusal import refusal
from tests.unit.checkpoint_files import assert_holds, file_names, some_state, write


@pytest.fixture
def state():
    return some_state()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_writer_round_trip(tmp_path, state, suffix):
    path = tmp_path / "new" / f"model{suffix}"
    write(path, state)
    assert_holds(Checkpoint.open(path), state)
    assert file_names(path.parent) == [path.name]


def test_written_pth_is_an_ordinary_state_dict(tmp_path, state):
    storage = torch.zeros(1_000_000)
    state["view"] = storage[:10]  # its storage of 4 MB must not be written
    state["transposed"] = torch.arange(6.0).reshape(2, 3).T
    write(tmp_path / "m.pth", state)
    loaded = torch.load(tmp_path / "m.pth", weights_only=True)
    assert type(loaded) is dict and list(loaded) == list(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert (tmp_path / "m.pth").stat().st_size < 20_000


def test_written_pth_can_be_mapped(tmp_path, state):
    write(tmp_path / "m.pth", state)
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


def test_the_pickled_part_is_that_of_torch(tmp_path):
    dtypes = (torch.float64, torch.bfloat16, torch.uint16, torch.bool, torch.complex64)
    shapes = ((), (3,), (2, 3, 5), (0, 4), (4, 0, 2))
    state = {f"{d}.{s}": torch.ones(s, dtype=d) for d in dtypes for s in shapes}
    write(tmp_path / "ours.pth", state)
    torch.save(state, tmp_path / "theirs.pth")
    pickles = []
    for name, root in (("ours", "archive"), ("theirs", "theirs")):
        with zipfile.ZipFile(tmp_path / f"{name}.pth") as archive:
            pickles.append(archive.read(f"{root}/data.pkl"))
    assert pickles[0] == pickles[1]
    with mock.patch.object(
        torch.utils.serialization.config.load, "calculate_storage_offsets", True
    ):
        loaded = torch.load(tmp_path / "ours.pth", weights_only=True, mmap=True)
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_one_tensor_in_memory(tmp_path, suffix):
    """A model of 400 MB in a process of its own that may take 200 MB more than at its start."""
    code = (
        "import re, resource, sys, torch\n"
        "from lors.checkpoint.writer import CheckpointWriter\n"
        "def megabytes(field):\n"
        "    status = open('/proc/self/status').read()\n"
        "    return int(re.search(field + r':\\s+(\\d+)', status)[1]) / 1024\n"
        "spec = {f'x{i}': ((2_500_000,), torch.float32) for i in range(40)}\n"
        "before, limit = megabytes('VmRSS'), int((megabytes('VmSize') + 200) * 2**20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "with CheckpointWriter(sys.argv[1], spec, {}) as writer:\n"
        "    for name in spec:\n"
        "        writer.add(name, torch.ones(2_500_000))\n"
        "print(megabytes('VmHWM') - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / f"m{suffix}")]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(grown) < 100


def test_same_tensors_same_bytes(tmp_path, state):
    for suffix in (".pth", ".safetensors"):
        write(tmp_path / f"a{suffix}", state)
        write(tmp_path / f"b{suffix}", state)
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
    assert path.read_bytes() == b"before" and file_names(tmp_path) == ["m.pth"]


def test_writer_checks_against_the_announcement(tmp_path):
    spec = {"x": ((2,), torch.float32), "y": ((1,), torch.float32)}
    writer = CheckpointWriter(tmp_path / "m.pth", spec)
    with pytest.raises(ValueError, match="y"), writer:
        writer.add("x", torch.ones(2))
        for name, tensor in (
            ("x", torch.ones(2)),
            ("y", torch.ones(2)),
            ("y", torch.ones(1).half()),
            ("z", torch.ones(1)),
        ):
            with pytest.raises(ValueError):
                writer.add(name, tensor)
    assert file_names(tmp_path) == []


def test_directories_of_an_interrupted_write_are_removed(tmp_path, state, monkeypatch):
    """Only those that were made for it, and that are empty."""
    (tmp_path / "old").mkdir()
    for folder in ("old", "old/new", "a/b"):
        spec = {name: (tuple(t.shape), t.dtype) for name, t in state.items()}
        with pytest.raises(KeyboardInterrupt), CheckpointWriter(tmp_path / folder / "m.pth", spec):
            raise KeyboardInterrupt
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["old"]
    with (
        pytest.raises(KeyboardInterrupt),
        CheckpointWriter(tmp_path / "a/b/m.pth", {"x": ((1,), torch.float32)}),
    ):
        (tmp_path / "a/mine").write_text("")
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]
    usage = argparse.Namespace(free=1)
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda path: usage)
    with refusal("MB free"):
        write(tmp_path / "full/m.pth", state)
    assert not (tmp_path / "full").exists()


@pytest.mark.parametrize(
    ("name", "file"), [("m.pt", "m.pt/model.pt"), ("models", "models/model.pth")]
)
def test_a_directory_is_no_model_file(tmp_path, name, file):
    (tmp_path / name).mkdir()
    with refusal(tmp_path / name, "directory", tmp_path / file, kind=UsageError):
        CheckpointWriter(tmp_path / name, {})


def test_writer_needs_a_known_suffix(tmp_path):
    with refusal(tmp_path / "model.bin", ".pth, .safetensors, .pt", kind=UsageError):
        CheckpointWriter(tmp_path / "model.bin", {})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("parent", ["file", "file/sub", "/proc/none", "/proc/none/sub"])
def test_directories_that_cannot_be_made(tmp_path, state, suffix, parent):
    (tmp_path / "file").write_text("")
    path = tmp_path / parent / f"m{suffix}"
    with refusal(path) as caught:
        write(path, state)
    assert caught.value.where == path and caught.value.got and caught.value.hint


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16])
def test_dtypes_that_safetensors_files_do_not_have(tmp_path, dtype):
    state = {"x": torch.ones(2), "odd": torch.ones(2, dtype=dtype)}
    with refusal(f"odd: {dtype}", ".pth"):
        write(tmp_path / "new" / "m.safetensors", state)
    assert file_names(tmp_path) == []
    write(tmp_path / "m.pth", state)
    assert_holds(Checkpoint.open(tmp_path / "m.pth"), state)


def test_disk_space_is_checked_first(tmp_path, monkeypatch):
    usage = argparse.Namespace(free=3_000_000)
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda path: usage)
    writer = CheckpointWriter(tmp_path / "m.pth", {"x": ((1_000_000,), torch.float32)})
    with refusal(tmp_path / "m.pth", "4.0 MB", "3.0 MB"), writer:
        pytest.fail("the writer was entered")


@pytest.mark.parametrize("size", [90_000, 100])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_disk_that_fills_up_while_writing(tmp_path, suffix, size):
    """A limit on the file size fails in write() like a full disk.

    Small tensors are buffered: closing the file tries to write them again.
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
    assert str(path) in done.stdout and "File too large" in done.stdout
    assert path.read_bytes() == b"before" and file_names(tmp_path) == [path.name]
