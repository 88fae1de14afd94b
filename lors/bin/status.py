"""Show the progress of an experiment; utils/status calls this program."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lors.log import run_main
from lors.recipe.status import DONE, FAILED, INTERRUPTED, RUNNING, read_status
from lors.recipe.status_report import as_json, as_table

EXIT_CODES = {DONE: 0, FAILED: 1, RUNNING: 3, INTERRUPTED: 4}
DESCRIPTION = """\
Show the progress of an experiment: for each stage the number of units that are done, and each unit
that is neither done nor pending, with its log. Nothing is written; the recipe may be running.

  done         finished: the next run leaves it alone
  running      a job works on it
  queued       its job waits in Slurm's queue
  failed       its job ended with an error, which is shown
  interrupted  started, not finished, and nothing works on it: the next run goes on with it
  pending      not started
  left out     not started, and the latest run leaves it out (--skip_train)
"""
EPILOG = """\
exit code: 0 all is done
           1 a unit has failed
           2 wrong call, or no such experiment
           3 no unit has failed, and the work goes on
           4 no unit has failed, nothing works, and not all is done: call ./run.sh again

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


def work(args: argparse.Namespace) -> int:
    """Print the status; return the exit code."""
    status = read_status(Path(args.expdir), args.stage)
    if args.json:
        print(json.dumps(as_json(status), indent=2))  # in ASCII: a path may not be UTF-8
    else:
        print(as_table(status, args.all))
    return EXIT_CODES[status.state]


def main(argv: list[str] | None = None) -> int:
    code = 0

    def show(args: argparse.Namespace) -> None:
        nonlocal code
        code = work(args)

    return run_main(get_parser(), show, argv) or code


if __name__ == "__main__":
    sys.exit(main())
