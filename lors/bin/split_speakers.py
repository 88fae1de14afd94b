"""Split data directories by speakers: some to adapt to, the rest to pre-train on."""

from __future__ import annotations

import argparse
import sys

from lors.config import count
from lors.data.speaker_split import SpeakerRule, read_partition, split_speakers
from lors.log import run_main
from lors.recipe.names import check_names
from lors.tasks import TASKS


def get_parser() -> argparse.ArgumentParser:
    rule = SpeakerRule()
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.split_speakers",
        description="Write OUT/<lang>-x-<speaker>/{train,dev,test} for each test speaker, "
        "OUT/<lang>/{train,dev} with all other speakers, and the lists OUT/speakers and "
        "OUT/pretraining. Utterances are split in the order of their ids.",
    )
    parser.add_argument("--data", required=True, help="data directories <lang>/<split>")
    parser.add_argument("--langs", nargs="+", required=True, help="language codes")
    parser.add_argument("--out", required=True, help="directory to write")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--number",
        type=count,
        help=f"test speakers of each language, those with the most utterances ({rule.number})",
    )
    chosen.add_argument(
        "--speakers",
        nargs="+",
        default=(),
        help="ids of the test speakers; with --partition, some of its speakers",
    )
    parser.add_argument(
        "--partition",
        help="YAML file of test speakers, each with its first and last dev utterance: those before "
        "adapt, those behind test; in place of --number, --adapt and --dev",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=["asr"],
        choices=list(TASKS),
        help="tasks of the data: speakers without translations for them are named (asr)",
    )
    parser.add_argument("--adapt", type=count, help=f"({rule.adapt})")
    parser.add_argument("--dev", type=count, help=f"({rule.dev})")
    parser.add_argument(
        "--least_test",
        type=count,
        default=rule.least_test,
        help="fewest test utterances of a speaker (%(default)s)",
    )
    parser.add_argument(
        "--own_splits",
        action="store_true",
        help="keep the train, dev and test of the corpus; in place of --adapt and --dev",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    check_names({"data": args.data, "langs": args.langs, "out": args.out})
    rule = SpeakerRule(
        number=args.number or SpeakerRule.number,
        speakers=tuple(args.speakers),
        adapt=args.adapt or SpeakerRule.adapt,
        dev=args.dev or SpeakerRule.dev,
        least_test=args.least_test,
        own_splits=args.own_splits,
        partition=read_partition(args.partition) if args.partition else {},
    )
    for code in split_speakers(args.data, args.langs, args.out, rule, args.tasks):
        print(code)


def main(argv: list[str] | None = None) -> int:
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.number and args.partition:
        parser.error("--number is not for --partition, which names the speakers")
    if (args.adapt or args.dev) and (args.own_splits or args.partition):
        parser.error("--adapt and --dev are not for --own_splits or --partition")
    return run_main(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
