"""Quantise a model to 4 bits (NF4), or write a quantised model in full precision again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from lors.checkpoint.hub import local_path
from lors.checkpoint.quantised import open_quantised
from lors.checkpoint.writer import CheckpointWriter
from lors.errors import UsageError
from lors.log import run_main, show_progress
from lors.models.quantise import quantise_directory


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.quantise",
        description="Quantise the model of a directory (config.yaml, model.pth) to 4 bits: OUT "
        "receives model.safetensors and config.yaml. Inference and the training of adapters take "
        "it in place of the model. With --restore: write the rounded weights of a quantised model "
        "in float32, for merging and export.",
    )
    parser.add_argument(
        "--model",
        required=True,
        help="model directory, also by its name on the Hugging Face Hub; or a file, to restore",
    )
    parser.add_argument(
        "--out", required=True, help="directory to write; with --restore a .pth or .safetensors"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--double", action="store_true", help="quantise the scales to 8 bits too")
    what.add_argument("--restore", action="store_true", help="write full precision")
    return parser


def work(args: argparse.Namespace) -> None:
    if not args.restore:
        place = local_path(args.model)
        quantise_directory(place.parent if place.is_file() else place, args.out, args.double)
        return
    model = open_quantised(local_path(args.model))
    if Path(args.out).resolve() == model.path.resolve():
        raise UsageError("input and output are the same file", where="--out", got=args.out)
    with CheckpointWriter(args.out, model.spec()) as writer:
        for name in tqdm(model.names(), unit="tensor", disable=not show_progress()):
            writer.add(name, model.tensor(name))


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
