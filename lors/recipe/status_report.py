"""The status of an experiment as JSON and as a table for people."""

from __future__ import annotations

import shlex
import time
from typing import Any

from lors.recipe.status import (
    DONE,
    FAILED,
    INTERRUPTED,
    LEFT_OUT,
    PENDING,
    Status,
    UnitStatus,
    counts,
)
from lors.recipe.units import stages_of


def as_json(status: Status) -> dict[str, Any]:
    """Return a status for JSON.

    Times are seconds since the epoch; logs are paths as seen from the present directory.
    """
    run = status.run
    return {
        "expdir": str(status.expdir),
        "state": status.state,
        "run": {
            "alive": status.alive,
            "status": run.status,
            "stage": run.stage,
            "began": run.began,
            "host": run.host,
            "pid": run.pid,
            "slurm_job": run.slurm_job or None,
            "directory": run.directory,
            "command": run.typed,
        },
        "stages": [
            {
                "number": stages_of(run).index(name) + 1,
                "name": name,
                "counts": counts(status.of(name)),
                "units": [_unit_json(unit) for unit in status.of(name)],
            }
            for name in status.stages
        ],
    }


def _unit_json(unit: UnitStatus) -> dict[str, Any]:
    return {
        "name": unit.name,
        "state": unit.state,
        "log": None if unit.log is None else str(unit.log),
        "status": unit.status,
        "error": unit.error or None,
    }


def as_table(status: Status, show_all: bool) -> str:
    """Return a line for each stage, and one for each unit that is neither done nor pending.

    Args:
        status: the status.
        show_all: show every unit.
    """
    lines = [_headline(status)]
    for name in status.stages:
        units = status.of(name)
        found = counts(units)
        words = [f"{found.get(DONE, 0)}/{len(units)} done" if units else "nothing to do"]
        words += [f"{found[state]} {state}" for state in found if state not in (DONE, PENDING)]
        number = stages_of(status.run).index(name) + 1
        lines.append(f"{number:2d} {name:<10} {', '.join(words)}")
        shown = [u for u in units if show_all or u.state not in (DONE, PENDING, LEFT_OUT)]
        width = max((len(unit.name) for unit in shown), default=0)
        lines += [f"     {_unit_line(unit, width)}" for unit in shown]
    # A run with status 0 has done all its stages: the same command would do nothing.
    if not status.alive and status.run.status != 0 and status.state in (FAILED, INTERRUPTED):
        lines.append(f"go on with: cd {shlex.quote(status.run.directory)} && {status.run.typed}")
    return "\n".join(lines)


def _headline(status: Status) -> str:
    """Return the first line: start, process and current stage of the latest run, or its end."""
    run = status.run
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(run.began))
    place = f"on {run.host}, process {run.pid}"
    if run.slurm_job:
        place += f", Slurm job {run.slurm_job}"
    if status.alive:
        now = f"stage {run.stage}, {place}"
    elif run.status is None:
        now = f"killed in stage {run.stage}, {place}"
    else:
        now = "ended" if run.status == 0 else f"ended in stage {run.stage}"
        now += f" with status {run.status}"
    return f"{status.expdir}: run of {began}: {now}"


def _unit_line(unit: UnitStatus, width: int) -> str:
    reason = "" if unit.status is None else f"status {unit.status}"
    reason = ": ".join(filter(None, (reason, unit.error)))
    words = [f"{unit.name:<{width}}  {unit.state:<11}", str(unit.log or ""), reason]
    return "  ".join(word for word in words if word).rstrip()
