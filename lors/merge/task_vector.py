"""Task vectors: what fine-tuning added to a base model."""

from __future__ import annotations

from torch import Tensor

from lors.checkpoint.finite import all_finite, check_finite, difference
from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError


class TaskVector:
    """The difference ``finetuned - base`` of two models of one structure.

    Args:
        base: the model that fine-tuning started from.
        finetuned: the fine-tuned model.

    Raises:
        LorsError: the two differ in names, shapes or dtypes; every difference is listed.
    """

    def __init__(self, base: Checkpoint, finetuned: Checkpoint):
        self.base, self.finetuned = base, finetuned
        problems = _mismatches(base, finetuned)
        if problems:
            raise LorsError(
                "base model and expert are not of one structure; "
                f"tensors that differ: {len(problems)}",
                where=finetuned.path,
                expected=f"the names, shapes and dtypes of {base.path}",
                got="\n    - ".join(["", *problems]),
                hint="an expert must be fine-tuned from this very base model, with its token list",
            )

    def delta(self, name: str) -> Tensor:
        """``finetuned - base`` of a floating-point tensor, in float32.

        Of an adapter it is the product of its factors, not rounded to the base model's dtype.

        Args:
            name: of the tensor.

        Returns:
            A new tensor.

        Raises:
            LorsError: a value is NaN or infinite.
        """
        base, factors = self.base.tensor(name), self.finetuned.factors(name)
        if factors is None:
            finetuned = self.finetuned.tensor(name)
            delta = difference(finetuned, base)
        else:
            finetuned = delta = (factors[0].double() @ factors[1].double()).float()
        if not all_finite(delta):
            for checkpoint, tensor in ((self.base, base), (self.finetuned, finetuned)):
                check_finite(tensor, f"{checkpoint.path}: {name}")
            raise LorsError(
                "the difference overflows float32", where=f"{self.finetuned.path}: {name}"
            )
        return delta


def _mismatches(base: Checkpoint, finetuned: Checkpoint) -> list[str]:
    """One line for each tensor in which two models differ in structure."""
    expected, got = base.spec(), finetuned.spec()
    problems = [f"{name}: missing in the expert" for name in expected if name not in got]
    problems += [f"{name}: not in the base model" for name in got if name not in expected]
    for name in expected.keys() & got.keys():
        (shape, dtype), (other_shape, other_dtype) = expected[name], got[name]
        if shape != other_shape:
            problems.append(f"{name}: shape {list(shape)}, in the expert {list(other_shape)}")
        if dtype != other_dtype and not (dtype.is_floating_point and other_dtype.is_floating_point):
            problems.append(f"{name}: {dtype}, in the expert {other_dtype}")
    return sorted(problems)
