"""Model Breadcrumbs."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.linalg.sparsify import Cut, band
from lors.merge.methods.base import sum_method


def _survey(delta: Tensor, density: float, gamma: float) -> tuple[Cut, Cut]:
    return band(delta, density, gamma)


@sum_method(scope="every", rowwise=True, survey=_survey)
def breadcrumbs(
    delta: Tensor,
    *,
    surveyed: tuple[Cut, Cut],
    start: int,
    density: Annotated[float, Range(0, 1)] = 0.9,
    gamma: Annotated[float, Range(0, 1)] = 0.01,
) -> Tensor:
    """Sum of the task vectors without their largest and their smallest entries.

    Of each tau_t the fraction gamma of largest magnitude is dropped as outliers, and of the others
    those of smallest magnitude until the fraction density is left (Davari, Belilovsky, "Model
    Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks", ECCV 2024; there the smallest
    85 % and the largest 1 % go). If gamma + density is more than 1, nothing small is dropped.

    Args:
        delta: task vector of one tensor of one expert, float32.
        surveyed: the entries without the smallest, and the outliers.
        start: index of the first entry of these rows.
        density: fraction of the entries that is kept, from 0 to 1.
        gamma: fraction of the entries that is dropped for being the largest, from 0 to 1.

    Returns:
        The expert's part of the merged delta, same shape.
    """
    kept, outliers = surveyed
    magnitudes = delta.abs()
    return delta * (kept.mask(magnitudes, start) - outliers.mask(magnitudes, start))
