"""Write the merged models that the search on dev has chosen."""

from __future__ import annotations

import argparse
import sys

from lors.log import run_main
from lors.recipe.expdir import ExpDir
from lors.recipe.merge_tuned import merge_tuned
from lors.recipe.names import check_names


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.merge_tuned``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.merge_tuned",
        description="Merge an experiment's experts with the parameters of its sweeps; writes "
        "EXPDIR/merged/<method>.<scope>/ for each method and scope. Finished models are left "
        "alone.",
    )
    parser.add_argument("--expdir", required=True, help="experiment directory")
    parser.add_argument("--methods", nargs="+", required=True, help="merge methods")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument(
        "--scopes",
        nargs="+",
        required=True,
        help="tasks whose experts are merged, joined by _: e.g. asr st asr_st",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    merge_tuned(ExpDir(args.expdir), args.methods, args.langs, args.scopes)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
