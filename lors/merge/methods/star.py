"""STAR: spectral truncation and rescale."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from torch import Tensor

from lors.config import Range
from lors.linalg.svd import as_matrix, as_tensor, numerical_svd
from lors.merge.methods.base import sum_method


@sum_method(applies_to="matrices")
def star(delta: Tensor, *, eta: Annotated[float, Range(0, 1)] = 0.4) -> Tensor:
    """Sum of the task vectors, truncated in rank and rescaled to their old nuclear norm.

    delta = sum_t c_t U_t S_t V_t'. S_t has the leading singular values of tau_t: the smallest
    number of them whose sum is at least the fraction eta of the sum of all. c_t scales them so that
    they have the sum of all (Lee et al., "STAR: Spectral Truncation and Rescale for Model Merging",
    NAACL 2025). Tensors that the policy does not prune keep their whole task vectors.

    Args:
        delta: task vector of one matrix of one expert, float32.
        eta: fraction of the nuclear norm that is kept before rescaling, from 0 to 1.

    Returns:
        The term of the expert, same shape.
    """
    if not delta.any():
        return delta
    left, values, right = numerical_svd(as_matrix(delta))
    cumulative = np.cumsum(values)
    rank = 1 + int(np.searchsorted(cumulative, eta * cumulative[-1]))
    rank = min(rank, len(values))
    kept = values[:rank] * (cumulative[-1] / cumulative[rank - 1])
    return as_tensor((left[:, :rank] * kept) @ right[:rank], delta)
