"""PCB-Merging: parameter competition balancing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from lors.config import Range
from lors.linalg.combine import sum_of
from lors.merge.methods.base import joint_method

OUTLIERS = 1e-4
"""Fraction of the magnitudes of a task vector that are clamped at either end."""


@joint_method(combines="mean", applies_to="every")
def pcb(deltas: Sequence[Tensor], *, density: Annotated[float, Range(0.001, 1)] = 0.2) -> Tensor:
    """Mean of the task vectors, weighted entry by entry by size and by agreement.

    The score of an entry is exp(N a^2) * tau_t * sum_s tau_s: a is its magnitude in tau_t, scaled
    to 0 .. 1 over the tensor (balance within an expert); the product with the sum is the balance
    between the N experts. The weight of an entry is 0 for all but the fraction density of the
    largest scores, and the rest is scaled to 0 .. 1. delta is the weighted mean (Du et al.,
    "Parameter Competition Balancing for Model Merging", NeurIPS 2024, arXiv 2410.02396, as in the
    authors' released code, whose tanh of the product is the product itself for task vectors, which
    are far below 1). Here each tensor is merged by itself, as in ties; the authors take the whole
    model. The 0.01 % smallest and largest magnitudes are clamped first.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        density: fraction of the entries of each expert with a weight, from 0.001 to 1.

    Returns:
        The merged delta, same shape.
    """
    total = sum_of(deltas)
    # The squares of very small numbers are outside the range of float32.
    size = float(total.abs().max()) or 1.0
    merged, weights = np.zeros(total.shape, np.float32), np.zeros(total.shape, np.float32)
    for delta in deltas:
        tau = delta.numpy()
        clamped = _clamped(np.abs(tau))
        score = np.exp(len(deltas) * _scaled(clamped) ** 2)
        score *= tau / np.float32(size)
        score *= total.numpy() / np.float32(size)
        first = int(score.size * (1 - density))
        threshold = np.partition(score, first, axis=None)[first]
        weight = _scaled(np.maximum(score, threshold))
        merged += np.copysign(clamped, tau) * weight
        weights += weight
    merged /= np.where(weights == 0, 1, weights)
    return torch.from_numpy(merged)


def _clamped(magnitudes: np.ndarray) -> np.ndarray:
    """Return magnitudes with the smallest and the largest ones clamped to the next."""
    count = int(magnitudes.size * OUTLIERS)
    if count == 0:
        return magnitudes
    ends = (count, magnitudes.size - 1 - count)
    ordered = np.partition(magnitudes, ends, axis=None)
    return np.clip(magnitudes, ordered[ends[0]], ordered[ends[1]])


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return values scaled to 0 .. 1; equal values become 1, or 0 if they are 0."""
    low, high = values.min(), values.max()
    if low == high:
        return np.full_like(values, high != 0)
    return (values - low) / (high - low)
