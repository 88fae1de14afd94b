"""Sum and mean of tensors, sums around the mean, and the mean after the sign election of TIES."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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


def centred_sum(
    deltas: Sequence[Tensor], part: Callable[[Tensor], Tensor], factor: float
) -> Tensor:
    """Return mean_t(tau_t) + factor * sum_t part(tau_t - mean_t(tau_t)).

    Args:
        deltas: task vectors of one tensor; each is accessed twice.
        part: function of a centred task vector.
        factor: factor of the sum of the parts.
    """
    mean = mean_of(deltas)
    return mean + factor * sum_of(part(delta - mean) for delta in deltas)
