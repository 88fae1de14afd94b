"""Adam's bias correction by the updates that each entry has had.

Adam divides its moments by 1 - beta^t, with t the steps of the whole tensor (arXiv 1412.6980,
algorithm 1). An entry that only some languages hold has had fewer updates, k, and its moments are
smaller than t says: with beta2 = 0.999, t = 720 and k = 240, its steps would be 1.55 times too
long. Here every entry has its own k, so that it learns as if the batches of the other languages had
not been there.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

BLOCK = 1 << 16  # entries at a time: on a CPU, so many stay in the cache through all operations
UPDATES = "updates"  # state of an entry: its own steps; saved and loaded with the moments


def count_own_updates(
    optimizer: torch.optim.Optimizer, parameter: Tensor, earlier: Tensor, inside: Tensor
) -> None:
    """Replace the t of a step that Adam or AdamW has just made by the k of each entry.

    Other optimisers, and a parameter without a gradient, are not changed.

    Args:
        optimizer: the optimiser.
        parameter: a parameter after the step. Its entries outside the mask become meaningless.
        earlier: its values before the step.
        inside: its mask, int8: -1 for the entries that this step belongs to, else 0.
    """
    state = optimizer.state.get(parameter, {})
    if not isinstance(optimizer, torch.optim.Adam) or "exp_avg_sq" not in state:
        return
    steps = int(state["step"])
    if UPDATES not in state:  # the first step, or a training begun without this count
        state[UPDATES] = torch.full_like(parameter, steps - 1)
    state[UPDATES] -= inside
    groups = optimizer.param_groups
    group = next(g for g in groups if any(p is parameter for p in g["params"]))
    moment = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    decay = group["lr"] * group["weight_decay"] if group["decoupled_weight_decay"] else 0.0
    betas = tuple(map(float, group["betas"]))
    slopes, offsets = _divisors(betas, group["eps"], steps, parameter.device)
    rows = len(parameter) if parameter.is_cuda else max(1, BLOCK // parameter[0].numel())
    tensors = (parameter.data, earlier, moment, state[UPDATES])
    for values, before, square, updates in zip(*(x.split(rows) for x in tensors), strict=True):
        root, own = square.sqrt(), updates.to(torch.int32)
        divisor = torch.addcmul(_at(offsets, own), root, _at(slopes, own))
        ratio = root.mul_(slopes[steps]).add_(offsets[steps]).div_(divisor)
        torch.lerp(before * (1 - decay), values, ratio, out=values)


@functools.lru_cache(maxsize=4)
def _divisors(
    betas: tuple[float, ...], eps: float, steps: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what a step divides by, as a line of root, the square root of the second moment.

    After k updates a step is rate * moment / (slopes[k] * root + offsets[k]). Where nothing has
    been updated yet, the values are those of one update; any would do.

    Args:
        betas: those of Adam.
        eps: that of Adam.
        steps: the largest k.
        device: that of the tables, which serve all parameters of a step there.
    """
    updates = torch.arange(steps + 1, dtype=torch.float64).clamp(min=1)
    # 1 - beta^k, without cancellation for small k
    first, second = (
        -torch.expm1(updates * math.log(beta)) if beta else torch.ones_like(updates)
        for beta in betas
    )
    slopes, offsets = first / second.sqrt(), first * eps
    return slopes.to(device, torch.float32), offsets.to(device, torch.float32)


def _at(table: Tensor, updates: Tensor) -> Tensor:
    """Return the value of a table for the updates of each entry; much faster than a power each."""
    return table.index_select(0, updates.flatten()).view(updates.shape)
