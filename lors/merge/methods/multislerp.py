"""Multi-SLERP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lors.linalg.combine import mean_of
from lors.merge.methods.base import joint_method

OPPOSITE = 1e-6
"""Length of a mean of unit vectors that is nothing but rounding errors."""


@joint_method(combines="mean", applies_to="every")
def multislerp(deltas: Sequence[Tensor]) -> Tensor:
    """The mean of the directions of the task vectors, with their mean norm.

    delta = mean_t |tau_t| * u / |u| with u = mean_t(tau_t / |tau_t|) (Goddard's Multi-SLERP in
    mergekit, 2025, with equal weights). Its second half, a step along the sphere by the mean of the
    tau_t / |tau_t| projected on the tangent space at u, is 0, because u is their mean already. So
    the result is the first step of karcher. For two experts it is SLERP half-way. If the directions
    cancel, delta is the mean of the task vectors.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.

    Returns:
        The merged delta, same shape.
    """
    norms, direction = [], torch.zeros_like(deltas[0])
    for delta in deltas:
        norms.append(float(torch.linalg.vector_norm(delta, dtype=torch.float64)))
        if norms[-1]:
            direction += delta / norms[-1]
    length = float(torch.linalg.vector_norm(direction, dtype=torch.float64))
    if length <= OPPOSITE * len(norms):
        return mean_of(deltas)
    return direction.mul_(sum(norms) / len(norms) / length)
