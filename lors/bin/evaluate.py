"""Run inference and scoring with any models: what a merge does to data it was not made for."""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lors.config import load_config
from lors.errors import UsageError
from lors.log import run_main
from lors.models import family_of
from lors.recipe.commands import record_evaluation
from lors.recipe.expdir import ExpDir
from lors.recipe.inference import infer
from lors.recipe.names import check_names
from lors.recipe.scoring import score_expdir, warn_of_unknown
from lors.score.text import LORS, NORMALISERS
from lors.tasks import TASKS, Pair, pairs_of


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.evaluate``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.evaluate",
        description="Run inference with any models on any data directories, and score it: for "
        "example a merge of other languages, of the other task, or on another corpus. Writes "
        "OUT/inference and OUT/scores like a recipe, for lors.bin.results and lors.bin.compare. "
        "Finished files are skipped.",
        epilog="example: python -m lors.bin.evaluate --models base=exp/base "
        "'recognition_expert=exp/expert/{lang}_asr' lors=exp/merged/lors.asr --langs es fr "
        "--tasks st --dump dump --inference_config conf/inference_whisper.yaml "
        "--out exp/other_task",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="NAME=DIR",
        help="systems and their model directories (model.pth, config.yaml); {lang}, {task} and "
        "{pair} (es_asr) in DIR stand for those of the data",
    )
    parser.add_argument("--dump", required=True, help="data directories <lang>/<split>")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    parser.add_argument("--inference_config", required=True, help="conf/inference_*.yaml")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--normaliser", choices=NORMALISERS, default=LORS, help="as for score")
    parser.add_argument("--device", default="cpu", help="torch device; default: %(default)s")
    return parser


def read_models(words: Sequence[str]) -> dict[str, str]:
    """Return name -> directory of the words ``NAME=DIR`` of the command line.

    Raises:
        UsageError: a word without ``=``, without a name or a directory, or a name given twice.
    """
    models: dict[str, str] = {}
    for word in words:
        name, _, directory = word.partition("=")
        if not (name and directory) or name in models:
            problem = "a name given twice" if name in models else "not NAME=DIR"
            raise UsageError(
                problem, where="--models", expected="lors=exp/merged/lors.asr", got=word
            )
        models[name] = directory
    check_names({"systems": list(models)})
    return models


def directory_of(pattern: str, pair: Pair) -> Path:
    """Return the model directory of a pair: `pattern` with its {lang}, {task} and {pair}."""
    for name, value in (("lang", pair.lang), ("task", pair.task), ("pair", str(pair))):
        pattern = pattern.replace("{" + name + "}", value)
    return Path(pattern)


def work(args: argparse.Namespace, command: str) -> None:
    check_names(vars(args))
    models = read_models(args.models)
    warn_of_unknown(args.langs)
    pairs, out = pairs_of(args.langs, args.tasks), ExpDir(args.out)
    if not pairs:
        got = f"--langs {' '.join(args.langs)} --tasks {' '.join(args.tasks)}"
        raise UsageError("no language-task pair: English is not translated into itself", got=got)
    units = [
        (pair, directory_of(pattern, pair), out.hypothesis(args.split, name, pair))
        for name, pattern in models.items()
        for pair in pairs
    ]
    options = load_config(family_of(units[0][1]).inference_options, args.inference_config)
    infer(units, args.dump, args.split, options, args.device)
    score_expdir(out, args.dump, args.split, [*models], pairs, args.normaliser)
    record_evaluation(args.out, command, models)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "lors.bin.evaluate", *words])
    return run_main(get_parser(), functools.partial(work, command=command), argv)


if __name__ == "__main__":
    sys.exit(main())
