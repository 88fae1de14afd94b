"""Stage 2: data directories with their audio as 16 kHz mono FLAC, one copy for all tasks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lors.config import finite_number, fraction, process_count
from lors.data.formatting import FormatOptions, format_corpus
from lors.data.language_report import format_language_reports
from lors.data.subset import hours_of
from lors.data.translations import check_translations
from lors.log import run_main
from lors.tasks import SPLITS, TASKS


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.format_audio",
        description="Write <dump>/<lang>/<split> from <data>/<lang>/<split>. The duration limits "
        "apply to splits whose name starts with 'train'; the others keep every clip that "
        "decodes, so that scores stay comparable.",
    )
    parser.add_argument("--data", type=Path, required=True, help="data directories of stage 1")
    parser.add_argument("--dump", type=Path, required=True, help="where to write (dumpdir)")
    parser.add_argument("--langs", nargs="+", required=True, help="language codes")
    parser.add_argument("--splits", nargs="+", default=SPLITS, help=f"splits ({' '.join(SPLITS)})")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=list(TASKS),
        default=[],
        help="tasks of the recipe: data without translations is refused for st (default: none)",
    )
    parser.add_argument(
        "--nj",
        type=process_count,
        default=os.cpu_count(),
        help="worker processes (one for each core: %(default)s)",
    )
    parser.add_argument(
        "--min_dur",
        type=finite_number,
        default=0.1,
        help="shortest training clip in s (%(default)s)",
    )
    parser.add_argument(
        "--max_dur",
        type=finite_number,
        default=30.0,
        help="longest training clip in s (%(default)s)",
    )
    parser.add_argument("--keep_all", action="store_true", help="keep training clips of any length")
    parser.add_argument(
        "--max_bad_audio",
        type=fraction,
        default=0.1,
        help="largest share (0 to 1) of a split's clips that may fail to decode, or differ from "
        "their declared length (%(default)s)",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--train_hours",
        nargs="+",
        default=[],
        metavar="HOURS",
        help="hours of training clips to take of each language (5), of one language (fr=0.5), or "
        "both; balanced over speakers and chosen by a hash of the clips' names; "
        "<dump>/subset/<lang>_<split>.txt lists them",
    )
    chosen.add_argument(
        "--train_subset",
        type=Path,
        help="folder with lists <lang>_<split>.txt of the training clips to take",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    limits = {} if args.keep_all else {"min_dur": args.min_dur, "max_dur": args.max_dur}
    options = FormatOptions(args.nj, args.max_bad_audio, **limits)
    hours = hours_of(args.train_hours, args.langs)
    check_translations(args.data, args.langs, args.splits, args.tasks)
    reports = format_corpus(
        args.data, args.dump, args.langs, args.splits, options, args.train_subset, hours
    )
    print(format_language_reports(reports))


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
