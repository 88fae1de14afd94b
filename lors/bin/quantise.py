"""Quantise a model to 4 bits (NF4), or write a quantised model in full precision again."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from tqdm import tqdm

from lors.checkpoint.adapter_base import hash_of_weights
from lors.checkpoint.hub import local_path
from lors.checkpoint.places import RECIPE_MODEL, SUBNETWORK
from lors.checkpoint.quantised import open_quantised
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.writer import CheckpointWriter
from lors.errors import LorsError, UsageError
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
        help=f"model directory or the {RECIPE_MODEL} in one, also by the name of the directory on "
        "the Hugging Face Hub; or a file, to restore",
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
        quantise_directory(_directory(args.model, args.out), args.out, args.double)
        return
    model = open_quantised(local_path(args.model))
    if Path(args.out).resolve() == model.path.resolve():
        raise UsageError("input and output are the same file", where="--out", got=args.out)
    _check_restored(Path(args.out), model)
    with CheckpointWriter(args.out, model.spec()) as writer:
        for name in tqdm(model.names(), unit="tensor", disable=not show_progress()):
            writer.add(name, model.tensor(name))


def _check_restored(out: Path, model: Checkpoint) -> None:
    """Check that a file can be written, or holds the weights to write: the same command wrote it.

    Raises:
        UsageError: there is another file.
    """
    if not out.exists():
        return
    with contextlib.suppress(LorsError):  # no model, or a damaged one
        there = Checkpoint.open(out)
        if there.spec() == model.spec() and hash_of_weights(there) == hash_of_weights(model):
            return
    raise UsageError(
        "there is another file of this name already",
        where=out,
        expected=f"no such file, or the weights of {model.path} in full precision",
        hint="choose another name, or move it away",
    )


def _directory(model: str, out: str) -> Path:
    """Return the model directory to quantise.

    Raises:
        UsageError: a file with another name, of which the directory would not be the model; or the
            directory is that of the output.
    """
    place = local_path(model)
    if place.is_file():
        if place.name not in (RECIPE_MODEL, SUBNETWORK):
            raise UsageError(
                "not the model of a model directory",
                where="--model",
                expected=f"a directory with {RECIPE_MODEL} and config.yaml",
                got=model,
                hint=f"make a directory with this file as {RECIPE_MODEL} and its config.yaml",
            )
        place = place.parent
    if place.resolve() == Path(out).resolve():
        raise UsageError("input and output are the same directory", where="--out", got=out)
    return place


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
