"""Singular value decompositions of task vectors, for the methods that merge subspaces.

All of it is done in float64: the methods divide and compare singular values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from lors.parallel import BLOCK


def as_matrix(delta: Tensor) -> np.ndarray:
    """`delta` as a float64 matrix out x rest: a convolution counts as out x (in * width)."""
    return delta.reshape(delta.shape[0], -1).double().numpy()


def as_tensor(matrix: np.ndarray, like: Tensor) -> Tensor:
    """A matrix in the shape and dtype of `like`."""
    return torch.from_numpy(matrix).reshape(like.shape).to(like.dtype)


def thin_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``left, values, right`` with ``matrix = (left * values) @ right``; values fall."""
    return scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesdd")


def polar_factor(matrix: np.ndarray) -> np.ndarray:
    """The matrix with orthonormal rows or columns (the shorter side) nearest to `matrix`.

    With ``matrix = P D Q'`` it is ``P Q'`` (Schönemann's orthogonal Procrustes solution).
    Directions in which `matrix` is zero stay zero: they have no nearest direction.
    """
    left, values, right = thin_svd(matrix)
    floor = np.finfo(matrix.dtype).eps * max(matrix.shape) * values.max(initial=0.0)
    return (left * (values > floor)) @ right


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

    Returns:
        U S V' with U and V the polar factors of the vectors put side by side (Gargiulo et al.,
        CVPR 2025, equation 7 and its closed-form solution).
    """
    decompositions = list(decompositions)
    full_rank = len(decompositions[0][1])
    keep = max(full_rank // len(decompositions), 1)
    lefts = np.hstack([left[:, :keep] for left, _, _ in decompositions])
    values = np.concatenate([values[:keep] for _, values, _ in decompositions])
    rights = np.vstack([right[:keep] for _, _, right in decompositions])
    return (polar_factor(lefts) * values) @ polar_factor(rights)
