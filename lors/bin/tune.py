"""Choose the parameters of merges on the dev set."""

from __future__ import annotations

import argparse
import sys

from lors.config import Range, check_number
from lors.errors import UsageError
from lors.log import run_main
from lors.models import family_of
from lors.recipe.expdir import ExpDir, searches_of, tasks_of
from lors.recipe.grid import read_grid
from lors.recipe.names import check_names
from lors.recipe.tune import tune
from lors.tasks import TASKS, pairs_of


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.tune``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.tune",
        description="Choose the parameters of merges on the dev set: of a merge over languages "
        "for each task and, with two tasks, of one merge over languages and tasks. All methods of "
        "the grid get the same number of points. Writes EXPDIR/tune/<method>.<scope>/sweep.json.",
    )
    parser.add_argument("--expdir", required=True, help="experiment directory")
    parser.add_argument("--dump", required=True, help="data directories <lang>/dev")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    parser.add_argument("--grid", required=True, help="settings to try (conf/tune.yaml)")
    parser.add_argument("--methods", nargs="+", help="merge methods; default: all of the grid")
    parser.add_argument("--inference_config", required=True, help="conf/inference_*.yaml")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="divide the methods if there are several jobs for each scope; default: %(default)s",
    )
    parser.add_argument(
        "--only", type=int, help="only this job, from 1, the widest scope first (of an array)"
    )
    parser.add_argument("--device", default="cpu", help="torch device; default: %(default)s")
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    expdir = ExpDir(args.expdir)
    check_number(args.jobs, Range(1), "--jobs")
    grid = read_grid(args.grid, args.methods)  # all together: they have one budget
    options = grid.options_from(args.inference_config, family_of(expdir.base).inference_options)
    methods = list(grid.points)
    searches = searches_of(args.tasks, methods, args.jobs)
    if args.only is not None:
        if not 1 <= args.only <= len(searches):
            expected = f"1 to {len(searches)}"
            raise UsageError("no such job", where="--only", expected=expected, got=args.only)
        searches = [searches[args.only - 1]]
    for scope, own in searches:
        pairs = [pair for task in tasks_of(scope) for pair in pairs_of(args.langs, [task])]
        tune(expdir, pairs, args.dump, read_grid(args.grid, own), options, args.device)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
