"""A merge plan from a configuration file and the options of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lors.checkpoint.hub import source_in_record
from lors.config import REQUIRED, build, keys_of, parse_assignments, read_yaml
from lors.errors import UsageError
from lors.merge.plan import MergePlan
from lors.merge.record import is_name_only

MODELS = {"base", "experts", "onto"}
"""Keys of a plan whose values are models."""


def plan_from(config: str | None, options: Mapping[str, Any]) -> MergePlan:
    """Return the plan of a configuration file and of options, which override the file.

    Args:
        config: YAML file with keys of the plan, or the record of a merged model; None for no file.
        options: name -> value of every option of the program, those of the plan among them; None
            for a missing option. ``params`` is a list of ``name=value``.

    Raises:
        LorsError: the file is missing.
        UsageError: a key or value that is not part of a plan, or a missing one; all are listed.
    """
    values = _read_plan(Path(config)) if config else {}
    keys = keys_of(MergePlan)
    _refuse_other_options(config, [name for name in options if name not in keys and name in values])
    for name in keys.keys() - {"params"}:
        if options.get(name) is not None:
            values[name] = options[name]
    if values.get("params") is None:
        values["params"] = {}
    # The plan refuses params of another type.
    if options.get("params") and isinstance(values["params"], dict):
        values["params"] |= parse_assignments(options["params"], "--params")
    where = f"{config} and the command line" if config else "the command line"
    missing = [name for name, key in keys.items() if key.default is REQUIRED and name not in values]
    if missing:
        raise UsageError(
            f"missing: {', '.join(f'--{name}' for name in missing)}",
            where=where,
            hint="give them as options or as keys of the file of --config",
        )
    return build(MergePlan, values, where)


def _read_plan(path: Path) -> dict[str, Any]:
    """Return the entries of a file with a plan, or of the plan in a record."""
    values = read_yaml(path)
    if is_name_only(values):
        raise UsageError(
            "this record holds no plan, because a merge into the model did not end",
            where=path,
            expected="a plan",
            got=f"model: {values['model']}",
        )
    return _plan_in(values) if _is_record(values) else values


def _is_record(values: Mapping[str, Any]) -> bool:
    return "fingerprints" in values and isinstance(values.get("plan"), dict)


def _plan_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan in a record, in which a path stays a path."""
    plan = dict(record["plan"])
    for name in MODELS & plan.keys():  # the plan refuses values of another type
        value = plan[name]
        if isinstance(value, list):
            plan[name] = [source_in_record(v) if isinstance(v, str) else v for v in value]
        elif isinstance(value, str):
            plan[name] = source_in_record(value)
    return plan


def fingerprints_from(config: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprints in a record, without those of models that an option replaces.

    Args:
        config, options: as for :func:`plan_from`; a file that is no record has no fingerprints.
    """
    values = read_yaml(Path(config)) if config else {}
    found = values.get("fingerprints") if _is_record(values) else None
    found = found if isinstance(found, dict) else {}
    return {name: value for name, value in found.items() if options.get(name) is None}


def _refuse_other_options(config: str | None, names: list[str]) -> None:
    if names:
        raise UsageError(
            "this key is an option of the command line, not part of a plan",
            where=config,
            expected=f"keys among: {', '.join(keys_of(MergePlan))}",
            got=", ".join(names),
            hint="give " + " and ".join(f"--{name}" for name in names) + " on the command line",
        )
