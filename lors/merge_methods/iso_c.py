"""Iso-C: isotropic merging in the common subspace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lors.merge_methods import joint_method
from lors.subspace import merge_matrices, thin_svd


@joint_method(combines="mean", scope="matrices")
def iso_c(deltas: Sequence[Tensor]) -> Tensor:
    """The sum of the task vectors with all its singular values made equal.

    With sum_t tau_t = U S V', delta = mean(S) U V' (Marczak et al., "No Task Left Behind:
    Isotropic Model Merging with Common and Task-Specific Subspaces", ICML 2025), here divided by
    the number of experts, so that scaling_coef counts as for a mean. Tensors that the policy does
    not prune are averaged.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.

    Returns:
        The merged delta, same shape.
    """

    def merge(taus: list[np.ndarray]) -> np.ndarray:
        left, values, right = thin_svd(sum(taus))
        return values.mean() / len(taus) * (left @ right)

    return merge_matrices(deltas, merge)
