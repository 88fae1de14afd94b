"""Merging: a plan's execution into a file, an iterator or deltas to reuse in a sweep.

The merged model is ``base + scaling_coef * delta`` for every tensor that the policy prunes or
merges whole; the method makes the delta from the experts' weighted task vectors. The other tensors
are the base model's. The work is done by :mod:`lors.merge.engine`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lors.checkpoint.naming import names_in
from lors.checkpoint.reader import Checkpoint, size_of
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.checkpoint.whisper_dims import whisper_dims
from lors.checkpoint.writer import CheckpointWriter
from lors.errors import UsageError
from lors.fileio import write_text
from lors.log import show_progress
from lors.merge.decompositions import Decompositions
from lors.merge.engine import Merger, merged_tensor
from lors.merge.plan import MergeInputs, MergePlan, check_inputs, open_inputs
from lors.merge.record import (
    RECORD_NAME,
    check_target,
    read_history,
    record_of,
    unfinished_record,
)


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
        LorsError: as :func:`open_inputs` and :func:`check_inputs`, or NaN or infinite values in a
            model.
    """
    inputs = inputs or open_inputs(plan)
    check_inputs(plan, inputs)
    merger = Merger(plan, inputs, nj, cache)
    known = {}
    names = [name for name, action in inputs.actions.items() if action != "copy"]
    for name, action in inputs.actions.items():
        if action == "copy":
            merger.check_start(name)
    if reuse and plan.merge_method.scope == "matrices":
        known = {n: delta for n, delta in reuse.items() if inputs.actions[n] != "prune"}
    found = known | dict(merger.deltas(name for name in names if name not in known))
    return {name: found[name] for name in names}


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
        state[name] = merged_tensor(
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
        LorsError: as :func:`open_inputs` and :func:`check_inputs`, or NaN or infinite values in a
            model.
    """
    inputs = inputs or open_inputs(plan)
    check_inputs(plan, inputs)
    merger = Merger(plan, inputs, nj, device=device)
    yield from merger.run(merger.merged)


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
        names: scheme that names the tensors (:func:`lors.checkpoint.naming.schemes`); by
            default they keep those of the base model, and a ``.pt`` has OpenAI's.
        device: as for :func:`iter_merged`.

    Raises:
        UsageError: a ``.pt`` under other names than OpenAI's.
        LorsError: as :func:`merged_delta`; there is no such name for a tensor; the plan's `onto`
            has another base model or one of the experts already; `out` is a file of an input or
            one that no merge wrote, or its directory holds another model; or writing fails.
    """
    out = Path(out)
    inputs = open_inputs(plan)
    logging.info("reading the base model and %s", _experts(plan))
    target = prepare(plan, inputs, out, names)
    merger = Merger(plan, inputs, nj, cache, device)

    def merged(name: str) -> Tensor:
        tensor = merger.merged(name)
        for model in (inputs.base, *(vector.finetuned for vector in inputs.vectors)):
            model.note(name)  # while its values are at hand: the record needs it
        return tensor

    with target.writer as writer:
        for name, tensor in tqdm(
            merger.run(merged),
            total=len(inputs.actions),
            desc=f"merge ({plan.method})",
            unit="tensor",
            disable=not show_progress(),
        ):
            writer.add(target.renamed[name], tensor)
        record = record_of(plan, inputs, out, target.history)
        write_text(out.parent / RECORD_NAME, unfinished_record(out))
    if target.config is not None and list(target.renamed) == list(target.renamed.values()):
        write_text(out.parent / ESPNET_CONFIG, target.config)
    write_text(out.parent / RECORD_NAME, record)
    logging.info("merged %s into %s", _experts(plan), out)


def _experts(plan: MergePlan) -> str:
    return "1 expert" if len(plan.experts) == 1 else f"{len(plan.experts)} experts"


@dataclass(frozen=True)
class Target:
    """What a merged model is written with.

    Attributes:
        writer: of the model file; nothing is made before it is entered.
        renamed: name of every tensor in the base model -> its name in the merged file.
        config: text of the model config that belongs beside it.
        history: the record of `onto`.
    """

    writer: CheckpointWriter
    renamed: dict[str, str]
    config: str | None
    history: dict[str, Any] | None


def prepare(plan: MergePlan, inputs: MergeInputs, out: Path, names: str | None) -> Target:
    """Check all that :func:`run_merge` checks before it merges; nothing is written.

    Raises:
        LorsError: as :func:`run_merge`.
    """
    config = check_target(inputs, out)
    renamed, dims = _names_of(inputs.base, out, names)
    spec = {renamed[name]: entry for name, entry in merged_spec(plan, inputs).items()}
    writer = CheckpointWriter(out, spec, dims)
    check_inputs(plan, inputs)
    history = read_history(plan, inputs)
    _warn(plan, inputs)
    return Target(writer, renamed, config, history)


def _names_of(
    base: Checkpoint, out: Path, scheme: str | None
) -> tuple[dict[str, str], dict[str, int] | None]:
    """The name of every tensor in the merged file, and the dimensions that stand in a ``.pt``."""
    if out.suffix == ".pt":
        if scheme not in (None, "openai"):
            raise UsageError(
                "a .pt is a file of OpenAI's Whisper, with its names",
                where=out,
                expected=".safetensors or .pth for other names",
                got=f"--names {scheme}",
            )
        return names_in("openai", base.names()), whisper_dims(base)
    if scheme is None:
        return {name: name for name in base.names()}, None
    return names_in(scheme, base.names()), None


def merged_spec(
    plan: MergePlan, inputs: MergeInputs
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor of the merged model."""
    start = inputs.onto.spec()
    return {
        name: (shape, (plan.torch_dtype or dtype) if dtype.is_floating_point else dtype)
        for name, (shape, dtype) in ((name, start[name]) for name in inputs.base.names())
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
    spec = merged_spec(plan, inputs)
    dtypes = {spec[name][1] for name, action in inputs.actions.items() if action != "copy"}
    for dtype in (torch.float16, torch.bfloat16):
        if dtype in dtypes:
            logging.warning(
                "rounding to %s can be as large as a small delta; --dtype float32 keeps it",
                str(dtype).removeprefix("torch."),
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
