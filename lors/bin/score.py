"""Score a hypothesis file against its references."""

from __future__ import annotations

import argparse
import logging
import sys

from lors.data.datadir import read_text
from lors.fileio import write_json
from lors.log import run_main
from lors.score import score_asr, score_st
from lors.tasks import TASKS


def get_parser() -> argparse.ArgumentParser:
    """The command line of ``python -m lors.bin.score``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.score",
        description="Score hypotheses: WER and CER (asr) or BLEU and chrF (st), written as JSON. "
        "Both files are in Kaldi text form; they must be of exactly the same utterances.",
    )
    parser.add_argument("--task", required=True, choices=sorted(TASKS))
    parser.add_argument(
        "--lang",
        required=True,
        help="Common Voice code of the language of the text: the one spoken (asr) or the target "
        "of the translation (st)",
    )
    parser.add_argument("--ref", required=True, help="reference text file")
    parser.add_argument("--hyp", required=True, help="hypothesis text file")
    parser.add_argument("--out", required=True, help="JSON file to write")
    return parser


def work(args: argparse.Namespace) -> None:
    """Read, score, write, and print the result in one line."""
    score = {"asr": score_asr, "st": score_st}[args.task]
    result = score(read_text(args.ref), read_text(args.hyp), args.lang)
    write_json(
        args.out,
        {"task": args.task, "lang": args.lang, "ref": args.ref, "hyp": args.hyp, **result},
    )
    if result["empty_refs"]:
        logging.warning("%s: %d empty references", args.ref, result["empty_refs"])
    main_metric, second = TASKS[args.task].metrics
    print(
        f"{main_metric.name} {result[main_metric.key]:.2f}  "
        f"{second.name} {result[second.key]:.2f}  {result['utterances']} utterances  {args.out}"
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
