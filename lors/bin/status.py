"""Command line of :mod:`lors.recipe.status`; utils/status is the name for it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from lors.log import run_main
from lors.recipe.status import (
    DONE,
    FAILED,
    INTERRUPTED,
    LEFT_OUT,
    PENDING,
    RUNNING,
    STAGES,
    Status,
    UnitStatus,
    counts,
    read_status,
)

EXIT_CODES = {DONE: 0, FAILED: 1, RUNNING: 3, INTERRUPTED: 4}
DESCRIPTION = """\
Show how far a recipe's experiment is: for each stage how many of its units are done, and below it
every unit that is neither done nor pending, with its log. It only reads, and can be called while
the recipe runs.

  done         finished: another run leaves it alone
  running      a job is at it
  queued       its job waits in Slurm's queue
  failed       its job ended with an error, which is shown
  interrupted  begun, not finished, and nothing is at it; another run goes on with it
  pending      not begun
  left out     not begun, and the latest run was told to leave it out (--skip_train)
"""
EPILOG = """\
exit code: 0 all is done
           1 something has failed
           2 wrong call, or no such experiment
           3 nothing has failed, and the work goes on
           4 nothing has failed, nothing is at work, and not all is done: call ./run.sh again

  until utils/status >/dev/null; [ $? -ne 3 ]; do sleep 60; done   # wait for the end
"""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="utils/status",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("expdir", nargs="?", default="exp", help="default: %(default)s")
    parser.add_argument("--stage", help="only this stage, by name or number")
    parser.add_argument("--all", action="store_true", help="show every unit")
    parser.add_argument("--json", action="store_true", help="print JSON, with every unit")
    return parser


def as_json(status: Status) -> dict[str, Any]:
    """The status as JSON; times are seconds since the epoch, logs paths as they can be opened."""
    run = status.run
    stages = []
    for name in status.stages:
        units = status.of(name)
        stages.append(
            {
                "number": STAGES.index(name) + 1,
                "name": name,
                "counts": counts(units),
                "units": [
                    {
                        "name": unit.name,
                        "state": unit.state,
                        "log": None if unit.log is None else str(unit.log),
                        "status": unit.status,
                        "error": unit.error or None,
                    }
                    for unit in units
                ],
            }
        )
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
            "command": run.command,
        },
        "stages": stages,
    }


def as_table(status: Status, show_all: bool) -> str:
    """The status for people."""
    run = status.run
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(run.began))
    place = f"on {run.host}, process {run.pid}"
    if run.slurm_job:
        place += f", Slurm job {run.slurm_job}"
    if status.alive:
        now = f"stage {run.stage}, {place}"
    elif run.status is None:
        now = f"ended in stage {run.stage} without a word, {place}"
    else:
        now = "ended" if run.status == 0 else f"ended in stage {run.stage}"
        now += f" with status {run.status}"
    lines = [f"{status.expdir}: run of {began}: {now}"]
    for name in status.stages:
        units = status.of(name)
        found = counts(units)
        words = [f"{found.get(DONE, 0)}/{len(units)} done" if units else "nothing to do"]
        words += [f"{found[state]} {state}" for state in found if state not in (DONE, PENDING)]
        lines.append(f"{STAGES.index(name) + 1:2d} {name:<10} {', '.join(words)}")
        shown = [u for u in units if show_all or u.state not in (DONE, PENDING, LEFT_OUT)]
        width = max((len(unit.name) for unit in shown), default=0)
        lines += [f"     {_line(unit, width)}" for unit in shown]
    # A run that went well has only been told to stop earlier: the same again would do nothing.
    if not status.alive and run.status != 0 and status.state in (FAILED, INTERRUPTED):
        lines.append(f"go on with: cd {shlex.quote(run.directory)} && {run.command}")
    return "\n".join(lines)


def _line(unit: UnitStatus, width: int) -> str:
    reason = "" if unit.status is None else f"status {unit.status}"
    reason = ": ".join(filter(None, (reason, unit.error)))
    words = [f"{unit.name:<{width}}  {unit.state:<11}", str(unit.log or ""), reason]
    return "  ".join(word for word in words if word).rstrip()


def work(args: argparse.Namespace) -> int:
    status = read_status(Path(args.expdir), args.stage)
    if args.json:
        print(json.dumps(as_json(status), indent=2, ensure_ascii=False))
    else:
        print(as_table(status, args.all))
    return EXIT_CODES[status.state]


def main(argv: list[str] | None = None) -> int:
    code = 0

    def show(args: argparse.Namespace) -> None:
        nonlocal code
        try:
            code = work(args)
            sys.stdout.flush()
        except BrokenPipeError:  # its reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return run_main(get_parser(), show, argv) or code


if __name__ == "__main__":
    sys.exit(main())
