"""Check that weights are finite: a diverged training or a damaged file leaves other values."""

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
        hint="did the training of this model diverge? Use an earlier checkpoint. If not, the file "
        "is damaged, or has values too large for its dtype: copy or make it again",
    )


def difference(finetuned: Tensor, base: Tensor) -> Tensor:
    """Return ``finetuned - base`` in float32, for tensors of any dtype."""
    return finetuned.float() - base.float()
