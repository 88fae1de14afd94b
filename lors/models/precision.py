"""Floating-point types that a device computes with."""

from __future__ import annotations

import torch


def cpu_multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions for products of matrices in bfloat16."""
    supported = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in supported)


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """Return the type for weights and activations in inference.

    Args:
        name: that of a type of torch; ``auto``: float16 on a GPU, float32 elsewhere; ``fast``:
            float16 on a GPU, bfloat16 on a CPU that has instructions for it, float32 elsewhere.
        device: the device of the model.
    """
    if name not in ("auto", "fast"):
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.float16
    if name == "fast" and device.type == "cpu" and cpu_multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32
