"""DELLA-Merging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from lors.config import Range
from lors.linalg.combine import disjoint_mean
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", scope="every", rowwise=True)
def della(
    deltas: Sequence[Tensor],
    *,
    random_of: Callable[[int], np.random.Generator],
    density: Annotated[float, Range(0.001, 1)] = 0.2,
    epsilon: Annotated[float, Range(0, 1)] = 0.1,
) -> Tensor:
    """Drop small entries more often than large ones, rescale, elect signs, average what agrees.

    In every row the magnitudes are ranked, and the probability to keep an entry grows linearly
    with its rank from density - epsilon / 2 to density + epsilon / 2 (cut off at 0 and 1); a kept
    entry is divided by its own probability. Then as ties (Deep, Bhardwaj, Poria, "DELLA-Merging:
    Reducing Interference in Model Merging through Magnitude-Based Sampling", arXiv 2406.11617).

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        random_of: makes the generator of an expert's mask.
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
    rows = delta.reshape(delta.shape[0] if delta.ndim > 1 else 1, -1).numpy()
    width = rows.shape[1]
    spread = np.linspace(-0.5, 0.5, width) if width > 1 else np.zeros(1)
    by_rank = np.clip(density + epsilon * spread, 0, 1).astype(np.float32)
    # The bits of a positive number sort as the number does; below them goes the column. So one
    # quick sort of integers ranks the entries, and equal ones by their position.
    keys = np.abs(rows).view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(width, dtype=np.uint64)
    keys.sort(axis=1)
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)
    keep = np.empty_like(rows)
    np.put_along_axis(keep, order, np.broadcast_to(by_rank, rows.shape), axis=1)
    kept = random.random(rows.shape, dtype=np.float32) < keep
    # Nothing is divided by a probability of 0: what has it is not kept.
    sampled = rows * kept / np.maximum(keep, np.finfo(np.float32).tiny)
    return torch.from_numpy(sampled).reshape(delta.shape)
