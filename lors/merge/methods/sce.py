"""SCE: select, calculate, erase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from lors.config import Range
from lors.linalg.combine import sum_of
from lors.linalg.sparsify import top_k_mask
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="every")
def sce(deltas: Sequence[Tensor], *, density: Annotated[float, Range(0, 1)] = 1.0) -> Tensor:
    """Weighted mean of the entries with the majority's sign, where the experts differ most.

    Select: of the entries in which the experts differ, the fraction density with the largest
    variance over the experts is kept; the others become 0. Calculate: w_t is the share of tau_t in
    the energy (sum of squares) of what is kept. Erase: the sign of an entry is that of its sum over
    the experts; delta is the mean, weighted by w_t, of the values with this sign (Wan et al.,
    "FuseChat: Knowledge Fusion of Chat Models", arXiv 2408.07990, with density 0.1; details as in
    mergekit, where density is called select_topk). Each tensor is merged by itself. With a single
    expert there is no variance, and everything is kept.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        density: fraction of the entries that is kept, from 0 to 1; with 1 all, also those in which
            the experts agree.

    Returns:
        The merged delta, same shape.
    """
    kept = None
    if density < 1 and len(deltas) > 1:
        variance = _variance(deltas)
        count = int(density * int(torch.count_nonzero(variance)))
        kept = top_k_mask(variance, count).mask(variance).float()

    def selected(index: int) -> Tensor:
        return deltas[index] if kept is None else deltas[index] * kept

    experts = range(len(deltas))
    energies = [float(torch.linalg.vector_norm(selected(i), dtype=torch.float64)) for i in experts]
    signs = sum_of(map(selected, experts)).sign_()
    merged, weights = torch.zeros_like(signs), torch.zeros_like(signs)
    largest = max(energies)
    for index in experts:
        if energies[index] == 0:
            continue
        # Positive exactly where the sign is that of the majority.
        aligned = torch.mul(selected(index), signs).clamp_(min=0)
        weight = (energies[index] / largest) ** 2
        merged.add_(aligned, alpha=weight)
        weights.add_(aligned.sign_(), alpha=weight)
    return merged.mul_(signs).div_(torch.where(weights == 0, 1, weights))


def _variance(deltas: Sequence[Tensor]) -> Tensor:
    """Return the variance over the experts of each entry, in float64."""
    mean = torch.zeros_like(deltas[0], dtype=torch.float64)
    for delta in deltas:
        mean += delta
    mean /= len(deltas)
    variance = torch.zeros_like(mean)
    for delta in deltas:
        variance += (delta - mean).square_()
    return variance.div_(len(deltas))
