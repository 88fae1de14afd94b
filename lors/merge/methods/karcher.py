"""Karcher mean: SLERP for any number of experts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lors.linalg.svd import inner_products
from lors.merge.methods.base import joint_method

STEPS, TOLERANCE = 100, 1e-10


@joint_method(combines="mean", applies_to="every")
def karcher(deltas: Sequence[Tensor]) -> Tensor:
    """Mean on the sphere: the mean direction of the task vectors, with their mean norm.

    delta = mean_t |tau_t| * u, where u minimises the sum of the squared angles to tau_t / |tau_t|
    (Grove, Karcher, "How to conjugate C1-close group actions", 1973; Buss, Fillmore, "Spherical
    averages", 2001, for the iteration). For two experts it is SLERP half-way (Shoemake, 1985).
    Opposite task vectors have no such mean; the result is then 0. mergekit takes the mean of the
    weights, not of the task vectors; the two differ unless the base model is 0.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.

    Returns:
        The merged delta, same shape.
    """
    # u stays in the span of the task vectors, so their Gram matrix is enough to find it.
    gram = torch.from_numpy(inner_products(deltas))
    norms = gram.diagonal().sqrt()
    used = norms > 0
    if not used.any():
        return torch.zeros_like(deltas[0])
    cosines = (gram / norms.outer(norms))[used][:, used].clamp(-1, 1)
    weights = _spherical_mean(cosines)
    coefficients = torch.zeros_like(norms)
    coefficients[used] = norms.mean() * weights / norms[used]
    merged = torch.zeros_like(deltas[0])
    for coefficient, delta in zip(coefficients.tolist(), deltas, strict=True):
        merged.add_(delta, alpha=coefficient)
    return merged


def _spherical_mean(cosines: Tensor) -> Tensor:
    """Return the weights of unit vectors in their spherical mean, from their Gram matrix."""
    count = len(cosines)
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    for _ in range(STEPS):
        length = float(weights @ cosines @ weights) ** 0.5
        if length < TOLERANCE:
            return torch.zeros_like(weights)
        weights = weights / length
        angles = torch.arccos((cosines @ weights).clamp(-1, 1))
        # The logarithm of unit vector i at u is (u_i - cos(angle_i) u) * angle_i / sin(angle_i).
        factors = torch.where(angles < 1e-7, 1.0, angles / torch.sin(angles).clamp(min=1e-12))
        step = factors / count
        tangent = step.clone() - float((step * torch.cos(angles)).sum()) * weights
        size = max(float(tangent @ cosines @ tangent), 0.0) ** 0.5
        if size < TOLERANCE:
            break
        weights = math.cos(size) * weights + math.sin(size) * tangent / size
    return weights
