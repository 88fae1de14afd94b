"""Adam's bias correction by the updates that each entry has had.

Adam divides its moments by 1 - beta^t, with t the steps of the whole tensor (arXiv 1412.6980,
algorithm 1). An entry that only some languages hold has had fewer updates, k, and its moments are
smaller than t says: with beta2 = 0.999, t = 720 and k = 240, its steps would be 1.55 times too
long. Here every entry has its own k, so that it learns as if the batches of the other languages had
not been there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

UPDATES = "updates"  # state of an entry: its own steps; saved and loaded with the moments


def count_own_updates(
    optimizer: torch.optim.Optimizer, parameter: Tensor, earlier: Tensor, inside: Tensor
) -> None:
    """Replace the t of a step that Adam or AdamW has just made by the k of each entry.

    Other optimisers, and a parameter without a gradient, are not changed.

    Args:
        optimizer: the optimiser.
        parameter: a parameter after the step. Its entries inside the mask change.
        earlier: its values before the step.
        inside: its mask: True for the entries that this step belongs to.
    """
    state = optimizer.state.get(parameter, {})
    if not isinstance(optimizer, torch.optim.Adam) or "exp_avg_sq" not in state:
        return
    step = torch.as_tensor(state["step"], device=parameter.device)
    if UPDATES not in state:  # the first step, or a training begun without this count
        state[UPDATES] = torch.zeros_like(parameter) + (step - 1)
    state[UPDATES] += inside
    groups = optimizer.param_groups
    group = next(g for g in groups if any(p is parameter for p in g["params"]))
    root = (state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]).sqrt()

    def length(updates: Tensor) -> Tensor:
        """Return the length of the step after so many updates, over rate and first moment."""
        first, second = (_correction(beta, updates) for beta in group["betas"])
        return 1 / (first * (root / second.sqrt() + group["eps"]))

    # Where nothing has been updated yet, any k will do.
    ratio = length(state[UPDATES].clamp(min=1)) / length(step)
    if group["decoupled_weight_decay"]:
        earlier = earlier * (1 - group["lr"] * group["weight_decay"])
    corrected = torch.lerp(earlier, parameter.data, ratio)
    torch.where(inside, corrected, parameter.data, out=parameter.data)


def _correction(beta: float, updates: Tensor) -> Tensor:
    """Return 1 - beta^k, without cancellation for small k."""
    return -torch.expm1(updates * math.log(beta)) if beta else torch.ones_like(updates)
