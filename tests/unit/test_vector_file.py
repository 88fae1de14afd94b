import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lors.checkpoint.expert import base_of, open_expert, open_model
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vector_file import KEY, LONGEST_DESCRIPTION
from lors.checkpoint.vector_parts import delta_of, reduced_parts, whole_parts
from lors.merge.task_vector import TaskVector
from tests.refusal import refusal
from tests.unit.merge_models import BIAS, PRUNED, model, write_models
from tests.unit.small_experts import changed, with_content, write_vector
from tests.unit.whisper_files import FORMS, openai_state, write_openai

HALF = torch.finfo(torch.float16).eps / 2


@pytest.fixture
def files(tmp_path):
    base, expert, _ = write_models(tmp_path)
    return base, write_vector(base, expert, tmp_path / "v.safetensors")


def opened(base, path):
    return open_expert(open_model(base), path)


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1e-5, 1.0, 1e5, 1e30])
def test_parts_of_task_vectors_of_any_size(size):
    """float16 itself ends at 6e-8 and 65504."""
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(40, 3, generator=generator), torch.randn(3, 30, generator=generator)
    sparse = torch.randn(40, 30, generator=generator) * (
        torch.rand(40, 30, generator=generator) < 0.1
    )
    up, down, sparse = up.double() * size, down.double(), sparse * size
    matrix = (up @ down).float() + sparse
    found = delta_of(reduced_parts(up, down, sparse), (40, 30))
    bound, kept = 2.1 * HALF * (up.abs() @ down.abs()), sparse != 0
    assert torch.all((found - matrix).abs()[~kept] <= bound[~kept])
    assert torch.all((found - matrix).abs()[kept] <= 1.1 * HALF * (sparse.abs() + bound)[kept])
    whole = delta_of(whole_parts(matrix), (40, 30))
    assert torch.all((whole - matrix).abs() <= HALF * matrix.abs())


def test_nothing_is_stored_of_zeros():
    zeros = torch.zeros(4, 3)
    assert whole_parts(zeros) == {} == reduced_parts(zeros[:, :0], zeros[:0], zeros)


def test_it_is_read_as_the_sum_of_base_and_task_vector(files):
    base, path = files
    expert = opened(base, path)
    assert expert.spec() == open_model(base).spec()
    assert expert.tensor("encoder.norm.num_batches_tracked") == 0
    state = model(0)
    for name in (PRUNED, BIAS):
        delta = TaskVector(open_model(base), expert).delta(name)
        assert torch.equal(expert.tensor(name), state[name] + delta) and delta.any()
    assert (expert.tensor(BIAS) - model(1)[BIAS]).abs().max() < 1e-2


def test_the_file_has_only_data_and_a_description(files):
    _, path = files
    tensors = safetensors.torch.load_file(path)
    assert {tensor.dtype for tensor in tensors.values()} == {
        *(torch.float16, torch.float32, torch.uint8),
    }
    with safetensors.safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()[KEY])
    assert description["version"] == 1 and description["method"] == "lors"
    assert description["params"]["rank"] == 2 and description["params"]["density"] == 0.1
    assert description["base"]["model"] == "base/base.pth"


def test_the_base_model_is_found_from_any_directory(files, tmp_path, monkeypatch):
    base, path = files
    monkeypatch.chdir("/")
    assert str(base_of(path)) == base
    assert base_of(base) is None
    (tmp_path / "base" / "base.pth").unlink()
    with refusal(base):
        base_of(path)


@pytest.mark.parametrize("form", FORMS)
def test_it_fits_its_base_model_in_every_form(tmp_path, form):
    states = [openai_state(seed) for seed in (0, 1)]
    base, expert = (str(write_openai(tmp_path / f"{n}.pt", states[n])) for n in (0, 1))
    path = write_vector(base, expert, tmp_path / "v.safetensors")
    other = open_model(FORMS[form](tmp_path / "other", states[0]))
    found = TaskVector(other, open_expert(other, path))
    own = TaskVector(open_model(base), opened(base, path))
    deltas = [[v.delta(name) for name in v.base.names()] for v in (found, own)]
    assert sum(map(torch.Tensor.numel, deltas[0])) == sum(map(torch.Tensor.numel, deltas[1]))
    norms = [sorted(float(delta.norm()) for delta in of) for of in deltas]
    assert norms[0] == pytest.approx(norms[1])


