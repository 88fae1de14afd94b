"""NF4 codes and scales, and files of quantised models."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from lors.bin import inspect
from lors.checkpoint.adapter_base import hash_of_weights
from lors.checkpoint.expert import open_model
from lors.checkpoint.nf4 import (
    BLOCK,
    VALUES,
    Nf4,
    bitsandbytes_dequantise,
    dequantise,
    dequantise_by_torch,
    quantise,
)
from lors.checkpoint.quantised import open_quantised, write_quantised
from lors.checkpoint.reader import QUANTISED, Checkpoint
from lors.errors import UsageError
from tests.devices import DEVICES
from tests.refusal import refusal

SHAPES = [(64, 64), (7, 13), (16, 5, 3), (1, 1), (3, 64), (65,)]


def weights(shape, seed=0):
    weight = torch.from_numpy(np.random.default_rng(seed).normal(0, 0.02, shape)).float()
    weight.view(-1)[: min(BLOCK, weight.numel() // 2)] = 0  # a block of zeros
    return weight


def float64_nf4(weight):
    """Return the nearest values and the scales by plain numpy."""
    flat = weight.numpy().astype(np.float64).reshape(-1)
    values, absmax, margin = np.empty_like(flat), [], np.empty_like(flat)
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        largest = np.abs(block).max()
        distance = np.abs(block[:, None] / max(largest, 1e-38) - np.array(VALUES))
        values[start : start + BLOCK] = np.array(VALUES)[distance.argmin(axis=1)] * largest
        nearest = np.sort(distance, axis=1)
        margin[start : start + BLOCK] = nearest[:, 1] - nearest[:, 0]
        absmax.append(largest)
    return values, np.array(absmax), margin


def test_values_are_quantiles_of_the_normal_distribution():
    """The construction in the paper: 8 negative and 9 positive quantiles that share zero."""
    offset = 0.9677083
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort([*positive, 0, *negative])
    assert np.allclose(values / values.max(), VALUES, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_and_scales_against_float64(shape):
    weight = weights(shape)
    packed = quantise(weight)
    values, absmax, margin = float64_nf4(weight)
    assert packed.codes.dtype == torch.uint8 and len(packed.codes) == -(-weight.numel() // 2)
    assert np.array_equal(packed.absmax.numpy(), absmax.astype(np.float32))
    restored = packed.dequantised()
    assert restored.shape == weight.shape and restored.dtype == torch.float32
    sure = margin > 1e-6  # elsewhere two values are equally near
    assert sure.mean() > 0.99
    assert np.allclose(restored.reshape(-1).numpy()[sure], values[sure], rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_quantising_again_changes_nothing(shape):
    once = quantise(weights(shape))
    again = quantise(once.dequantised())
    assert torch.equal(once.codes, again.codes) and torch.equal(once.absmax, again.absmax)


def test_largest_weight_of_each_block_is_exact():
    weight = weights((8, 64), seed=1) + 0.01
    restored = quantise(weight).dequantised()
    blocks = weight.view(-1, BLOCK)
    place = blocks.abs().argmax(dim=1, keepdim=True)
    assert torch.equal(restored.view(-1, BLOCK).gather(1, place), blocks.gather(1, place))


def test_double_quantisation_of_the_scales():
    weight = weights((512, 256), seed=2)
    plain, double = quantise(weight), quantise(weight, double=True)
    assert torch.equal(plain.codes, double.codes)
    assert double.absmax.dtype == torch.uint8 and double.scale.shape == (8,)
    error = (double.scales() - plain.absmax).abs().max()
    spread = (plain.absmax - plain.absmax.mean()).abs().max()
    assert 0 < error < 0.01 * spread  # the coarsest step of the 8-bit type is 1.4 % of the range
    bits = {name: 8 * p.nbytes / weight.numel() for name, p in (("p", plain), ("d", double))}
    assert bits["p"] == 4.5 and bits["d"] == pytest.approx(4.127, abs=0.002)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("columns", [64, 128, 48])
def test_rows_are_those_of_the_matrix(columns, double):
    packed = quantise(weights((20, columns)), double=double)
    indices = torch.tensor([[3, 0], [19, 3]])
    assert torch.equal(packed.rows(indices), packed.dequantised()[indices])


def test_first_code_is_in_the_upper_half():
    packed = quantise(torch.tensor([-1.0, 1.0, 0.0]))
    assert packed.codes.tolist() == [0x0F, 0x77]
    assert dequantise_by_torch(packed.codes, packed.absmax, BLOCK, 3).tolist() == [-1, 1, 0]


# --- devices ------------------------------------------------------------------------------------


def moved(packed, device):
    """Return the same codes and scales on a device."""
    parts = {f.name: getattr(packed, f.name) for f in dataclasses.fields(packed)}
    tensors = {name: part.to(device) for name, part in parts.items() if torch.is_tensor(part)}
    return dataclasses.replace(packed, **tensors)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_device_gives_the_same_weights(shape, double, device):
    packed = quantise(weights(shape), double=double)
    there = moved(packed, device)
    found = there.dequantised()
    assert found.device.type == device
    assert torch.equal(found.cpu(), packed.dequantised())
    by_torch = dequantise_by_torch(there.codes, there.scales(), BLOCK, found.numel())
    assert torch.equal(by_torch, found.view(-1))
    if len(shape) == 2:
        rows = torch.tensor([0, shape[0] - 1])
        assert torch.equal(there.rows(rows.to(device)), found[rows.to(device)])
    if not double:  # the mean of the scales may be summed up in another order
        made = quantise(weights(shape).to(device))
        assert torch.equal(made.codes.cpu(), packed.codes)
        assert torch.equal(made.absmax.cpu(), packed.absmax)


@pytest.fixture
def bitsandbytes(monkeypatch):
    """A stand-in for bitsandbytes that works on the devices in a list, and counts its calls."""
    stand_in = SimpleNamespace(devices=[], calls=[], error=None)

    def operator(codes, scales, block, kind, shape, dtype):
        stand_in.calls.append(codes.device.type)
        if codes.device.type not in stand_in.devices:
            raise RuntimeError("no kernel for this device")
        values = dequantise_by_torch(codes, scales, block, shape[1]).view(shape)
        return values + (stand_in.error or 0)

    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    operators = SimpleNamespace(dequantize_4bit=operator)
    monkeypatch.setattr(torch.ops, "bitsandbytes", operators, raising=False)
    bitsandbytes_dequantise.cache_clear()
    yield stand_in
    bitsandbytes_dequantise.cache_clear()


def test_bitsandbytes_is_tried_on_each_device(bitsandbytes):
    bitsandbytes.devices = ["cpu"]
    packed = quantise(weights((4, 64)))
    expected = dequantise_by_torch(packed.codes, packed.absmax, BLOCK, 256).view(4, 64)
    assert torch.equal(packed.dequantised(), expected)
    assert bitsandbytes.calls == ["cpu", "cpu"]  # the trial, and the work
    # A device without its kernels has torch, whatever the CPU could do.
    there = moved(packed, "meta")
    assert dequantise(there.codes, there.absmax, BLOCK, (4, 64)).shape == (4, 64)
    assert bitsandbytes_dequantise("meta") is None
    assert bitsandbytes_dequantise("cpu") is not None
    assert bitsandbytes.calls.count("cpu") == 2


def test_bitsandbytes_with_other_values_is_not_used(bitsandbytes):
    bitsandbytes.devices, bitsandbytes.error = ["cpu"], 0.1
    packed = quantise(weights((4, 64)))
    packed.dequantised()
    packed.dequantised()
    assert bitsandbytes.calls == ["cpu"] and bitsandbytes_dequantise("cpu") is None


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    state = {"a.weight": weights((32, 64)), "b.weight": weights((5, 7)), "a.bias": weights((65,))}
    state["count"] = torch.tensor([3])
    torch.save(state, tmp_path / "model.pth")
    return open_model(tmp_path / "model.pth")


@pytest.mark.parametrize("double", [False, True])
def test_file_of_a_quantised_model(model, tmp_path, double):
    out = tmp_path / "q" / "model.safetensors"
    write_quantised(model, ["a.weight", "b.weight"], out, double)
    read = open_quantised(out.parent)
    assert sorted(read.names()) == sorted(model.names())
    assert read.quantised_names() == ["a.weight", "b.weight"]
    for name in read.quantised_names():
        expected = quantise(model.tensor(name), double=double)
        assert torch.equal(read.nf4(name).codes, expected.codes)
        assert torch.equal(read.tensor(name), expected.dequantised())
        assert read.shape(name) == model.shape(name)
    for name in ("a.bias", "count"):
        assert torch.equal(read.tensor(name), model.tensor(name))
    assert read.header.base == hash_of_weights(model)
    assert hash_of_weights(read) != read.header.base


@pytest.mark.parametrize("double", [False, True])
def test_inspect_shows_sizes_and_errors(model, tmp_path, double, capsys):
    file, out = tmp_path / "q" / "model.safetensors", tmp_path / "found.json"
    write_quantised(model, ["a.weight", "b.weight"], file, double)
    assert inspect.main(["--quantised", str(file.parent), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["error"] is None and "relative error" not in capsys.readouterr().out
    words = ["--quantised", str(file), "--base", str(tmp_path / "model.pth"), "--out", str(out)]
    assert inspect.main(words) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    assert all(fact in printed for fact in ("32 x 64", "in 4 bits", hash_of_weights(model)))
    read = open_quantised(file)
    packed = {name: read.nf4(name) for name in read.quantised_names()}
    assert found["parameters"] == {"file": 2149, "quantised": 2083, "whole": 66}
    assert found["bytes"]["quantised"] == sum(nf4.nbytes for nf4 in packed.values())
    assert found["bytes"]["whole"] == 65 * 4 + 8
    assert found["bytes"]["file"] == file.stat().st_size
    lost = energy = 0.0
    for name, nf4 in packed.items():
        weight, kept = model.tensor(name).double().numpy(), nf4.dequantised().double().numpy()
        error = np.linalg.norm(weight - kept) / np.linalg.norm(weight)
        assert found["matrices"][name]["error"] == pytest.approx(error, rel=1e-9)
        assert found["matrices"][name]["bits"] == 8 * nf4.nbytes / weight.size
        lost, energy = lost + ((weight - kept) ** 2).sum(), energy + (weight**2).sum()
    assert found["error"] == pytest.approx((lost / energy) ** 0.5, rel=1e-9)
    assert 0.05 < found["error"] < 0.15


def test_inspect_refuses_another_base_and_plots(model, tmp_path, capsys):
    file = tmp_path / "q" / "model.safetensors"
    write_quantised(model, ["a.weight"], file)
    torch.save({name: model.tensor(name) + 1 for name in model.names()}, tmp_path / "other.pth")
    assert inspect.main(["--quantised", str(file), "--base", str(tmp_path / "other.pth")]) == 1
    error = capsys.readouterr().err
    assert all(fact in error for fact in ("other.pth", hash_of_weights(model), "was quantised"))
    assert inspect.main(["--quantised", str(file), "--plots", str(tmp_path / "plots")]) == 2
    assert "--plots" in capsys.readouterr().err
    assert inspect.main(["--quantised", str(file), "--masks", "masks.safetensors"]) == 2


def test_full_precision_is_asked_for(model, tmp_path):
    out = tmp_path / "model.safetensors"
    write_quantised(model, ["a.weight"], out)
    for path in (out, tmp_path):
        with refusal(out, "4 bits", "lors quantise --restore"):
            Checkpoint.open(path)


def test_other_files_are_no_quantised_models(model, tmp_path):
    from safetensors.torch import save_file

    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.ones(2)}, plain)
    with refusal(plain):
        open_quantised(plain)
    with refusal(tmp_path / "model.pth"):
        open_quantised(tmp_path / "model.pth")
    with refusal("model.pth", kind=UsageError):
        write_quantised(model, ["a.weight"], tmp_path / "out" / "model.pth")


@pytest.mark.parametrize(
    "damage",
    [
        {"kind": "nf5"},
        {"block": 0},
        {"block": 32},
        {"shapes": {"a.weight": [32, 63]}},
        {"shapes": {"a.weight": [32, 64], "c": [2]}},
        {"double": True},
        {"other": 1},
    ],
)
def test_damaged_header(model, tmp_path, damage):
    from safetensors import safe_open
    from safetensors.torch import save_file

    out = tmp_path / "model.safetensors"
    write_quantised(model, ["a.weight"], out)
    with safe_open(out, "pt") as file:
        header = json.loads(file.metadata()[QUANTISED])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, out, {QUANTISED: json.dumps({**header, **damage})})
    with refusal(out):
        open_quantised(out)


def test_not_finite_weights(tmp_path):
    torch.save({"a.weight": torch.tensor([[1.0, float("nan")]])}, tmp_path / "model.pth")
    out = tmp_path / "model.safetensors"
    with refusal("a.weight"):
        write_quantised(open_model(tmp_path / "model.pth"), ["a.weight"], out)
    assert not out.exists()


def test_size_of_its_parts():
    packed = Nf4((2, 64), torch.zeros(64, dtype=torch.uint8), torch.zeros(2))
    assert packed.nbytes == 64 + 8
