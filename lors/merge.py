"""Merging: a plan's execution, one tensor at a time, and deltas to reuse in a sweep.

The merged model is ``base + scaling_coef * delta`` for every tensor that the policy prunes or
merges whole; the method makes the delta from the experts' weighted task vectors. The other tensors
are the base model's. Tensors are merged in parallel, each by one thread, and come out in order.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lors.calibration import calibrate_singular_values
from lors.checkpoint import Checkpoint, size_of
from lors.checkpoint_writer import CheckpointWriter
from lors.decompositions import Decompositions
from lors.errors import LorsError, UsageError
from lors.fileio import write_text
from lors.log import show_progress
from lors.low_rank import LowRank, low_rank_factors, low_rank_of_product
from lors.merge_methods import sum_of
from lors.merge_plan import MergeInputs, MergePlan, check_distinct, open_inputs
from lors.merge_record import (
    RECORD_NAME,
    check_target,
    read_history,
    write_record,
)
from lors.naming import names_in
from lors.parallel import in_order
from lors.prune import PooledThreshold
from lors.task_vector import TaskVector, all_finite
from lors.vocabulary import ESPNET_CONFIG
from lors.whisper_dims import whisper_dims

WINDOW_BYTES = 64 * 2**20
"""Of the tensors among which matrices of one shape are decomposed together."""
PIECE = 2**17
"""Entries of a large tensor that are merged at a time where that is possible."""


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


class _Merger:
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

    def delta(self, name: str) -> Tensor:
        """The merged delta of one tensor in float32, before scaling_coef."""
        by_rows = self._by_rows(name, torch.float32, lambda rows, _: rows)
        return self._in_one(name) if by_rows is None else by_rows

    def merged(self, name: str) -> Tensor:
        """One tensor of the merged model."""
        plan, start = self.plan, self.inputs.onto.tensor(name)
        if self.actions[name] == "copy":
            return _merged_tensor(name, start, None, plan.scaling_coef, plan.torch_dtype)

        def finish(delta: Tensor, rows: slice) -> Tensor:
            return _merged_tensor(name, start[rows], delta, plan.scaling_coef, plan.torch_dtype)

        by_rows = self._by_rows(name, plan.torch_dtype or start.dtype, finish)
        if by_rows is not None:
            return by_rows
        delta = self._in_one(name)
        return _merged_tensor(name, start, delta, plan.scaling_coef, plan.torch_dtype)

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
        result = torch.empty(shape, dtype=dtype)
        width = math.prod(shape[1:])
        # A vector is one row.
        step = max(1, PIECE // max(width, 1)) if len(shape) > 1 else max(1, shape[0])
        for start in range(0, shape[0], step):
            rows = slice(start, start + step)
            deltas = [
                _weighted(vector.delta(name, rows, check=False), weight)
                for vector, weight in zip(vectors, plan.weights, strict=True)
            ]
            merged = self.method(deltas, plan.params, {**supplied, "start": start * width})
            if not all_finite(merged):
                for vector in vectors:
                    vector.delta(name)  # to say which model it comes from
            result[rows] = finish(merged, rows)
        return result

    def _is_adapted(self, name: str) -> bool:
        """Whether an expert has this task vector as two factors."""
        return any(vector.finetuned.factors(name) for vector in self.inputs.vectors)

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


def merged_delta(
    plan: MergePlan,
    inputs: MergeInputs | None = None,
    nj: int = 1,
    cache: Decompositions | None = None,
    reuse: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """All merged deltas before scaling_coef, for a sweep: see :func:`apply_delta`.

    Args:
        plan: what to merge.
        inputs: the plan's files if they are open already (for several plans on the same files).
        nj: number of threads; the result does not depend on it.
        cache: where decompositions are kept, for further merges of the same experts.
        reuse: the deltas of a plan that differs in the method's parameters only. Of a method of
            matrices all others are taken from it: its parameters do not change them.

    Raises:
        LorsError: as :func:`open_inputs` and :func:`check_distinct`, or NaN or infinite values in a
            model.
    """
    inputs = inputs or open_inputs(plan)
    check_distinct(inputs)
    merger = _Merger(plan, inputs, nj, cache)
    known = {}
    sizes = {n: size for n, size in merger.sizes.items() if inputs.actions[n] != "copy"}
    if reuse and plan.merge_method.scope == "matrices":
        known = {n: delta for n, delta in reuse.items() if inputs.actions[n] != "prune"}
    missing = {n: size for n, size in sizes.items() if n not in known}
    found = known | dict(in_order(merger.delta, missing, nj))
    return {name: found[name] for name in sizes}


def apply_delta(
    base: Checkpoint,
    delta: Mapping[str, Tensor],
    scaling_coef: float,
    dtype: torch.dtype | None = None,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The state dict ``base + scaling_coef * delta``: all that another scaling_coef costs.

    Args:
        base: the base model.
        delta: from :func:`merged_delta`; other tensors are the base model's own, not copies.
        scaling_coef: factor of the delta.
        dtype: of the floating-point tensors; by default each keeps the base's.
        out: what an earlier call with these arguments but for `scaling_coef` returned, to be
            written over (which spares the allocation of a model).
    """
    state = {}
    for name in base.names():
        room = out[name] if out is not None and name in delta else None
        state[name] = _merged_tensor(
            name, base.tensor(name), delta.get(name), scaling_coef, dtype, room
        )
    return state


