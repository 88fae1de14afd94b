"""The engine of one merge: its tensors one by one, in parallel, in pieces or stacks.

Each tensor is merged by one thread, so that the result does not depend on the number of threads.
How it is merged depends on the method and on the tensor: some rows at a time where a row of the
result needs the same row of the task vectors only, in one otherwise, and with others of its shape
where a device can decompose them together.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lors.checkpoint.finite import all_finite, check_finite, difference
from lors.errors import LorsError, UsageError
from lors.linalg.calibration import calibrate_singular_values
from lors.linalg.combine import sum_of
from lors.linalg.low_rank import LowRank, low_rank_factors, low_rank_of_product
from lors.linalg.parallel import in_order
from lors.linalg.sparsify import PooledThreshold
from lors.merge.decompositions import Decompositions
from lors.merge.plan import MergeInputs, MergePlan
from lors.merge.task_vector import TaskVector

WINDOW_BYTES = 64 * 2**20
"""Of the tensors among which matrices of one shape are decomposed together."""
PIECE = 2**17
"""Entries of a large tensor that are merged at a time where that is possible."""


def check_threads(nj: int) -> None:
    """Check the number of threads; UsageError if there are none."""
    if nj < 1:
        raise UsageError("no threads to work with", where="--nj", expected="1 or more", got=nj)


class _Deltas(Sequence[Tensor]):
    """The weighted task vectors of one tensor, read when they are asked for.

    Args:
        keep: whether to keep what was read for the next time, if it is not too large.
    """

    KEPT_BYTES = 64 * 2**20

    def __init__(
        self, vectors: Sequence[TaskVector], weights: Sequence[float], name: str, keep: bool
    ):
        self._vectors, self._weights, self._name = vectors, weights, name
        size = 4 * math.prod(vectors[0].base.shape(name)) * len(vectors)
        self._keep = keep and size <= self.KEPT_BYTES
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, index: int) -> Tensor:
        if index in self._kept:
            return self._kept[index]
        if not 0 <= index < len(self._vectors):
            raise IndexError(index)
        delta = _weighted(self._vectors[index].delta(self._name), self._weights[index])
        if self._keep:
            self._kept[index] = delta
        return delta


class Merger:
    """One merge, tensor by tensor.

    Args:
        plan: what to merge.
        inputs: its files.
        nj: number of threads; the result does not depend on it.
        cache: where decompositions are kept.
        device: where matrices of one shape are decomposed together, if the method can do that.
    """

    def __init__(
        self,
        plan: MergePlan,
        inputs: MergeInputs,
        nj: int = 1,
        cache: Decompositions | None = None,
        device: str | None = None,
    ):
        check_threads(nj)
        self.plan, self.inputs, self.nj, self.cache = plan, inputs, nj, cache
        self.method, self.actions = plan.merge_method, inputs.actions
        self.sizes = {name: 4 * math.prod(shape) for name, (shape, _) in inputs.base.spec().items()}
        self._pooled: list[float | None] = [None] * len(inputs.vectors)
        if self.method.pools(plan.params):
            self._pooled = [self._pooled_threshold(i) for i in range(len(inputs.vectors))]
        stacked = plan.svc is None and cache is None and self.method.takes_stacks(plan.params)
        self.device = device if stacked else None
        if device is not None and not stacked:
            logging.info("%s is merged on the CPU, one tensor at a time", plan.method)
        self._from_stacks: dict[str, Tensor] = {}

    def run(self, work: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, work(name))`` of all tensors in order; `work` is merged(), or calls it."""
        if self.device is None:
            yield from in_order(work, self.sizes, self.nj)
            return
        for window in _windows(self.sizes, WINDOW_BYTES):
            self._from_stacks = self._merge_stacks(window)
            yield from in_order(work, window, self.nj)
        self._from_stacks = {}

    def deltas(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, delta(name))`` of these tensors in order."""
        return in_order(self.delta, {name: self.sizes[name] for name in names}, self.nj)

    def delta(self, name: str) -> Tensor:
        """The merged delta of one tensor in float32, before scaling_coef."""
        by_rows = self._by_rows(name, torch.float32, lambda rows, _: rows)
        return self._in_one(name) if by_rows is None else by_rows

    def merged(self, name: str) -> Tensor:
        """One tensor of the merged model."""
        plan, start = self.plan, self.inputs.onto.tensor(name)
        self.check_start(name)
        if self.actions[name] == "copy":
            return merged_tensor(name, start, None, plan.scaling_coef, plan.torch_dtype)

        def finish(delta: Tensor, rows: slice) -> Tensor:
            return merged_tensor(name, start[rows], delta, plan.scaling_coef, plan.torch_dtype)

        by_rows = self._by_rows(name, plan.torch_dtype or start.dtype, finish)
        if by_rows is not None:
            return by_rows
        delta = self._in_one(name)
        return merged_tensor(name, start, delta, plan.scaling_coef, plan.torch_dtype)

    def check_start(self, name: str) -> None:
        """Check what no task vector shows: the values that the delta is added to, and of a tensor
        that is copied those of all models, because one that diverged is not to be merged.

        Raises:
            LorsError: NaN or infinite values.
        """
        models = [self.inputs.onto] if self.inputs.onto is not self.inputs.base else []
        if self.actions[name] == "copy":
            models += [self.inputs.base, *(vector.finetuned for vector in self.inputs.vectors)]
        for model in models:
            check_finite(model.tensor(name), f"{model.path}: {name}")

    def _merge_stacks(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The merged deltas of those matrices that can be merged together with others."""
        by_shape: dict[tuple[int, ...], list[str]] = {}
        vectors = self.inputs.vectors
        for name in names:
            if self.actions[name] == "prune" and not self._is_adapted(name):
                by_shape.setdefault(self.inputs.base.shape(name), []).append(name)
        merged = {}
        for shape, alike in by_shape.items():
            deltas = [d.reshape(shape[0], -1) for name in alike for d in self._deltas(name)]
            stack = torch.stack(deltas).to(self.device)
            parts = self.method.parts_of_stack(stack, self.plan.params)
            parts = parts.reshape(len(alike), len(vectors), *parts.shape[1:])
            total = sum_of(parts[:, index] for index in range(len(vectors))).cpu()
            merged |= zip(alike, total.reshape(len(alike), *shape), strict=True)
        return merged

    def _in_one(self, name: str) -> Tensor:
        if name in self._from_stacks:
            return self._from_stacks.pop(name)
        params, deltas, supplied = self.plan.params, self._deltas(name), self._supplied(name)
        if self.plan.svc is None or not supplied["prune"]:
            return self.method(deltas, params, supplied)
        parts = [self.method.part(d, index, params, supplied) for index, d in enumerate(deltas)]
        return calibrate_singular_values(parts, self.plan.svc)

    def _by_rows(
        self, name: str, dtype: torch.dtype, finish: Callable[[Tensor, slice], Tensor]
    ) -> Tensor | None:
        """A tensor merged some rows at a time, in the processor's cache, if the method allows it.

        Args:
            name: of the tensor.
            dtype: of the result.
            finish: makes rows of the result of the same rows of the merged delta.

        Returns:
            The whole; None if this tensor must be merged in one.
        """
        plan, vectors = self.plan, self.inputs.vectors
        shape = self.inputs.base.shape(name)
        prune = self.actions[name] == "prune"
        if not shape or (plan.svc is not None and prune) or not self.method.is_rowwise(prune):
            return None
        if self._is_adapted(name):
            return None
        supplied = self._supplied(name)
        if self.method.survey is not None:
            supplied["surveyed"] = self.method.surveys(self._deltas(name), plan.params)
        # Asking for a tensor has a price, so once for all pieces.
        base = self.inputs.base.tensor(name)
        experts = [vector.finetuned.tensor(name) for vector in vectors]
        result = torch.empty(shape, dtype=dtype)
        width = math.prod(shape[1:])
        # Of four rows, so that four draws can come from one random number (see random_prune). A
        # vector is one row.
        step = max(1, PIECE // max(4 * width, 1)) * 4 if len(shape) > 1 else max(1, shape[0])
        for start in range(0, shape[0], step):
            rows = slice(start, start + step)
            deltas = [
                _weighted(difference(expert[rows], base[rows]), weight)
                for expert, weight in zip(experts, plan.weights, strict=True)
            ]
            merged = self.method(deltas, plan.params, {**supplied, "start": start * width})
            if not all_finite(merged):
                for vector in vectors:
                    vector.delta(name)  # to say which model it comes from
            result[rows] = finish(merged, rows)
        return result

    def _is_adapted(self, name: str) -> bool:
        """Whether an expert has this task vector as two factors."""
        return any(vector.finetuned.is_adapted(name) for vector in self.inputs.vectors)

    def _deltas(self, name: str) -> _Deltas:
        # A sum looks at each of them once only.
        keep = not self.method.per_expert
        return _Deltas(self.inputs.vectors, self.plan.weights, name, keep)

    def _supplied(self, name: str) -> dict[str, Any]:
        """What a method may ask for beside the task vectors of a tensor."""

        @functools.cache
        def random_of(index: int) -> np.random.Generator:
            # The same numbers whatever is merged before, after or at the same time.
            return np.random.default_rng([self.plan.seed, index, *name.encode()])

        return {
            "prune": self.actions[name] == "prune",
            "random_of": random_of,
            "low_rank_of": lambda index: self._low_rank_of(name, index),
            "pooled_of": lambda index: self._pooled[index],
        }

    def _low_rank_of(self, name: str, index: int) -> LowRank:
        """How the low-rank part of an expert's task vector is found."""
        vector = self.inputs.vectors[index]
        factors = vector.finetuned.factors(name)
        if factors is not None:
            up, down = self.plan.weights[index] * factors[0], factors[1]
            return lambda _, rank: low_rank_of_product(up, down, rank)
        if self.cache is not None:
            return functools.partial(self.cache.low_rank, vector, name)
        return low_rank_factors

    def _pooled_threshold(self, index: int) -> float:
        """The threshold that the matrices of an expert share."""
        sizes = {name: size for name, size in self.sizes.items() if self.actions[name] == "prune"}
        pooled = PooledThreshold(self.plan.params["density"])

        def add(name: str) -> None:
            delta, low_rank = self._deltas(name)[index], self._low_rank_of(name, index)
            pooled.add(self.method.pooled(delta, self.plan.params, low_rank))

        for _ in range(pooled.PASSES):
            for _done in in_order(add, sizes, self.nj):
                pass
            pooled.end_pass()
        return pooled.threshold


def _windows(sizes: Mapping[str, int], limit: int) -> Iterator[dict[str, int]]:
    """Consecutive entries of `sizes` that make up about `limit`."""
    window: dict[str, int] = {}
    for name, size in sizes.items():
        if window and sum(window.values()) + size > limit:
            yield window
            window = {}
        window[name] = size
    if window:
        yield window


def _weighted(delta: Tensor, weight: float) -> Tensor:
    return delta if weight == 1 else delta.mul_(weight)


def merged_tensor(
    name: str,
    base: Tensor,
    delta: Tensor | None,
    scaling_coef: float,
    dtype: torch.dtype | None,
    out: Tensor | None = None,
) -> Tensor:
    """``base + scaling_coef * delta`` in `dtype`; `base` itself if there is no delta.

    Args:
        name: of the tensor, for the error.
        base: what the delta is added to; of integers the result is always `base`.
        delta: float32, of the same shape.
        scaling_coef: factor of the delta.
        dtype: of the result; by default the base's.
        out: where to write the result, if it needs no rounding.

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
