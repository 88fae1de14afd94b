"""Weight average."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lors.linalg.combine import mean_of
from lors.merge.methods.base import Execution, joint_method


@joint_method(combines="mean", applies_to="every", execution=Execution(rowwise=True))
def average(deltas: Sequence[Tensor]) -> Tensor:
    """Mean of the task vectors: the average of the experts' weights at scaling_coef 1.

    delta = (1/N) sum_t tau_t (the uniform soup of Wortsman et al., "Model soups: averaging weights
    of multiple fine-tuned models improves accuracy without increasing inference time", ICML 2022).
    The result is that of task_arithmetic with scaling_coef divided by N.

    Args:
        deltas: task vectors of one tensor, one for each expert, float32, all of one shape.

    Returns:
        The merged delta, same shape.
    """
    return mean_of(deltas)
