"""Task vectors: the differences between fine-tuned models and their base model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from lors.checkpoint.finite import all_finite, check_finite, difference
from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError, shortened
from lors.merge.shares import shared


class TaskVector:
    """The difference ``finetuned - base`` of two models of one structure.

    Args:
        base: the base model.
        finetuned: the model fine-tuned from it.

    Raises:
        LorsError: the two differ in names, shapes or dtypes; every difference is listed.
    """

    def __init__(self, base: Checkpoint, finetuned: Checkpoint):
        self.base, self.finetuned = base, finetuned
        problems = _mismatches(base, finetuned)
        if problems:
            raise LorsError(
                "base model and expert have different structures; "
                f"tensors that differ: {len(problems)}",
                where=finetuned.path,
                expected=f"the names, shapes and dtypes of {base.path}",
                got=shortened(problems, 50),
                hint="an expert must be fine-tuned from this very base model, with its token list",
            )

    def delta(self, name: str) -> Tensor:
        """Return ``finetuned - base`` of a floating-point tensor, in float32, as a new tensor.

        For an adapter or the file of a task vector: the change that it holds, in float32, without
        rounding to the dtype of the base model.

        Raises:
            LorsError: a value is NaN or infinite.
        """
        held = self.finetuned.delta(name)
        if held is None:
            delta = difference(self.finetuned.tensor(name), self.base.tensor(name))
        else:
            delta = held
        if not all_finite(delta):
            raise self._not_finite(name, held)
        return delta

    def _not_finite(self, name: str, held: Tensor | None) -> LorsError:
        """Return the error for values that are NaN or infinite."""
        check_finite(self.base.tensor(name), f"{self.base.path}: {name}")
        factors = self.finetuned.factors(name)
        read = factors if factors is not None else (self.finetuned.tensor(name),)
        for tensor in read if held is None or factors is not None else (held,):
            check_finite(tensor, f"{self.finetuned.path}: {name}")
        return LorsError(
            "this task vector is too large for float32",
            where=f"{self.finetuned.path}: {name}",
            got="finite values, whose "
            + ("difference is infinite" if factors is None else "product is infinite"),
            hint="these are no weights of a trained model: check how the file was made"
            + ("" if factors is None else ", and the alpha of the adapter"),
        )


def _mismatches(base: Checkpoint, finetuned: Checkpoint) -> list[str]:
    """Return one line for each tensor in which two models differ in structure."""
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


class WeightedDeltas(Sequence[Tensor]):
    """The weighted task vectors of one tensor; each access reads one of them.

    Args:
        vectors: the task vectors of all experts.
        weights: one factor for each.
        name: the tensor.
        keep: keep a task vector in memory after the first access, if they are not too large.
        shares: the share of each expert (:mod:`lors.merge.shares`), or None.
    """

    KEPT_BYTES = 64 * 2**20

    def __init__(
        self,
        vectors: Sequence[TaskVector],
        weights: Sequence[float],
        name: str,
        keep: bool,
        shares: Sequence[Tensor | float | None],
    ):
        self._vectors, self._weights, self._name = vectors, weights, name
        self._shares = shares
        size = 4 * math.prod(vectors[0].base.shape(name)) * len(vectors)
        self._keep = keep and size <= self.KEPT_BYTES
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        places = range(len(self._vectors))
        if isinstance(index, slice):
            return [self[place] for place in places[index]]
        index = places[index]
        if index in self._kept:
            return self._kept[index]
        delta = weighted(self._vectors[index].delta(self._name), self._weights[index])
        delta = shared(delta, self._shares[index])
        if self._keep:
            self._kept[index] = delta
        return delta


def weighted(delta: Tensor, weight: float) -> Tensor:
    """Multiply a task vector by a weight, in place."""
    return delta if weight == 1 else delta.mul_(weight)


def add_delta(
    name: str,
    base: Tensor,
    delta: Tensor | None,
    scaling_coef: float,
    dtype: torch.dtype | None,
    out: Tensor | None = None,
) -> Tensor:
    """Return ``base + scaling_coef * delta`` in `dtype`.

    Args:
        name: name of the tensor, for the error.
        base: the tensor to which the delta is added. A tensor of integers is returned unchanged.
        delta: the merged delta, float32, of the same shape; None for no change.
        scaling_coef: factor of the delta.
        dtype: dtype of the result; by default that of `base`.
        out: tensor to write the result to, if it needs no rounding.

    Raises:
        LorsError: the result overflows `dtype`.
    """
    if not base.is_floating_point():
        return base
    dtype = dtype or base.dtype
    if delta is None:
        return base.to(dtype)
    exact = torch.promote_types(base.dtype, delta.dtype)
    if exact == dtype:
        merged = torch.add(base.to(exact), delta, alpha=scaling_coef, out=out)
    else:
        merged = torch.add(base.to(exact), delta, alpha=scaling_coef).to(dtype)
    if not all_finite(merged):
        raise LorsError(
            f"the merged tensor overflows {merged.dtype}",
            where=name,
            hint="use a smaller scaling_coef or another --dtype",
        )
    return merged
