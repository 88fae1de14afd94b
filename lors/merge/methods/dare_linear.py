"""DARE with linear combination."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from torch import Tensor

from lors.config import Range
from lors.linalg.sparsify import random_prune
from lors.merge.methods.base import sum_method


@sum_method(scope="every", rowwise=True)
def dare_linear(
    delta: Tensor, *, random: np.random.Generator, density: Annotated[float, Range(0.001, 1)] = 0.2
) -> Tensor:
    """Sum of the task vectors after dropping entries at random and rescaling the others.

    delta = sum_t m_t * tau_t / density, where each entry of m_t is 1 with probability density and
    else 0: drop and rescale keeps the expectation (Yu et al., "Language Models are Super Mario:
    Absorbing Abilities from Homologous Models as a Free Lunch", ICML 2024).

    An expert's mask depends on its place among the experts: to take one away again, give it the
    same place (those before it with a weight of 0).

    Args:
        delta: task vector of one tensor of one expert, float32.
        random: generator of the mask.
        density: probability that an entry is kept, from 0.001 to 1 (rounded to a multiple
            of 2^-16).

    Returns:
        The expert's part of the merged delta, same shape.
    """
    return random_prune(delta, density, random)
