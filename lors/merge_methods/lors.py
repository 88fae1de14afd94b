"""LoRS-Merging: low-rank and sparse task vectors."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from lors.config import Range
from lors.low_rank import Rank, low_rank_factors, low_rank_of_product
from lors.merge_methods import sum_method
from lors.prune import low_rank_plus_sparse, magnitude_prune


@sum_method(scope="matrices")
def lors(
    delta: Tensor,
    *,
    factors: tuple[Tensor, Tensor] | None = None,
    rank: Rank = 7,
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
        delta: task vector of one matrix of one expert, float32.
        factors: of an adapter, B (out x r) and A (r x in) with tau_t = B A.
        rank: rank of L_t: a number (a matrix of smaller full rank is kept whole), {ratio: x} of the
            full rank, or {energy: x}, the smallest rank with this fraction of the energy.
        density: fraction of the entries of S_t that is kept.
        order: low_rank_first (the paper: S_t from the residual of L_t), sparse_first (L_t from the
            residual of S_t) or independent (both from tau_t, so that what both hold counts twice).
        keep_norm: scale L_t + S_t to the Frobenius norm of tau_t.

    Returns:
        The expert's part of the merged delta, same shape, float32.
    """
    if order == "sparse_first":
        sparse = magnitude_prune(delta, density)
        up, down = low_rank_factors(delta - sparse, rank)
        part = (up @ down).float() + sparse
    else:
        up, down = low_rank_of_product(*factors, rank) if factors else low_rank_factors(delta, rank)
        if order == "low_rank_first":
            part = low_rank_plus_sparse(delta, up, down, density)
        else:
            part = (up @ down).float() + magnitude_prune(delta, density)
    if keep_norm and part.any():
        part *= _norm(delta) / _norm(part)
    return part


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
