"""Weight average."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from lors.merge_methods import merge_method


@merge_method(combines="mean")
def average(deltas: Sequence[Tensor]) -> Tensor:
    """Mean of the task vectors: with scaling_coef 1 the average of the experts' weights.

    delta = (1/N) sum_t tau_t. The same as task_arithmetic with scaling_coef divided by N.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.

    Returns:
        The merged delta, same shape.
    """
    return functools.reduce(torch.add, deltas) / len(deltas)
