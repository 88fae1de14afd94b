"""Run inference on test sets with the models of an experiment."""

from __future__ import annotations

import argparse
import sys

from lors.config import load_config
from lors.errors import UsageError
from lors.log import run_main
from lors.models import family_of
from lors.recipe.expdir import ExpDir, inference_units
from lors.recipe.inference import infer
from lors.recipe.names import check_names
from lors.tasks import TASKS, pairs_of


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.inference``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.inference",
        description="Run inference with each system of an experiment; hypotheses go to "
        "EXPDIR/inference/<split>/<system>/<lang>_<task>. Finished files are skipped.",
    )
    parser.add_argument("--expdir", required=True, help="experiment directory")
    parser.add_argument("--dump", required=True, help="data directories <lang>/<split>")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--systems", nargs="+", required=True, help="e.g. base expert lors.langs")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    parser.add_argument("--inference_config", required=True, help="conf/inference_*.yaml")
    parser.add_argument("--job", type=int, default=1, help="part of the work, from 1")
    parser.add_argument("--num_jobs", type=int, default=1, help="number of parts")
    parser.add_argument("--device", default="cpu", help="torch device; default: %(default)s")
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    if not 1 <= args.job <= args.num_jobs:
        expected = f"1 to --num_jobs ({args.num_jobs})"
        raise UsageError("no such part of the work", where="--job", expected=expected, got=args.job)
    expdir = ExpDir(args.expdir)
    pairs = pairs_of(args.langs, args.tasks)
    part = [
        (pair, expdir.model(system, pair, args.tasks), expdir.hypothesis(args.split, system, pair))
        for system, pair in inference_units(args.systems, pairs, args.job, args.num_jobs)
    ]
    options = load_config(family_of(expdir.base).inference_options, args.inference_config)
    infer(part, args.dump, args.split, options, args.device)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
