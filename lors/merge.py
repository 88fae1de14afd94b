"""Merging: a plan, its execution one tensor at a time, and deltas to reuse in a sweep.

The merged model is ``base + scaling_coef * delta`` for every tensor that the policy prunes or
merges whole; the method makes the delta from the experts' task vectors. The other tensors are the
base model's.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

import lors
from lors.checkpoint import Checkpoint, CheckpointWriter, size_of
from lors.config import read_yaml
from lors.errors import LorsError, UsageError
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

    def __post_init__(self) -> None:
        if not self.experts:
            raise UsageError(
                "nothing to merge", where="experts", expected="one or more checkpoints"
            )
        where = f"params of the merge method {self.method}"
        params = self.merge_method.resolve(self.params, len(self.experts), where)
        object.__setattr__(self, "params", params)

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


def open_inputs(plan: MergePlan) -> MergeInputs:
    """Open the files of a plan and check that they fit together; no values are read yet.

    Raises:
        LorsError: a file cannot be read, an expert has another structure than the base model, or
            no policy fits.
    """
    base = Checkpoint.open(plan.base)
    vectors = tuple(TaskVector(base, Checkpoint.open(expert)) for expert in plan.experts)
    if plan.policy is None:
        policy = find_policy(base.names(), where=plan.base)
    else:
        policy = load_policy(plan.policy)
    return MergeInputs(base, vectors, policy, policy.actions(base.spec()))


def check_distinct(inputs: MergeInputs) -> None:
    """Check by their values that no expert is the base model and none is given twice.

    Raises:
        LorsError: two of the models hold the same weights; all such experts are listed.
    """
    known = {inputs.base.fingerprint(): f"the base model {inputs.base.path}"}
    problems = []
    for vector in inputs.vectors:
        expert = vector.finetuned
        fingerprint = expert.fingerprint()
        if fingerprint in known:
            problems.append(f"{expert.path} holds the same weights as {known[fingerprint]}")
        known.setdefault(fingerprint, f"the expert {expert.path}")
    if problems:
        raise LorsError(
            "the models to merge are not all different",
            got="\n    - ".join(["", *problems]),
            hint="give the base model once and every expert once",
        )


def iter_deltas(plan: MergePlan, inputs: MergeInputs) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, merged delta in float32)``, before scaling_coef, in the base model's order.

    Tensors that are copied from the base model are left out.

    Raises:
        LorsError: NaN or infinite values in a model.
    """
    method = plan.merge_method
    for name, action in inputs.actions.items():
        if action != "copy":
            deltas = [vector.delta(name) for vector in inputs.vectors]
            yield name, method(deltas, plan.params, {"prune": action == "prune"})


def merged_delta(plan: MergePlan, inputs: MergeInputs | None = None) -> dict[str, Tensor]:
    """All merged deltas before scaling_coef, for a sweep: see :func:`apply_delta`.

    Args:
        plan: what to merge.
        inputs: the plan's files if they are open already (for several plans on the same files).

    Raises:
        LorsError: as :func:`open_inputs`, :func:`check_distinct` and :func:`iter_deltas`.
    """
    inputs = inputs or open_inputs(plan)
    check_distinct(inputs)
    return dict(iter_deltas(plan, inputs))


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


def iter_merged(plan: MergePlan, inputs: MergeInputs | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield every ``(name, tensor)`` of the merged model in the base model's order.

    Raises:
        LorsError: as :func:`open_inputs` and :func:`iter_deltas`.
    """
    inputs = inputs or open_inputs(plan)
    deltas = iter_deltas(plan, inputs)
    for name, action in inputs.actions.items():
        delta = None if action == "copy" else next(deltas)[1]
        base = inputs.base.tensor(name)
        yield name, _merged_tensor(name, base, delta, plan.scaling_coef, plan.torch_dtype)


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


def run_merge(plan: MergePlan, out: str | os.PathLike) -> None:
    """Merge and write the model `out`, with ``merge.yaml`` and the base's model config beside it.

    ``merge.yaml`` says what is in the model: the resolved plan, the policy, the fingerprints of
    all inputs and the version of LoRS. The base model's ``config.yaml``, if there is one, is
    copied, so that ESPnet can load the result.

    Args:
        plan: what to merge.
        out: a file name that ends in ``.pth`` or ``.safetensors``; its directory is made.

    Raises:
        LorsError: as :func:`merged_delta`; `out` is one of the inputs or its directory holds
            another model; or writing fails.
    """
    out = Path(out)
    inputs = open_inputs(plan)
    config = _model_config(plan, out)
    writer = CheckpointWriter(out, merged_spec(plan, inputs))
    logging.info("reading the base model and %d experts", len(plan.experts))
    check_distinct(inputs)
    _warn(plan, inputs)
    with writer:
        for name, tensor in tqdm(
            iter_merged(plan, inputs),
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
    record = yaml.safe_dump(_record(plan, inputs, out), sort_keys=False, allow_unicode=True)
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
    lines += [f"method    {plan.method}: {params}", f"policy    {inputs.policy.family}", ""]
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


def _model_config(plan: MergePlan, out: Path) -> str | None:
    """The base's model config to write beside `out`, after checking what is there already."""
    if out.resolve() in {Path(path).resolve() for path in (plan.base, *plan.experts)}:
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


def _record(plan: MergePlan, inputs: MergeInputs, out: Path) -> dict[str, Any]:
    """What ``merge.yaml`` says."""
    actions = list(inputs.actions.values())
    return {
        "lors_version": lors.__version__,
        "model": out.name,
        "plan": {
            **dataclasses.asdict(plan),
            "experts": list(plan.experts),
            "policy": plan.policy or inputs.policy.family,
        },
        "tensors": {action: actions.count(action) for action in ("prune", "whole", "copy")},
        "fingerprints": {
            "base": inputs.base.fingerprint(),
            "experts": [vector.finetuned.fingerprint() for vector in inputs.vectors],
        },
    }
