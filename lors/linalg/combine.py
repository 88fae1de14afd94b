"""Sum and mean of tensors, and the mean after the sign election of TIES-Merging."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def disjoint_mean(parts: Iterable[Tensor]) -> Tensor:
    """Return the disjoint mean: for every entry, the mean of its values with the elected sign.

    The elected sign of an entry is the sign of its sum over all parts. Zeros are not counted
    (Yadav et al., "TIES-Merging", NeurIPS 2023).

    Args:
        parts: the trimmed task vectors, of one shape.
    """
    parts = list(parts)
    elected = torch.zeros_like(parts[0])
    for part in parts:
        elected += part
    elected.sign_()
    merged = torch.zeros_like(elected)
    agreeing = torch.zeros_like(elected)
    for part in parts:
        # The product with the elected sign is positive exactly where a part agrees.
        aligned = torch.mul(part, elected).clamp_(min=0)
        merged += aligned
        agreeing += aligned.sign_()
    return merged.mul_(elected).div_(agreeing.clamp_(min=1))


def sum_of(deltas: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape; one of them is in memory at a time."""
    total = None
    for delta in deltas:
        total = delta.clone() if total is None else total.add_(delta)
    if total is None:
        raise ValueError("nothing to sum")
    return total


def mean_of(deltas: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors of one shape; one of them is in memory at a time."""
    return sum_of(deltas).div_(len(deltas))
