"""Stage 1 of the CoVoST 2 recipes: Common Voice and CoVoST 2 tables to Kaldi data directories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lors.config import fraction
from lors.data.corpus_report import format_corpus_reports
from lors.data.covost2 import prepare_covost2
from lors.log import run_main
from lors.tasks import TARGET


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.prepare_covost2",
        description="Write <out>/<lang>/{train,dev,test} (Kaldi data directories whose wav.scp "
        "points at the corpus's own clips), dropped.tsv and report.json for every language.",
    )
    parser.add_argument(
        "--common_voice", type=Path, required=True, help="folder cv-corpus-4-2019-12-10"
    )
    parser.add_argument(
        "--covost2", type=Path, required=True, help="folder with covost_v2.<lang>_<target>.tsv"
    )
    parser.add_argument(
        "--langs", nargs="+", required=True, help="Common Voice language codes, e.g. de sv-SE"
    )
    parser.add_argument(
        "--target",
        default=TARGET,
        help="CoVoST 2's code of the target language (%(default)s); with another target than "
        "English, --langs must be en",
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write, usually data")
    parser.add_argument(
        "--min_join",
        type=fraction,
        default=0.95,
        help="least share (0 to 1) of a split's rows that must be in validated.tsv (%(default)s)",
    )
    parser.add_argument(
        "--max_bad_audio",
        type=fraction,
        default=0.1,
        help="largest share (0 to 1) of a split's clips whose file may be missing or empty "
        "(%(default)s)",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    reports = prepare_covost2(
        args.common_voice,
        args.covost2,
        args.langs,
        args.out,
        args.min_join,
        args.max_bad_audio,
        args.target,
    )
    print(format_corpus_reports(reports))


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
