"""Stage 1 of the Common Voice recipe: the tables of any release to Kaldi data directories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lors.config import fraction
from lors.data.common_voice import TRAIN_TABLES, prepare_common_voice
from lors.data.corpus_report import format_corpus_reports
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.prepare_common_voice",
        description="Write <out>/<lang>/{train,dev,test} (Kaldi data directories whose wav.scp "
        "points at the corpus's own clips), dropped.tsv and report.json for every language.",
    )
    parser.add_argument(
        "--common_voice", type=Path, required=True, help="folder cv-corpus-<version>-<date>"
    )
    parser.add_argument(
        "--langs", nargs="+", required=True, help="Common Voice language codes, e.g. de sv-SE"
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write, usually data")
    parser.add_argument(
        "--train_from",
        choices=TRAIN_TABLES,
        default="train",
        help="the official train.tsv, or all clips of validated.tsv that are in neither dev nor "
        "test (%(default)s)",
    )
    parser.add_argument(
        "--max_bad_audio",
        type=fraction,
        default=0.1,
        help="largest share (0 to 1) of a split's rows that may be malformed, or whose file may be "
        "missing or empty (%(default)s)",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    reports = prepare_common_voice(
        args.common_voice, args.langs, args.out, args.train_from, args.max_bad_audio
    )
    print(format_corpus_reports(reports))


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
