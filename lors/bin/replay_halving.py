"""Successive halving replayed on finished searches over the plain grid."""

from __future__ import annotations

import argparse
import sys

from lors.config import build
from lors.log import run_main
from lors.recipe.halving import Halving
from lors.recipe.replay import replay_all


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.replay_halving``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.replay_halving",
        description="Say what finished searches over the plain grid would have chosen with "
        "successive halving, and how many evaluations that saves. Needs no inference: a search "
        "keeps the hypotheses of every setting.",
    )
    parser.add_argument("--expdirs", required=True, nargs="+", help="experiment directories")
    parser.add_argument("--dump", required=True, help="data directories <lang>/dev")
    parser.add_argument(
        "--first",
        type=float,
        default=0.25,
        help="share of the clips of the first round (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=0.5,
        help="share of the settings that goes on (default: %(default)s)",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    rule = {"first": args.first, "keep": args.keep}
    print(replay_all(args.expdirs, args.dump, build(Halving, rule, "--first and --keep")))


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
