"""lors.checkpoint.torch_file: files of torch.save are data, and damaged ones are refused."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch

from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError
from tests.refusal import refusal
from tests.unit.checkpoint_files import some_state, torch_save


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
        (b"version https://git-lfs.github.com/spec/v1\n", "b'version https://git-lfs"),
        (b"<!DOCTYPE html>\n<html></html>", r"b'<!DOCTYPE html>\n<html>"),
        (pickle.dumps(b"", protocol=2)[:2] + b"<html>", "Unsupported operand 60"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, fact):
    (tmp_path / "m.pth").write_bytes(content)
    with refusal(tmp_path / "m.pth", fact) as caught:
        Checkpoint.open(tmp_path / "m.pth")
    assert "weights_only" not in str(caught.value)
