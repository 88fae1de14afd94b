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
    between the N experts. The weight w_t of an entry is 0 for all but the fraction density of the
    largest scores, and the rest is scaled to 0 .. 1. delta = sum_t w_t * tau_t / sum_t w_t (Du et
    al., "Parameter Competition Balancing for Model Merging", NeurIPS 2024, arXiv 2410.02396, as in
    the authors' released code, whose tanh of the product is the product itself for task vectors,
    which are far below 1). Here each tensor is merged by itself, as in ties; the authors take the
    whole model. The 0.01 % smallest and largest magnitudes are clamped first. The authors' runs
    have densities of 0.05, 0.1 and 0.2.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        density: fraction of the entries of each expert with a weight, from 0.001 to 1.

    Returns:
        The merged delta, same shape.
    """
    total = sum_of(deltas).reshape(-1).numpy()
    # The squares of very small numbers are outside the range of float32.
    size = np.abs(total).max(initial=0) or np.float32(1)
    total /= size
    merged, weights = np.zeros_like(total), np.zeros_like(total)
    for delta in deltas:
        tau = delta.reshape(-1).numpy()
        magnitudes = _clamped(np.abs(tau))
        score = _scaled(magnitudes.copy())
        score *= score
        score *= len(deltas)
        np.exp(score, out=score)
        score *= tau
        score /= size
        score *= total
        first = int(score.size * (1 - density))
        threshold = np.partition(score, first)[first]
        weight = _scaled(np.maximum(score, threshold, out=score))
        merged += np.copysign(magnitudes, tau, out=magnitudes) * weight
        weights += weight
    weights[weights == 0] = 1
    return torch.from_numpy(merged / weights).reshape(deltas[0].shape)


def _clamped(magnitudes: np.ndarray) -> np.ndarray:
    """Return magnitudes with the smallest and the largest ones clamped to the next."""
    count = int(magnitudes.size * OUTLIERS)
    if count == 0:
        return magnitudes
    ends = (count, magnitudes.size - 1 - count)
    ordered = np.partition(magnitudes, ends)
    return np.clip(magnitudes, ordered[ends[0]], ordered[ends[1]])


def _scaled(values: np.ndarray) -> np.ndarray:
    """Scale values to 0 .. 1, in place; equal values become 1, or 0 if they are 0."""
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if low >= high:
        values[:] = high != 0
        return values
    values -= low
    values /= high - low
    return values
