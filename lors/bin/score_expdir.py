"""Score every hypothesis file of an experiment."""

from __future__ import annotations

import argparse
import sys

from lors.log import run_main
from lors.recipe.expdir import ExpDir
from lors.recipe.names import check_names
from lors.recipe.scoring import score_expdir, warn_of_unknown
from lors.score.text import LORS, NORMALISERS
from lors.tasks import TASKS, pairs_of


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.score_expdir``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.score_expdir",
        description="Score EXPDIR/inference/<split>/<system>/<lang>_<task> against the data "
        "directories; writes EXPDIR/scores/<split>/<system>/<lang>_<task>.json, and beside it "
        "<lang>_<task>.utterances.tsv, the texts and counts of each utterance. Scores of unchanged "
        "files are left alone.",
    )
    parser.add_argument("--expdir", required=True, help="experiment directory")
    parser.add_argument("--dump", required=True, help="data directories <lang>/<split>")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--systems", nargs="+", required=True, help="e.g. base expert lors.langs")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    parser.add_argument(
        "--normaliser",
        choices=NORMALISERS,
        default=LORS,
        help="text normaliser for WER and CER (default: %(default)s); English has Whisper's in any "
        "case",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    warn_of_unknown(args.langs)
    pairs = pairs_of(args.langs, args.tasks)
    score_expdir(ExpDir(args.expdir), args.dump, args.split, args.systems, pairs, args.normaliser)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
