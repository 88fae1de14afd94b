"""Take a published base model into an experiment."""

from __future__ import annotations

import argparse
import sys

from lors.errors import UsageError
from lors.log import run_main
from lors.models import FAMILIES


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.import_base",
        description="Make the base model (model.pth, config.yaml and the files that it names) of "
        "an experiment.",
    )
    parser.add_argument("--model_family", choices=sorted(FAMILIES), default="espnet_s2t")
    parser.add_argument(
        "--base_model",
        required=True,
        help="directory of an ESPnet S2T model; or a Whisper: OpenAI's .pt, a Hugging Face "
        "directory, or an official name such as small, which is downloaded",
    )
    parser.add_argument("--out", required=True, help="directory to write, e.g. EXPDIR/base")
    parser.add_argument(
        "--window", type=float, help="seconds that Whisper pads speech to: at most 30, the default"
    )
    parser.add_argument(
        "--st_language",
        choices=["source", "target"],
        help="language in Whisper's prompt of a translation (default: source)",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    options = {"window": args.window, "st_language": args.st_language}
    options = {name: value for name, value in options.items() if value is not None}
    if args.model_family == "whisper":
        from lors.models.whisper.import_base import import_whisper

        import_whisper(args.base_model, args.out, **options)
        return
    if options:
        raise UsageError("only for --model_family whisper", got=", ".join(options))
    from lors.models.espnet_s2t.import_base import import_espnet_s2t

    import_espnet_s2t(args.base_model, args.out)


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
