"""Calibration of the singular values of a merged delta, after any merge that is a sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lors.linalg.svd import as_matrix, as_tensor, rounding_level, thin_svd


def calibrate_singular_values(parts: Sequence[Tensor], alpha: float) -> Tensor:
    """The sum of `parts` with its singular values corrected for shared directions.

    Directions that several experts share add up in a sum and come out too strong. With the sum
    D = U S V' and, for each direction u_r and part tau_t, the projection coefficient
    s_rt = <u_r' D, u_r' tau_t> / |u_r' tau_t|^2 (how many times the part's own size the merged
    one has), S_r is multiplied by T / sum_t max(alpha, s_rt). Where u_r' tau_t is 0, s_rt is 1.

    Args:
        parts: what each of T experts adds to the sum: tensors of one shape, matrices or more.
        alpha: floor of the coefficients, above 0: limits how far a direction can be raised.

    Returns:
        The calibrated sum, in the shape and dtype of the parts.

    Raises:
        ValueError: `alpha` is not positive.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    matrices = [as_matrix(part) for part in parts]
    left, values, right = thin_svd(sum(matrices))
    total = np.maximum(projection_coefficients(matrices, left, values, right), alpha).sum(axis=0)
    return as_tensor((left * (values * len(matrices) / total)) @ right, parts[0])


def projection_coefficients(
    parts: Sequence[np.ndarray], left: np.ndarray, values: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """s_rt of every part t and direction r, shape (parts, directions).

    Args:
        parts: matrices, rounded to float32.
        left, values, right: leading singular triplets of their sum, as many as are wanted.
    """
    coefficients = []
    for part in parts:
        # u_r' D = S_r v_r', so the numerator is S_r v_r' (u_r' tau_t)'.
        rows = left.T @ part
        energy = np.einsum("rc,rc->r", rows, rows)
        inner = values * np.einsum("rc,rc->r", rows, right)
        # A part without this direction, but for rounding errors, says nothing about how inflated it
        # is: coefficient 1.
        present = energy > rounding_level(part.shape, float(np.linalg.norm(part))) ** 2
        coefficients.append(np.divide(inner, energy, out=np.ones_like(inner), where=present))
    return np.array(coefficients)