def iter_merged(
    plan: MergePlan,
    inputs: MergeInputs | None = None,
    nj: int = 1,
    device: str | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield every ``(name, tensor)`` of the merged model in the base model's order.

    Args:
        plan: what to merge.
        inputs: the plan's files if they are open already.
        nj: number of threads; the result does not depend on it.
        device: torch device on which matrices of one shape are decomposed together; by default
            each is by itself, on the CPU. For lors and svp, without `cache` and calibration.

    Raises:
        LorsError: as :func:`open_inputs`, or NaN or infinite values in a model.
    """
    merger = _Merger(plan, inputs or open_inputs(plan), nj, device=device)
    yield from merger.run(merger.merged)


def _merged_tensor(
    name: str,
    base: Tensor,
    delta: Tensor | None,
    scaling_coef: float,
    dtype: torch.dtype | None,
    out: Tensor | None = None,
) -> Tensor:
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


def run_merge(
    plan: MergePlan,
    out: str | os.PathLike,
    nj: int = 1,
    cache: Decompositions | None = None,
    names: str | None = None,
    device: str | None = None,
) -> None:
    """Merge and write the model `out`, with ``merge.yaml`` and the base's model config beside it.

    ``merge.yaml`` says what is in the model: the resolved plan, the policy, the fingerprints of
    all inputs and the version of LoRS. The base model's ``config.yaml``, if there is one, is
    copied, so that ESPnet can load the result.

    Args:
        plan: what to merge.
        out: a file name that ends in ``.pth``, ``.safetensors`` or ``.pt`` (OpenAI's Whisper); its
            directory is made.
        nj: number of threads; the file does not depend on it.
        cache: where decompositions are kept, for further merges of the same experts.
        names: family whose names the tensors get (:func:`lors.naming.families`); by default they
            keep those of the base model, and a ``.pt`` has OpenAI's.
        device: as for :func:`iter_merged`.

    Raises:
        UsageError: a ``.pt`` under other names than OpenAI's.
        LorsError: as :func:`merged_delta`; there is no such name for a tensor; the plan's `onto`
            has another base model or one of the experts already; `out` is one of the inputs or
            its directory holds another model; or writing fails.
    """
    out = Path(out)
    inputs = open_inputs(plan)
    config = check_target(plan, out)
    renamed, dims = _names_of(inputs.base, out, names)
    spec = {renamed[name]: entry for name, entry in merged_spec(plan, inputs).items()}
    writer = CheckpointWriter(out, spec, dims)
    logging.info("reading the base model and %d experts", len(plan.experts))
    check_distinct(inputs)
    history = read_history(plan, inputs)
    _warn(plan, inputs)
    merger = _Merger(plan, inputs, nj, cache, device)

    def merged(name: str) -> Tensor:
        tensor = merger.merged(name)
        for model in (inputs.base, *(vector.finetuned for vector in inputs.vectors)):
            model.note(name)  # while its values are at hand: the record needs it
        return tensor

    with writer:
        for name, tensor in tqdm(
            merger.run(merged),
            total=len(inputs.actions),
            desc=f"merge ({plan.method})",
            unit="tensor",
            disable=not show_progress(),
        ):
            writer.add(renamed[name], tensor)
        # From here to the end a record would be that of an older model.
        (out.parent / RECORD_NAME).unlink(missing_ok=True)
    if config is not None and list(renamed) == list(renamed.values()):
        write_text(out.parent / ESPNET_CONFIG, config)
    write_record(plan, inputs, out, history)
    logging.info("merged %d experts into %s", len(plan.experts), out)


def _names_of(
    base: Checkpoint, out: Path, family: str | None
) -> tuple[dict[str, str], dict[str, int] | None]:
    """The name of every tensor in the merged file, and the dimensions that stand in a ``.pt``."""
    if out.suffix == ".pt":
        if family not in (None, "openai"):
            raise UsageError(
                "a .pt is a file of OpenAI's Whisper, with its names",
                where=out,
                expected=".safetensors or .pth for other names",
                got=f"--names {family}",
            )
        return names_in("openai", base.names()), whisper_dims(base)
    if family is None:
        return {name: name for name in base.names()}, None
    return names_in(family, base.names()), None


def merged_spec(
    plan: MergePlan, inputs: MergeInputs
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor of the merged model."""
    return {
        name: (shape, (plan.torch_dtype or dtype) if dtype.is_floating_point else dtype)
        for name, (shape, dtype) in inputs.base.spec().items()
    }


def summary(plan: MergePlan, inputs: MergeInputs) -> str:
    """The resolved plan and what it does to how many tensors, as text for the terminal."""
    lines = [f"base      {plan.base}"]
    lines += [f"expert    {expert}" for expert in plan.experts]
    params = " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in dataclasses.asdict(plan)["params"].items()
    )
    if set(plan.weights) != {1.0}:
        lines.append("weights   " + " ".join(f"{weight:g}" for weight in plan.weights))
    if plan.onto is not None:
        lines.append(f"onto      {plan.onto}")
    lines += [f"method    {plan.method}: {params}"]
    if plan.svc is not None:
        lines.append(f"svc       alpha={plan.svc:g}")
    lines += [f"policy    {inputs.policy.family}", ""]
    lines.append(f"{'action':8}{'tensors':>9}{'parameters':>13}{'MB':>10}")
    spec = merged_spec(plan, inputs)
    groups = {
        action: {name: spec[name] for name, chosen in inputs.actions.items() if chosen == action}
        for action in ("prune", "whole", "copy")
    }
    for label, group in {**groups, "total": spec}.items():
        numel = sum(torch.Size(shape).numel() for shape, _ in group.values())
        lines.append(f"{label:8}{len(group):9}{numel:13}{size_of(group) / 1e6:10.1f}")
    return "\n".join(lines)


def _warn(plan: MergePlan, inputs: MergeInputs) -> None:
    """Log what a user may not expect of this merge."""
    if plan.dtype in ("float16", "bfloat16"):
        logging.warning(
            "rounding to %s can be as large as a small delta; float32 keeps it", plan.dtype
        )
    base = inputs.base
    copied = [name for name, action in inputs.actions.items() if action == "copy"]
    copied = [name for name in copied if base.dtype(name).is_floating_point]
    for expert in (vector.finetuned for vector in inputs.vectors):
        differ = [n for n in copied if not torch.equal(base.tensor(n), expert.tensor(n))]
        if differ:
            logging.warning(
                "the merged model keeps the base model's values where %s differs: %s",
                expert.path,
                ", ".join(differ),
            )
