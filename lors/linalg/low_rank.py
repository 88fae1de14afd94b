"""The low-rank part of a matrix, as two thin factors.

By the Eckart-Young theorem the best approximation of a matrix A of a given rank is its projection
on the leading singular vectors: (A V) V', or U (U' A) if A has fewer rows than columns. This module
finds V, the leading eigenvectors of A'A (or U, those of AA'), at the lowest cost for the rank:

- for a rank of up to about 1 % of the full rank (the setting of the LoRS-Merging authors): block
  Lanczos iteration. It needs a few products with A and stops when the residual is small;
- for a higher rank, or if that iteration is slow: the Gram matrix (A'A or AA') and an eigensolver,
  which is LAPACK's syevr for one matrix on the CPU.

A matrix with more than 256 rows and more than 256 columns is decomposed in float32; the error of
the approximation is then about 1e-6 of the norm of A if the spectrum has a gap at the rank. Smaller
matrices are decomposed in float64. If the Gram matrix of a large one has a steep spectrum, it is
decomposed again in float64: the Gram matrix squares the spectrum, and float32 would lose some of
the wanted directions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import scipy.linalg
import torch
from torch import Tensor

from lors.config import Range

OVERSAMPLING = 9
"""Columns of a Lanczos block beyond the rank; they separate singular values that nearly tie."""
MAX_BLOCKS = 16
"""Limit of Lanczos blocks: a spectrum without a gap needs more, and LAPACK is then cheaper."""
RESIDUAL = 1e-6
"""Residual at which the iteration ends, relative to the smallest wanted eigenvalue."""
SMALL = 256
"""A matrix with a side of at most this length is decomposed in float64, at hardly any cost."""
STEEP = 1e-5
"""Smallest eigenvalue of a float32 Gram matrix that is accurate, relative to the largest."""


@dataclass(frozen=True)
class Ratio:
    """A rank given as a fraction of the full rank of each matrix (rounded down)."""

    ratio: Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Energy:
    """The smallest rank that holds a given fraction of the energy (squared singular values)."""

    energy: Annotated[float, Range(0, 1)]


Rank = Annotated[int, Range(0)] | Ratio | Energy
LowRank = Callable[[Tensor, Rank], tuple[Tensor, Tensor]]
"""A function that returns the low-rank part of a task vector as two factors."""


@dataclass(frozen=True)
class Directions:
    """The leading singular vectors of a matrix on its smaller side, and their singular values.

    Args:
        vectors: side x k, orthonormal columns in descending order of the singular values; for a
            stack of matrices with the dimensions of the stack in front.
        squares: the k squared singular values, descending.
    """

    vectors: Tensor
    squares: Tensor

    def first(self, number: int) -> Directions:
        """Return the leading `number` directions."""
        return Directions(self.vectors[..., :number], self.squares[..., :number])

    def factors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``up, down`` with ``up @ down`` the projection of `matrix` on the directions."""
        matrix = matrix.to(self.vectors.dtype)
        if matrix.shape[-2] < matrix.shape[-1]:
            return self.vectors, self.vectors.mT @ matrix
        return matrix @ self.vectors, self.vectors.mT


def rank_from_spectrum(
    rank: int | Ratio | Energy, squares: Tensor, side: int, energy: float
) -> int | None:
    """Return the number of leading directions that a rank takes from a known spectrum.

    Args:
        rank: a number, or a rule.
        squares: the leading squared singular values, descending; perhaps not all of them.
        side: the full rank.
        energy: sum of all squared singular values.

    Returns:
        The number; None if the rank takes more directions than `squares` has.
    """
    if isinstance(rank, Energy):
        number = min(_rank_from_energy(rank, squares, energy), side)
    else:
        number = min(rank_from_size(rank, side), side)
    return number if number <= len(squares) else None


def _rank_from_energy(rank: Energy, squares: Tensor, energy: float) -> int:
    if rank.energy == 0 or energy == 0:
        return 0
    cumulative = squares.clamp(min=0).double().cumsum(0)
    return int((cumulative < rank.energy * energy).sum()) + 1


