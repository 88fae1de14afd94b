"""Model Breadcrumbs."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.linalg.sparsify import TopKMask, band
from lors.merge.methods.base import Execution, sum_method


@sum_method(applies_to="every", execution=Execution(rowwise=True, stats=band))
def breadcrumbs(
    delta: Tensor,
    *,
    stats: tuple[TopKMask, TopKMask],
    start: int,
    density: Annotated[float, Range(0, 1)] = 0.14,
    gamma: Annotated[float, Range(0, 1)] = 0.01,
) -> Tensor:
    """Sum of the task vectors without their largest and their smallest entries.

    delta = sum_t m_t * tau_t. The mask m_t drops the fraction gamma of largest magnitude as
    outliers, then the smallest entries until the fraction density is left (Davari, Belilovsky,
    "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks", ECCV 2024; as in the
    paper, the defaults drop the smallest 85 % and the largest 1 %). The thresholds are those of
    the whole tensor, as in mergekit; the authors' code takes one for each row. If gamma + density
    is more than 1, no small entry is dropped.

    Args:
        delta: task vector of one tensor of one expert, float32.
        stats: two masks of the whole tensor: all entries except the smallest, and the outliers.
        start: row-major index of the first entry of `delta` in the whole tensor.
        density: fraction of the entries that is kept, from 0 to 1.
        gamma: fraction of the entries that is dropped as the largest, from 0 to 1.

    Returns:
        The term of the expert, same shape.
    """
    kept, outliers = stats
    magnitudes = delta.abs()
    return delta * (kept.mask(magnitudes, start) - outliers.mask(magnitudes, start))
