"""Merging of matrices by the covariances of their inputs, estimated from the task vectors.

A merged delta D that answers to the inputs of every expert as the expert itself minimises
sum_t |(D - tau_t) X_t|^2. With C_t = X_t X_t' the minimum is D = (sum_t tau_t C_t) (sum_t C_t)^-1
(Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023). A weight
matrix is outputs x inputs, so C_t is inputs x inputs. The rows of a task vector are sums of inputs
of its training, so C_t can be estimated as R_t' R_t, where R_t is tau_t or a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
import torch
from scipy.linalg import lapack
from torch import Tensor

from lors.linalg.svd import rounding_level

SAFE_RIDGE = 0.3
"""Ridge, relative to the mean diagonal of sum C, from which the products are computed in float32;
the error of the merged delta is then below 1e-4 of its norm. With a smaller ridge small directions
count, which float32 would lose."""


def regression_merge(
    deltas: Sequence[Tensor],
    parts: Callable[[int, Tensor], tuple[Tensor, Tensor]],
    ridge: float,
    keep_norm: bool,
) -> Tensor:
    """Return (sum_t T_t C_t) (sum_t C_t + ridge * m I)^-1; m is the mean diagonal of sum_t C_t.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32. A task vector of zeros
            adds nothing.
        parts: index of an expert and its task vector -> T_t, and R_t with C_t = R_t' R_t.
        ridge: 0 for the pseudo-inverse.
        keep_norm: scale the result to the mean Frobenius norm of the task vectors.

    Returns:
        The merged delta, same shape, float32.
    """
    (rows, columns), dtype = deltas[0].shape, np.float32 if ridge >= SAFE_RIDGE else np.float64
    norms = [float(torch.linalg.vector_norm(delta, dtype=torch.float64)) for delta in deltas]
    # The cubes of very small or very large numbers are outside the range of float32.
    size = max(norms)
    target, total = np.zeros((rows, columns), dtype), np.zeros((columns, columns), dtype)
    for index, norm in enumerate(norms):
        if norm:
            scaled = [part.numpy() / size for part in parts(index, deltas[index])]
            product, covariance = times_covariance(*(part.astype(dtype) for part in scaled))
            target += product
            total += covariance
    mean_diagonal = float(total.diagonal().mean()) if columns else 0.0
    if mean_diagonal == 0:
        return torch.zeros(rows, columns)
    rounding = rounding_level((rows, columns), 1)
    merged = times_inverse(target, total, ridge * mean_diagonal, rounding=rounding)
    norm = float(np.linalg.norm(merged))
    if keep_norm and norm:
        size = float(np.mean(norms)) / norm
    return torch.from_numpy(merged * size).float()


def times_covariance(matrix: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``matrix @ C`` and ``C = root' root``, at the lower cost for the shape.

    Args:
        matrix: outputs x inputs.
        root: rows x inputs.
    """
    covariance = root.T @ root  # numpy detects the symmetry and does half the work
    if len(root) < root.shape[1]:
        return (matrix @ root.T) @ root, covariance
    return matrix @ covariance, covariance


def times_inverse(
    rows: np.ndarray, matrix: np.ndarray, ridge: float, rounding: float
) -> np.ndarray:
    """Return ``rows @ (matrix + ridge I)^-1`` in float64, the pseudo-inverse for ridge 0.

    By Cholesky factorisation; if `matrix` may have eigenvalues that are nothing but rounding
    errors, by its eigenvectors without these directions.

    Args:
        rows: k x n.
        matrix: n x n, symmetric, without negative eigenvalues but those from rounding.
        ridge: at least 0.
        rounding: size of a singular value that may come from rounding alone, in a task vector whose
            largest singular value is 1 (:func:`lors.linalg.svd.rounding_level`). An eigenvalue is
            the square of a singular value.
    """
    regular = matrix.astype(np.float64)
    regular[np.diag_indices_from(regular)] += ridge
    norm = np.abs(regular).sum(axis=0).max()
    factor, failed = lapack.dpotrf(regular, lower=True)
    # In the 1-norm the condition is at least that of the eigenvalues. Its estimate is nearly always
    # within a factor of 3 (Higham, "Accuracy and Stability of Numerical Algorithms", 2002).
    if not failed and lapack.dpocon(factor, norm, uplo="L")[0] > 10 * rounding**2:
        return lapack.dpotrs(factor, rows.T.astype(np.float64), lower=True)[0].T
    values, vectors = scipy.linalg.eigh(matrix.astype(np.float64), check_finite=False)
    vectors = vectors[:, values > rounding**2 * values[-1]]
    return (rows @ vectors / (values[-vectors.shape[1] :] + ridge)) @ vectors.T
