"""Task arithmetic."""

from __future__ import annotations

from torch import Tensor

from lors.merge.methods.base import sum_method


@sum_method(scope="every", rowwise=True)
def task_arithmetic(delta: Tensor) -> Tensor:
    """Sum of the task vectors.

    delta = sum_t tau_t (Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023).

    Args:
        delta: task vector of one tensor of one expert, float32.

    Returns:
        The same: every expert contributes its whole task vector.
    """
    return delta
