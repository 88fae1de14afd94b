"""Compare systems of one or two experiments, with tests of significance."""

from __future__ import annotations

import argparse
import itertools
import sys

from lors.log import run_main
from lors.recipe.compare_systems import compare_systems
from lors.recipe.names import problems_of, raise_problems
from lors.score.significance import SEED
from lors.tasks import TASKS


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.compare``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.compare",
        description="Compare the first system of the first experiment with every other one: per "
        "language, and over all languages together. WER by the matched-pairs test of NIST "
        "(MAPSSWE) and a paired bootstrap, BLEU and chrF by the paired bootstrap, with Holm's "
        "correction over the rows of each table. The systems must be scored "
        "(python -m lors.bin.score_expdir) on the same test sets.",
    )
    parser.add_argument(
        "--expdir", required=True, nargs="+", help="one experiment directory, or two"
    )
    parser.add_argument(
        "--systems",
        required=True,
        nargs="+",
        help="names of systems, e.g. lors.langs tsv_m.langs; with two experiments each system is "
        "taken from every experiment that has it",
    )
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--langs", nargs="+", help="default: all languages of the first system")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), help="default: all tasks")
    parser.add_argument(
        "--pooled",
        action="store_true",
        help="compare over all languages together alone: one row for each system, and Holm's "
        "correction over these",
    )
    parser.add_argument(
        "--seed", type=int, default=SEED, help="of the bootstrap samples (default: %(default)s)"
    )
    parser.add_argument("--out", help="JSON file to write")
    return parser


def work(args: argparse.Namespace) -> None:
    problems = (problems_of({**vars(args), "expdir": expdir}) for expdir in args.expdir)
    raise_problems([*dict.fromkeys(itertools.chain.from_iterable(problems))])
    print(
        compare_systems(
            *(args.expdir, args.systems, args.split, args.langs, args.tasks, args.seed),
            *(args.out, args.pooled),
        )
    )


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
