"""LoRS-Merging: low-rank and sparse task vectors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from lors.config import Range
from lors.merge_methods import merge_method
from lors.prune import low_rank_approx, magnitude_prune


@merge_method(combines="sum")
def lors(
    deltas: Sequence[Tensor],
    *,
    prune: bool,
    rank: Annotated[int, Range(0)] = 7,
    density: Annotated[float, Range(0, 1)] = 0.2,
) -> Tensor:
    """Sum of the task vectors, each reduced to a low-rank and a sparse part.

    delta = sum_t (L_t + S_t), where L_t is the best approximation of tau_t of the given rank and
    S_t is the residual tau_t - L_t with only its largest magnitudes kept (Zhao, Sun, Zhang,
    "Low-Rank and Sparse Model Merging for Multi-Lingual Speech Recognition and Translation",
    arXiv 2502.17380). Tensors that the policy does not prune keep their whole task vectors.
    The defaults are the setting of the authors' released script for Whisper-small.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        prune: whether this tensor is a matrix to prune.
        rank: rank of L_t; a matrix of smaller full rank is kept whole.
        density: fraction of the entries of S_t that is kept.

    Returns:
        The merged delta, same shape, float32.
    """
    if not prune:
        return functools.reduce(torch.add, deltas)
    parts = (_low_rank_and_sparse(delta, rank, density) for delta in deltas)
    return functools.reduce(torch.add, parts).float()


def _low_rank_and_sparse(delta: Tensor, rank: int, density: float) -> Tensor:
    # In float64: a residual that is off by float32 rounding can land on the other side of the
    # magnitude threshold, which costs far more than the rounding itself.
    exact = delta.double()
    low_rank = low_rank_approx(exact, rank)
    return low_rank + magnitude_prune(exact - low_rank, density)
