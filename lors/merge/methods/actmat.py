"""ACTMat: merging by covariances that are estimated from the task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.linalg.covariance import regression_merge
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="matrices")
def actmat(
    deltas: Sequence[Tensor],
    *,
    ridge: Annotated[float, Range(0)] = 1.0,
    keep_norm: bool = False,
) -> Tensor:
    """The delta that answers to the inputs of each expert as the expert does, without data.

    delta = (sum_t tau_t C_t) (sum_t C_t)^+ with C_t = tau_t' tau_t, the estimate of the covariance
    of the inputs in the training of expert t, and the pseudo-inverse ^+ (Hameed, Tam, Notsawo,
    Raffel, Rabusseau, "Model Merging via Data-Free Covariance Estimation", arXiv 2604.01329: ridge
    0). If sum_t C_t is ill-conditioned, small directions become far too large in the published
    delta. A ridge, which is not in the paper, adds ridge * m to the diagonal of sum_t C_t; m is its
    mean diagonal. Tensors that the policy does not prune are averaged.

    C_t belongs to the inputs, i.e. to the columns of the matrix; a convolution has in * width
    columns. A weight of --weights multiplies tau_t, and so C_t by its square.

    A larger ridge makes delta smaller, so the best scaling_coef depends on the ridge; with
    keep_norm it hardly does.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.
        ridge: what is added to the diagonal of sum_t C_t, in units of its mean; at least 0. 0 is
            the published pseudo-inverse.
        keep_norm: scale each matrix of delta to the mean Frobenius norm of the task vectors.

    Returns:
        The merged delta, same shape.
    """
    return regression_merge(deltas, lambda index, tau: (tau, tau), ridge, keep_norm)
