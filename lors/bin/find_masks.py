"""Find the mask of each language of an experiment: its sub-network of the base model."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from lors.log import run_main
from lors.recipe.expdir import ExpDir, subnet_system
from lors.recipe.names import check_names
from lors.recipe.subnetworks import find_masks_of, take_masks
from lors.subnet.criteria import Criterion
from lors.subnet.find import HIGHEST_RATE, LOWEST_RATE, Scope
from lors.tasks import TASKS


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.find_masks",
        description="Write EXPDIR/masks/<criterion>_<rate>/masks.safetensors: of each matrix that "
        "the policy prunes, the entries that matter most for each language. magnitude and common "
        "need the experts, taylor and common_taylor the scores of lors.bin.importance.",
    )
    parser.add_argument("--expdir", required=True, help="experiment directory")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    parser.add_argument("--criteria", nargs="+", required=True, choices=get_args(Criterion))
    parser.add_argument(
        "--rates",
        nargs="+",
        type=int,
        required=True,
        help=f"percent of the entries to prune, {LOWEST_RATE} to {HIGHEST_RATE}",
    )
    parser.add_argument(
        "--scope",
        choices=get_args(Scope),
        default="matrix",
        help="whether the rate holds for each matrix or for all together; default: %(default)s",
    )
    parser.add_argument(
        "--pretrained",
        help="experiment of a pre-training whose masks are taken, in place of new ones",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    if args.pretrained:
        systems = [subnet_system(c, rate) for c in args.criteria for rate in args.rates]
        take_masks(ExpDir(args.expdir), ExpDir(args.pretrained), systems, args.langs, args.scope)
        return
    for criterion in args.criteria:
        for rate in args.rates:
            find_masks_of(ExpDir(args.expdir), args.langs, args.tasks, criterion, rate, args.scope)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
