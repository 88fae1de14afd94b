"""Sums and means of tensors, and the election of signs of TIES-Merging."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def disjoint_mean(parts: Iterable[Tensor]) -> Tensor:
    """For every entry the mean of the parts whose sign is that of the sum of all parts.

    Parts that are zero do not count.

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
        # Times the elected sign, what agrees is positive and everything else is not.
        aligned = torch.mul(part, elected).clamp_(min=0)
        merged += aligned
        agreeing += aligned.sign_()
    return merged.mul_(elected).div_(agreeing.clamp_(min=1))


def sum_of(deltas: Iterable[Tensor]) -> Tensor:
    """The sum of tensors of one shape, of which only one is needed at a time."""
    total = None
    for delta in deltas:
        total = delta.clone() if total is None else total.add_(delta)
    if total is None:
        raise ValueError("nothing to sum")
    return total


def mean_of(deltas: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape, of which only one is needed at a time."""
    return sum_of(deltas).div_(len(deltas))
