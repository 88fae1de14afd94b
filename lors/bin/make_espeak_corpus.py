"""Make a synthetic corpus in the layout of Common Voice 4 and CoVoST 2, spoken by espeak-ng.

Example:
    python -m lors.bin.make_espeak_corpus --out downloads --langs de es fr --condition domain \\
        --num_train 300 --num_dev 100 --num_test 160 --nj 2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lors.config import count, fraction, process_count
from lors.data.espeak.corpus import make_corpus
from lors.data.espeak.grammar import languages
from lors.data.espeak.plan import Settings
from lors.data.espeak.voices import CONDITIONS
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.make_espeak_corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to make the corpus in")
    parser.add_argument(
        "--langs", nargs="+", required=True, metavar="LANG", help=" ".join(languages())
    )
    parser.add_argument(
        "--condition",
        required=True,
        metavar="|".join(CONDITIONS),
        help="acoustic condition: mild (pool), another shift for each language (domain), or "
        "another one for each speaker, of whom there are few with many clips (personal)",
    )
    for split, default in (("train", 300), ("dev", 100), ("test", 160)):
        parser.add_argument(
            f"--num_{split}",
            type=count,
            default=default,
            metavar="N",
            help=f"{split} clips of each language (default: {default})",
        )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all random choices (default: 0)"
    )
    parser.add_argument(
        "--nj", type=process_count, default=2, help="number of processes (default: 2)"
    )
    parser.add_argument(
        "--vocab_holdout",
        type=fraction,
        metavar="SHARE",
        help="share of the vocabulary to leave out (default: the condition's own)",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    settings = Settings(
        out=args.out.resolve(),
        languages=tuple(args.langs),
        condition=args.condition,
        num_train=args.num_train,
        num_dev=args.num_dev,
        num_test=args.num_test,
        seed=args.seed,
        vocab_holdout=args.vocab_holdout,
    )
    make_corpus(settings, args.nj)


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
