"""Iso-C: isotropic merging in the common subspace."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lors.linalg.svd import merge_matrices, numerical_svd
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="matrices")
def iso_c(deltas: Sequence[Tensor]) -> Tensor:
    """The sum of the task vectors with all its singular values made equal.

    With sum_t tau_t = U S V', delta = mean(S) U V' (Marczak et al., "No Task Left Behind:
    Isotropic Model Merging with Common and Task-Specific Subspaces", ICML 2025). As in the paper,
    mean(S) is that of the sum and grows with the number of experts, while the tensors that the
    policy does not prune are averaged.

    As in the formula, mean(S) is over all min(rows, columns) singular values, even if the sum has a
    lower rank, e.g. a sum of adapters. U V' has only the directions within the numerical rank,
    because the vectors of singular value 0 are arbitrary. So the result does not jump when a
    singular value falls to 0, and an adapter gives the same result as a full model with nearly the
    same task vector. If the rank is low, delta is small: its nuclear norm is the nuclear norm of
    the sum times rank / min(rows, columns). Compensate by a larger scaling_coef.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.

    Returns:
        The merged delta, same shape.
    """

    def merge(taus: list[np.ndarray]) -> np.ndarray:
        total = functools.reduce(operator.add, taus)
        left, values, right = numerical_svd(total)
        return values.sum() / min(total.shape) * (left @ right)

    return merge_matrices(deltas, merge)
