"""Check that weights are finite: a training that diverged leaves NaN or infinite values."""

from __future__ import annotations

import torch
from torch import Tensor

from lors.errors import LorsError


def all_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    # Fast path: a finite sum has finite terms only. If the sum overflows, look at every value.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def check_finite(tensor: Tensor, where: str) -> None:
    """Check a tensor of a model; raise LorsError if a value is NaN or infinite."""
    if all_finite(tensor):
        return
    bad = int((~torch.isfinite(tensor)).sum())
    raise LorsError(
        f"{bad} of {tensor.numel()} values are NaN or infinite",
        where=where,
        hint="the training of this model diverged; merge an earlier checkpoint",
    )


def difference(finetuned: Tensor, base: Tensor) -> Tensor:
    """Return ``finetuned - base`` in float32, for tensors of any dtype."""
    return finetuned.float() - base.float()
