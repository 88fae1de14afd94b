"""``merge.yaml``: what is in a merged model, written beside it and read again to add to it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import yaml

import lors
from lors.config import read_yaml
from lors.errors import LorsError, UsageError
from lors.fileio import write_text
from lors.merge_plan import MergeInputs, MergePlan
from lors.vocabulary import ESPNET_CONFIG

RECORD_NAME = "merge.yaml"


def write_record(
    plan: MergePlan, inputs: MergeInputs, out: Path, history: dict[str, Any] | None
) -> None:
    """Write the resolved plan, the fingerprints of all inputs and the version of LoRS beside `out`.

    Args:
        plan: what was merged.
        inputs: its files.
        out: the merged model.
        history: what :func:`read_history` returned.
    """
    actions = list(inputs.actions.values())
    content = {
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
    if history is not None:
        content["onto"] = history
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(out.parent / RECORD_NAME, text)


def read_history(plan: MergePlan, inputs: MergeInputs) -> dict[str, Any] | None:
    """The record of the model that the plan's experts are added to; None without `onto`.

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


def check_target(inputs: MergeInputs, out: Path) -> str | None:
    """Check what is in the directory of `out`; return the model config that belongs beside it.

    Raises:
        UsageError: `out`, or what is written beside it, is a file of an input, or another model or
            its configuration is there.
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
