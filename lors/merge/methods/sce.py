"""SCE: select, calculate, erase."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor

from lors.config import Range
from lors.linalg.parallel import BLOCK
from lors.linalg.sparsify import top_k_mask
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="every")
def sce(deltas: Sequence[Tensor], *, density: Annotated[float, Range(0, 1)] = 1.0) -> Tensor:
    """Weighted mean of the entries with the majority's sign, where the experts differ most.

    Select: among the entries in which the experts differ, the fraction density with the largest
    variance over the experts is kept; the others become 0, so that k_t is left of tau_t. Calculate:
    w_t is the share of k_t in the energy (sum of squares) of all of them. Erase: the sign of an
    entry is that of sum_t k_t. delta = (sum_t w_t a_t k_t) / (sum_t w_t a_t); a_t is 1 where k_t
    has this sign, else 0 (Wan et al., "FuseChat: Knowledge Fusion of Chat Models", arXiv
    2408.07990, with density 0.1; details as in mergekit, where density is called select_topk). Each
    tensor is merged by itself. With a single expert there is no variance, and everything is kept.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
        density: fraction of the entries that is kept, from 0 to 1; with 1 all, also those in which
            the experts agree.

    Returns:
        The merged delta, same shape.
    """
    shape, size = deltas[0].shape, deltas[0].numel()
    kept = torch.ones(size, dtype=torch.bool)
    if density < 1 and len(deltas) > 1:
        variance = _variance(deltas)
        count = int(density * int(torch.count_nonzero(variance)))
        kept = top_k_mask(variance, count).mask(variance) != 0
    total, energies = torch.zeros(size), []
    for delta in deltas:
        energies.append(0.0)
        for block, mask, sums in _blocks(delta, kept, total):
            selected = block * mask
            sums += selected
            energies[-1] += float(torch.dot(selected, selected))
    signs, merged, weights = total.sign_(), torch.zeros(size), torch.zeros(size)
    for delta, energy in zip(deltas, energies, strict=True):
        if energy == 0:
            continue
        weight = energy / max(energies)
        for block, mask, sign, values, sums in _blocks(delta, kept, signs, merged, weights):
            # Positive exactly where the sign is that of the majority.
            aligned = (block * mask).mul_(sign).clamp_(min=0)
            values.add_(aligned, alpha=weight)
            sums.add_(aligned.sign_(), alpha=weight)
    weights[weights == 0] = 1
    return merged.mul_(signs).div_(weights).reshape(shape)


def _variance(deltas: Sequence[Tensor]) -> Tensor:
    """Return N times the variance of each entry over N experts, exactly 0 where all are equal."""
    first = deltas[0].reshape(-1).clone()
    sums, squares = torch.zeros_like(first), torch.zeros_like(first)
    for index in range(1, len(deltas)):
        for block, origin, sum_, square in _blocks(deltas[index], first, sums, squares):
            difference = block - origin
            sum_ += difference
            square.addcmul_(difference, difference)
    return squares.addcmul_(sums, sums, value=-1 / len(deltas)).clamp_(min=0)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same entries of all tensors, some at a time."""
    return zip(*(tensor.reshape(-1).split(BLOCK) for tensor in tensors), strict=True)
