"""LoRS-weighted ACTMat: ACTMat with covariances from low-rank and sparse parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from torch import Tensor

from lors.config import Range
from lors.linalg.covariance import regression_merge
from lors.linalg.low_rank import LowRank, Rank
from lors.linalg.sparsify import low_rank_plus_sparse
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="matrices")
def lors_actmat(
    deltas: Sequence[Tensor],
    *,
    low_rank_of: Callable[[int], LowRank],
    rank: Rank = 7,
    density: Annotated[float, Range(0, 1)] = 0.2,
    reduce: Literal["covariances", "both"] = "covariances",
    ridge: Annotated[float, Range(0)] = 1.0,
    keep_norm: bool = False,
) -> Tensor:
    """actmat with the covariances of low-rank and sparse task vectors.

    delta is that of actmat (arXiv 2604.01329), except that C_t = R_t' R_t with the low-rank and
    sparse task vector R_t = L_t + S_t of lors (arXiv 2502.17380); with reduce=both, R_t replaces
    tau_t too. The combination is of this project. Tensors that the policy does not prune are
    averaged.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.
        low_rank_of: index of an expert -> function that finds the low-rank part of its tau_t.
        rank: rank of L_t: a number, at least 0 (a matrix of smaller full rank is kept whole),
            {ratio: x} of the full rank, or {energy: x}, the smallest rank with this fraction of the
            energy; x from 0 to 1.
        density: fraction of the entries of S_t that is kept, from 0 to 1.
        reduce: covariances (tau_t stays whole) or both (L_t + S_t replaces tau_t).
        ridge: as for actmat, at least 0.
        keep_norm: scale each matrix of delta to the mean Frobenius norm of the task vectors.

    Returns:
        The merged delta, same shape.
    """

    def parts(index: int, tau: Tensor) -> tuple[Tensor, Tensor]:
        reduced = low_rank_plus_sparse(tau, *low_rank_of(index)(tau, rank), density)
        return (reduced if reduce == "both" else tau), reduced

    return regression_merge(deltas, parts, ridge, keep_norm)
