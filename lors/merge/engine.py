"""The engine of a merge: one formula for every tensor, run on one of three routes.

The formula comes from the merge method (:mod:`lors.merge.methods.base`). :meth:`Merger.route`
chooses how much of the model goes through the formula at once:

- **rows**: some rows of one tensor, so that they stay in the processor's cache. Used for methods
  with ``Execution.rowwise``, and for the tensors that a method of matrices only sums or averages.
- **stack**: all matrices of one shape in a window of tensors, on a device such as a GPU. Used for
  pruned matrices, if a device is given, ``Execution.stacks`` allows it, and there are neither
  calibration, nor boosting, nor kept decompositions.
- **whole**: one tensor. Used for all other tensors, and for every tensor that an adapter changes or
  whose singular values are calibrated or boosted.

All routes compute the same delta. The routes rows and whole give the same bytes; the route stack
differs from them by the rounding of the decompositions on the device. On the routes rows and whole
one thread merges a tensor, so the bytes do not depend on the number of threads.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from lors.checkpoint.finite import all_finite, check_finite, difference
from lors.errors import LorsError, UsageError
from lors.linalg.calibration import boost_singular_values, calibrate_singular_values
from lors.linalg.combine import sum_of
from lors.linalg.low_rank import LowRank, low_rank_factors, low_rank_of_product
from lors.linalg.parallel import map_in_order
from lors.linalg.sparsify import GlobalThreshold
from lors.merge.decompositions import Decompositions
from lors.merge.methods.base import TensorContext
from lors.merge.plan import MergeInputs, MergePlan, shares_of
from lors.merge.shares import shared
from lors.merge.task_vector import WeightedDeltas, add_delta, weighted

Route = Literal["rows", "stack", "whole"]
Result = TypeVar("Result")
WINDOW_BYTES = 64 * 2**20
"""Size of the consecutive tensors among which matrices of one shape form a stack."""
PIECE = 2**17
"""Entries of a tensor that are merged at a time on the route rows."""


class Merger:
    """One merge, tensor by tensor.

    Args:
        plan: the plan.
        inputs: its open files.
        nj: number of threads; the result does not depend on it.
        cache: directory of kept decompositions.
        device: torch device for stacks of matrices; by default there are no stacks.

    Raises:
        UsageError: `nj` is less than 1, or torch cannot compute on the device.
        LorsError: the plan has `lines`, but its policy finds no layers.
    """

    def __init__(
        self,
        plan: MergePlan,
        inputs: MergeInputs,
        nj: int = 1,
        cache: Decompositions | None = None,
        device: str | None = None,
    ):
        if nj < 1:
            raise UsageError("no threads to work with", where="--nj", expected="1 or more", got=nj)
        self.plan, self.inputs, self.nj, self.cache = plan, inputs, nj, cache
        self.method, self.params = plan.merge_method, plan.method_params
        self._plain_params = plan.plain_params
        self.sizes = {name: 4 * math.prod(shape) for name, (shape, _) in inputs.base.spec().items()}
        self.depths = _depths(plan, inputs)
        self.shares = shares_of(plan, inputs)
        self.device = device
        if device is not None:
            _check_device(device)
            allowed = self.method.execution.stacks
            if (
                self._changes_singular_values
                or cache is not None
                or not (allowed and allowed(**self.params))
            ):
                logging.info("%s is merged on the CPU, one tensor at a time", plan.method)
                self.device = None
        self._stacked: dict[str, Tensor] = {}
        self._thresholds: list[float | None] = [None] * len(inputs.vectors)

    def run(self, work: Callable[[str], Result]) -> Iterator[tuple[str, Result]]:
        """Yield ``(name, work(name))`` for all tensors in order; `work` calls :meth:`merged`."""
        self._thresholds = self._global_thresholds()
        if self.device is None:
            yield from map_in_order(work, self.sizes, self.nj)
            return
        for window in _windows(self.sizes, WINDOW_BYTES):
            self._stacked = self._by_stacks(window)
            yield from map_in_order(work, window, self.nj)

    def deltas(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, delta)`` for these tensors in order; the deltas are float32."""
        self._thresholds = self._global_thresholds()
        yield from map_in_order(self._delta, {name: self.sizes[name] for name in names}, self.nj)

    def merged(self, name: str) -> Tensor:
        """Return one tensor of the merged model."""
        start = self.inputs.onto.tensor(name)
        self.check_values(name)
        scaling_coef, dtype = self.plan.scaling_coef, self.plan.torch_dtype
        if self.inputs.actions[name] == "copy":
            return add_delta(name, start, None, scaling_coef, dtype)
        if self.route(name) != "rows":
            delta = self._scaled(name, self._at_once(name))
            return add_delta(name, start, delta, scaling_coef, dtype)

        def finish(delta: Tensor, rows: slice) -> Tensor:
            return add_delta(name, start[rows], self._scaled(name, delta), scaling_coef, dtype)

        return self._by_rows(name, dtype or start.dtype, finish)

    def check_values(self, name: str) -> None:
        """Check the values that are in no task vector; a task vector checks its values itself.

        These values are the tensor of `onto` and, for a tensor that is copied, of all models.

        Raises:
            LorsError: a value is NaN or infinite.
        """
        inputs = self.inputs
        models = [inputs.onto] if inputs.onto is not inputs.base else []
        if inputs.actions[name] == "copy":
            models += [inputs.base, *inputs.experts]
        for model in models:
            check_finite(model.tensor(name), f"{model.path}: {name}")

    def route(self, name: str) -> Route:
        """Return the route of a tensor that is pruned or merged whole."""
        prune = self.inputs.actions[name] == "prune"
        if any(expert.is_adapted(name) for expert in self.inputs.experts):
            return "whole"  # the expert holds the change of the whole tensor
        if prune and self.device is not None:
            return "stack"
        only_combined = self.method.applies_to == "matrices" and not prune
        rowwise = self.method.execution.rowwise or only_combined
        # A tensor without dimensions has no rows.
        if prune and self._changes_singular_values:
            return "whole"
        return "rows" if rowwise and self.inputs.base.shape(name) else "whole"

    @property
    def _changes_singular_values(self) -> bool:
        return self.plan.svc is not None or self.plan.boost is not None

    def _delta(self, name: str) -> Tensor:
        if self.route(name) == "rows":
            return self._by_rows(name, torch.float32, lambda delta, _: self._scaled(name, delta))
        return self._scaled(name, self._at_once(name))

    def _scaled(self, name: str, delta: Tensor) -> Tensor:
        """Return a merged delta times the factor of LiNeS for its depth."""
        if self.plan.lines is None:
            return delta
        alpha, beta = self.plan.lines
        return delta * (alpha + beta * self.depths.get(name, 0.0))

    def _at_once(self, name: str) -> Tensor:
        """Return the delta of a tensor whose route is stack or whole."""
        return self._stacked.pop(name) if name in self._stacked else self._whole(name)

    def _whole(self, name: str) -> Tensor:
        """Return the delta of a tensor whose route is whole."""
        deltas, context = self._deltas(name), self.context(name)
        if self.plan.svc is None or not context.prune:
            delta = self.method.merge(deltas, self.params, context)
        else:
            terms = [self.method.term(d, i, self.params, context) for i, d in enumerate(deltas)]
            delta = calibrate_singular_values(terms, self.plan.svc)
        if self.plan.boost is None or not context.prune:
            return delta
        return boost_singular_values(delta, self.plan.boost)

    def _by_stacks(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the deltas of the tensors whose route is stack."""
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for name in names:
            if self.inputs.actions[name] == "prune" and self.route(name) == "stack":
                by_shape.setdefault(self.inputs.base.shape(name), []).append(name)
        merged: dict[str, Tensor] = {}
        count = len(self.inputs.vectors)
        for shape, alike in by_shape.items():
            matrices = [d.reshape(shape[0], -1) for name in alike for d in self._deltas(name)]
            terms = self.method.function(torch.stack(matrices).to(self.device), **self.params)
            terms = terms.reshape(len(alike), count, *terms.shape[1:])
            total = sum_of(terms[:, index] for index in range(count)).cpu()
            merged |= zip(alike, total.reshape(len(alike), *shape), strict=True)
        return merged

    def _by_rows(
        self, name: str, dtype: torch.dtype, finish: Callable[[Tensor, slice], Tensor]
    ) -> Tensor:
        """Return the merged tensor, or its delta, for a tensor whose route is rows.

        Args:
            name: the tensor.
            dtype: dtype of the result.
            finish: function of some rows of the delta and the slice of these rows; returns the rows
                of the result.
        """
        plan, inputs = self.plan, self.inputs
        shape, context = inputs.base.shape(name), self.context(name)
        stats = self.method.execution.stats
        if stats is not None:
            found = [stats(delta, **self.params) for delta in self._deltas(name)]
            context = dataclasses.replace(context, stats=found)
        shares = self._shares(name)
        # Get each tensor once: an access has a cost.
        base, experts = inputs.base.tensor(name), [e.tensor(name) for e in inputs.experts]
        result = torch.empty(shape, dtype=dtype)
        width = math.prod(shape[1:])
        # A multiple of four rows, because random_prune draws four entries from one random number. A
        # vector is one row.
        step = max(1, PIECE // max(4 * width, 1)) * 4 if len(shape) > 1 else max(1, shape[0])
        for start in range(0, shape[0], step):
            rows = slice(start, start + step)
            deltas = [
                shared(weighted(difference(expert[rows], base[rows]), weight), share, rows)
                for expert, weight, share in zip(experts, plan.weights, shares, strict=True)
            ]
            context = dataclasses.replace(context, start=start * width)
            merged = self.method.merge(deltas, self.params, context)
            if not all_finite(merged):
                for vector in inputs.vectors:
                    vector.delta(name)  # raises an error that names the model
            result[rows] = finish(merged, rows)
        return result

    def _deltas(self, name: str) -> WeightedDeltas:
        # A sum reads each task vector only once.
        keep = not self.method.is_sum
        return WeightedDeltas(
            self.inputs.vectors, self.plan.weights, name, keep, self._shares(name)
        )

    def _shares(self, name: str) -> Sequence[Tensor | float | None]:
        if self.shares is None:
            return [None] * len(self.inputs.vectors)
        return self.shares.of(name)

    def context(self, name: str) -> TensorContext:
        """Return the facts about a tensor; within :meth:`run` and :meth:`deltas`."""

        @functools.cache
        def random_of(index: int) -> np.random.Generator:
            # The numbers do not depend on the tensors that are merged before or at the same time.
            return np.random.default_rng([self.plan.seed, index, *name.encode()])

        return TensorContext(
            prune=self.inputs.actions[name] == "prune",
            random_of=random_of,
            low_rank_of=functools.partial(self._low_rank_of, name),
            threshold_of=self._thresholds.__getitem__,
            is_term=functools.partial(self._is_term, name),
        )

    def _is_term(self, name: str, index: int) -> bool:
        if self.shares is not None:
            return False  # the restricted task vector is another one
        expert = self.inputs.experts[index]
        return expert.is_term(name, self.plan.method, self._plain_params)

    def _low_rank_of(self, name: str, index: int) -> LowRank:
        """Return the function that finds the low-rank part of an expert's task vector."""
        if self.shares is not None:
            return low_rank_factors  # of the restricted task vector, which no factors give
        vector = self.inputs.vectors[index]
        factors = vector.finetuned.factors(name)
        if factors is not None:
            up, down = self.plan.weights[index] * factors[0], factors[1]
            return lambda _, rank: low_rank_of_product(up, down, rank)
        if self.cache is not None:
            return functools.partial(self.cache.low_rank, vector, name)
        return low_rank_factors

    def _global_thresholds(self) -> list[float | None]:
        """Return the global threshold of each expert; None if the method has none."""
        experts = range(len(self.inputs.vectors))
        magnitudes = self.method.execution.global_magnitudes
        if magnitudes is None or self.params["threshold"] != "global":
            return [None for _ in experts]
        return [self._global_threshold(index, magnitudes) for index in experts]

    def _global_threshold(self, index: int, magnitudes: Callable[..., Tensor]) -> float:
        """Return the threshold over all pruned matrices of an expert."""
        names = self.inputs.names("prune")
        sizes = {name: self.sizes[name] for name in names if not self._is_term(name, index)}
        found = GlobalThreshold(self.params["density"])

        def add(name: str) -> None:
            delta, low_rank = self._deltas(name)[index], self._low_rank_of(name, index)
            matrix = delta.reshape(delta.shape[0], -1)
            found.add(magnitudes(matrix, low_rank=low_rank, **self.params))

        for _ in range(found.PASSES):
            for _done in map_in_order(add, sizes, self.nj):
                pass
            found.end_pass()
        return found.threshold


def _depths(plan: MergePlan, inputs: MergeInputs) -> dict[str, float]:
    """Return the depth of each tensor in its stack of layers, if LiNeS needs it.

    Raises:
        LorsError: the policy finds no layers.
    """
    if plan.lines is None:
        return {}
    depths = inputs.policy.depths(inputs.base.names())
    if not depths:
        raise LorsError(
            "LiNeS needs the depths of the layers, but the policy finds no layers",
            where=f"the policy {plan.policy or inputs.policy.name} on {plan.base}",
            expected="patterns of the layers under `stacks`",
            got=", ".join(inputs.policy.stacks) or "no `stacks`",
            hint="leave --policy out, or add `stacks` to the policy, as in lors/merge/policies",
        )
    return depths


def _windows(sizes: Mapping[str, int], limit: int) -> Iterator[dict[str, int]]:
    """Yield consecutive entries of `sizes` with a sum of about `limit`."""
    window: dict[str, int] = {}
    for name, size in sizes.items():
        if window and sum(window.values()) + size > limit:
            yield window
            window = {}
        window[name] = size
    if window:
        yield window


def _check_device(device: str) -> None:
    """Check that torch can compute on a device; UsageError if not."""
    try:
        torch.zeros(1, device=device).item()  # torch's device "meta" has no values
    except (RuntimeError, AssertionError) as error:
        reason = re.split(r"\n|\. ", str(error))[0]  # without torch's pages of advice
        raise UsageError(
            "cannot compute on this device",
            where="--device",
            expected="cpu, cuda",
            got=f"{device}: {reason}",
        ) from None
