"""Singular value decompositions of task vectors, for the methods that merge subspaces.

All of it is done in float64: the methods divide and compare singular values. The task vectors
themselves come rounded to float32. One of low rank (an adapter's, or that of an expert which learnt
in few directions) has singular values that are 0 but for this rounding, with vectors that are
arbitrary; no method may give such directions a weight of their own (see :func:`numerical_rank`).
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
    """`delta` as a float64 matrix out x rest: a convolution counts as out x (in * width)."""
    return delta.reshape(delta.shape[0], -1).double().numpy()


def as_tensor(matrix: np.ndarray, like: Tensor) -> Tensor:
    """A matrix in the shape and dtype of `like`."""
    return torch.from_numpy(matrix).reshape(like.shape).to(like.dtype)


def thin_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``left, values, right`` with ``matrix = (left * values) @ right``; values fall."""
    return scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesdd")


def rounding_level(shape: tuple[int, int], size: float) -> float:
    """The size of a singular value, or of a row's projection, that may come from rounding alone.

    Errors of the entries, independent of each other and of one size, make a matrix whose norm is
    about this size times (sqrt(rows) + sqrt(columns)). Taking float32's eps times the norm of the
    task vector for the size leaves room for the task vector of a full model, which has the rounding
    errors of the model's weights: these may be some hundred times larger than what was learnt.

    Args:
        shape: rows and columns.
        size: the largest singular value (or a bound of it) of the task vector.
    """
    return float(np.finfo(np.float32).eps * np.sqrt(shape).sum() * size)


def numerical_rank(values: np.ndarray, shape: tuple[int, int], size: float | None = None) -> int:
    """How many singular values of a matrix are not rounding errors of float32 task vectors.

    Args:
        values: all singular values, falling.
        shape: of the matrix.
        size: as for :func:`rounding_level`; by default the largest of `values`.
    """
    if size is None:
        size = values.max(initial=0.0)
    return int(np.sum(values > rounding_level(shape, size)))


def numerical_svd(
    matrix: np.ndarray, size: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As :func:`thin_svd`, but only the triplets within the :func:`numerical_rank`."""
    left, values, right = thin_svd(matrix)
    rank = numerical_rank(values, matrix.shape, size)
    return left[:, :rank], values[:rank], right[:rank]


def polar_factor(matrix: np.ndarray) -> np.ndarray:
    """The matrix with orthonormal rows or columns (the shorter side) nearest to `matrix`.

    With ``matrix = P D Q'`` it is ``P Q'`` (Schönemann's orthogonal Procrustes solution).
    Directions in which `matrix` is zero stay zero: they have no nearest direction.

    Args:
        matrix: singular vectors of task vectors side by side.
    """
    left, _, right = numerical_svd(matrix)
    return left @ right


def inner_products(deltas: Sequence[Tensor]) -> np.ndarray:
    """The Gram matrix (in float64) of task vectors as vectors; two are needed at a time."""
    gram = np.zeros((len(deltas), len(deltas)))
    for row in range(len(deltas)):
        one = deltas[row].reshape(-1).split(BLOCK)
        for column in range(row + 1):
            other = deltas[column].reshape(-1).split(BLOCK)
            # In float32 within a block and exactly between blocks.
            products = (float(torch.dot(*pair)) for pair in zip(one, other, strict=True))
            gram[row, column] = gram[column, row] = math.fsum(products)
    return gram


def merge_matrices(
    deltas: Sequence[Tensor], merge: Callable[[list[np.ndarray]], np.ndarray]
) -> Tensor:
    """Apply `merge` to task vectors as float64 matrices; nothing learnt gives nothing."""
    if not any(delta.any() for delta in deltas):
        return torch.zeros_like(deltas[0])
    return as_tensor(merge([as_matrix(delta) for delta in deltas]), deltas[0])


def merge_singular_vectors(
    decompositions: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> np.ndarray:
    """The leading triplets of N decompositions, full_rank / N of each, with orthogonal vectors.

    Args:
        decompositions: of the task vectors, as :func:`numerical_svd` gives them: one of lower rank
            has fewer triplets to give, and nothing takes their place.

    Returns:
        U S V' with U and V the polar factors of the vectors put side by side (Gargiulo et al.,
        CVPR 2025, equation 7 and its closed-form solution).
    """
    decompositions = list(decompositions)
    left, _, right = decompositions[0]
    full_rank = min(left.shape[0], right.shape[1])
    keep = max(full_rank // len(decompositions), 1)
    lefts = np.hstack([left[:, :keep] for left, _, _ in decompositions])
    values = np.concatenate([values[:keep] for _, values, _ in decompositions])
    rights = np.vstack([right[:keep] for _, _, right in decompositions])
    return (polar_factor(lefts) * values) @ polar_factor(rights)
