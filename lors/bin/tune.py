"""Command line of :mod:`lors.tune`."""

from __future__ import annotations

import argparse
import sys

from lors.config import load_config
from lors.expdir import ExpDir, Pair
from lors.inference import InferenceConfig
from lors.log import run_main
from lors.tune import read_grid, tune


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
    parser.add_argument("--tasks", nargs="+", required=True, choices=["asr", "st"])
    parser.add_argument("--grid", required=True, help="conf/tune.yaml")
    parser.add_argument("--inference_config", required=True)
    parser.add_argument(
        "--only", type=int, help="only this scope, from 1, the widest first (a job of an array)"
    )
    parser.add_argument("--device", default="cpu")
    return parser


def work(args: argparse.Namespace) -> None:
    options = load_config(InferenceConfig, args.inference_config)
    grid = read_grid(args.grid)
    # The widest merge takes as long as all others together, so it starts first.
    scopes = sorted({(task,) for task in args.tasks} | {tuple(sorted(args.tasks))}, key=len)[::-1]
    for scope in scopes if args.only is None else [scopes[args.only - 1]]:
        pairs = [Pair(lang, task) for task in scope for lang in args.langs]
        tune(ExpDir(args.expdir), pairs, args.dump, grid, options, args.device)


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
