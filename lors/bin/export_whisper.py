"""Export a Whisper model for openai-whisper, transformers or CTranslate2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from lors.export.whisper import export_whisper
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.export_whisper",
        description=__doc__,
        epilog="example: python -m lors.bin.export_whisper --model merged/model.pth "
        "--out merged/hf --dtype float16",
    )
    parser.add_argument(
        "--model",
        required=True,
        help="Whisper model of OpenAI (.pt), ESPnet (.pth), Hugging Face (.safetensors or a "
        "directory) or CTranslate2 (a directory), or its name on the Hugging Face Hub; merged or "
        "not",
    )
    parser.add_argument(
        "--base", help="base model of --model, if that is an adapter or a file of lors extract"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="output: a name that ends in .pt (OpenAI), or a new directory (Hugging Face)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="dtype of the written weights (default: unchanged)",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    dtype = getattr(torch, args.dtype) if args.dtype else None
    export_whisper(args.model, args.out, dtype, args.base)


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
