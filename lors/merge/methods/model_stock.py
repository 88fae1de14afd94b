"""Model Stock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lors.linalg.combine import mean_of
from lors.linalg.svd import inner_products
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="every")
def model_stock(deltas: Sequence[Tensor]) -> Tensor:
    """Mean of the task vectors, shortened by the angle between them.

    delta = t * mean_t(tau_t) with t = N cos / (1 + (N - 1) cos); cos is the mean cosine between two
    task vectors of this tensor (Jang, Yun, Han, "Model Stock: All we need is just a few fine-tuned
    models", ECCV 2024). A negative mean cosine counts as 0, and delta is then 0.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.

    Returns:
        The merged delta, same shape.
    """
    count = len(deltas)
    mean = mean_of(deltas)
    if count == 1:
        return mean
    gram = inner_products(deltas)
    norms = np.sqrt(np.diag(gram))
    if norms.min() == 0:
        return torch.zeros_like(mean)
    cosines = gram / np.outer(norms, norms)
    cosine = max((cosines.sum() - count) / (count * (count - 1)), 0.0)
    return mean * (count * cosine / (1 + (count - 1) * cosine))
