"""Merging: a plan, its execution one tensor at a time, and deltas to reuse in a sweep.

The merged model is ``base + scaling_coef * delta`` for every tensor that the policy prunes or
merges whole; the method makes the delta from the experts' weighted task vectors. The other tensors
are the base model's. Tensors are merged in parallel, each by one thread, and come out in order.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
import yaml
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm import tqdm

import lors
from lors.calibration import calibrate_singular_values
from lors.checkpoint import Checkpoint, CheckpointWriter, size_of
from lors.config import Range, read_yaml
from lors.errors import LorsError, UsageError
from lors.expert import open_expert, open_model
from lors.fileio import write_text
from lors.log import show_progress
from lors.merge_methods import METHODS, MergeMethod
from lors.policy import Action, Policy, find_policy, load_policy
from lors.task_vector import TaskVector

RECORD_NAME = "merge.yaml"
MODEL_CONFIG_NAME = "config.yaml"


@dataclass(frozen=True)
class MergePlan:
    """What to merge and how. Checked and completed with defaults when made.

    Args:
        base: checkpoint file of the base model.
        experts: checkpoint files of models fine-tuned from it.
        method: name of a merge method.
        params: the method's parameters and scaling_coef; missing ones get their defaults.
        policy: a policy's name or file; by default found from the names of the tensors.
        dtype: of the merged floating-point tensors; by default each keeps the base's.
        seed: for methods that draw random numbers.
        weights: factor of each expert's task vector, negative to take it away; by default 1.
        svc: alpha of the calibration of singular values (:mod:`lors.calibration`) of the pruned
            matrices, for a method that is a sum; by default there is none.
        onto: a merged model that the result is added to in place of the base model, so that
            experts come to it, or by negative weights leave it, without those it has; for a
            method that is a sum.

    Raises:
        UsageError: no experts, an unknown method, or wrong parameters.
    """

    base: str
    experts: tuple[str, ...]
    method: str
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    policy: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    seed: int = 0
    weights: tuple[float, ...] = ()
    svc: Annotated[float, Range(1e-6)] | None = None
    onto: str | None = None

    def __post_init__(self) -> None:
        if not self.experts:
            raise UsageError(
                "nothing to merge", where="experts", expected="one or more checkpoints"
            )
        where = f"params of the merge method {self.method}"
        params = self.merge_method.resolve(self.params, len(self.experts), where)
        object.__setattr__(self, "params", params)
        weights = self.weights or (1.0,) * len(self.experts)
        if len(weights) != len(self.experts):
            raise UsageError(
                "a weight for every expert, or none at all",
                where="weights",
                expected=f"{len(self.experts)} numbers",
                got=" ".join(f"{weight:g}" for weight in weights),
            )
        object.__setattr__(self, "weights", tuple(map(float, weights)))
        for option in ("svc", "onto"):
            if getattr(self, option) is not None and not self.merge_method.per_expert:
                sums = [name for name in METHODS if METHODS.get(name).per_expert]
                raise UsageError(
                    f"{option} needs a method that sums what every expert adds by itself",
                    where=f"the merge method {self.method}",
                    expected=f"one of: {', '.join(sums)}",
                )

    @property
    def merge_method(self) -> MergeMethod:
        return METHODS.get(self.method)

    @property
    def scaling_coef(self) -> float:
        return self.params["scaling_coef"]

    @property
    def torch_dtype(self) -> torch.dtype | None:
        return None if self.dtype is None else getattr(torch, self.dtype)


@dataclass(frozen=True)
class MergeInputs:
    """The opened files of a plan; plans that differ in method, params or dtype share them."""

    base: Checkpoint
    vectors: tuple[TaskVector, ...]
    policy: Policy
    actions: dict[str, Action]
    onto: Checkpoint
    """What the delta is added to: the base model itself, or the plan's `onto`."""


def open_inputs(plan: MergePlan) -> MergeInputs:
    """Open the files of a plan and check that they fit together; no values are read yet.

    Raises:
        LorsError: a file cannot be read, an expert has another structure than the base model, or
            no policy fits.
    """
    base = open_model(plan.base)
    vectors = tuple(TaskVector(base, open_expert(base, path)) for path in plan.experts)
    if plan.policy is None:
        policy = find_policy(base.names(), where=plan.base)
    else:
        policy = load_policy(plan.policy)
    onto = base
    if plan.onto is not None:
        onto = TaskVector(base, open_model(plan.onto)).finetuned
    return MergeInputs(base, vectors, policy, policy.actions(base.spec()), onto)


