"""DARE with linear combination."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from torch import Tensor

from lors.config import Range
from lors.linalg.sparsify import random_prune
from lors.merge.methods.base import Execution, sum_method


@sum_method(applies_to="every", execution=Execution(rowwise=True))
def dare_linear(
    delta: Tensor, *, random: np.random.Generator, density: Annotated[float, Range(0.001, 1)] = 0.2
) -> Tensor:
    """Sum of the task vectors after dropping entries at random and rescaling the others.

    delta = sum_t m_t * tau_t / density; each entry of the mask m_t is 1 with probability density,
    else 0. The rescaling keeps the expectation (Yu et al., "Language Models are Super Mario:
    Absorbing Abilities from Homologous Models as a Free Lunch", ICML 2024).

    The mask of an expert depends on its place in the list of experts. To remove an expert later,
    list it at the same place, with weight 0 for the experts before it.

    Args:
        delta: task vector of one tensor of one expert, float32.
        random: random number generator for the mask.
        density: probability that an entry is kept, from 0.001 to 1 (rounded to a multiple
            of 2^-16).

    Returns:
        The term of the expert, same shape.
    """
    return random_prune(delta, density, random)
