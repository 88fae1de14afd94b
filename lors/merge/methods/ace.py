"""ACE-Merging: adaptive covariance estimation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from torch import Tensor

from lors.config import Range
from lors.linalg.covariance import times_covariance, times_inverse
from lors.linalg.svd import merge_matrices, numerical_svd, rounding_level
from lors.merge.methods.base import joint_method

HETEROGENEOUS = 0.3
"""Heterogeneity of the experts' norms from which the authors normalise."""
SMALLEST = 1e-7
"""Norm of a centred task vector, relative to the norm before, that is nothing but rounding."""


@joint_method(combines="mean", applies_to="matrices")
def ace(
    deltas: Sequence[Tensor],
    *,
    epsilon: Annotated[float, Range(1e-12)] = 0.01,
    fraction: Annotated[float, Range(0, 1)] = 0.3,
) -> Tensor:
    """actmat with centred task vectors, a small ridge and a prior shared by all experts.

    Let Z_t be tau_t with its mean row subtracted from every row, K_t = Z_t' Z_t and
    C_t = K_t + epsilon I. delta = (sum_t Z_t C_t) (sum_t C_t + 1 c')^-1; c is the mean row of
    sum_t K_t, added to every row (Xu et al., "ACE-Merging: Data-Free Model Merging with Adaptive
    Covariance Estimation", CVPR 2026; where its text leaves room we follow the formulas of the
    authors' released code).

    If the norms of the experts differ much, i.e. var_t(l_t) > 0.3 * mean_t(l_t)^2 with
    l_t = log |tau_t|^2, every K_t and every C_t is divided by the trace of K_t, and c by
    mean_t |tau_t|^2. Then s P is added to delta: P is the product of the leading left and right
    singular vectors of delta + sum_t tau_t (K_t - mean_t C_t), and s is the mean of their singular
    values. As in the authors' code, epsilon I is in the mean only.

    Experts that did not change the matrix, or all its rows alike, are left out. Tensors that the
    policy does not prune are averaged.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.
        epsilon: what is added to the diagonal of K_t, in squared units of the weights, at least
            1e-12 (the default is the authors' value; far above the mean diagonal of K_t, delta is
            nearly the mean of the centred task vectors).
        fraction: fraction of the singular vectors in P, from 0 to 1.

    Returns:
        The merged delta, same shape.
    """
    return merge_matrices(deltas, lambda taus: _merged(taus, epsilon, fraction))


def _merged(taus: list[np.ndarray], epsilon: float, fraction: float) -> np.ndarray:
    """Return the merged delta of float64 task vectors, not all of them zero."""
    taus = [tau for tau in taus if tau.any()]
    squares = [float(np.vdot(tau, tau)) for tau in taus]
    uneven = _are_uneven(squares)
    rows, columns = taus[0].shape
    target, total, ridge = np.zeros((rows, columns)), np.zeros((columns, columns)), 0.0
    refined = np.zeros((rows, columns))
    for tau, square in zip(taus, squares, strict=True):
        centred = tau - tau.mean(axis=0)
        product, covariance = times_covariance(centred, centred)
        trace = float(covariance.trace())
        if trace <= SMALLEST**2 * square:
            continue
        scale = 1 / trace if uneven else 1.0
        target += scale * (product + epsilon * centred)
        total += scale * covariance
        ridge += scale * epsilon
        if uneven:
            refined += scale * (tau @ covariance)
    if ridge == 0:
        return target
    prior = total.mean(axis=0) / (np.mean(squares) if uneven else 1.0)
    rounding = rounding_level((rows, columns), 1)
    solved = times_inverse(np.vstack([target, prior]), total, ridge, rounding)
    # The inverse of a matrix plus 1 c' (Sherman and Morrison, 1950).
    solved, weight = solved[:-1], solved[-1]
    merged = solved - np.outer(solved.sum(axis=1), weight) / (1 + weight.sum())
    if uneven:
        mean = (total + ridge * np.eye(columns)) / len(taus)
        merged += _isotropic(merged + refined - sum(taus) @ mean, fraction)
    return merged


def _are_uneven(squares: list[float]) -> bool:
    """Return whether the experts' squared norms differ so much that the authors normalise."""
    logs = np.log(squares)
    return len(logs) > 1 and bool(np.var(logs, ddof=1) > HETEROGENEOUS * np.mean(logs) ** 2)


def _isotropic(matrix: np.ndarray, fraction: float) -> np.ndarray:
    """Return the leading singular triplets with the mean of their singular values.

    Directions of singular value 0 count as 0 in the mean, and have no vectors (as in iso_c).
    """
    left, values, right = numerical_svd(matrix)
    count = int(min(matrix.shape) * fraction)
    if count == 0:
        return np.zeros_like(matrix)
    return values[:count].sum() / count * (left[:, :count] @ right[:count])
