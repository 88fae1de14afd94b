"""NF4 against bitsandbytes."""

from __future__ import annotations

import pytest
import torch

from lors.checkpoint.nf4 import dequantise_by_torch, quantise

SHAPES = [(512, 512), (7, 13), (6, 13), (64, 80, 3), (1, 1), (33, 64)]


@pytest.fixture(scope="module")
def functional(packages):
    return pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")


def weights(shape, scale):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale
    if len(weight) > 3:
        weight[3] = 0
    return weight


@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-6])
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_scales_and_weights_are_equal(functional, shape, scale):
    weight = weights(shape, scale)
    codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    packed = quantise(weight)
    assert torch.equal(codes.view(-1), packed.codes)
    assert torch.equal(state.absmax, packed.absmax)
    by_bitsandbytes = functional.dequantize_4bit(codes, state)
    assert torch.equal(by_bitsandbytes, packed.dequantised())
    by_torch = dequantise_by_torch(packed.codes, packed.absmax, 64, weight.numel())
    assert torch.equal(by_bitsandbytes.view(-1), by_torch)


@pytest.mark.parametrize("shape", SHAPES)
def test_scales_of_the_double_quantisation(functional, shape):
    weight = weights(shape, 0.02)
    options = {"blocksize": 64, "quant_type": "nf4", "compress_statistics": True}
    codes, state = functional.quantize_4bit(weight, **options)
    packed = quantise(weight, double=True)
    assert torch.equal(codes.view(-1), packed.codes)
    assert torch.equal(state.offset, packed.offset)
    if len(packed.absmax) == 1:
        return  # its scale minus the mean is 0: bitsandbytes divides by it
    assert torch.equal(state.state2.absmax, packed.scale)
    # bitsandbytes' own code for CPUs does not always take the nearest of two values.
    steps = (state.absmax.int() - packed.absmax.int()).abs()
    assert steps.max() <= 1 and (steps > 0).float().mean() < 0.01
    same = dequantise_by_torch(codes.view(-1), _scales(functional, state), 64, weight.numel())
    assert torch.equal(functional.dequantize_4bit(codes, state).view(-1), same)


def _scales(functional, state):
    return functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
