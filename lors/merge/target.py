"""The place of a merged model: its file, the names in it, and the files beside it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lors.checkpoint.naming import names_in
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.checkpoint.whisper_dims import whisper_dims
from lors.checkpoint.writer import CheckpointWriter, check_no_directory
from lors.config import read_yaml
from lors.errors import UsageError, shortened
from lors.merge.plan import MergeInputs, MergePlan
from lors.merge.record import RECORD_NAME, read_history


@dataclass(frozen=True)
class Target:
    """A checked place for a merged model.

    Args:
        writer: writer of the model file, not yet entered: no file is made so far.
        names: name of a tensor in the base model -> its name in the merged model.
        config: text of the model configuration to write beside the model; None for no file.
        history: record of the plan's `onto`.
    """

    writer: CheckpointWriter
    names: dict[str, str]
    config: str | None
    history: dict[str, Any] | None


def check_target(plan: MergePlan, inputs: MergeInputs, out: Path, scheme: str | None) -> Target:
    """Check that a merge can be written to `out`, and log warnings; nothing is written.

    Args:
        plan: the plan.
        inputs: its open files.
        out: file of the merged model.
        scheme: naming scheme of the tensors; None for the names of the base model.

    Raises:
        LorsError: as :func:`lors.merge.run.run_merge`.
    """
    check_no_directory(out)
    config = _check_directory(inputs, out)
    names, dims = _names_in_file(inputs.base, out, scheme)
    spec = merged_spec(plan, inputs)
    writer = CheckpointWriter(out, {names[name]: entry for name, entry in spec.items()}, dims)
    history = read_history(plan, inputs)
    _warn_of_losses(inputs, spec)
    # The configuration of the base model fits only a model with its names.
    renamed = any(old != new for old, new in names.items())
    return Target(writer, names, None if renamed else config, history)


def merged_spec(
    plan: MergePlan, inputs: MergeInputs
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and dtype of every tensor of the merged model, by its name in the base model."""
    start = inputs.onto.spec()
    return {
        name: (shape, (plan.torch_dtype or dtype) if dtype.is_floating_point else dtype)
        for name, (shape, dtype) in ((name, start[name]) for name in inputs.base.names())
    }


def _check_directory(inputs: MergeInputs, out: Path) -> str | None:
    """Check the files in the directory of `out`; return the configuration to write there.

    Raises:
        UsageError: `out` or a file to write beside it is a file of an input; or the directory holds
            another model, its configuration, or a file that no merge wrote.
    """
    source, target = (place.parent / ESPNET_CONFIG for place in (inputs.base.path, out))
    written = [out, out.parent / RECORD_NAME, *([target] if source.is_file() else [])]
    for path in written:
        if path.resolve() in inputs.files():
            raise UsageError(
                "the merged model would overwrite one of its inputs",
                where=path,
                hint="write the merged model into a directory of its own",
            )
    record = out.parent / RECORD_NAME
    previous = read_yaml(record) if record.is_file() else None
    if previous is not None and previous.get("model") != out.name:
        raise UsageError(
            "this directory holds another merged model",
            where=out.parent,
            got=f"{RECORD_NAME} of {previous.get('model')}",
            hint="give every merged model a directory of its own",
        )
    if previous is None and out.exists():
        raise UsageError(
            "there is a file of this name already, and no merge wrote it",
            where=out,
            expected=f"no such file, or {RECORD_NAME} beside it",
            hint="choose another name, or move the file away",
        )
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


def _names_in_file(
    base: Checkpoint, out: Path, scheme: str | None
) -> tuple[dict[str, str], dict[str, int] | None]:
    """Return the name of every tensor in the merged file, and the dimensions to write in a .pt."""
    if out.suffix == ".pt":
        if scheme not in (None, "openai"):
            raise UsageError(
                "a .pt file is an OpenAI Whisper and needs the names of OpenAI",
                where=out,
                expected=".safetensors or .pth for other names",
                got=f"--names {scheme}",
            )
        return names_in("openai", base.names()), whisper_dims(base)
    if scheme is None:
        return {name: name for name in base.names()}, None
    return names_in(scheme, base.names()), None


def _warn_of_losses(
    inputs: MergeInputs, spec: dict[str, tuple[tuple[int, ...], torch.dtype]]
) -> None:
    """Warn of dtypes that round small deltas away, and of copied tensors that experts changed."""
    _warn_of_rounded_experts(inputs)
    copied = set(inputs.names("copy"))
    dtypes = {dtype for name, (_, dtype) in spec.items() if name not in copied}
    for dtype in (torch.float16, torch.bfloat16):
        if dtype in dtypes:
            logging.warning(
                "rounding to %s can be as large as a small delta; --dtype float32 keeps it",
                str(dtype).removeprefix("torch."),
            )
    base = inputs.base
    weights = [name for name in inputs.names("copy") if base.dtype(name).is_floating_point]
    for expert in inputs.experts:
        differ = [n for n in weights if not torch.equal(base.tensor(n), expert.tensor(n))]
        if differ:
            logging.warning(
                "the merged model keeps the base model's values where %s differs: %s",
                expert.path,
                ", ".join(shortened(differ)),
            )


def _warn_of_rounded_experts(inputs: MergeInputs) -> None:
    """Warn of experts whose weights were rounded to a coarser dtype than that of the base model.

    The rounding errors of all weights, also of those that were not trained, are then a part of the
    task vector.
    """
    base = inputs.base
    names = [name for name, action in inputs.actions.items() if action != "copy"]
    for expert in inputs.experts:
        coarser = {
            expert.dtype(name)
            for name in names
            if torch.finfo(expert.dtype(name)).eps > torch.finfo(base.dtype(name)).eps
        }
        for dtype in sorted(coarser, key=str):
            name = str(dtype).removeprefix("torch.")
            logging.warning(
                "%s has weights in %s, a coarser dtype than that of the base model: the rounding "
                "of all weights is merged like learnt changes; give a base model in %s, or the "
                "expert in the dtype of its training",
                *(expert.path, name, name),
            )
