"""Iso-C: isotropic merging in the common subspace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lors.linalg.svd import merge_matrices, numerical_svd
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", scope="matrices")
def iso_c(deltas: Sequence[Tensor]) -> Tensor:
    """The sum of the task vectors with all its singular values made equal.

    With sum_t tau_t = U S V', delta = mean(S) U V' (Marczak et al., "No Task Left Behind:
    Isotropic Model Merging with Common and Task-Specific Subspaces", ICML 2025), here divided by
    the number of experts, so that scaling_coef counts as for a mean. Tensors that the policy does
    not prune are averaged.

    The mean is over all min(rows, columns) singular values, as in the formula, even if the sum is
    of lower rank (as that of adapters is); U V' has the directions within its numerical rank only,
    because the vectors of singular value 0 are arbitrary. So what the other directions get does not
    jump when a singular value falls to 0, and is the same for an adapter and for a full model with
    nearly its task vector. But it is little for a low rank: the nuclear norm of delta is that of
    the mean task vector times rank / min(rows, columns), and scaling_coef has to make up for it.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.

    Returns:
        The merged delta, same shape.
    """

    def merge(taus: list[np.ndarray]) -> np.ndarray:
        total = sum(taus)
        left, values, right = numerical_svd(total)
        return values.sum() / min(total.shape) / len(taus) * (left @ right)

    return merge_matrices(deltas, merge)