def check_distinct(inputs: MergeInputs) -> None:
    """Check by their values that no expert is the base model and none is given twice.

    Different models differ in one of their first tensors, so hardly anything is read.

    Raises:
        LorsError: two of the models hold the same weights; all such experts are listed.
    """
    known = [(inputs.base, f"the base model {inputs.base.path}")]
    problems = []
    for vector in inputs.vectors:
        expert = vector.finetuned
        for model, title in known:
            if _same_weights(model, expert):
                problems.append(f"{expert.path} holds the same weights as {title}")
                break
        else:
            known.append((expert, f"the expert {expert.path}"))
    if problems:
        raise LorsError(
            "the models to merge are not all different",
            got="\n    - ".join(["", *problems]),
            hint="give the base model once and every expert once",
        )


def _same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    # Matrices first: of some biases and counters all experts may have the same values.
    names = sorted(one.names(), key=lambda name: -len(one.shape(name)))
    return all(torch.equal(one.tensor(name), other.tensor(name)) for name in names)


class _Deltas(Sequence[Tensor]):
    """The weighted task vectors of one tensor; large ones are read again at every access."""

    KEPT_BYTES = 64 * 2**20

    def __init__(self, vectors: Sequence[TaskVector], weights: Sequence[float], name: str):
        self._vectors, self._weights, self._name = vectors, weights, name
        size = 4 * math.prod(vectors[0].base.shape(name)) * len(vectors)
        self._kept: list[Tensor | None] | None = None
        if size <= self.KEPT_BYTES:
            self._kept = [None] * len(vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, index: int) -> Tensor:
        if self._kept is None:
            return self._read(index)
        if self._kept[index] is None:
            self._kept[index] = self._read(index)
        return self._kept[index]

    def _read(self, index: int) -> Tensor:
        delta = self._vectors[index].delta(self._name)
        weight = self._weights[index]
        return delta if weight == 1 else delta.mul_(weight)


def _delta_of(plan: MergePlan, inputs: MergeInputs, name: str) -> Tensor:
    """The merged delta of one tensor in float32, before scaling_coef."""
    method = plan.merge_method
    deltas = _Deltas(inputs.vectors, plan.weights, name)

    def random_of(index: int) -> np.random.Generator:
        # The same numbers whatever is merged before, after or at the same time.
        return np.random.default_rng([plan.seed, index, *name.encode()])

    def factors_of(index: int) -> tuple[Tensor, Tensor] | None:
        factors = inputs.vectors[index].finetuned.factors(name)
        return factors and (plan.weights[index] * factors[0], factors[1])

    prune = inputs.actions[name] == "prune"
    supplied = {"prune": prune, "random_of": random_of, "factors_of": factors_of}
    if plan.svc is None or not prune:
        return method(deltas, plan.params, supplied)
    parts = [method.part(delta, index, plan.params, supplied) for index, delta in enumerate(deltas)]
    return calibrate_singular_values(parts, plan.svc)


IN_FLIGHT_BYTES = 96 * 2**20
"""Tensors are merged at the same time as long as they are not larger than this together."""
Result = TypeVar("Result")


def _in_order(
    work: Callable[[str], Result], sizes: Mapping[str, int], nj: int
) -> Iterator[tuple[str, Result]]:
    """Yield ``(name, work(name))`` in the order of `sizes`, with `nj` threads and little memory."""
    threads = torch.get_num_threads()
    pending: collections.deque[tuple[str, Future]] = collections.deque()
    # A sum that is split among threads depends on their number, so each tensor has one thread.
    with threadpool_limits(1), ThreadPoolExecutor(nj) as pool:
        torch.set_num_threads(1)
        try:
            in_flight = 0
            for name, size in sizes.items():
                while pending and (in_flight + size > IN_FLIGHT_BYTES or len(pending) > 4 * nj):
                    first, future = pending.popleft()
                    yield first, future.result()
                    del future
                    in_flight -= sizes[first]
                pending.append((name, pool.submit(work, name)))
                in_flight += size
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()
            torch.set_num_threads(threads)


