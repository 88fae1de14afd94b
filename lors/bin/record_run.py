"""Record the current stage or the end of a recipe's run for utils/status; called by stages.sh."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from pathlib import Path

from lors.log import run_main
from lors.recipe.names import check_names
from lors.recipe.run_record import RunRecord, begin_stage, end_run


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.record_run",
        description="Write EXPDIR/recipe.json: the options of a run, its process, and its current "
        "stage or exit code.",
    )
    event = parser.add_mutually_exclusive_group(required=True)
    event.add_argument("--stage", default="", help="the stage that begins")
    event.add_argument("--status", type=int, help="exit code of a run that has ended")
    parser.add_argument("--pid", type=int, required=True, help="process of the run")
    parser.add_argument("--command", required=True, help="command line of the run")
    parser.add_argument("--environment", default="", help="assignments before the command line")
    parser.add_argument("--script", default="lors", help="recipe script; default: %(default)s")
    parser.add_argument("--speakers", default="", help="data directories of speakers (pqm)")
    parser.add_argument("--stop_stage", type=int, required=True, help="number of the last stage")
    parser.add_argument("--expdir", required=True)
    parser.add_argument("--data", required=True, help="data directories of stage 1")
    parser.add_argument("--dump", required=True, help="data directories of stage 2")
    for name in ("langs", "tasks", "methods", "systems"):
        parser.add_argument(f"--{name}", nargs="*", required=True)
    parser.add_argument("--skip_train", choices=["true", "false"], required=True)
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    record = RunRecord(
        **{**vars(args), "skip_train": args.skip_train == "true"},
        directory=str(Path.cwd()),
        host=socket.gethostname(),
        slurm_job=_slurm_job(),
        began=time.time(),
    )
    if args.status is None:
        begin_stage(record)
    else:
        end_run(record)


def _slurm_job() -> str:
    """Return the Slurm job of this process, as squeue calls it; empty outside of Slurm."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
