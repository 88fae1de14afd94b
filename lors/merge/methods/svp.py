"""Singular value pruning alone: the coarse half of LoRS-Merging."""

from __future__ import annotations

from torch import Tensor

from lors.linalg.low_rank import Energy, LowRank, Rank, low_rank_factors
from lors.merge.methods.base import sum_method


def _stacks(rank: Rank, **_: object) -> bool:
    """Whether the matrices of a stack are handled alike."""
    return not isinstance(rank, Energy)


@sum_method(scope="matrices", stacks=_stacks)
def svp(
    delta: Tensor,
    *,
    low_rank: LowRank = low_rank_factors,
    rank: Rank = 7,
) -> Tensor:
    """Sum of the low-rank parts of the task vectors (LoRS-Merging without its sparse part).

    delta = sum_t L_t, where L_t is the best approximation of tau_t of the given rank: the "SVP"
    ablation of Zhao, Sun, Zhang, arXiv 2502.17380. Tensors that the policy does not prune keep
    their whole task vectors.

    Args:
        delta: task vector of one matrix of one expert, float32; or a stack of them.
        low_rank: finds two factors of the low-rank part.
        rank: rank of L_t: a number, at least 0 (a matrix of smaller full rank is kept whole),
            {ratio: x} of the full rank, or {energy: x}, the smallest rank with this fraction of the
            energy; x from 0 to 1.

    Returns:
        The expert's part of the merged delta, same shape.
    """
    up, down = low_rank(delta, rank)
    return (up @ down).float()
