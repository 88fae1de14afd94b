"""Prepare the test of speakers' adapters on the base model in full precision, and measure sizes."""

from __future__ import annotations

import argparse
import sys

from lors.log import run_main
from lors.recipe.expdir import ExpDir
from lors.recipe.names import check_names
from lors.recipe.personal import share_adapters, write_sizes
from lors.tasks import TASKS, pairs_of


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.share_adapters",
        description="Make EXPDIR/full_* of EXPDIR/quantised_*: links to the same adapters, for the "
        "base model in full precision; and write EXPDIR/sizes.json.",
    )
    parser.add_argument("--expdir", required=True, help="experiment directory")
    parser.add_argument("--langs", nargs="+", required=True, help="test speakers: de-x-anna ...")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    expdir, pairs = ExpDir(args.expdir), pairs_of(args.langs, args.tasks)
    share_adapters(expdir, pairs)
    write_sizes(expdir, pairs)


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