def low_rank_factors(matrix: Tensor, rank: int | Ratio | Energy) -> tuple[Tensor, Tensor]:
    """Return the best approximation of `matrix` of a given rank in the Frobenius norm.

    Args:
        matrix: rows x columns, without NaN; or a stack of such matrices, on any device.
        rank: a number, or a rule that gives a number for each matrix (:class:`Energy` only for a
            single matrix). At or above the full rank the approximation is the matrix itself.

    Returns:
        Two factors, ``up`` (rows x k) and ``down`` (k x columns), whose product is the
        approximation. Both have the precision in which the matrix was decomposed.

    Raises:
        ValueError: `matrix` has fewer than two dimensions or `rank` is negative.
    """
    full_rank = min(matrix.shape[-2:])
    if not isinstance(rank, Energy) and rank_from_size(rank, full_rank) >= full_rank:
        return matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return leading_directions(matrix, rank).factors(matrix)


def leading_directions(matrix: Tensor, rank: int | Ratio | Energy) -> Directions:
    """Return the directions on which the best approximation of a given rank is a projection.

    Args:
        matrix: as for :func:`low_rank_factors`.
        rank: a number, or a rule that gives a number; at most the full rank.

    Raises:
        ValueError: `matrix` has fewer than two dimensions or `rank` is negative.
    """
    if matrix.ndim < 2:
        raise ValueError(f"a low rank needs a matrix, got shape {tuple(matrix.shape)}")
    tall = matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix.mT
    rows, side = tall.shape[-2:]
    count = None if isinstance(rank, Energy) else min(rank_from_size(rank, side), side)
    width = 1 if count is None else min(count + OVERSAMPLING, side)
    start = _transposed_times(tall, _random_block(rows, width, tall.dtype).to(tall.device))
    size = start.abs().amax(dim=(-2, -1), keepdim=True)
    if count == 0 or not size.any():
        empty = tall.new_zeros(*tall.shape[:-2], side, 0)
        return Directions(empty, empty[..., 0, :])
    if bool(((size > 1e-9) & (size < 1e9)).all()):
        vectors, squares = _leading(tall, rank, start)
    else:
        # The squares of very small and very large numbers are outside the range of float32.
        size = torch.where(size == 0, 1, size)
        vectors, squares = _leading(tall / size, rank, start / size)
        squares = squares.double() * size[..., 0].double() ** 2
    return Directions(vectors, squares)


