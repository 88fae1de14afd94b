"""A merge plan from a configuration file and the options of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lors.checkpoint.hub import hub_name, source_in_record
from lors.checkpoint.places import exists
from lors.config import REQUIRED, build, keys_of, parse_assignments, read_yaml
from lors.errors import LorsError, UsageError
from lors.merge.methods import METHODS
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
    in_file = _read_plan(Path(config)) if config else {}
    values, keys = dict(in_file), keys_of(MergePlan)
    _refuse_other_options(config, [name for name in options if name not in keys and name in values])
    if config:
        _check_method(config, in_file, options)
        _check_numbers(config, in_file, options)
    for name in keys.keys() - {"params"}:
        if options.get(name) is not None:
            values[name] = options[name]
    if values.get("params") is None:
        values["params"] = {}
    # The plan refuses params of another type.
    if options.get("params") and isinstance(values["params"], dict):
        values["params"] = values["params"] | parse_assignments(options["params"], "--params")
    where = f"{config} and the command line" if config else "the command line"
    missing = [name for name, key in keys.items() if key.default is REQUIRED and name not in values]
    if missing:
        raise UsageError(
            f"missing: {', '.join(f'--{name}' for name in missing)}",
            where=where,
            hint="give them as options or as keys of the file of --config",
        )
    return build(MergePlan, values, where)


def _check_method(config: str, in_file: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Check that the parameters in a file fit the method of the command line."""
    method, params = options.get("method"), in_file.get("params")
    if method not in METHODS or not isinstance(params, dict):
        return  # the plan refuses other values
    known = [*METHODS[method].parameters, "scaling_coef"]
    unknown = [str(name) for name in params if name not in known]
    if unknown and in_file.get("method") != method:
        others = "leave --config out"
        if in_file.keys() & MODELS:
            others += " and give the models as options"
        own = Path(config).with_name(f"merge_{method}.yaml")
        raise UsageError(
            f"this file has parameters of another method than {method}",
            where=config,
            expected=f"parameters among: {', '.join(known)}",
            got=", ".join(unknown),
            hint=f"--config {own}; or {others}" if own.is_file() else others,
        )


def _check_numbers(config: str, in_file: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Check that what a file has for each expert fits the experts of the command line."""
    experts = options.get("experts")
    for name in ("weights", "langs"):
        found = in_file.get(name)
        if experts is None or options.get(name) is not None or not isinstance(found, list):
            continue
        if found and len(found) != len(experts):
            raise UsageError(
                f"the {name} in this file are those of other experts",
                where=config,
                expected=f"{len(experts)}, one for each of --experts",
                got=" ".join(map(str, found)),
                hint=f"give --{name} too, one for each expert",
            )


def check_places(config: str, options: Mapping[str, Any], plan: MergePlan) -> None:
    """Check that the local models in a file are there: their paths depend on where the user is.

    Args:
        config, options: as for :func:`plan_from`.
        plan: the plan of these.

    Raises:
        LorsError: a model is not there.
    """
    for name in sorted(name for name in MODELS if options.get(name) is None):
        value = getattr(plan, name)
        for source in value if isinstance(value, tuple) else [value]:
            if source is None or hub_name(source) is not None or exists(Path(source)):
                continue
            hint = "correct it in the file"
            if not Path(source).is_absolute():
                hint = (
                    "a relative path in this file begins in the current directory, "
                    f"{Path.cwd()}: call the command where the file was made"
                )
            raise LorsError(
                "a model of this file is not there",
                where=config,
                got=f"{name}: {source}",
                hint=f"{hint}, or give --{name}",
            )


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
