"""Stage 1 of the voice prompts recipe: packages of recorded prompts to Kaldi data directories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lors.config import Range, option_number
from lors.data.voice_prompts.corpus import Limits, format_reports, prepare_voice_prompts
from lors.data.voice_prompts.download import ARCHIVE
from lors.data.voice_prompts.packages import PINNED, load_release
from lors.data.voice_prompts.read_russian import LANG, LIMITS, prepare_read_russian
from lors.errors import UsageError
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.prepare_voice_prompts",
        description="Download and unpack the packages of the voice prompts, unless they are there, "
        "and write <out>/<lang>/{train,dev,test} (Kaldi data directories whose wav.scp points at "
        "the unpacked recordings), dropped.tsv and report.json for every language.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        help="folder of the packages, downloaded or to be downloaded; or one with usr/share/... "
        "where they are unpacked or installed",
    )
    parser.add_argument("--langs", nargs="+", required=True, help="language codes: en es fr it ru")
    parser.add_argument("--out", type=Path, required=True, help="where to write, usually data")
    parser.add_argument(
        "--min_seconds",
        type=option_number(Range(0)),
        help=f"shortest recording to keep ({Limits.shortest})",
    )
    parser.add_argument(
        "--max_seconds",
        type=option_number(Range(0)),
        help=f"longest recording to keep ({Limits.longest}; with --read_russian {LIMITS.longest})",
    )
    parser.add_argument(
        "--read_russian",
        action="store_true",
        help="prepare the Russian sentences instead of the prompts; --langs must be ru",
    )
    parser.add_argument(
        "--archive",
        default=ARCHIVE,
        help="address of Debian's archive or a mirror of it, where apt-get does not get a package "
        "(%(default)s)",
    )
    parser.add_argument(
        "--packages", type=Path, default=PINNED, help="list of the packages with their sums"
    )
    return parser


def work(args: argparse.Namespace) -> None:
    release = load_release(args.packages)
    usual = LIMITS if args.read_russian else Limits()
    limits = Limits(
        usual.shortest if args.min_seconds is None else args.min_seconds,
        usual.longest if args.max_seconds is None else args.max_seconds,
    )
    if not args.read_russian:
        reports = prepare_voice_prompts(
            args.folder, args.langs, args.out, release, limits, args.archive
        )
    elif args.langs == [LANG]:
        reports = [prepare_read_russian(args.folder, args.out, release, limits, args.archive)]
    else:
        raise UsageError(
            "the read sentences are Russian only",
            where="--langs",
            expected=LANG,
            got=" ".join(args.langs),
        )
    print(format_reports(reports))


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