@functools.lru_cache(maxsize=16)
def _random_block(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return random numbers that are the same in every call and for every device."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0), dtype=dtype)


def rank_from_size(rank: int | Ratio, full_rank: int) -> int:
    """Return the rank as a number for a matrix of this full rank; ValueError if it is negative."""
    number = int(rank.ratio * full_rank) if isinstance(rank, Ratio) else rank
    if number < 0:
        raise ValueError(f"rank must not be negative, got {rank}")
    return number


def low_rank_of_product(
    up: Tensor, down: Tensor, rank: int | Ratio | Energy
) -> tuple[Tensor, Tensor]:
    """Return :func:`low_rank_factors` of ``up @ down`` without decomposing the product.

    Two QR factorisations reduce the product to a core of at most r rows and columns, and the core
    is decomposed. If r is at most the rank, `up` and `down` are returned.

    Args:
        up: rows x r; r may exceed the numbers of rows and columns.
        down: r x columns.
        rank: a number, or a rule that gives a number.

    Returns:
        Two float64 factors.
    """
    up, down = up.double(), down.double()
    full_rank = min(up.shape[0], down.shape[1])
    if not isinstance(rank, Energy) and rank_from_size(rank, full_rank) >= up.shape[1]:
        return up, down
    left, left_core = torch.linalg.qr(up)
    right, right_core = torch.linalg.qr(down.T)
    u, values, v = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    if isinstance(rank, Energy):
        squares = values.square()
        count = rank_from_spectrum(rank, squares, len(squares), float(squares.sum()))
    else:
        count = rank_from_size(rank, full_rank)
    return (left @ u[:, :count]) * values[:count], v[:count] @ right.T


def _leading(tall: Tensor, rank: int | Ratio | Energy, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return the leading eigenvectors and eigenvalues of ``tall' tall``, descending.

    Args:
        tall: a matrix with rows >= columns, scaled so that its squares neither overflow nor vanish.
        rank: how many eigenvectors.
        start: a random block in the range of ``tall'``, for the Lanczos iteration.
    """
    side = tall.shape[-1]
    if side <= SMALL or tall.dtype == torch.float64:
        return _eigh(tall.double(), rank)
    if not isinstance(rank, Energy) and start.shape[-1] * MAX_BLOCKS <= side // 3:
        found = _lanczos(tall, start, rank_from_size(rank, side))
        if found is not None:
            return found
    vectors, values = _eigh(tall, rank)
    if values.shape[-1] and bool((values[..., -1] < STEEP * values[..., 0]).any()):
        return _eigh(tall.double(), rank)
    return vectors, values


def _eigh(tall: Tensor, rank: int | Ratio | Energy) -> tuple[Tensor, Tensor]:
    """Return the leading eigenvectors and eigenvalues of ``tall' tall`` found by LAPACK."""
    side = tall.shape[-1]
    count = side if isinstance(rank, Energy) else min(rank_from_size(rank, side), side)
    if tall.ndim == 2 and tall.device.type == "cpu":
        flat = tall.numpy()
        gram = flat.T @ flat  # numpy detects the symmetry and does half the work
        if count < side:
            values, vectors = scipy.linalg.eigh(
                gram, subset_by_index=(side - count, side - 1), driver="evr", check_finite=False
            )
            # If all eigenvalues are equal, syevr may find fewer than there are.
            if len(values) == count:
                return torch.from_numpy(vectors).flip(1), torch.from_numpy(values).flip(0)
        gram = torch.from_numpy(gram)
    else:
        gram = tall.mT @ tall
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(gram))
    if isinstance(rank, Energy):
        energy = float(values.clamp(min=0).double().sum())
        count = min(_rank_from_energy(rank, values, energy), side)
    return vectors[..., :count], values[..., :count]


def _lanczos(tall: Tensor, start: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Return the leading eigenvectors and eigenvalues of ``tall' tall`` found by block Lanczos.

    All blocks are kept and made orthogonal to each other (Golub, Underwood, "The block Lanczos
    method for computing eigenvalues", 1977, with full reorthogonalisation).

    Args:
        tall: a matrix as for :func:`_leading`, or a stack of them.
        start: the first block; wider than `count`.
        count: number of eigenvectors.

    Returns:
        None if the iteration is slow on this matrix, or on one matrix of the stack.
    """
    *stack, side, width = start.shape
    basis = tall.new_empty(*stack, side, MAX_BLOCKS * width)
    # The upper part of the Gram matrix in this basis; block tridiagonal except for rounding.
    projected = tall.new_zeros(*stack, MAX_BLOCKS * width, MAX_BLOCKS * width)
    block = torch.linalg.qr(start)[0]
    for number in range(1, MAX_BLOCKS + 1):
        size = number * width
        basis[..., size - width : size] = block
        known = basis[..., :size]
        product = _transposed_times(tall, _times(tall, block))
        block, coefficients, remainder = _orthogonalised(product, known)
        projected[..., :size, size - width : size] = coefficients
        # The check takes time, and before block 6 only an exhausted matrix passes it.
        exhausted = bool((_max(remainder) <= RESIDUAL * _max(coefficients)).all())
        if number < 6 and not exhausted:
            continue
        values, ritz = torch.linalg.eigh(projected[..., :size, :size], UPLO="U")
        leading = ritz[..., -count:].flip(-1)
        residual = torch.linalg.matrix_norm(remainder @ leading[..., -width:, :])
        if bool((residual <= RESIDUAL * values[..., -count]).all()):
            return known @ leading, values[..., -count:].flip(-1)
        if exhausted:
            return None
    return None


def _times(tall: Tensor, block: Tensor) -> Tensor:
    """Return ``tall block``, computed in an order that reads the matrix row by row."""
    return tall @ block if tall.is_contiguous() else (block.mT @ tall.mT).mT


def _transposed_times(tall: Tensor, block: Tensor) -> Tensor:
    """Return ``tall' block``, computed in an order that reads the matrix row by row."""
    return (block.mT @ tall).mT if tall.is_contiguous() else tall.mT @ block


def _max(matrix: Tensor) -> Tensor:
    return matrix.abs().amax(dim=(-2, -1))


def _orthogonalised(block: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``q, c, r`` with ``block = basis @ c + q @ r``; q and basis have orthonormal columns.

    The block is orthogonalised twice. After the first time, q would not be orthogonal to `basis`
    if `block` lay almost in the span of `basis`: rounding errors would be a large part of q.
    """
    coefficients = basis.mT @ block
    once, remainder = torch.linalg.qr(block - basis @ coefficients)
    correction = basis.mT @ once
    twice, scale = torch.linalg.qr(once - basis @ correction)
    return twice, coefficients + correction @ remainder, scale @ remainder
