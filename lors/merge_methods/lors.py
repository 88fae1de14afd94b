"""LoRS-Merging: low-rank and sparse task vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor

from lors.config import Range
from lors.merge_methods import sum_method
from lors.prune import low_rank_approx, low_rank_of_product, magnitude_prune


@sum_method
def lors(
    delta: Tensor,
    *,
    prune: bool,
    factors: tuple[Tensor, Tensor] | None = None,
    rank: Annotated[int, Range(0)] = 7,
    density: Annotated[float, Range(0, 1)] = 0.2,
    order: Literal["low_rank_first", "sparse_first", "independent"] = "low_rank_first",
    keep_norm: bool = False,
) -> Tensor:
    """Sum of the task vectors, each reduced to a low-rank and a sparse part.

    delta = sum_t (L_t + S_t), where L_t is the best approximation of tau_t of the given rank and
    S_t is the residual tau_t - L_t with only its largest magnitudes kept (Zhao, Sun, Zhang,
    "Low-Rank and Sparse Model Merging for Multi-Lingual Speech Recognition and Translation",
    arXiv 2502.17380). Tensors that the policy does not prune keep their whole task vectors.
    The defaults are the setting of the authors' released script for Whisper-small; `order` and
    `keep_norm` go beyond the paper.

    Args:
        delta: task vector of one tensor of one expert, float32.
        prune: whether this tensor is a matrix to prune.
        factors: of an adapter, B (out x r) and A (r x in) with tau_t = B A.
        rank: rank of L_t; a matrix of smaller full rank is kept whole.
        density: fraction of the entries of S_t that is kept.
        order: low_rank_first (the paper: S_t from the residual of L_t), sparse_first (L_t from the
            residual of S_t) or independent (both from tau_t, so that what both hold counts twice).
        keep_norm: scale L_t + S_t to the Frobenius norm of tau_t.

    Returns:
        The expert's part of the merged delta, same shape, float32.
    """
    if not prune:
        return delta
    # In float64: a residual that is off by float32 rounding can land on the other side of the
    # magnitude threshold, which costs far more than the rounding itself.
    tau = delta.double()
    if order == "sparse_first":
        sparse = magnitude_prune(tau, density)
        low_rank = low_rank_approx(tau - sparse, rank)
    else:
        low_rank = (
            low_rank_approx(tau, rank) if factors is None else low_rank_of_product(*factors, rank)
        )
        sparse = magnitude_prune(tau - low_rank if order == "low_rank_first" else tau, density)
    part = low_rank + sparse
    if keep_norm and part.any():
        part *= tau.norm() / part.norm()
    return part.float()
