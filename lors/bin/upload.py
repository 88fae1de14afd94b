"""Upload a merged model to the Hugging Face Hub, with a card: plan, scores, licence, command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.config import read_yaml
from lors.errors import UsageError
from lors.export.upload import MERGE_RECORD, Target, files_of, repo_called, upload
from lors.log import run_main
from lors.recipe.card import model_card, scores_of
from lors.recipe.expdir import ExpDir
from lors.recipe.names import check_names
from lors.tasks import TASKS


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.upload",
        description=__doc__,
        epilog="example: lors upload merged/hf organisation/merged --license apache-2.0",
    )
    parser.add_argument(
        "model",
        help="directory of Hugging Face (lors export-whisper), or zip file of ESPnet (stage pack)",
    )
    parser.add_argument("repo", help="where to upload it: organisation/model")
    parser.add_argument(
        "--record",
        help=f"{MERGE_RECORD} of the merged model (default: beside the model or its directory)",
    )
    parser.add_argument("--expdir", help="experiment of a recipe with the scores of the model")
    parser.add_argument(
        "--merged", help="with --expdir: name of the model in EXPDIR/merged, such as lors.asr_st"
    )
    parser.add_argument(
        "--langs", nargs="+", help="languages for the card (default: those of the scores)"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=tuple(TASKS),
        help="tasks for the card (default: those of the scores; without scores asr)",
    )
    parser.add_argument(
        "--license",
        help="licence for the card, as the Hub writes it: apache-2.0 (default: the one that all "
        "merged models have)",
    )
    parser.add_argument(
        "--command",
        help="the command of the recipe, for the card, which has no absolute path of it",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="make a new model visible to its owners only; refuse a public one that is there",
    )
    parser.add_argument(
        "--keep_card",
        action="store_true",
        help="leave a card that was edited by hand as it is, and upload the rest",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print the card and the files; upload nothing"
    )
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    if (args.expdir is None) != (args.merged is None):
        raise UsageError(
            "the scores of a merged model need its experiment and its name",
            where="--expdir and --merged",
            expected="both, or none of them",
        )
    model, repo = Path(args.model), repo_called(args.repo)
    if not model.exists():
        raise UsageError("no such model", where=model, expected="a directory or a zip file")
    scores = scores_of(ExpDir(args.expdir), args.merged) if args.expdir else None
    record, library = _record(args, model), "transformers" if model.is_dir() else "espnet"
    with files_of(model) as files:  # before the Hub is asked for licences
        card = model_card(
            *(record, repo, library, scores, args.langs or (), args.license, args.command),
            tasks=args.tasks or (),
        )
        if args.dry_run:
            print(card)
            for name, path in files.items():
                print(f"{name}  {path.stat().st_size / 1e6:.1f} MB")
            return
        target = Target(repo, args.private, args.keep_card)
        print(f"uploaded: {upload(model, files, card, target)}")


def _record(args: argparse.Namespace, model: Path) -> Mapping[str, Any]:
    """Return the record of the merge that made a model.

    Raises:
        UsageError: there is none.
    """
    places = [model / MERGE_RECORD, model.resolve().parent / MERGE_RECORD]
    if args.merged:
        places.insert(0, Path(args.expdir) / "merged" / args.merged / MERGE_RECORD)
    if args.record:
        places = [Path(args.record)]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise UsageError(
            "the record of the merge is not there, which the card needs",
            where=places,
            hint=f"give the {MERGE_RECORD} of the merged model by --record",
        )
    return read_yaml(found)


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
