"""Check that weights are finite: a training that diverged leaves NaN or infinity."""

from __future__ import annotations

import torch
from torch import Tensor

from lors.errors import LorsError


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    # A sum of finite numbers is finite unless it overflows: one quick look for most tensors.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def check_finite(tensor: Tensor, where: str) -> None:
    """Check the values of a model's tensor; LorsError if one is NaN or infinite."""
    if all_finite(tensor):
        return
    bad = int((~torch.isfinite(tensor)).sum())
    raise LorsError(
        f"{bad} of {tensor.numel()} values are NaN or infinite",
        where=where,
        hint="the training of this model diverged; merge an earlier checkpoint",
    )


def difference(finetuned: Tensor, base: Tensor) -> Tensor:
    """``finetuned - base``, of whatever dtypes, in float32."""
    return finetuned.float() - base.float()
