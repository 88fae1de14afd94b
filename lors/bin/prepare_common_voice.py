"""Stage 1 of the Common Voice recipe: the tables of any release to Kaldi data directories."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from lors.data.common_voice import TRAIN_TABLES, check_release, prepare_language
from lors.data.selection import format_reports
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
        help="the official train.tsv, or all of validated.tsv that is in neither dev nor test "
        "(%(default)s)",
    )
    parser.add_argument(
        "--max_bad_audio",
        type=float,
        default=0.1,
        help="largest share of a split's clips whose file may be missing or empty (%(default)s)",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    check_release(args.common_voice, args.langs, args.train_from)
    reports = []
    for lang in args.langs:
        out = args.out / lang
        reports.append(
            prepare_language(args.common_voice, lang, out, args.train_from, args.max_bad_audio)
        )
        logging.info("%s: data directories written to %s", lang, out)
    print(format_reports(reports))


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
