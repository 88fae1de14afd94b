"""Command line of :mod:`lors.recipe.tune`."""

from __future__ import annotations

import argparse
import sys

from lors.config import load_config
from lors.errors import UsageError
from lors.log import run_main
from lors.models import family_of
from lors.recipe.expdir import ExpDir, scopes_of
from lors.recipe.grid import read_grid
from lors.recipe.tune import tune
from lors.tasks import TASKS, Pair


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.tune",
        description="Choose the parameters of merges on the dev set: over languages for each "
        "task and, with two tasks, over languages and tasks. All methods of the grid are searched "
        "with the same number of points; the sweeps are written to "
        "EXPDIR/tune/<method>.<scope>/sweep.json.",
    )
    parser.add_argument("--expdir", required=True)
    parser.add_argument("--dump", required=True, help="data directories <lang>/dev")
    parser.add_argument("--langs", nargs="+", required=True)
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    parser.add_argument("--grid", required=True, help="conf/tune.yaml")
    parser.add_argument("--methods", nargs="+", help="of the grid's methods, these only")
    parser.add_argument("--inference_config", required=True)
    parser.add_argument(
        "--only", type=int, help="only this scope, from 1, the widest first (a job of an array)"
    )
    parser.add_argument("--device", default="cpu")
    return parser


def work(args: argparse.Namespace) -> None:
    family = family_of(ExpDir(args.expdir).base)
    options = load_config(family.inference_options, args.inference_config)
    grid = read_grid(args.grid, args.methods)
    scopes = scopes_of(args.tasks)
    if args.only is not None:
        if not 1 <= args.only <= len(scopes):
            expected = f"1 to {len(scopes)}"
            raise UsageError("no such scope", where="--only", expected=expected, got=args.only)
        scopes = [scopes[args.only - 1]]
    for scope in scopes:
        pairs = [Pair(lang, task) for task in scope for lang in args.langs]
        tune(ExpDir(args.expdir), pairs, args.dump, grid, options, args.device)


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
