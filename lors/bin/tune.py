"""Choose the parameters of merges on the dev set."""

from __future__ import annotations

import argparse
import sys

from lors.config import load_config
from lors.errors import UsageError
from lors.log import run_main
from lors.models import family_of
from lors.recipe.expdir import ExpDir, scopes_of, tasks_of
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
        "--only", type=int, help="only this scope, from 1, the widest first (a job of an array)"
    )
    parser.add_argument("--device", default="cpu", help="torch device; default: %(default)s")
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    expdir = ExpDir(args.expdir)
    options = load_config(family_of(expdir.base).inference_options, args.inference_config)
    grid = read_grid(args.grid, args.methods)
    scopes = scopes_of(args.tasks)
    if args.only is not None:
        if not 1 <= args.only <= len(scopes):
            expected = f"1 to {len(scopes)}"
            raise UsageError("no such scope", where="--only", expected=expected, got=args.only)
        scopes = [scopes[args.only - 1]]
    for scope in scopes:
        pairs = [pair for task in tasks_of(scope) for pair in pairs_of(args.langs, [task])]
        tune(expdir, pairs, args.dump, grid, options, args.device)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
