"""Task arithmetic."""

from __future__ import annotations

from torch import Tensor

from lors.merge.methods.base import Execution, sum_method


@sum_method(applies_to="every", execution=Execution(rowwise=True))
def task_arithmetic(delta: Tensor) -> Tensor:
    """Sum of the task vectors.

    delta = sum_t tau_t (Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023).

    Args:
        delta: task vector of one tensor of one expert, float32.

    Returns:
        `delta` itself: the term of an expert is its whole task vector.
    """
    return delta
