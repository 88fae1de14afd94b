"""DELLA-Merging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from lors.config import Range
from lors.linalg.combine import disjoint_mean
from lors.merge.methods.base import Execution, joint_method


@joint_method(combines="mean", applies_to="every", execution=Execution(rowwise=True))
def della(
    deltas: Sequence[Tensor],
    *,
    random_of: Callable[[int], np.random.Generator],
    density: Annotated[float, Range(0.001, 1)] = 0.2,
    epsilon: Annotated[float, Range(0, 1)] = 0.1,
) -> Tensor:
    """Drop small entries more often than large ones, rescale, elect signs, average as in ties.

    The magnitudes of each row are ranked. The probability to keep an entry grows linearly with its
    rank, from density - epsilon / 2 to density + epsilon / 2 (clipped to 0 and 1). A kept entry is
    divided by its probability p_t: k_t = m_t * tau_t / p_t with a mask m_t of 0 and 1. delta is
    that of ties for these k_t (Deep, Bhardwaj, Poria, "DELLA-Merging: Reducing Interference in
    Model Merging through Magnitude-Based Sampling", arXiv 2406.11617). epsilon is the whole range
    of the probabilities, as window_size in the authors' code; mergekit's epsilon is half of it.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        random_of: index of an expert -> random number generator for its mask.
        density: mean probability that an entry is kept, from 0.001 to 1.
        epsilon: difference of the probabilities of the largest and the smallest entry of a row,
            from 0 to 1.

    Returns:
        The merged delta, same shape.
    """
    return disjoint_mean(
        _magnitude_sample(delta, density, epsilon, random_of(index))
        for index, delta in enumerate(deltas)
    )


def _magnitude_sample(
    delta: Tensor, density: float, epsilon: float, random: np.random.Generator
) -> Tensor:
    """Keep entries at random by the rank of their magnitude in the row, and rescale them."""
    rows = delta.reshape(delta.shape[0] if delta.ndim > 1 else 1, -1).numpy()
    width = rows.shape[1]
    spread = np.linspace(-0.5, 0.5, width) if width > 1 else np.zeros(1)
    by_rank = np.clip(density + epsilon * spread, 0, 1).astype(np.float32)
    # Positive floats have the order of their bits. With the column in the lower bits, one fast sort
    # of integers ranks the entries, and ties by their position.
    keys = np.abs(rows).view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(width, dtype=np.uint64)
    keys.sort(axis=1)
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)
    keep = np.empty_like(rows)
    np.put_along_axis(keep, order, np.broadcast_to(by_rank, rows.shape), axis=1)
    kept = random.random(rows.shape, dtype=np.float32) < keep
    # An entry with probability 0 is never kept; the clamp avoids 0 / 0.
    sampled = rows * kept / np.maximum(keep, np.finfo(np.float32).tiny)
    return torch.from_numpy(sampled).reshape(delta.shape)
