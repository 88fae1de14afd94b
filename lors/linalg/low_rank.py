"""The low-rank part of a matrix, as two thin factors.

By the Eckart-Young theorem the best approximation of a matrix A of a given rank is its projection
on the leading singular vectors: (A V) V'. Everything here is about finding V, an orthonormal basis
of the leading eigenvectors of A'A on the smaller side of A, as cheaply as the rank allows:

- a rank of about one hundredth of the full one (the setting of the LoRS-Merging authors) by block
  Lanczos iteration, which needs a few products with A only, until the residual says that the
  subspace is found;
- any other rank from the Gram matrix A'A, by LAPACK's eigensolver for the leading eigenvalues
  alone (syevr).

Matrices of more than 256 rows and columns are decomposed in float32, which leaves the approximation
within about 1e-6 of its size; small ones in float64, and so are those whose spectrum falls so
steeply that the Gram matrix, which squares it, would lose some of the wanted directions.
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
"""Columns of a Lanczos block beyond the rank: they keep apart what nearly ties at the cut."""
MAX_BLOCKS = 16
"""A spectrum that needs more blocks than this has no gap to speak of; LAPACK is cheaper then."""
RESIDUAL = 1e-6
"""The residual at which the iteration ends, relative to the smallest kept eigenvalue."""
SMALL = 256
"""A side at which float64 costs next to nothing."""
STEEP = 1e-5
"""Eigenvalues of a float32 Gram matrix are good down to this fraction of the largest."""


@dataclass(frozen=True)
class Ratio:
    """A rank as a fraction of the full rank of each matrix (rounded down)."""

    ratio: Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Energy:
    """The smallest rank that holds this fraction of the energy (squared singular values)."""

    energy: Annotated[float, Range(0, 1)]


Rank = Annotated[int, Range(0)] | Ratio | Energy
LowRank = Callable[[Tensor, Rank], tuple[Tensor, Tensor]]
"""Finds the low-rank part of a task vector as two factors, as :func:`low_rank_factors` does."""


@dataclass(frozen=True)
class Directions:
    """The leading singular directions of a matrix on its smaller side.

    Args:
        vectors: side x k, orthonormal, the leading one first.
        squares: their squared singular values, falling.

    Those of a stack of matrices have its dimensions in front.
    """

    vectors: Tensor
    squares: Tensor

    def first(self, number: int) -> Directions:
        """Only the leading ones."""
        return Directions(self.vectors[..., :number], self.squares[..., :number])

    def factors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """``up, down``: the projection of `matrix` on these directions is ``up @ down``."""
        matrix = matrix.to(self.vectors.dtype)
        if matrix.shape[-2] < matrix.shape[-1]:
            return self.vectors, self.vectors.mT @ matrix
        return matrix @ self.vectors, self.vectors.mT


def number_found(
    rank: int | Ratio | Energy, squares: Tensor, side: int, energy: float
) -> int | None:
    """How many of the leading directions make up a rank.

    Args:
        rank: what is wanted.
        squares: the squared singular values that are known, falling.
        side: the full rank.
        energy: the sum of all squared singular values.

    Returns:
        The number; None if more are needed than are known.
    """
    if not isinstance(rank, Energy):
        number = min(number_of(rank, side), side)
    elif rank.energy == 0 or energy == 0:
        number = 0
    else:
        cumulative = squares.clamp(min=0).double().cumsum(0)
        number = min(int((cumulative < rank.energy * energy).sum()) + 1, side)
    return number if number <= len(squares) else None


def low_rank_factors(matrix: Tensor, rank: int | Ratio | Energy) -> tuple[Tensor, Tensor]:
    """The best approximation of `matrix` of a given rank in the Frobenius norm, as two factors.

    Args:
        matrix: rows x columns, without NaN; or a stack of such matrices, on any device.
        rank: a number, or a rule that gives one for each matrix; at or above the full rank the
            product is the matrix itself. By energy only for a single matrix.

    Returns:
        ``up`` (rows x k) and ``down`` (k x columns), ``up @ down`` being the approximation; both in
        the precision in which the matrix was decomposed.

    Raises:
        ValueError: `matrix` has not two dimensions or `rank` is negative.
    """
    full_rank = min(matrix.shape[-2:])
    if not isinstance(rank, Energy) and number_of(rank, full_rank) >= full_rank:
        return matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return leading_directions(matrix, rank).factors(matrix)


def leading_directions(matrix: Tensor, rank: int | Ratio | Energy) -> Directions:
    """The directions that the best approximation of a given rank projects on.

    Args:
        matrix: as for :func:`low_rank_factors`.
        rank: a number, or a rule that gives one; at most the full rank.

    Raises:
        ValueError: `matrix` has fewer than two dimensions or `rank` is negative.
    """
    if matrix.ndim < 2:
        raise ValueError(f"a low rank needs a matrix, got shape {tuple(matrix.shape)}")
    tall = matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix.mT
    rows, side = tall.shape[-2:]
    count = None if isinstance(rank, Energy) else min(number_of(rank, side), side)
    width = 1 if count is None else min(count + OVERSAMPLING, side)
    start = _transposed_times(tall, _random_block(rows, width, tall.dtype).to(tall.device))
    size = start.abs().amax(dim=(-2, -1), keepdim=True)
    if count == 0 or not size.any():
        empty = tall.new_zeros(*tall.shape[:-2], side, 0)
        return Directions(empty, empty[..., 0, :])
    if bool(((size > 1e-9) & (size < 1e9)).all()):
        vectors, squares = _leading(tall, rank, start)
    else:
        # Squares of very small and very large numbers leave the range of float32.
        size = torch.where(size == 0, 1, size)
        vectors, squares = _leading(tall / size, rank, start / size)
        squares = squares.double() * size[..., 0].double() ** 2
    return Directions(vectors, squares)


@functools.lru_cache(maxsize=16)
def _random_block(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """The same random numbers always, on any device."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0), dtype=dtype)


