"""Iso-CTS: isotropic merging in common and task-specific subspaces."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from torch import Tensor

from lors.config import Range
from lors.linalg.svd import merge_matrices, numerical_svd, polar_factor
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="matrices")
def iso_cts(
    deltas: Sequence[Tensor],
    *,
    common_fraction: Annotated[float, Range(0, 1)] = 0.8,
) -> Tensor:
    """The common subspace and further directions of each expert, with one singular value for all.

    The leading singular vectors of sum_t tau_t span the common subspace. The remaining directions
    are shared equally among the experts: each adds the leading singular vectors of the part of its
    tau_t outside the common subspace. The singular vectors are replaced by their polar factors U
    and V, the singular values by their mean s: delta = s U V' (Marczak et al., ICML 2025). Tensors
    that the policy does not prune are averaged.

    The mean is over min(rows, columns) singular values, even if there are fewer directions.
    Directions of singular value 0 are left out, because their vectors are arbitrary; they count as
    0 in the mean (see iso_c for the reason and the effect on scaling_coef). For adapters whose sum
    fits into the common subspace, the result is that of iso_c.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.
        common_fraction: size of the common subspace as a fraction of the full rank, from 0 to 1.

    Returns:
        The merged delta, same shape.
    """

    def merge(taus: list[np.ndarray]) -> np.ndarray:
        total = functools.reduce(operator.add, taus)
        left, values, right = numerical_svd(total)
        full_rank = min(total.shape)
        # The authors round the share of an expert to the nearest number.
        remaining = full_rank - int(full_rank * common_fraction)
        own = min(round(remaining / len(taus)), full_rank // len(taus))
        common = full_rank - own * len(taus)
        lefts, spectra, rights = [left[:, :common]], [values[:common]], [right[:common]]
        if own:
            for tau in taus:
                outside = tau - lefts[0] @ (lefts[0].T @ tau)
                # The part outside may be nothing but the rounding errors of tau.
                left, values, right = numerical_svd(outside, size=float(np.linalg.norm(tau)))
                lefts.append(left[:, :own])
                spectra.append(values[:own])
                rights.append(right[:own])
        mean = np.concatenate(spectra).sum() / full_rank
        return mean * (polar_factor(np.hstack(lefts)) @ polar_factor(np.vstack(rights)))

    return merge_matrices(deltas, merge)
