"""lors.checkpoint.torch_file: files of torch.save are data, and damaged ones are refused."""

import argparse
import os
import pickle
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError
from tests.refusal import refusal
from tests.unit.checkpoint_files import some_state, torch_save, write


@pytest.fixture
def state():
    return some_state()


def test_a_pickle_with_code_is_never_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "attacked"),))

    for name, legacy in (("a.pth", False), ("b.pth", True)):
        path = torch_save(
            tmp_path / name, {"model": Attack()}, _use_new_zipfile_serialization=not legacy
        )
        with refusal(path, "mkdir", "model.state_dict()"):
            Checkpoint.open(path)
    assert not (tmp_path / "attacked").exists()
    path = torch_save(tmp_path / "c.pt", {"args": argparse.Namespace(), "model": {}})
    with refusal(path, "argparse.Namespace"):
        Checkpoint.open(path)


def test_damaged_bytes_give_a_clear_error_or_the_tensors(tmp_path, state):
    whole = torch_save(tmp_path / "a.pth", state).read_bytes()
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
        with refusal(tmp_path / "a.pth", "model_state_dict", type(content).__name__):
            Checkpoint.open(torch_save(tmp_path / "a.pth", content))
    for content in ({**state, "epoch": 3}, {"model": {**state, "epoch": 3}, "args": None}):
        with refusal(tmp_path / "a.pth", "epoch (int)\n") as caught:
            Checkpoint.open(torch_save(tmp_path / "a.pth", content))
        assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"<!DOCTYPE html>\n<html></html>", r"b'<!DOCTYPE html>\n<html>"),
        (pickle.dumps(b"", protocol=2)[:2] + b"<html>", "Unsupported operand 60"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, fact):
    (tmp_path / "m.pth").write_bytes(content)
    with refusal(tmp_path / "m.pth", fact) as caught:
        Checkpoint.open(tmp_path / "m.pth")
    assert "weights_only" not in str(caught.value)


def nested():
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch about prototypes
@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse"),
        (lambda: torch.ones(3, device="meta"), "meta"),
        (nested, "nested"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.ones(3).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda: torch.ones(1).expand(2**40), str(2**40)),
        (lambda: torch.ones(4).as_strided((100, 100), (0, 0)), "[100, 100]"),
    ],
)
def test_tensors_that_are_not_plain_values(tmp_path, state, make, fact):
    path = torch_save(tmp_path / "a.pth", state | {"odd": make()})
    with refusal(path, "odd: ", fact) as caught:
        Checkpoint.open(path)
    assert caught.value.expected and caught.value.hint


@pytest.mark.parametrize("key", [3, None, ("a", "b"), "half \ud800", b"bytes"])
def test_names_that_are_no_text(tmp_path, state, key):
    path = torch_save(tmp_path / "a.pth", state | {key: torch.ones(2)})
    with refusal(path, repr(key)):
        Checkpoint.open(path)


def test_complex_and_conjugate_tensors(tmp_path):
    values = torch.randn(3, dtype=torch.complex64)
    opened = Checkpoint.open(torch_save(tmp_path / "a.pth", {"a": values, "b": values.conj()}))
    assert torch.equal(opened.tensor("b"), values.conj())
    assert opened.digest("b") != opened.digest("a")
    negative = Checkpoint.open(torch_save(tmp_path / "b.pth", {"c": values.conj().imag}))
    assert torch.equal(negative.tensor("c"), -values.imag)
    assert len(negative.digest("c")) == 32


def test_views_of_one_storage(tmp_path):
    whole = torch.arange(12.0)
    state = {
        "whole": whole,
        "part": whole[3:5],
        "transposed": whole.reshape(3, 4).T,
        "none": whole[:0],
    }
    opened = Checkpoint.open(torch_save(tmp_path / "a.pth", state))
    assert all(torch.equal(opened.tensor(name), value) for name, value in state.items())


def test_damaged_values_are_refused_when_read(tmp_path, state):
    for path in (torch_save(tmp_path / "a.pth", state), tmp_path / "b.pth"):
        write(path, state)
        content = bytearray(path.read_bytes())
        content[content.index(state["z.weight"].numpy().tobytes()) + 5] ^= 1
        path.write_bytes(content)
        opened = Checkpoint.open(path)
        assert torch.equal(opened.tensor("a.bias"), state["a.bias"])
        with refusal(f"{path}: z.weight"):
            opened.tensor("z.weight")


def test_compressed_archives_are_refused_with_a_command(tmp_path, state):
    plain, packed = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save(state, plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in source.namelist():
            out.writestr(name, source.read(name))
    with refusal(packed) as caught:
        Checkpoint.open(packed)
    command = shlex.split(caught.value.hint.split(": ", 1)[1])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert (
        Checkpoint.open(tmp_path / "plain.pth").fingerprint()
        == Checkpoint.open(plain).fingerprint()
    )


def test_pickles_of_great_size(tmp_path):
    """Little in the file, and gigabytes in memory."""
    pickled = b"\x80\x02cbuiltins\nbytearray\nJ" + (2**31 - 1).to_bytes(4, "little") + b"\x85R."
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("a/data.pkl", bytes(2**25 + 1))
    for name in ("a.pth", "b.pth"):
        with refusal(tmp_path / name):
            Checkpoint.open(tmp_path / name)


def test_state_dict_of_lightning(tmp_path, state):
    path = torch_save(tmp_path / "a.pth", {"epoch": 3, "state_dict": state, "callbacks": {}})
    assert Checkpoint.open(path).names() == list(state)
