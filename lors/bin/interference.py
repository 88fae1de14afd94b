"""Interference of the experts of every two languages, against the loss of merging them."""

from __future__ import annotations

import argparse
import sys

from lors.config import count, load_config
from lors.log import run_main
from lors.models import family_of
from lors.recipe.expdir import ExpDir
from lors.recipe.interference import write_interference, write_interference_report
from lors.recipe.names import check_names
from lors.tasks import TASKS


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.interference``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.interference",
        description="For every two languages: cosine, sign agreement, subspace overlap and "
        "inflation of the task vectors of their experts, and what the average of the two experts "
        "loses on dev. Writes EXPDIR/interference.json and a table.",
    )
    parser.add_argument("--expdir", required=True, help="experiment directory with experts")
    parser.add_argument("--dump", required=True, help="data directories <lang>/dev")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    parser.add_argument("--inference_config", required=True, help="conf/inference_*.yaml")
    parser.add_argument("--rank", type=int, default=5, help="as of lors inspect; default: 5")
    parser.add_argument("--dev_utterances", type=count, help="dev utterances of each language")
    parser.add_argument("--device", default="cpu", help="torch device; default: %(default)s")
    parser.add_argument("--out", required=True, help="Markdown file of the table")
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    expdir = ExpDir(args.expdir)
    options = load_config(family_of(expdir.base).inference_options, args.inference_config)
    file = write_interference(
        *(expdir, args.langs, args.tasks, args.dump, options, args.rank),
        *(args.dev_utterances, args.device),
    )
    print(write_interference_report(file, args.out, "Interference"))


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
