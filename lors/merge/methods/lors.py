"""LoRS-Merging: low-rank and sparse task vectors."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from lors.config import Range
from lors.linalg.low_rank import Energy, LowRank, Rank, low_rank_factors
from lors.linalg.sparsify import Cut, low_rank_plus_sparse, magnitude_prune
from lors.merge.methods.base import sum_method


def _pool(delta: Tensor, *, low_rank: LowRank, rank: Rank, order: str, **_: object) -> Tensor:
    """The magnitudes that share one threshold: of what the sparse part is taken from."""
    if order == "low_rank_first":
        up, down = low_rank(delta, rank)
        delta = delta - up @ down
    return delta.abs()


def _stacks(rank: Rank, order: str, threshold: str, **_: object) -> bool:
    """Whether the matrices of a stack are handled alike."""
    rule = (order, threshold) == ("low_rank_first", "matrix")
    return rule and not isinstance(rank, Energy)


@sum_method(scope="matrices", pool=_pool, stacks=_stacks)
def lors(
    delta: Tensor,
    *,
    low_rank: LowRank = low_rank_factors,
    pooled: float | None = None,
    rank: Rank = 7,
    density: Annotated[float, Range(0, 1)] = 0.2,
    order: Literal["low_rank_first", "sparse_first", "independent"] = "low_rank_first",
    threshold: Literal["matrix", "global"] = "matrix",
    keep_norm: bool = False,
) -> Tensor:
    """Sum of the task vectors, each reduced to a low-rank and a sparse part.

    delta = sum_t (L_t + S_t), where L_t is the best approximation of tau_t of the given rank and
    S_t is the residual tau_t - L_t with only its largest magnitudes kept (Zhao, Sun, Zhang,
    "Low-Rank and Sparse Model Merging for Multi-Lingual Speech Recognition and Translation",
    arXiv 2502.17380). Tensors that the policy does not prune keep their whole task vectors.
    The defaults are the setting of the authors' released script for Whisper-small; `order`,
    `threshold`, `keep_norm` and ranks that are rules go beyond the paper.

    Args:
        delta: task vector of one matrix of one expert, float32; or a stack of them.
        low_rank: finds two factors of a low-rank part of tau_t.
        pooled: the threshold of this expert's entries, if it is one for all matrices.
        rank: rank of L_t: a number, at least 0 (a matrix of smaller full rank is kept whole),
            {ratio: x} of the full rank, or {energy: x}, the smallest rank with this fraction of the
            energy; x from 0 to 1.
        density: fraction of the entries of S_t that is kept, from 0 to 1.
        order: low_rank_first (the paper: S_t from the residual of L_t), sparse_first (L_t from the
            residual of S_t) or independent (both from tau_t, so that what both hold counts twice).
        threshold: the magnitude from which entries are kept is found for each matrix (the paper) or
            for all matrices of an expert together (global), so that matrices in which more was
            learnt keep more entries.
        keep_norm: scale L_t + S_t to the Frobenius norm of tau_t.

    Returns:
        The expert's part of the merged delta, same shape, float32.
    """
    cut = None if pooled is None else Cut(pooled)
    if order == "low_rank_first":
        part = low_rank_plus_sparse(delta, *low_rank(delta, rank), density, cut)
    else:
        sparse = magnitude_prune(delta, density, cut)
        if order == "sparse_first":
            up, down = low_rank_factors(delta - sparse, rank)
        else:
            up, down = low_rank(delta, rank)
        part = (up @ down).float() + sparse
    if keep_norm:
        part *= _norm(delta) / _norm(part).clamp(min=torch.finfo(torch.float64).tiny)
    return part


def _norm(matrix: Tensor) -> Tensor:
    """The Frobenius norm, of each matrix of a stack."""
    return torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True, dtype=torch.float64)
