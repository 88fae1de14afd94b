"""TACT: ACTMat with covariances from the largest entries of the task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.linalg.covariance import regression_merge
from lors.linalg.sparsify import magnitude_prune
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="matrices")
def tact(
    deltas: Sequence[Tensor],
    *,
    density: Annotated[float, Range(0, 1)] = 0.2,
    ridge: Annotated[float, Range(0)] = 1.0,
    keep_norm: bool = False,
) -> Tensor:
    """actmat with the covariances of the sparse parts of the task vectors.

    delta is that of actmat, except that C_t = S_t' S_t. S_t is tau_t with all entries but the
    largest magnitudes set to zero; tau_t itself stays whole (the variant TACT of Hameed et al.,
    "Model Merging via Data-Free Covariance Estimation", arXiv 2604.01329, with density 0.1 to 0.7
    and ridge 0; we know it from a description and not from its code). Tensors that the policy does
    not prune are averaged.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.
        density: fraction of the entries of S_t that is kept, from 0 to 1.
        ridge: as for actmat, at least 0.
        keep_norm: scale each matrix of delta to the mean Frobenius norm of the task vectors.

    Returns:
        The merged delta, same shape.
    """
    return regression_merge(
        deltas, lambda index, tau: (tau, magnitude_prune(tau, density)), ridge, keep_norm
    )
