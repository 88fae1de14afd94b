"""Measure the importance of every weight of a base model for each language, for its mask."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lors.bin.train import add_training_options, complete_config
from lors.errors import UsageError
from lors.log import run_main
from lors.recipe.names import check_names
from lors.recipe.subnetworks import check_own
from lors.recipe.train import estimate_importance
from lors.tasks import TASKS, pairs_of


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.importance",
        description="Write |w dL/dw|, summed over all batches of a language's training data, for "
        "every matrix of a base model: first-order Taylor scores, to "
        "OUT/<lang>/importance.safetensors.",
    )
    parser.add_argument("--base", required=True, help="model directory (config.yaml, model.pth)")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    add_training_options(parser)
    parser.add_argument("--only", type=int, required=True, help="number of the language, from 1")
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    if not 1 <= args.only <= len(args.langs):
        expected = f"1 to {len(args.langs)}"
        raise UsageError("no such language", where="--only", expected=expected, got=args.only)
    check_own(Path(args.out))
    lang = args.langs[args.only - 1]
    pairs = pairs_of([lang], args.tasks)
    estimate_importance(
        pairs,
        args.dump,
        complete_config(args, pairs),
        Path(args.out) / lang,
        stats=args.stats,
        seed=args.seed,
        ngpu=args.ngpu,
        dev=args.dev_utterances,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    parser = get_parser()
    if not parser.parse_args(argv).stats:
        parser.error("--stats is needed")
    return run_main(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
