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


def low_rank_of_product(up: Tensor, down: Tensor, rank: int) -> Tensor:
    """The best approximation of ``up @ down`` of at most `rank`, without decomposing the product.

    Two QR factorisations leave a core of the inner size only, whose decomposition is that of the
    product. Where the inner size is at most `rank` there is nothing to do: it is the product.

    Args:
        up: out x r.
        down: r x in.
        rank: 0 or more.

    Returns:
        A float64 tensor, out x in.
    """
    up, down = up.double(), down.double()
    if rank >= up.shape[1]:
        return up @ down
    left, left_core = torch.linalg.qr(up)
    right, right_core = torch.linalg.qr(down.T)
    u, values, v = torch.linalg.svd(left_core @ right_core.T)
    return ((left @ u[:, :rank]) * values[:rank]) @ (v[:rank] @ right.T)


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
    return torch.where(_largest(matrix, int(matrix.numel() * density)), matrix, 0)


def _largest(tensor: Tensor, count: int) -> Tensor:
    """A mask of exactly `count` entries of largest magnitude; of ties the first in row-major order.

    Selecting the threshold and comparing is some 30 times quicker than sorting.
    """
    if count == 0 or count == tensor.numel():
        return torch.full(tensor.shape, count > 0)
    magnitudes = tensor.abs().reshape(-1).numpy()
    first = magnitudes.size - count
    threshold = np.partition(magnitudes, first)[first]
    mask = magnitudes > threshold
    ties = np.flatnonzero(magnitudes == threshold)
    mask[ties[: count - np.count_nonzero(mask)]] = True
    return torch.from_numpy(mask).reshape(tensor.shape)


def magnitude_band(tensor: Tensor, density: float, gamma: float) -> Tensor:
    """Set the ``int(numel * gamma)`` largest magnitudes to zero and keep the next ones.

    Args:
        tensor: a tensor of any shape, without NaN.
        density: the kept fraction; less if there are not so many entries below the largest.
        gamma: the fraction of largest entries that goes.

    Returns:
        A new tensor with the shape and dtype of `tensor`.

    Raises:
        ValueError: `density` or `gamma` is outside 0 to 1.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be from 0 to 1, got {gamma}")
    outliers = int(tensor.numel() * gamma)
    keep = min(int(tensor.numel() * density), tensor.numel() - outliers)
    band = _largest(tensor, outliers + keep) & ~_largest(tensor, outliers)
    return torch.where(band, tensor, 0)


def random_prune(tensor: Tensor, density: float, random: np.random.Generator) -> Tensor:
    """Keep every entry with probability `density` and divide it by that; the others become zero.

    Args:
        tensor: a tensor of any shape.
        density: probability to be kept, above 0 and at most 1.
        random: where the mask comes from.

    Returns:
        A new float32 tensor with the shape of `tensor` and, in the mean, its values.

    Raises:
        ValueError: `density` is not in its range.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density}")
    draws = random.random(tensor.numel(), dtype=np.float32)
    kept = torch.from_numpy(draws < density).reshape(tensor.shape)
    return torch.where(kept, tensor / density, 0)
