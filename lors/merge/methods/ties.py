"""TIES-Merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.linalg.combine import disjoint_mean
from lors.linalg.sparsify import Cut, largest
from lors.merge.methods.base import joint_method


def _survey(delta: Tensor, density: float) -> Cut:
    return largest(delta, int(delta.numel() * density))


@joint_method(combines="mean", scope="every", rowwise=True, survey=_survey)
def ties(
    deltas: Sequence[Tensor],
    *,
    surveyed: Sequence[Cut],
    start: int,
    density: Annotated[float, Range(0, 1)] = 0.2,
) -> Tensor:
    """Trim, elect signs, and average the entries that agree with the elected sign.

    Each tau_t keeps its largest magnitudes; the sign of an entry is that of the sum over experts;
    delta is the mean of the kept entries that have this sign (Yadav et al., "TIES-Merging:
    Resolving Interference When Merging Models", NeurIPS 2023). The trimming is for each tensor.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        surveyed: which entries of each task vector are its largest.
        start: index of the first entry of these rows.
        density: fraction of the entries of each task vector that is kept, from 0 to 1.

    Returns:
        The merged delta, same shape.
    """
    return disjoint_mean(
        delta * cut.mask(delta.abs(), start) for delta, cut in zip(deltas, surveyed, strict=True)
    )