def test_another_base_model_is_refused(files, tmp_path):
    path = files[1]
    state = model(0)
    state[BIAS][3] += 1e-6
    torch.save(state, tmp_path / "other.pth")
    with refusal(path, "base/base.pth", tmp_path / "other.pth"):
        opened(tmp_path / "other.pth", path)


def test_it_is_no_full_model(files):
    with refusal(files[1], "task vector", "beside its base model"):
        open_model(files[1])


def test_a_newer_format_is_refused(files):
    base, path = files
    with refusal(path, "version 2", "version 1"):
        opened(base, changed(path, version=2))


@pytest.mark.parametrize("place", [-1, -40, 3000])
def test_a_changed_byte_is_found(files, place):
    base, path = files
    content = bytearray(Path(path).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[place if place < 0 else header + place % (len(content) - header)] ^= 4
    Path(path).write_bytes(content)
    with refusal(path):
        opened(base, path)


def test_a_file_that_is_cut_short(files):
    base, path = files
    Path(path).write_bytes(Path(path).read_bytes()[:-1])
    with refusal(path):
        opened(base, path)


@pytest.mark.parametrize(
    "description",
    [
        {"version": "1"},
        {"params": None},
        {"reduced": {"x": "much"}},
        {"base": "base.pth"},
        {"base": {"model": "b"}},
        {"content": 3},
        {"content": "0"},
    ],
)
def test_damaged_descriptions(files, description):
    base, path = files
    with refusal(path):
        opened(base, changed(path, **description))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "x" * (LONGEST_DESCRIPTION + 1)])
def test_descriptions_that_are_no_json_object(files, text):
    base, path = files
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {KEY: text})
    with refusal(path):
        opened(base, path)


def new(shape, dtype=torch.float16):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        (PRUNED, {"up": None}),
        (PRUNED, {"values": None}),
        (PRUNED, {"scale": None}),
        (PRUNED, {"scale": new(1, torch.float32)}),
        (PRUNED, {"scale": new(2)}),
        (PRUNED, {"whole": new((8, 8))}),
        (PRUNED, {"bitmap": new(8, torch.uint8)}),
        (PRUNED, {"other": new(3)}),
        (PRUNED, {"up": new((7, 2))}),
        (PRUNED, {"up": new((8, 3))}),
        (PRUNED, {"up": new((8, 9)), "down": new((9, 8))}),
        (PRUNED, {"up": new((8, 0)), "down": new((0, 8))}),
        (PRUNED, {"down": new((2, 8), torch.float32)}),
        (PRUNED, {"down": new(16)}),
        (PRUNED, {"values": new(65)}),
        (PRUNED, {"gaps": new(65, torch.uint8)}),
        (BIAS, {"whole": new(7)}),
        (BIAS, {"whole": new(8, torch.float32)}),
        (BIAS, {"whole": None, "values": new(1), "gaps": new(1, torch.uint8)}),
        (BIAS, {"whole": None}),
        ("decoder.new.weight", {"whole": new(3), "scale": new(1, torch.float32)}),
        ("", {"whole": new(3)}),
    ],
)
def test_parts_that_do_not_fit_are_named_before_anything_is_merged(files, name, tensors):
    base, path = files
    with refusal(path, name):
        opened(base, with_content(path, {f"{name}:{part}": t for part, t in tensors.items()}))


@pytest.mark.parametrize(
    "tensors",
    [
        {"gaps": new(6, torch.uint8) * 200},
        {"gaps": new(6, torch.uint8) * 255},
        {"gaps": new(5, torch.uint8)},
        {"values": new(5)},
        {"values": new(6) * float("nan")},
        {"up": new((8, 2)) * float("inf")},
        {"scale": torch.tensor([float("inf"), 1.0])},
    ],
)
def test_values_that_do_not_fit_are_named_when_they_are_read(files, tensors):
    base, path = files
    with_content(path, {f"{PRUNED}:{part}": tensor for part, tensor in tensors.items()})
    vector = TaskVector(open_model(base), opened(base, path))
    with refusal(path, PRUNED):
        vector.delta(PRUNED)


def test_its_fingerprint_is_that_of_the_parts(files):
    base, path = files
    assert opened(base, path).fingerprint() == Checkpoint.open(path).fingerprint()
