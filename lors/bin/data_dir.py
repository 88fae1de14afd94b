"""Kaldi's data directory tools; utils/{fix,subset}_data_dir.sh and their kin are names for them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lors.data import datadir_tools as tools
from lors.errors import UsageError
from lors.log import run_main

LISTS = {"utt_list": False, "spk_list": True}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.data_dir",
        description="Put Kaldi data directories in order, cut them to size, join and split them.",
    )
    commands = parser.add_subparsers(dest="tool", required=True, metavar="tool")

    fix = commands.add_parser(
        "fix",
        prog="utils/fix_data_dir.sh",
        help="sort the files of a data directory and leave only complete utterances",
        description="Sort every file of a data directory and leave in each only the utterances "
        "that all of them have. The files as they were are kept in .backup.",
    )
    fix.add_argument("data", type=Path)

    subset = commands.add_parser(
        "subset",
        prog="utils/subset_data_dir.sh",
        help="write a part of a data directory",
        description="Write a part of a data directory. By default the utterances are taken at "
        "even distances. Every choice is the same in every run.",
        usage="%(prog)s [--first|--last|--shortest|--speakers|--per_spk] source number target\n"
        "       %(prog)s --utt_list FILE source target\n"
        "       %(prog)s --spk_list FILE source target",
    )
    modes = subset.add_mutually_exclusive_group()
    for name, what in (
        ("first", "the first utterances"),
        ("last", "the last utterances"),
        ("shortest", "the shortest utterances by utt2dur"),
        ("speakers", "whole speakers until there are that many utterances"),
        ("per_spk", "up to that many utterances of every speaker"),
    ):
        _add_option(modes, name, action="store_const", const=name, dest="mode", help=what)
    _add_option(modes, "utt_list", type=Path, help="the utterances that a file lists")
    _add_option(modes, "spk_list", type=Path, help="all of the speakers that a file lists")
    subset.add_argument("words", nargs="+", metavar="source [number] target")

    combine = commands.add_parser(
        "combine",
        prog="utils/combine_data.sh",
        help="join data directories",
        description="Join data directories. A file that one of them lacks is left out, and named.",
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
    split.add_argument("number", type=int)
    return parser


def _add_option(parser, name: str, **options) -> None:
    """An option with its underscores, and with the hyphens that Kaldi has in their place."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    parser.add_argument(*spellings, **options)


def work(args: argparse.Namespace) -> None:
    if args.tool == "fix":
        for note in tools.fix_data_dir(args.data) or ["nothing to mend"]:
            print(f"{args.data}: {note}")
    elif args.tool == "subset":
        _subset(args)
    elif args.tool == "combine":
        left_out = tools.combine_data(args.target, args.sources)
        if left_out:
            print(f"{args.target}: left out, not in all sources: {', '.join(left_out)}")
    else:
        for part in tools.split_data(args.data, args.number, args.per_utt):
            print(part)


def _subset(args: argparse.Namespace) -> None:
    chosen_by = next((name for name in LISTS if getattr(args, name)), None)
    if len(args.words) != (2 if chosen_by else 3):
        expected = "source target" if chosen_by else "source number target"
        raise UsageError("wrong number of arguments", expected=expected, got=" ".join(args.words))
    source, target = args.words[0], args.words[-1]
    if chosen_by:
        choose = tools.listed(getattr(args, chosen_by), LISTS[chosen_by])
    else:
        try:
            number = int(args.words[1])
        except ValueError:
            raise UsageError("not a number of utterances", got=args.words[1]) from None
        if args.mode == "shortest":
            choose = tools.shortest(number, source)
        else:
            ways = {
                None: tools.spread,
                "first": tools.first,
                "last": tools.last,
                "speakers": tools.whole_speakers,
                "per_spk": tools.per_speaker,
            }
            choose = ways[args.mode](number)
    count = tools.subset_data_dir(source, target, choose)
    print(f"{target}: {count} utterances")


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
