"""Floating-point types that a device computes with."""

import pytest
import torch

from lors.models.precision import dtype_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_types_by_device(monkeypatch, has_bfloat16):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has_bfloat16, raising=False)
    assert (dtype_of("auto", GPU), dtype_of("fast", GPU)) == (torch.float16, torch.float16)
    assert dtype_of("auto", CPU) == torch.float32
    assert dtype_of("fast", CPU) == (torch.bfloat16 if has_bfloat16 else torch.float32)
    for name in ("float32", "float16", "bfloat16"):
        assert dtype_of(name, CPU) == dtype_of(name, GPU) == getattr(torch, name)


def test_instructions_that_torch_cannot_tell(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert dtype_of("fast", CPU) == torch.float32
