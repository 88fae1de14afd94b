"""Election of signs among task vectors, as in TIES-Merging."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def disjoint_mean(part: Callable[[int], Tensor], count: int) -> Tensor:
    """For every entry the mean of the parts whose sign is that of the sum of all parts.

    Parts that are zero do not count. Only a few tensors are held at a time, whatever `count` is:
    every part is asked for twice and must be the same both times.

    Args:
        part: the trimmed task vector of the expert with this index.
        count: number of experts.
    """
    total = part(0).clone()
    for index in range(1, count):
        total += part(index)
    elected = total.sign_()
    kept = torch.zeros_like(elected)
    agreeing = torch.zeros(elected.shape, dtype=torch.int16)
    for index in range(count):
        trimmed = part(index)
        agrees = trimmed.sign() == elected
        agrees &= trimmed != 0
        kept += torch.where(agrees, trimmed, 0)
        agreeing += agrees
    return kept.div_(agreeing.clamp_(min=1))
