"""DARE with the sign election of TIES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from torch import Tensor

from lors.config import Range
from lors.linalg.combine import disjoint_mean
from lors.linalg.sparsify import random_prune
from lors.merge.methods.base import Execution, joint_method


@joint_method(combines="mean", applies_to="every", execution=Execution(rowwise=True))
def dare_ties(
    deltas: Sequence[Tensor],
    *,
    random_of: Callable[[int], np.random.Generator],
    density: Annotated[float, Range(0.001, 1)] = 0.2,
) -> Tensor:
    """Drop entries at random, rescale, elect signs, and average the entries that agree.

    Same as ties, but trimmed as in dare_linear: k_t = m_t * tau_t / density; each entry of the mask
    m_t is 1 with probability density, else 0 (Yu et al., ICML 2024, section on merging). As in
    mergekit, magnitudes are not trimmed a second time.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        random_of: index of an expert -> random number generator for its mask.
        density: probability that an entry is kept, from 0.001 to 1 (rounded to a multiple
            of 2^-16).

    Returns:
        The merged delta, same shape.
    """
    return disjoint_mean(
        random_prune(delta, density, random_of(index)) for index, delta in enumerate(deltas)
    )