def number_of(rank: int | Ratio, full_rank: int) -> int:
    """The number that a rank is for a matrix of this full rank; ValueError if it is negative."""
    number = int(rank.ratio * full_rank) if isinstance(rank, Ratio) else rank
    if number < 0:
        raise ValueError(f"rank must not be negative, got {rank}")
    return number


def low_rank_of_product(
    up: Tensor, down: Tensor, rank: int | Ratio | Energy
) -> tuple[Tensor, Tensor]:
    """As :func:`low_rank_factors` of ``up @ down``, without decomposing the product.

    Two QR factorisations leave a core of the inner size only, whose decomposition is that of the
    product. Where the inner size is at most the rank there is nothing to do.

    Args:
        up: rows x r.
        down: r x columns.
        rank: a number, or a rule that gives one.

    Returns:
        Two float64 factors.
    """
    up, down = up.double(), down.double()
    full_rank = min(up.shape[0], down.shape[1])
    if not isinstance(rank, Energy) and number_of(rank, full_rank) >= up.shape[1]:
        return up, down
    left, left_core = torch.linalg.qr(up)
    right, right_core = torch.linalg.qr(down.T)
    u, values, v = torch.linalg.svd(left_core @ right_core.T)
    if isinstance(rank, Energy):
        squares = values.square()
        count = number_found(rank, squares, len(squares), float(squares.sum()))
    else:
        count = number_of(rank, full_rank)
    return (left @ u[:, :count]) * values[:count], v[:count] @ right.T


