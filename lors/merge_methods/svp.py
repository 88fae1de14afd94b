"""Singular value pruning alone: the coarse half of LoRS-Merging."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.merge_methods import sum_method
from lors.prune import low_rank_approx, low_rank_of_product


@sum_method
def svp(
    delta: Tensor,
    *,
    prune: bool,
    factors: tuple[Tensor, Tensor] | None = None,
    rank: Annotated[int, Range(0)] = 7,
) -> Tensor:
    """Sum of the low-rank parts of the task vectors (LoRS-Merging without its sparse part).

    delta = sum_t L_t, where L_t is the best approximation of tau_t of the given rank: the "SVP"
    ablation of Zhao, Sun, Zhang, arXiv 2502.17380. Tensors that the policy does not prune keep
    their whole task vectors.

    Args:
        delta: task vector of one tensor of one expert, float32.
        prune: whether this tensor is a matrix to prune.
        factors: of an adapter, B (out x r) and A (r x in) with tau_t = B A.
        rank: rank of L_t; a matrix of smaller full rank is kept whole.

    Returns:
        The expert's part of the merged delta, same shape.
    """
    if not prune:
        return delta
    if factors is None:
        return low_rank_approx(delta, rank)
    return low_rank_of_product(*factors, rank).float()