def iter_deltas(plan: MergePlan, inputs: MergeInputs, nj: int = 1) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, merged delta in float32)``, before scaling_coef, in the base model's order.

    Tensors that are copied from the base model are left out.

    Args:
        plan: what to merge.
        inputs: the plan's files.
        nj: number of threads; the result does not depend on it.

    Raises:
        LorsError: NaN or infinite values in a model.
    """
    sizes = {name: size for name, size in _sizes(inputs).items() if inputs.actions[name] != "copy"}
    yield from _in_order(lambda name: _delta_of(plan, inputs, name), sizes, nj)


def _sizes(inputs: MergeInputs) -> dict[str, int]:
    return {name: 4 * math.prod(shape) for name, (shape, _) in inputs.base.spec().items()}


def merged_delta(
    plan: MergePlan, inputs: MergeInputs | None = None, nj: int = 1
) -> dict[str, Tensor]:
    """All merged deltas before scaling_coef, for a sweep: see :func:`apply_delta`.

    Args:
        plan: what to merge.
        inputs: the plan's files if they are open already (for several plans on the same files).
        nj: number of threads; the result does not depend on it.

    Raises:
        LorsError: as :func:`open_inputs`, :func:`check_distinct` and :func:`iter_deltas`.
    """
    inputs = inputs or open_inputs(plan)
    check_distinct(inputs)
    return dict(iter_deltas(plan, inputs, nj))


def apply_delta(
    base: Checkpoint,
    delta: Mapping[str, Tensor],
    scaling_coef: float,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """The state dict ``base + scaling_coef * delta``: all that another scaling_coef costs.

    Args:
        base: the base model.
        delta: from :func:`merged_delta`; other tensors are the base model's own, not copies.
        scaling_coef: factor of the delta.
        dtype: of the floating-point tensors; by default each keeps the base's.
    """
    return {
        name: _merged_tensor(name, base.tensor(name), delta.get(name), scaling_coef, dtype)
        for name in base.names()
    }


def iter_merged(
    plan: MergePlan, inputs: MergeInputs | None = None, nj: int = 1
) -> Iterator[tuple[str, Tensor]]:
    """Yield every ``(name, tensor)`` of the merged model in the base model's order.

    Args:
        plan: what to merge.
        inputs: the plan's files if they are open already.
        nj: number of threads; the result does not depend on it.

    Raises:
        LorsError: as :func:`open_inputs` and :func:`iter_deltas`.
    """
    inputs = inputs or open_inputs(plan)

    def merged(name: str) -> Tensor:
        delta = None if inputs.actions[name] == "copy" else _delta_of(plan, inputs, name)
        start = inputs.onto.tensor(name)
        return _merged_tensor(name, start, delta, plan.scaling_coef, plan.torch_dtype)

    yield from _in_order(merged, _sizes(inputs), nj)


def _merged_tensor(
    name: str, base: Tensor, delta: Tensor | None, scaling_coef: float, dtype: torch.dtype | None
) -> Tensor:
    if not base.is_floating_point():
        return base
    merged = base
    if delta is not None:
        merged = torch.add(
            base.to(torch.promote_types(base.dtype, delta.dtype)), delta, alpha=scaling_coef
        )
    merged = merged.to(dtype or base.dtype)
    if delta is not None and not torch.isfinite(merged).all():
        raise LorsError(
            f"the merged tensor overflows {merged.dtype}",
            where=name,
            hint="use a smaller scaling_coef or another --dtype",
        )
    return merged


def run_merge(plan: MergePlan, out: str | os.PathLike, nj: int = 1) -> None:
    """Merge and write the model `out`, with ``merge.yaml`` and the base's model config beside it.

    ``merge.yaml`` says what is in the model: the resolved plan, the policy, the fingerprints of
    all inputs and the version of LoRS. The base model's ``config.yaml``, if there is one, is
    copied, so that ESPnet can load the result.

    Args:
        plan: what to merge.
        out: a file name that ends in ``.pth`` or ``.safetensors``; its directory is made.
        nj: number of threads; the file does not depend on it.

    Raises:
        LorsError: as :func:`merged_delta`; the plan's `onto` has another base model or one of the
            experts already; `out` is one of the inputs or its directory holds
            another model; or writing fails.
    """
    out = Path(out)
    inputs = open_inputs(plan)
    config = _model_config(plan, out)
    writer = CheckpointWriter(out, merged_spec(plan, inputs))
    logging.info("reading the base model and %d experts", len(plan.experts))
    check_distinct(inputs)
    history = _history(plan, inputs)
    _warn(plan, inputs)
    with writer:
        for name, tensor in tqdm(
            iter_merged(plan, inputs, nj),
            total=len(inputs.actions),
            desc=f"merge ({plan.method})",
            unit="tensor",
            disable=not show_progress(),
        ):
            writer.add(name, tensor)
        # From here to the end a record would be that of an older model.
        (out.parent / RECORD_NAME).unlink(missing_ok=True)
    if config is not None:
        write_text(out.parent / MODEL_CONFIG_NAME, config)
    content = _record(plan, inputs, out)
    if history is not None:
        content["onto"] = history
    record = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(out.parent / RECORD_NAME, record)
    logging.info("merged %d experts into %s", len(plan.experts), out)


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
        for name, value in plan.params.items()
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


def inputs_of(plan: MergePlan) -> list[str]:
    """All files that a plan reads."""
    return [plan.base, *plan.experts, *([plan.onto] if plan.onto else [])]


def _model_config(plan: MergePlan, out: Path) -> str | None:
    """The base's model config to write beside `out`, after checking what is there already."""
    if out.resolve() in {Path(path).resolve() for path in inputs_of(plan)}:
        raise UsageError("the merged model would overwrite one of its inputs", where=out)
    record = out.parent / RECORD_NAME
    previous = read_yaml(record) if record.is_file() else None
    if previous is not None and previous.get("model") != out.name:
        raise UsageError(
            "this directory holds another merged model",
            where=out.parent,
            got=f"{RECORD_NAME} of {previous.get('model')}",
            hint="give every merged model a directory of its own",
        )
    source, target = (Path(place).parent / MODEL_CONFIG_NAME for place in (plan.base, out))
    if not source.is_file():
        return None
    config = source.read_text(encoding="utf-8")
    if previous is None and target.is_file() and target.read_text(encoding="utf-8") != config:
        raise UsageError(
            "this directory holds another model's configuration",
            where=target,
            expected=f"none, or a copy of {source}",
            hint="write the merged model into a directory of its own",
        )
    return config


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


