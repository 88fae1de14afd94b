"""Import a published base model into an experiment."""

from __future__ import annotations

import argparse
import sys

from lors.errors import UsageError
from lors.log import run_main
from lors.models import FAMILIES

OPTIONS = {name: text for of in FAMILIES.values() for name, text in of.import_options.items()}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.import_base",
        description="Make the base model of an experiment: model.pth, config.yaml and the files "
        "that config.yaml names.",
    )
    parser.add_argument("--model_family", choices=sorted(FAMILIES), default="espnet_s2t")
    parser.add_argument(
        "--base_model",
        required=True,
        help="directory of an ESPnet S2T model; or a Whisper: OpenAI's .pt, a directory of Hugging "
        "Face or CTranslate2 (faster-whisper), or an official name such as small, which is "
        "downloaded; or a wav2vec 2.0: a directory of transformers or of a recipe; or the name of "
        "one of these on the Hugging Face Hub, as for lors merge",
    )
    parser.add_argument("--out", required=True, help="directory to write, e.g. EXPDIR/base")
    for name, text in OPTIONS.items():
        parser.add_argument(f"--{name}", help=text)
    return parser


def work(args: argparse.Namespace) -> None:
    family = FAMILIES[args.model_family]
    given = {name: vars(args)[name] for name in OPTIONS if vars(args)[name] is not None}
    foreign = [f"--{name}" for name in given if name not in family.import_options]
    if foreign:
        raise UsageError(
            "options of another model family", where=f"--model_family {family.name}", got=foreign
        )
    family.import_base(args.base_model, args.out, given)


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
