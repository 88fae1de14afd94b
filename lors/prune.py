"""The two prunings of a task vector: singular values (low rank) and magnitudes (sparse)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor


def low_rank_approx(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of `matrix` of at most `rank`, in the Frobenius norm.

    By the Eckart-Young theorem it is the projection on the leading singular vectors, which are
    the eigenvectors of the Gram matrix of the smaller side. The Gram matrix squares the condition
    number, so it is formed in float64: a direction that is lost in rounding then carries less
    than about 1e-7 of the norm of the matrix.

    Args:
        matrix: out x in; more dimensions (a convolution, out x in x width) count as
            out x (in * width).
        rank: 0 or more; at or above the full rank the matrix itself is returned.

    Returns:
        A new tensor with the shape and dtype of `matrix`.

    Raises:
        ValueError: `matrix` has fewer than two dimensions or `rank` is negative.
    """
    if matrix.ndim < 2:
        raise ValueError(f"low_rank_approx needs a matrix, got shape {tuple(matrix.shape)}")
    if rank < 0:
        raise ValueError(f"rank must not be negative, got {rank}")
    flat = matrix.reshape(matrix.shape[0], -1).double()
    full_rank = min(flat.shape)
    if rank >= full_rank:
        return matrix.clone()
    if rank == 0:
        return torch.zeros_like(matrix)
    wide = flat.shape[0] < flat.shape[1]
    gram = flat @ flat.T if wide else flat.T @ flat
    # The cheaper of the two: project on the leading directions or take the other ones away.
    leading = rank <= full_rank // 2
    first, last = (full_rank - rank, full_rank - 1) if leading else (0, full_rank - rank - 1)
    _, eigenvectors = eigh(gram.numpy(), subset_by_index=(first, last), driver="evr")
    vectors = torch.from_numpy(eigenvectors)
    projected = vectors @ (vectors.T @ flat) if wide else (flat @ vectors) @ vectors.T
    low_rank = projected if leading else flat - projected
    return low_rank.reshape(matrix.shape).to(matrix.dtype)


def magnitude_prune(matrix: Tensor, density: float) -> Tensor:
    """Keep the ``int(numel * density)`` entries of largest magnitude, set the others to zero.

    The count is exact: of entries that tie at the threshold the first in row-major order are kept.

    Args:
        matrix: a tensor of any shape, without NaN.
        density: the kept fraction, from 0 to 1.

    Returns:
        A new tensor with the shape and dtype of `matrix`.

    Raises:
        ValueError: `density` is outside 0 to 1.
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density must be from 0 to 1, got {density}")
    keep = int(matrix.numel() * density)
    if keep == 0:
        return torch.zeros_like(matrix)
    if keep == matrix.numel():
        return matrix.clone()
    magnitudes = matrix.abs().reshape(-1).numpy()
    first_kept = magnitudes.size - keep
    threshold = np.partition(magnitudes, first_kept)[first_kept]
    kept = magnitudes > threshold
    ties = np.flatnonzero(magnitudes == threshold)
    kept[ties[: keep - np.count_nonzero(kept)]] = True
    return torch.where(torch.from_numpy(kept).reshape(matrix.shape), matrix, 0)
