"""Centred LoRS: LoRS of the differences of the task vectors from their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.linalg.combine import centred_sum
from lors.linalg.low_rank import Rank, Ratio, low_rank_factors
from lors.linalg.sparsify import low_rank_plus_sparse
from lors.merge.methods.base import joint_method

RANK = Ratio(0.08)
"""Default rank."""


@joint_method(combines="mean", applies_to="matrices")
def centred_lors(
    deltas: Sequence[Tensor],
    *,
    rank: Rank = RANK,
    density: Annotated[float, Range(0, 1)] = 0.1,
    centred_coef: Annotated[float, Range(0)] = 1.0,
) -> Tensor:
    """cart with low-rank and sparse parts of the centred task vectors.

    delta = mean_t(tau_t) + centred_coef * sum_t (L_t + S_t). L_t is the low-rank part of
    tau_t - mean_t(tau_t), as in cart (arXiv 2412.12153); S_t holds the largest entries of the rest,
    as in lors (arXiv 2502.17380). The combination is of this project. Tensors that the policy does
    not prune are averaged.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.
        rank: rank of L_t: a number, at least 0 (a matrix of smaller full rank is kept whole),
            {ratio: x} of the full rank, or {energy: x}, the smallest rank with this fraction of the
            energy; x from 0 to 1.
        density: fraction of the entries of S_t that is kept, from 0 to 1.
        centred_coef: factor of the sum, at least 0.

    Returns:
        The merged delta, same shape.
    """

    def part(centred: Tensor) -> Tensor:
        return low_rank_plus_sparse(centred, *low_rank_factors(centred, rank), density)

    return centred_sum(deltas, part, centred_coef)