def _leading(tall: Tensor, rank: int | Ratio | Energy, start: Tensor) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors and eigenvalues of ``tall' tall``.

    Args:
        tall: a matrix, scaled so that its squares are numbers of a normal size.
        rank: which of them.
        start: a random block in the range of ``tall'``.
    """
    side = tall.shape[-1]
    if side <= SMALL or tall.dtype == torch.float64:
        return _eigh(tall.double(), rank)
    if not isinstance(rank, Energy) and start.shape[-1] * MAX_BLOCKS <= side // 3:
        found = _lanczos(tall, start, number_of(rank, side))
        if found is not None:
            return found
    vectors, values = _eigh(tall, rank)
    if values.shape[-1] and bool((values[..., -1] < STEEP * values[..., 0]).any()):
        return _eigh(tall.double(), rank)
    return vectors, values


def _eigh(tall: Tensor, rank: int | Ratio | Energy) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors and eigenvalues, falling, of ``tall' tall``, by LAPACK."""
    side = tall.shape[-1]
    count = side if isinstance(rank, Energy) else min(number_of(rank, side), side)
    if tall.ndim == 2 and tall.device.type == "cpu":
        flat = tall.numpy()
        gram = flat.T @ flat  # numpy sees that this is symmetric and does half the work
        if count < side:
            values, vectors = scipy.linalg.eigh(
                gram, subset_by_index=(side - count, side - 1), driver="evr", check_finite=False
            )
            # Of a matrix whose eigenvalues are all equal it may find fewer than there are.
            if len(values) == count:
                return torch.from_numpy(vectors).flip(1), torch.from_numpy(values).flip(0)
        gram = torch.from_numpy(gram)
    else:
        gram = tall.mT @ tall
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(gram))
    if isinstance(rank, Energy):
        count = number_found(rank, values, side, float(values.clamp(min=0).double().sum()))
    return vectors[..., :count], values[..., :count]


def _lanczos(tall: Tensor, start: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Leading eigenvectors and eigenvalues of ``tall' tall`` by block Lanczos.

    All blocks are kept and made orthogonal to one another (Golub, Underwood, "The block Lanczos
    method for computing eigenvalues", 1977, with full reorthogonalisation).

    Args:
        tall: a matrix, scaled so that its squares are numbers of a normal size; or a stack.
        start: the first block; wider than `count`.
        count: number of eigenvectors.

    Returns:
        None if the iteration is slow on this matrix, or on one of the stack.
    """
    *stack, side, width = start.shape
    basis = tall.new_empty(*stack, side, MAX_BLOCKS * width)
    # The Gram matrix in this basis; block tridiagonal but for rounding, upper part filled in.
    projected = tall.new_zeros(*stack, MAX_BLOCKS * width, MAX_BLOCKS * width)
    block = torch.linalg.qr(start)[0]
    for number in range(1, MAX_BLOCKS + 1):
        size = number * width
        basis[..., size - width : size] = block
        known = basis[..., :size]
        product = _transposed_times(tall, _times(tall, block))
        block, coefficients, remainder = _orthogonalised(product, known)
        projected[..., :size, size - width : size] = coefficients
        # Looking is not free, and hardly any matrix is done before; an exhausted one may be.
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
    """``tall block``, in the order that reads the matrix row by row."""
    return tall @ block if tall.is_contiguous() else (block.mT @ tall.mT).mT


def _transposed_times(tall: Tensor, block: Tensor) -> Tensor:
    """``tall' block``, in the order that reads the matrix row by row."""
    return (block.mT @ tall).mT if tall.is_contiguous() else tall.mT @ block


def _max(matrix: Tensor) -> Tensor:
    return matrix.abs().amax(dim=(-2, -1))


def _orthogonalised(block: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``q, c, r`` with ``block = basis @ c + q @ r`` and the columns of q and basis orthonormal.

    Twice, the second time with columns of length one: so it holds even where `block` lies in the
    span of `basis` but for rounding.
    """
    coefficients = basis.mT @ block
    once, remainder = torch.linalg.qr(block - basis @ coefficients)
    correction = basis.mT @ once
    twice, scale = torch.linalg.qr(once - basis @ correction)
    return twice, coefficients + correction @ remainder, scale @ remainder
