"""TIES-Merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.linalg.combine import disjoint_mean
from lors.linalg.sparsify import TopKMask, top_k_mask
from lors.merge.methods.base import Execution, joint_method


def _kept(delta: Tensor, density: float) -> TopKMask:
    return top_k_mask(delta, int(delta.numel() * density))


@joint_method(combines="mean", applies_to="every", execution=Execution(rowwise=True, stats=_kept))
def ties(
    deltas: Sequence[Tensor],
    *,
    stats: Sequence[TopKMask],
    start: int,
    density: Annotated[float, Range(0, 1)] = 0.2,
) -> Tensor:
    """Trim, elect signs, and average the entries that agree with the elected sign.

    k_t is tau_t with all entries but the largest magnitudes set to zero. The elected sign of an
    entry is that of sum_t k_t. delta = sum_t a_t * k_t / sum_t a_t; a_t is 1 where k_t has the
    elected sign, else 0 (Yadav et al., "TIES-Merging: Resolving Interference When Merging Models",
    NeurIPS 2023). Each tensor is trimmed by itself.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        stats: mask of the largest magnitudes of each whole task vector.
        start: row-major index of the first entry of `deltas` in the whole tensor.
        density: fraction of the entries of each task vector that is kept, from 0 to 1.

    Returns:
        The merged delta, same shape.
    """
    return disjoint_mean(
        delta * kept.mask(delta.abs(), start) for delta, kept in zip(deltas, stats, strict=True)
    )
