"""Model Stock."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lors.merge_methods import joint_method
from lors.subspace import mean_of


@joint_method(combines="mean")
def model_stock(deltas: Sequence[Tensor]) -> Tensor:
    """Mean of the task vectors, shortened the more the less they agree in direction.

    delta = t * mean_t(tau_t) with t = N cos / (1 + (N - 1) cos), where cos is the mean cosine
    between two task vectors of this tensor (Jang, Yun, Han, "Model Stock: All we need is just a
    few fine-tuned models", ECCV 2024). A negative mean cosine counts as 0: nothing in common,
    nothing is merged.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.

    Returns:
        The merged delta, same shape.
    """
    count = len(deltas)
    mean = mean_of(deltas)
    if count == 1:
        return mean
    norms = [float(torch.linalg.vector_norm(delta, dtype=torch.float64)) for delta in deltas]
    if min(norms) == 0:
        return torch.zeros_like(mean)
    # The sum of unit vectors has the squared norm N + N (N - 1) cos.
    unit_sum = torch.zeros_like(mean, dtype=torch.float64)
    for delta, norm in zip(deltas, norms, strict=True):
        unit_sum += delta / norm
    squared = float(unit_sum.square().sum())
    cosine = max((squared - count) / (count * (count - 1)), 0.0)
    return mean * (count * cosine / (1 + (count - 1) * cosine))
