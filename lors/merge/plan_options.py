"""A merge plan from a configuration file and the options of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lors.config import REQUIRED, build, keys_of, parse_assignments, read_yaml
from lors.errors import UsageError
from lors.merge.plan import MergePlan
from lors.merge.record import is_name_only


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
    if "fingerprints" in values and isinstance(values.get("plan"), dict):
        return values["plan"]
    return values


def _refuse_other_options(config: str | None, names: list[str]) -> None:
    if names:
        raise UsageError(
            "this key is an option of the command line, not part of a plan",
            where=config,
            expected=f"keys among: {', '.join(keys_of(MergePlan))}",
            got=", ".join(names),
            hint="give " + " and ".join(f"--{name}" for name in names) + " on the command line",
        )
