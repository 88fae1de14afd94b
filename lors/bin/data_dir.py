"""Kaldi's data directory tools: the program behind utils/fix_data_dir.sh, split_data.sh, ..."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lors.config import count
from lors.data.datadir_subset import subset_by_list, subset_by_number
from lors.data.datadir_tools import combine_data, fix_data_dir, split_data
from lors.errors import UsageError
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.data_dir",
        description="Mend, subset, join and split Kaldi data directories.",
    )
    commands = parser.add_subparsers(dest="tool", required=True, metavar="tool")

    fix = commands.add_parser(
        "fix",
        prog="utils/fix_data_dir.sh",
        help="sort the files of a data directory and keep only complete utterances",
        description="Sort every file of a data directory and keep in each only the utterances "
        "that all of them have. The old files are kept in .backup.",
    )
    fix.add_argument("data", type=Path)

    subset = commands.add_parser(
        "subset",
        prog="utils/subset_data_dir.sh",
        help="write a part of a data directory",
        description="Write a part of a data directory: by default, utterances at even distances. "
        "The choice is the same in every run.",
        usage="%(prog)s [--first|--last|--shortest|--speakers|--per_spk] source number target\n"
        "       %(prog)s --utt_list FILE source target\n"
        "       %(prog)s --spk_list FILE source target",
    )
    choices = subset.add_mutually_exclusive_group()
    for rule, what in (
        ("first", "the first utterances"),
        ("last", "the last utterances"),
        ("shortest", "the shortest utterances by utt2dur"),
        ("speakers", "whole speakers until there are that many utterances"),
        ("per_spk", "up to that many utterances of every speaker"),
    ):
        _add_option(choices, rule, action="store_const", const=rule, dest="rule", help=what)
    _add_option(choices, "utt_list", type=Path, help="the utterances that a file lists")
    _add_option(choices, "spk_list", type=Path, help="all utterances of the speakers of a list")
    subset.set_defaults(rule="spread")
    subset.add_argument("words", nargs="+", metavar="source [number] target")

    combine = commands.add_parser(
        "combine",
        prog="utils/combine_data.sh",
        help="join data directories",
        description="Join data directories. A file that one of them lacks is left out and named.",
    )
    combine.add_argument("target", type=Path)
    combine.add_argument("sources", type=Path, nargs="+", metavar="source")

    split = commands.add_parser(
        "split",
        prog="utils/split_data.sh",
        help="split a data directory into parts",
        description="Split a data directory into <data>/split<number>/{1,2,...}, every speaker "
        "in one part.",
    )
    _add_option(split, "per_utt", action="store_true", help="do not keep speakers together")
    split.add_argument("data", type=Path)
    split.add_argument("number", type=count, help="how many parts")
    return parser


def _add_option(parser: argparse._ActionsContainer, name: str, **options: Any) -> None:
    """Add an option that is spelled with underscores or, as in Kaldi, with hyphens."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    parser.add_argument(*spellings, **options)


def work(args: argparse.Namespace) -> None:
    if args.tool == "fix":
        for note in fix_data_dir(args.data) or ["nothing to mend"]:
            print(f"{args.data}: {note}")
    elif args.tool == "subset":
        _subset(args)
    elif args.tool == "combine":
        left_out = combine_data(args.target, args.sources)
        if left_out:
            print(f"{args.target}: left out, not in all sources: {', '.join(left_out)}")
    else:
        for part in split_data(args.data, args.number, args.per_utt):
            print(part)


def _subset(args: argparse.Namespace) -> None:
    id_list = args.utt_list or args.spk_list
    if len(args.words) != (2 if id_list else 3):
        expected = "source target" if id_list else "source number target"
        raise UsageError("wrong number of arguments", expected=expected, got=" ".join(args.words))
    source, target = args.words[0], args.words[-1]
    if id_list:
        count = subset_by_list(source, target, id_list, of_speakers=args.spk_list is not None)
    else:
        try:
            number = int(args.words[1])
        except ValueError:
            raise UsageError("not a number of utterances", got=args.words[1]) from None
        count = subset_by_number(source, target, number, args.rule)
    print(f"{target}: {count} utterances")


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
