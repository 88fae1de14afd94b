"""CART: centred arithmetic with rank-reduced task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.linalg.combine import centred_sum
from lors.linalg.low_rank import Rank, Ratio, low_rank_factors
from lors.merge.methods.base import joint_method

RANK = Ratio(0.08)
"""Default rank."""


@joint_method(combines="mean", applies_to="matrices")
def cart(
    deltas: Sequence[Tensor],
    *,
    rank: Rank = RANK,
    centred_coef: Annotated[float, Range(0)] = 1.0,
) -> Tensor:
    """Mean of the task vectors, and the low-rank parts of their differences from it.

    delta = mean_t(tau_t) + centred_coef * sum_t L_t; L_t is the best approximation of
    tau_t - mean_t(tau_t) of the given rank (Choi, Kim, Lee, Hong, "Revisiting Weight Averaging for
    Model Merging", arXiv 2412.12153, which finds about 8 % of the full rank best). Tensors that the
    policy does not prune are averaged.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.
        rank: rank of L_t: a number, at least 0 (a matrix of smaller full rank is kept whole),
            {ratio: x} of the full rank, or {energy: x}, the smallest rank with this fraction of the
            energy; x from 0 to 1.
        centred_coef: factor of the sum, at least 0.

    Returns:
        The merged delta, same shape.
    """

    def part(centred: Tensor) -> Tensor:
        up, down = low_rank_factors(centred, rank)
        return (up @ down).float()

    return centred_sum(deltas, part, centred_coef)
