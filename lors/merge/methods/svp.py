"""Singular value pruning alone: the low-rank half of LoRS-Merging."""

from __future__ import annotations

from torch import Tensor

from lors.linalg.low_rank import Energy, LowRank, Rank, low_rank_factors
from lors.merge.methods.base import Execution, sum_method


def _stacks(rank: Rank, **_: object) -> bool:
    """Return whether all matrices of a stack take the same steps."""
    return not isinstance(rank, Energy)


@sum_method(applies_to="matrices", execution=Execution(stacks=_stacks))
def svp(
    delta: Tensor,
    *,
    low_rank: LowRank = low_rank_factors,
    rank: Rank = 7,
) -> Tensor:
    """Sum of the low-rank parts of the task vectors (LoRS-Merging without its sparse part).

    delta = sum_t L_t; L_t is the best approximation of tau_t of the given rank. It is the "SVP"
    ablation of Zhao, Sun, Zhang, arXiv 2502.17380. Tensors that the policy does not prune keep
    their whole task vectors.

    Args:
        delta: task vector of one matrix of one expert, float32; or a stack of them.
        low_rank: function that finds the two factors of the low-rank part.
        rank: rank of L_t: a number, at least 0 (a matrix of smaller full rank is kept whole),
            {ratio: x} of the full rank, or {energy: x}, the smallest rank with this fraction of the
            energy; x from 0 to 1.

    Returns:
        The term of the expert, same shape.
    """
    up, down = low_rank(delta, rank)
    return (up @ down).float()
