"""WUDI-Merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from lors.config import Range
from lors.linalg.combine import sum_of
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="matrices")
def wudi(
    deltas: Sequence[Tensor],
    *,
    steps: Annotated[int, Range(0)] = 300,
    learning_rate: Annotated[float, Range(0)] = 1e-5,
) -> Tensor:
    """The delta that interferes least with the inputs of every expert, found without data.

    delta minimises sum_t |(delta - tau_t) tau_t'|^2 / |tau_t|^2 (Frobenius norms), because the rows
    of tau_t span the inputs of its training. Adam starts from the sum of all tau_t (Cheng et al.,
    "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task
    Vectors", ICML 2025). Tensors that the policy does not prune are averaged; the authors leave
    them as in the base model.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.
        steps: steps of Adam, at least 0.
        learning_rate: learning rate of Adam, at least 0, in units of the weights (the default is
            the authors' value for ViT).

    Returns:
        The merged delta, same shape.
    """
    total = sum_of(deltas)
    # Near the minimum the gradient is only rounding errors, but Adam still makes full steps. Hence
    # float64; and a single task vector is the minimum itself and needs no step.
    learnt = [index for index, delta in enumerate(deltas) if delta.any()]
    if len(learnt) < 2:
        return total
    # The gradient is 2 (delta gram - target). Only one task vector is in float64 at a time.
    gram = torch.zeros(total.shape[1], total.shape[1], dtype=torch.float64)
    target = torch.zeros_like(total, dtype=torch.float64)
    for index in learnt:
        tau = deltas[index].double()
        own = (tau.T @ tau).div_(tau.square().sum())
        target.addmm_(tau, own)
        gram += own
    del tau, own
    merged = torch.nn.Parameter(total.double())
    optimiser = torch.optim.Adam([merged], lr=learning_rate)
    for _ in range(steps):
        merged.grad = 2 * (merged.detach() @ gram - target)
        optimiser.step()
    return merged.detach().float()
