"""Check Kaldi data directories and print all their problems at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lors.data.datadir import read_scp, validate_data_dir
from lors.errors import LorsError, shortened
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.validate_data_dir",
        description="Exit code 0 if every directory is a valid data directory, else 1.",
    )
    parser.add_argument("data_dirs", type=Path, nargs="+", metavar="data_dir")
    parser.add_argument(
        "--check_audio",
        "--check-audio",
        action="store_true",
        help="also check that every audio file is there",
    )
    parser.add_argument(
        *("--no_feats", "--no-feats", "--no_text", "--no-text"),
        action="store_true",
        help="options of Kaldi's tool, always on: features and texts are not required",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    problems = []
    for path in args.data_dirs:
        found = validate_data_dir(path, args.check_audio)
        problems += [f"{path}/{problem}" for problem in found]
        if not found:
            print(f"{path}: valid, {len(read_scp(path / 'utt2spk'))} utterances")
    if problems:
        raise LorsError(
            f"{len(problems)} problem(s) in the data directories",
            got=shortened(problems, 200),
            hint="utils/fix_data_dir.sh mends order, repeated and incomplete lines",
        )


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
