"""Score every hypothesis file of an experiment."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lors.data.datadir import read_text
from lors.fileio import write_json
from lors.log import run_main
from lors.recipe.expdir import ExpDir
from lors.score import score_asr, score_st
from lors.tasks import TASKS, Pair


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.score_expdir",
        description="Score EXPDIR/inference/<split>/<system>/<lang>_<task> against the data "
        "directories; writes EXPDIR/scores/<split>/<system>/<lang>_<task>.json.",
    )
    parser.add_argument("--expdir", required=True)
    parser.add_argument("--dump", required=True, help="data directories <lang>/<split>")
    parser.add_argument("--split", default="test")
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--langs", nargs="+", required=True)
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    return parser


def work(args: argparse.Namespace) -> None:
    expdir = ExpDir(args.expdir)
    for lang in args.langs:
        for task in args.tasks:
            pair = Pair(lang, task)
            reference = Path(args.dump) / lang / args.split / TASKS[task].reference_file
            references = read_text(reference)
            for system in args.systems:
                hypothesis = expdir.hypothesis(args.split, system, pair)
                texts = read_text(hypothesis)
                if task == "asr":
                    result = score_asr(references, texts, lang)
                else:
                    result = score_st(references, texts, "en")
                files = {"ref": str(reference), "hyp": str(hypothesis)}
                write_json(
                    expdir.score(args.split, system, pair),
                    {"task": task, "lang": lang, **files, **result},
                )


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
