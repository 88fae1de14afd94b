"""``merge.yaml``, the record beside a merged model; read when experts are added to the model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import lors
from lors.checkpoint.hub import recorded
from lors.checkpoint.reader import Checkpoint
from lors.config import read_yaml
from lors.errors import LorsError
from lors.fileio import file_digest
from lors.merge.methods import METHODS
from lors.merge.plan import MergeInputs, MergePlan

RECORD_NAME = "merge.yaml"
SMALLEST_SHARE = 1e-6
"""Smallest share of an expert in a merged model; a smaller one is a rounding error."""


def record_of(plan: MergePlan, inputs: MergeInputs, out: Path, history: dict | None) -> str:
    """Return the record as text: the resolved plan, the fingerprints of all inputs, the version.

    Args:
        plan: the plan.
        inputs: its open files.
        out: file of the merged model.
        history: the result of :func:`read_history`.
    """
    actions = list(inputs.actions.values())
    content = {
        "lors_version": lors.__version__,
        "model": out.name,
        "plan": _plan_entry(plan, inputs),
        "tensors": {action: actions.count(action) for action in ("prune", "whole", "copy")},
        "fingerprints": _fingerprints(plan, inputs, _kinds_of(plan)),
    }
    if history is not None:
        content["onto"] = history
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def check_fingerprints(
    plan: MergePlan, inputs: MergeInputs, fingerprints: Mapping[str, Any]
) -> None:
    """Check that the models and masks of a merge are those of a record.

    Args:
        plan: the plan in the record.
        inputs: its open files.
        fingerprints: entries ``base``, ``experts``, ``onto`` and ``masks`` of the record's
            fingerprints; a missing one is not compared.

    Raises:
        LorsError: a model has other values than in the merge that was recorded, or the masks are
            another file.
    """
    names = [name for name in _kinds_of(plan) if name in fingerprints]
    changed = []
    for name in names:
        expected = fingerprints[name] if name == "experts" else [fingerprints[name]]
        found = _fingerprints_of(name, plan, inputs)
        if not isinstance(expected, list) or len(expected) != len(found):
            changed.append(f"{name}: {len(found)}, and not as many fingerprints")
            continue
        changed += [
            f"{path}: fingerprint {own}, recorded {other}"
            for (path, own), other in zip(found, expected, strict=True)
            if own != other
        ]
    if changed:
        raise LorsError(
            "these are not the inputs of the recorded merge",
            got=changed,
            hint="put those models back; or, to merge these, give them by the options "
            + " and ".join(f"--{name}" for name in names),
        )


def _kinds_of(plan: MergePlan) -> list[str]:
    """Return the kinds of inputs that a plan has and a record has the fingerprints of."""
    optional = {"onto": plan.onto, "masks": plan.masks}
    return ["base", "experts", *(kind for kind, path in optional.items() if path is not None)]


def _fingerprints_of(kind: str, plan: MergePlan, inputs: MergeInputs) -> list[tuple[Any, str]]:
    """Return the path and the fingerprint of each input of a kind."""
    if kind == "masks":
        return [(plan.masks, file_digest(str(plan.masks)))]
    models = {"base": [inputs.base], "experts": inputs.experts, "onto": [inputs.onto]}
    return [(model.path, model.fingerprint()) for model in models[kind]]


def _fingerprints(plan: MergePlan, inputs: MergeInputs, kinds: Iterable[str]) -> dict[str, Any]:
    """Return the fingerprints of inputs as a record has them: a list for the experts alone."""
    entries = {}
    for kind in kinds:
        found = [fingerprint for _, fingerprint in _fingerprints_of(kind, plan, inputs)]
        entries[kind] = found if kind == "experts" else found[0]
    return entries


def unfinished_record(out: Path) -> str:
    """Return the record to write before a merge replaces the model: the name of the model only.

    So the record of the older model is never taken for the record of the new model, and an
    interrupted merge can be run again.
    """
    return yaml.safe_dump({"model": out.name}, allow_unicode=True)


def is_name_only(record: Mapping[str, Any]) -> bool:
    """Return whether a record is from :func:`unfinished_record` or of a model without record."""
    return record.keys() == {"model"}


def _plan_entry(plan: MergePlan, inputs: MergeInputs) -> dict[str, Any]:
    """Return the entry of a record that is the plan."""
    return {
        **dataclasses.asdict(plan),
        # With the commit of a model on the Hub: the record makes the same model again.
        "base": recorded(plan.base),
        "experts": [recorded(expert) for expert in plan.experts],
        "onto": None if plan.onto is None else recorded(plan.onto),
        "weights": list(plan.weights),
        "lines": None if plan.lines is None else list(plan.lines),
        "langs": list(plan.langs),
        "policy": plan.policy or inputs.policy.name,
    }


@dataclass(frozen=True)
class _Step:
    """One of the merges that made a model.

    Attributes:
        base: fingerprint of the base model.
        path: file of the base model.
        shares: fingerprint of an expert -> its weight * scaling_coef.
        settings: fingerprint of an expert -> all other settings that its part depends on.
        joint: why the delta is no sum of a part for each expert; empty if it is one.
    """

    base: str
    path: str
    shares: Mapping[str, float]
    settings: Mapping[str, Mapping[str, Any]]
    joint: str


def _step(plan: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> _Step:
    """Return the step that these two entries of a record describe."""
    params = dict(plan["params"])
    coef = float(params.pop("scaling_coef"))
    experts = [str(expert) for expert in fingerprints["experts"]]
    shares = {e: coef * float(w) for e, w in zip(experts, plan["weights"], strict=True)}
    common = {name: plan[name] for name in ("method", "svc", "policy", "seed")}
    # Records of earlier versions do not have these.
    common |= {name: plan.get(name) for name in ("boost", "lines", "masks")} | params
    draws = plan["method"] in METHODS and METHODS[plan["method"]].draws
    settings = {
        expert: {**common, "place": place if draws else None}
        for place, expert in enumerate(experts, start=1)
    }
    base = str(fingerprints["base"])
    return _Step(base, str(plan["base"]), shares, settings, _joint(plan))


def _joint(plan: Mapping[str, Any]) -> str:
    """Return what makes the delta of a plan no sum of a part for each expert, or nothing."""
    method = str(plan["method"])
    found = [] if method in METHODS and METHODS[method].is_sum else [f"method={method}"]
    found += [f"{k}={plan[k]}" for k in ("svc", "boost", "masks") if plan.get(k) is not None]
    return " ".join(found)


def _read_steps(record: dict[str, Any] | None, path: Path) -> list[_Step]:
    """Return the steps that a record describes, the last one first.

    Raises:
        LorsError: the record is not from :func:`record_of`.
    """
    steps = []
    try:
        # A model without record ends the chain: only its name is known.
        while record is not None and not is_name_only(record):
            steps.append(_step(record["plan"], record["fingerprints"]))
            record = record.get("onto")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise LorsError(
            "the record of the merged model is damaged",
            where=path,
            expected="the file that a merge wrote beside its model, unchanged",
            got=f"{type(error).__name__}: {error}",
            hint="make the merged model again, or remove the record if the content of the model "
            "does not matter",
        ) from None
    return steps


def read_history(plan: MergePlan, inputs: MergeInputs) -> dict[str, Any] | None:
    """Return the record of the plan's `onto`; None without `onto`.

    Logs a warning if there is no record, if the merged model or the delta of the plan is no sum, or
    if an expert is added with another factor than those in the model, or removed with other
    settings than it was added with.

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
        logging.warning("there is no %s of %s: its experts are not known", RECORD_NAME, model)
        return {"model": recorded(plan.onto)}
    own = _fingerprints(plan, inputs, ("base", "experts"))
    current = _step(_plan_entry(plan, inputs), own)
    for step in steps:
        if step.base != current.base:
            raise LorsError(
                "this merged model was made from another base model",
                where=path,
                expected=f"fingerprint {current.base}, of {plan.base}",
                got=f"fingerprint {step.base}, of {step.path}",
            )
    if joint := [step.joint for step in (current, *steps) if step.joint]:
        logging.warning(
            "a merge with %s is no sum of its experts: with experts added to it or removed, it is "
            "not the merge of those that remain; to have that, merge all of them again",
            " and ".join(dict.fromkeys(joint)),
        )
    for expert in inputs.experts:
        _check_share(expert, current, steps)
    return record


