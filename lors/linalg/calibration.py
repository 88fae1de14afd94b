"""Singular values of a merged delta: calibration of a sum over experts, and boosting."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lors.linalg.svd import as_matrix, as_tensor, numerical_svd, rounding_level


def calibrate_singular_values(parts: Sequence[Tensor], alpha: float) -> Tensor:
    """Return the sum of `parts` with its singular values corrected for shared directions.

    A direction that several experts share adds up and is too strong in the sum. Let D = U S V' be
    the sum. For each direction u_r and part tau_t the projection coefficient is
    s_rt = <u_r' D, u_r' tau_t> / |u_r' tau_t|^2, the size of the direction in the sum relative to
    its size in the part. S_r is multiplied by T / sum_t max(alpha, s_rt). If u_r' tau_t is 0, s_rt
    is 1 (Li, Peng, Zhang, Guo, Duan, Shi, "When Shared Knowledge Hurts: Spectral Over-Accumulation
    in Model Merging", ICML 2026, arXiv 2602.05536).

    Args:
        parts: the terms of the sum, one for each of T experts: tensors of one shape with two or
            more dimensions.
        alpha: smallest value of a coefficient, above 0: no singular value grows by more than
            1 / alpha.

    Returns:
        The calibrated sum, in the shape and dtype of the parts.

    Raises:
        ValueError: `alpha` is not positive.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    matrices = [as_matrix(part) for part in parts]
    left, values, right = numerical_svd(functools.reduce(operator.add, matrices))
    total = np.maximum(projection_coefficients(matrices, left, values, right), alpha).sum(axis=0)
    return as_tensor((left * (values * len(matrices) / total)) @ right, parts[0])


def boost_singular_values(delta: Tensor, beta: float) -> Tensor:
    """Return a merged delta with its small singular values raised (subspace boosting).

    Let D = U S V' be the delta, and k the first index with sum_{i<=k} S_i >= beta sum_i S_i. S_i
    becomes max(S_i, S_k), so that directions of a single expert keep their place beside those that
    all experts share (Skorobogat, Roth, Georgescu, "Subspace-Boosted Model Merging", arXiv
    2506.16506, with beta 0 to 0.02). With beta 0 all become the largest, and with 1 none is raised.
    Singular values of 0 stay 0: nothing was learnt there, and their vectors are arbitrary.

    Args:
        delta: a tensor with two or more dimensions, float32.
        beta: fraction of the sum of the singular values, from 0 to 1.

    Returns:
        The boosted delta, same shape and dtype.
    """
    if beta == 1 or not delta.any():
        return delta
    left, values, right = numerical_svd(as_matrix(delta))
    cumulative = np.cumsum(values)
    floor = values[np.searchsorted(cumulative, beta * cumulative[-1])]
    return as_tensor((left * np.maximum(values, floor)) @ right, delta)


def projection_coefficients(
    parts: Sequence[np.ndarray], left: np.ndarray, values: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Return s_rt of every part t and direction r, shape (parts, directions).

    Args:
        parts: matrices with float32 values, in float64.
        left: the leading left singular vectors of their sum, a column for each direction.
        values: their singular values.
        right: the right singular vectors, a row for each direction.
    """
    coefficients = []
    for part in parts:
        # u_r' D = S_r v_r', so the numerator is S_r v_r' (u_r' tau_t)'.
        rows = left.T @ part
        energy = np.einsum("rc,rc->r", rows, rows)
        inner = values * np.einsum("rc,rc->r", rows, right)
        # A part that has nothing but rounding errors in this direction gets the coefficient 1.
        present = energy > rounding_level(part.shape, float(np.linalg.norm(part))) ** 2
        coefficients.append(np.divide(inner, energy, out=np.ones_like(inner), where=present))
    return np.array(coefficients)
