"""Task arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from lors.merge_methods import merge_method


@merge_method(combines="sum")
def task_arithmetic(deltas: Sequence[Tensor]) -> Tensor:
    """Sum of the task vectors.

    delta = sum_t tau_t (Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023).

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.

    Returns:
        The merged delta, same shape.
    """
    return functools.reduce(torch.add, deltas)
