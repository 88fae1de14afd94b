"""LoRS-Merging: low-rank and sparse task vectors."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from lors.config import Range
from lors.linalg.low_rank import Energy, LowRank, Rank, low_rank_factors
from lors.linalg.sparsify import TopKMask, low_rank_plus_sparse, magnitude_prune
from lors.merge.methods.base import Execution, sum_method


def _magnitudes(delta: Tensor, *, low_rank: LowRank, rank: Rank, order: str, **_: object) -> Tensor:
    """Return the magnitudes of the matrix from which the sparse part is taken."""
    if order == "low_rank_first":
        up, down = low_rank(delta, rank)
        delta = delta - up @ down
    return delta.abs()


def _stacks(rank: Rank, order: str, threshold: str, **_: object) -> bool:
    """Return whether all matrices of a stack take the same steps."""
    usual = (order, threshold) == ("low_rank_first", "matrix")
    return usual and not isinstance(rank, Energy)


@sum_method(
    applies_to="matrices", execution=Execution(global_magnitudes=_magnitudes, stacks=_stacks)
)
def lors(
    delta: Tensor,
    *,
    low_rank: LowRank = low_rank_factors,
    global_threshold: float | None = None,
    rank: Rank = 7,
    density: Annotated[float, Range(0, 1)] = 0.2,
    order: Literal["low_rank_first", "sparse_first", "independent"] = "low_rank_first",
    threshold: Literal["matrix", "global"] = "matrix",
    keep_norm: bool = False,
) -> Tensor:
    """Sum of the task vectors, each reduced to a low-rank and a sparse part.

    delta = sum_t (L_t + S_t). L_t is the best approximation of tau_t of the given rank; S_t is the
    residual tau_t - L_t with all entries but the largest magnitudes set to zero (Zhao, Sun, Zhang,
    "Low-Rank and Sparse Model Merging for Multi-Lingual Speech Recognition and Translation",
    arXiv 2502.17380). Tensors that the policy does not prune keep their whole task vectors.
    The defaults are those of the authors' released script for Whisper-small. `order`, `threshold`,
    `keep_norm` and a rank given by ratio or energy go beyond the paper.

    Args:
        delta: task vector of one matrix of one expert, float32; or a stack of them.
        low_rank: function that finds the two factors of a low-rank part of tau_t.
        global_threshold: threshold over all matrices of this expert, if threshold is "global".
        rank: rank of L_t: a number, at least 0 (a matrix of smaller full rank is kept whole),
            {ratio: x} of the full rank, or {energy: x}, the smallest rank with this fraction of the
            energy; x from 0 to 1.
        density: fraction of the entries of S_t that is kept, from 0 to 1.
        order: low_rank_first (the paper: S_t from the residual of L_t), sparse_first (L_t from the
            residual of S_t) or independent (both from tau_t; a part that is in both counts twice).
        threshold: matrix (the paper: one threshold of the magnitudes for each matrix) or global
            (one threshold for all matrices of an expert: matrices that learnt more keep more
            entries).
        keep_norm: scale L_t + S_t to the Frobenius norm of tau_t.

    Returns:
        The term of the expert, same shape, float32.
    """
    kept = None if global_threshold is None else TopKMask(global_threshold)
    if order == "low_rank_first":
        # The sum of the parts, without a matrix for the sparse part: this takes half the time.
        part = low_rank_plus_sparse(delta, *low_rank(delta, rank), density, kept)
    else:
        up, down, sparse = _parts(delta, low_rank, kept, rank, density, order)
        part = (up @ down).float() + sparse
    if keep_norm:
        part *= _growth(delta, part)
    return part


def lors_parts(
    delta: Tensor,
    *,
    low_rank: LowRank,
    global_threshold: float | None,
    rank: Rank,
    density: float,
    order: str,
    threshold: str,
    keep_norm: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the term of :func:`lors` for one matrix as its low-rank and its sparse part.

    Args:
        delta, low_rank, ...: as for :func:`lors`.

    Returns:
        The two factors of L_t (rows x k and k x columns), and S_t (rows x columns, float32).
    """
    kept = None if global_threshold is None else TopKMask(global_threshold)
    up, down, sparse = _parts(delta, low_rank, kept, rank, density, order)
    if keep_norm:
        growth = _growth(delta, (up @ down).float() + sparse)
        up, sparse = (up * growth).to(up.dtype), sparse * growth
    return up, down, sparse.float()


def _parts(
    delta: Tensor, low_rank: LowRank, kept: TopKMask | None, rank: Rank, density: float, order: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors and the sparse part before their norm is kept."""
    if order == "low_rank_first":
        up, down = low_rank(delta, rank)
        rest = delta - up @ down
        return up, down, magnitude_prune(rest if kept is None else rest.float(), density, kept)
    sparse = magnitude_prune(delta, density, kept)
    if order == "sparse_first":
        return *low_rank_factors(delta - sparse, rank), sparse
    return *low_rank(delta, rank), sparse


def _growth(delta: Tensor, part: Tensor) -> Tensor:
    """Return the factor that gives `part` the norm of `delta`."""
    return _norm(delta) / _norm(part).clamp(min=torch.finfo(torch.float64).tiny)


def _norm(matrix: Tensor) -> Tensor:
    """Return the Frobenius norm of a matrix, or of each matrix of a stack."""
    return torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True, dtype=torch.float64)
