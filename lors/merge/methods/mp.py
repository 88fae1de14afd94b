"""Magnitude pruning alone: the sparse half of LoRS-Merging."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from lors.config import Range
from lors.linalg.sparsify import magnitude_prune
from lors.merge.methods.base import sum_method


@sum_method(applies_to="matrices")
def mp(delta: Tensor, *, density: Annotated[float, Range(0, 1)] = 0.2) -> Tensor:
    """Sum of the sparse parts of the task vectors (LoRS-Merging without its low-rank part).

    delta = sum_t S_t; S_t is tau_t with all entries but the largest magnitudes set to zero. It is
    the "MP" ablation of Zhao, Sun, Zhang, arXiv 2502.17380. Tensors that the policy does not prune
    keep their whole task vectors.

    Args:
        delta: task vector of one matrix of one expert, float32.
        density: fraction of the entries that is kept, from 0 to 1.

    Returns:
        The term of the expert, same shape.
    """
    return magnitude_prune(delta, density)
