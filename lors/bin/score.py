"""Score a hypothesis file against its references."""

from __future__ import annotations

import argparse
import logging
import sys

from lors.errors import UsageError
from lors.log import run_main
from lors.recipe.scoring import score_files, warn_of_unknown, write_score
from lors.score import SCORERS
from lors.score.text import LORS, NORMALISERS
from lors.tasks import TASKS


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.score``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.score",
        description="Score hypotheses and write the scores as JSON: WER and CER of recognition "
        "(asr), BLEU and chrF of translation (st). Both files are in Kaldi text form and must "
        "have exactly the same utterances. Their texts and counts are written beside the scores, "
        "OUT with the ending .utterances.tsv.",
    )
    parser.add_argument("--task", required=True, choices=sorted(TASKS))
    parser.add_argument(
        "--lang",
        required=True,
        help="Common Voice code of the language of the text: the spoken language (asr) or the "
        "target language of the translation (st)",
    )
    parser.add_argument("--ref", required=True, help="reference text file")
    parser.add_argument("--hyp", required=True, help="hypothesis text file")
    parser.add_argument(
        "--normaliser",
        choices=NORMALISERS,
        help=f"text normaliser for WER and CER (default: {LORS}); English has Whisper's in any "
        "case",
    )
    parser.add_argument("--out", required=True, help="JSON file to write")
    return parser


def work(args: argparse.Namespace) -> None:
    """Read, score, write, and print the result in one line."""
    if args.normaliser and not SCORERS[args.task].normalises:
        raise UsageError(
            f"task {args.task} is scored without normalisation",
            where="--normaliser",
            got=args.normaliser,
            hint="leave out --normaliser",
        )
    warn_of_unknown([args.lang])
    score, utterances = score_files(
        args.task, args.lang, args.ref, args.hyp, args.normaliser or LORS
    )
    write_score(args.out, args.task, args.lang, args.ref, args.hyp, score, utterances)
    if score.sizes["empty_refs"]:
        logging.warning("%s: %d empty references", args.ref, score.sizes["empty_refs"])
    metrics = "  ".join(f"{metric.name} {score.value(metric):.2f}" for metric in score.task.metrics)
    print(f"{metrics}  {score.sizes['utterances']} utterances  {args.out}")


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
