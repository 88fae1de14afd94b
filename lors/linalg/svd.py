"""Singular value decompositions of task vectors, for the methods that merge subspaces.

All functions compute in float64, because the methods divide and compare singular values. The task
vectors are rounded to float32. A task vector of low rank (from an adapter, or from an expert that
learnt in few directions) has singular values that are 0 except for this rounding. Their singular
vectors are arbitrary, so no method may use them (see :func:`numerical_rank`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from lors.linalg.parallel import BLOCK


def as_matrix(delta: Tensor) -> np.ndarray:
    """Return `delta` as a float64 matrix; a convolution becomes out x (in * width)."""
    return delta.reshape(delta.shape[0], -1).double().numpy()


def as_tensor(matrix: np.ndarray, like: Tensor) -> Tensor:
    """Return a matrix in the shape and dtype of `like`."""
    return torch.from_numpy(matrix).reshape(like.shape).to(like.dtype)


def thin_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``left, values, right``: ``matrix = (left * values) @ right``, values descending."""
    return scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesdd")


def rounding_level(shape: tuple[int, int], size: float) -> float:
    """Return the size up to which a singular value may come from rounding alone.

    Independent errors of size e in all entries make a matrix whose norm is about e * (sqrt(rows) +
    sqrt(columns)). Here e is the eps of float32 times the norm of the task vector. That is larger
    than the rounding errors of the task vector itself. The margin is for full models: their task
    vectors have the rounding errors of the weights, and the weights may be some hundred times
    larger than the task vector.

    Args:
        shape: rows and columns.
        size: the largest singular value of the task vector, or a bound of it.
    """
    return float(np.finfo(np.float32).eps * np.sqrt(shape).sum() * size)


def numerical_rank(values: np.ndarray, shape: tuple[int, int], size: float | None = None) -> int:
    """Return the number of singular values that are not rounding errors of float32.

    Args:
        values: all singular values of a matrix, descending.
        shape: shape of the matrix.
        size: as for :func:`rounding_level`; by default the largest of `values`.
    """
    if size is None:
        size = values.max(initial=0.0)
    return int(np.sum(values > rounding_level(shape, size)))


def numerical_svd(
    matrix: np.ndarray, size: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the triplets of :func:`thin_svd` within the :func:`numerical_rank`.

    They come from the eigenvectors of the Gram matrix, at about half of the cost for a square
    matrix and a quarter for one that is four times as wide. The Gram matrix squares the spectrum,
    but the smallest singular value within the numerical rank, 1e-6 of the largest, has a square far
    above the rounding errors of float64.
    """
    is_tall = matrix.shape[0] >= matrix.shape[1]
    tall = matrix if is_tall else matrix.T
    squares, vectors = scipy.linalg.eigh(tall.T @ tall, check_finite=False)
    rank = numerical_rank(np.sqrt(squares.clip(min=0)), matrix.shape, size)
    vectors = vectors[:, ::-1][:, :rank]
    others = tall @ vectors
    values = np.linalg.norm(others, axis=0)  # more precise than the roots of small squares
    others /= values
    return (others, values, vectors.T) if is_tall else (vectors, values, others.T)


def polar_factor(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix with orthonormal rows or columns that is nearest to `matrix`.

    The vectors along the shorter side become orthonormal. With ``matrix = P D Q'`` the result is
    ``P Q'`` (Schönemann's orthogonal Procrustes solution). Directions in which `matrix` is zero
    stay zero.

    Args:
        matrix: singular vectors of several task vectors side by side.
    """
    left, _, right = numerical_svd(matrix)
    return left @ right


def inner_products(deltas: Sequence[Tensor]) -> np.ndarray:
    """Return the float64 matrix of inner products of task vectors; two are read at a time."""
    gram = np.zeros((len(deltas), len(deltas)))
    for row in range(len(deltas)):
        one = deltas[row].reshape(-1).split(BLOCK)
        for column in range(row + 1):
            other = deltas[column].reshape(-1).split(BLOCK)
            # Sum in float32 within a block and exactly between blocks.
            products = (float(torch.dot(*pair)) for pair in zip(one, other, strict=True))
            gram[row, column] = gram[column, row] = math.fsum(products)
    return gram


def merge_matrices(
    deltas: Sequence[Tensor], merge: Callable[[list[np.ndarray]], np.ndarray]
) -> Tensor:
    """Return `merge` of the task vectors as float64 matrices; zeros if all of them are zero."""
    if not any(delta.any() for delta in deltas):
        return torch.zeros_like(deltas[0])
    return as_tensor(merge([as_matrix(delta) for delta in deltas]), deltas[0])


def merge_singular_vectors(
    decompositions: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Merge the leading singular triplets of N task vectors, full_rank / N of each.

    Args:
        decompositions: one for each task vector, as :func:`numerical_svd` returns them. A task
            vector of lower rank has fewer triplets; nothing replaces the missing ones.

    Returns:
        U S V'; U and V are the polar factors of the singular vectors put side by side (Gargiulo et
        al., CVPR 2025, equation 7 and its closed-form solution).
    """
    decompositions = list(decompositions)
    left, _, right = decompositions[0]
    full_rank = min(left.shape[0], right.shape[1])
    keep = max(full_rank // len(decompositions), 1)
    lefts = np.hstack([left[:, :keep] for left, _, _ in decompositions])
    values = np.concatenate([values[:keep] for _, values, _ in decompositions])
    rights = np.vstack([right[:keep] for _, _, right in decompositions])
    return (polar_factor(lefts) * values) @ polar_factor(rights)
