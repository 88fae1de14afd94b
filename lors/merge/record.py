"""``merge.yaml``: what is in a merged model, written beside it and read again to add to it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import lors
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.config import read_yaml
from lors.errors import LorsError, UsageError
from lors.merge.methods import METHODS
from lors.merge.plan import MergeInputs, MergePlan

RECORD_NAME = "merge.yaml"
SMALLEST_SHARE = 1e-6
"""Of an expert in a merged model: less is what is left by rounding."""


def record_of(plan: MergePlan, inputs: MergeInputs, out: Path, history: dict | None) -> str:
    """The record as text: the resolved plan, the fingerprints of all inputs, the version of LoRS.

    Args:
        plan: what was merged.
        inputs: its files.
        out: the merged model.
        history: what :func:`read_history` returned.
    """
    actions = list(inputs.actions.values())
    own = _own_entries(plan, inputs)
    content = {
        "lors_version": lors.__version__,
        "model": out.name,
        "plan": own["plan"],
        "tensors": {action: actions.count(action) for action in ("prune", "whole", "copy")},
        "fingerprints": own["fingerprints"],
    }
    if history is not None:
        content["onto"] = history
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def read_plan(path: Path) -> dict[str, Any]:
    """The entries of a file with a merge plan, or of the plan in a record.

    Raises:
        LorsError: the file is missing or holds no mapping.
        UsageError: it is the record of a merge that did not end.
    """
    values = read_yaml(path)
    if _is_name_only(values):
        raise UsageError(
            "this record does not tell how the model was made: a merge into it did not end",
            where=path,
            expected="a plan",
            got=f"model: {values['model']}",
        )
    if "fingerprints" in values and isinstance(values.get("plan"), dict):
        return values["plan"]
    return values


def unfinished_record(out: Path) -> str:
    """What stands in the place of the record while the model is replaced: its name only.

    So nobody takes the older model's record for the new model's, and an interrupted merge can be
    made again.
    """
    return yaml.safe_dump({"model": out.name}, allow_unicode=True)


def _is_name_only(record: Mapping[str, Any]) -> bool:
    """Whether this is what :func:`unfinished_record` makes, or of a model that has no record."""
    return record.keys() == {"model"}


def _own_entries(plan: MergePlan, inputs: MergeInputs) -> dict[str, Any]:
    """What a record says of the plan itself."""
    return {
        "plan": {
            **dataclasses.asdict(plan),
            "experts": list(plan.experts),
            "weights": list(plan.weights),
            "policy": plan.policy or inputs.policy.family,
        },
        "fingerprints": {
            "base": inputs.base.fingerprint(),
            "experts": [vector.finetuned.fingerprint() for vector in inputs.vectors],
        },
    }


@dataclass(frozen=True)
class _Step:
    """One merge of those that a model was made by.

    Attributes:
        base: fingerprint of the base model.
        path: of the base model.
        shares: fingerprint of an expert -> factor that its task vector was added with.
        settings: fingerprint of an expert -> what else decides what is added.
    """

    base: str
    path: str
    shares: Mapping[str, float]
    settings: Mapping[str, Mapping[str, Any]]


def _step(plan: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> _Step:
    """A step from the entries of its record."""
    params = dict(plan["params"])
    coef = float(params.pop("scaling_coef"))
    experts = [str(expert) for expert in fingerprints["experts"]]
    shares = {e: coef * float(w) for e, w in zip(experts, plan["weights"], strict=True)}
    common = {**{name: plan[name] for name in ("method", "svc", "policy", "seed")}, **params}
    draws = plan["method"] in METHODS and METHODS[plan["method"]].draws
    settings = {
        expert: {**common, "place": place if draws else None}
        for place, expert in enumerate(experts, start=1)
    }
    return _Step(str(fingerprints["base"]), str(plan["base"]), shares, settings)


def _read_steps(record: dict[str, Any] | None, path: Path) -> list[_Step]:
    """The steps that a record tells of, the last one first.

    Raises:
        LorsError: it is not what :func:`record_of` makes.
    """
    steps = []
    try:
        # A model of which nothing is known ends the chain: its record is its name only.
        while record is not None and not _is_name_only(record):
            steps.append(_step(record["plan"], record["fingerprints"]))
            record = record.get("onto")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LorsError(
            "this is no whole record of a merged model",
            where=path,
            expected="what a merge writes beside its model, unchanged",
            got=f"{type(error).__name__}: {error}",
            hint="make the merged model again, or remove the record if what is in the model does "
            "not matter",
        ) from None
    return steps


def read_history(plan: MergePlan, inputs: MergeInputs) -> dict[str, Any] | None:
    """The record of the model that the plan's experts are added to; None without `onto`.

    Logs a warning if there is none, or if an expert is taken away otherwise than it was added.

    Raises:
        LorsError: the record is damaged, or the model was made from another base model or has one
            of the experts already.
    """
    if plan.onto is None:
        return None
    model = inputs.onto.path
    path = model.parent / RECORD_NAME
    record = read_yaml(path) if path.is_file() else {}
    steps = _read_steps(record, path) if record.get("model") == model.name else []
    if not steps:
        logging.warning("there is no %s of %s: what is in it is not known", RECORD_NAME, model)
        return {"model": plan.onto}
    current = _step(*_own_entries(plan, inputs).values())
    for step in steps:
        if step.base != current.base:
            raise LorsError(
                "this merged model was made from another base model",
                where=path,
                expected=f"fingerprint {current.base}, of {plan.base}",
                got=f"fingerprint {step.base}, of {step.path}",
            )
    for vector in inputs.vectors:
        _check_share(vector.finetuned, current, steps)
    return record


def _check_share(expert: Checkpoint, current: _Step, steps: Sequence[_Step]) -> None:
    """Check what is to be added of an expert against what is in the merged model already."""
    key = expert.fingerprint()
    there = sum(step.shares.get(key, 0.0) for step in steps)
    added = current.shares[key]
    if abs(there) < SMALLEST_SHARE:
        there = 0.0
    if added > 0 and there > 0:
        raise LorsError(
            "this expert is in the merged model already",
            where=expert.path,
            hint="leave it out, or give it a negative weight to take it away",
        )
    if added >= 0:
        return
    if there <= 0:
        logging.warning(
            "%s is taken away, but is not in the merged model as far as its record tells",
            expert.path,
        )
        return
    if abs(there + added) >= SMALLEST_SHARE:
        logging.warning(
            "%s is taken away with weight * scaling_coef = %g, but is in the merged model with %g",
            *(expert.path, -added, there),
        )
    recorded = [step.settings[key] for step in steps if step.shares.get(key, 0.0) > 0]
    if current.settings[key] not in recorded:
        logging.warning(
            "%s is taken away with %s, but was added with %s",
            *(expert.path, _text(current.settings[key]), " and ".join(map(_text, recorded))),
        )


def _text(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items() if value is not None)


def check_target(inputs: MergeInputs, out: Path) -> str | None:
    """Check what is in the directory of `out`; return the model config that belongs beside it.

    Raises:
        UsageError: `out`, or what is written beside it, is a file of an input, or another model,
            its configuration or a file that is no merge's is there.
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