def _check_share(expert: Checkpoint, current: _Step, steps: Sequence[_Step]) -> None:
    """Check that an expert is not added twice; warn if a removal does not undo its addition."""
    key = expert.fingerprint()
    there = sum(step.shares.get(key, 0.0) for step in steps)
    added = current.shares[key]
    if abs(there) < SMALLEST_SHARE:
        there = 0.0
    if added > 0 and there > 0:
        raise LorsError(
            "this expert is in the merged model already",
            where=expert.path,
            hint="leave it out, or give it a negative weight to remove it",
        )
    if added > 0:
        _check_factor(expert, added, steps)
    if added >= 0:
        return
    if there <= 0:
        logging.warning(
            "%s is removed, but according to its record the merged model does not hold it",
            expert.path,
        )
        return
    if abs(there + added) >= SMALLEST_SHARE:
        logging.warning(
            "%s is removed with weight * scaling_coef = %g, but is in the merged model with %g",
            *(expert.path, -added, there),
        )
    recorded = [step.settings[key] for step in steps if step.shares.get(key, 0.0) > 0]
    if current.settings[key] not in recorded:
        logging.warning(
            "%s is removed with %s, but was added with %s",
            *(expert.path, _text(current.settings[key]), " and ".join(map(_text, recorded))),
        )


def _check_factor(expert: Checkpoint, added: float, steps: Sequence[_Step]) -> None:
    """Warn if an expert is added with another factor than every expert of the merged model."""
    others = {share for step in steps for share in step.shares.values() if share > SMALLEST_SHARE}
    if others and all(abs(added - share) >= SMALLEST_SHARE for share in others):
        logging.warning(
            "%s is added with weight * scaling_coef = %g, but the experts in the merged model have "
            "%s; give --params scaling_coef=...",
            *(expert.path, added, " and ".join(f"{share:g}" for share in sorted(others))),
        )


def _text(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items() if value is not None)
