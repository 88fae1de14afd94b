"""Prepare LibriSpeech as Kaldi data directories."""

from __future__ import annotations

import argparse
import sys

from lors.data.librispeech import prepare_librispeech
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="local/prepare_librispeech.sh",
        description="Write OUT/en/train with all speakers of some subsets of LibriSpeech.",
    )
    parser.add_argument("--corpus", required=True, help="the folder LibriSpeech")
    parser.add_argument("--subsets", nargs="+", default=["train-clean-360"], help="its folders")
    parser.add_argument("--out", required=True, help="where to write")
    return parser


def work(args: argparse.Namespace) -> None:
    number = prepare_librispeech(args.corpus, args.subsets, args.out)
    print(f"{args.out}/en/train: {number} utterances")


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