def _history(plan: MergePlan, inputs: MergeInputs) -> dict[str, Any] | None:
    """The record of the model that the plan's experts are added to.

    Raises:
        LorsError: it was made from another base model, or has one of the experts already.
    """
    if plan.onto is None:
        return None
    path = Path(plan.onto).parent / RECORD_NAME
    if not path.is_file():
        logging.warning("%s has no %s: what is in it is not known", plan.onto, RECORD_NAME)
        return {"model": plan.onto}
    record = read_yaml(path)
    base = inputs.base.fingerprint()
    if record["fingerprints"]["base"] != base:
        raise LorsError(
            "this merged model was made from another base model",
            where=path,
            expected=f"fingerprint {base}, of {plan.base}",
            got=f"fingerprint {record['fingerprints']['base']}, of {record['plan']['base']}",
        )
    there: set[str] = set()
    step: dict[str, Any] | None = record
    while step and "fingerprints" in step:
        there.update(step["fingerprints"]["experts"])
        step = step.get("onto")
    for vector, weight in zip(inputs.vectors, plan.weights, strict=True):
        if weight > 0 and vector.finetuned.fingerprint() in there:
            raise LorsError(
                "this expert is in the merged model already",
                where=vector.finetuned.path,
                hint="leave it out, or give it a negative weight to take it away",
            )
    return record


def _record(plan: MergePlan, inputs: MergeInputs, out: Path) -> dict[str, Any]:
    """What ``merge.yaml`` says."""
    actions = list(inputs.actions.values())
    return {
        "lors_version": lors.__version__,
        "model": out.name,
        "plan": {
            **dataclasses.asdict(plan),
            "experts": list(plan.experts),
            "weights": list(plan.weights),
            "policy": plan.policy or inputs.policy.family,
        },
        "tensors": {action: actions.count(action) for action in ("prune", "whole", "copy")},
        "fingerprints": {
            "base": inputs.base.fingerprint(),
            "experts": [vector.finetuned.fingerprint() for vector in inputs.vectors],
        },
    }
