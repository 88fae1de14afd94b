"""Write the sub-network of a language as a model of its own, or a model with all its masks."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from lors.checkpoint.expert import open_model
from lors.checkpoint.masks import Masks, write_model_with_masks, write_subnetwork
from lors.checkpoint.places import MASKS, RECIPE_MODEL, SUBNETWORK
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.errors import UsageError
from lors.fileio import copy_file
from lors.log import run_main

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.subnetwork",
        description=f"Write OUT/{SUBNETWORK}: the sub-network of --lang, packed (of each matrix "
        "only the entries inside the mask), or without --lang the whole model with the masks of "
        "all its languages. OUT is a model directory for inference.",
    )
    parser.add_argument("--model", required=True, help="model directory of a training under masks")
    parser.add_argument("--masks", help=f"file of masks (default: {MASKS} in the model directory)")
    parser.add_argument("--lang", help="the language")
    parser.add_argument("--dtype", choices=list(DTYPES), help="default: that of the model")
    parser.add_argument("--out", required=True, help="directory to write")
    return parser


def work(args: argparse.Namespace) -> None:
    source, out = Path(args.model), Path(args.out)
    if args.dtype and not args.lang:
        raise UsageError("a dtype is for a packed sub-network", where="--dtype", hint="give --lang")
    if out.resolve() == source.resolve():
        raise UsageError("this is the model itself", where="--out", hint="name another directory")
    model = open_model(source / RECIPE_MODEL)
    masks, file = Masks(args.masks or source / MASKS), out / SUBNETWORK
    if args.lang:
        write_subnetwork(file, model, masks, args.lang, DTYPES.get(args.dtype))
    else:
        write_model_with_masks(file, model, masks)
    if (source / ESPNET_CONFIG).exists():
        copy_file(source / ESPNET_CONFIG, out / ESPNET_CONFIG)
    whole, size = (source / RECIPE_MODEL).stat().st_size, file.stat().st_size
    logging.info("%s: %.1f MB, the model has %.1f MB", file, size / 1e6, whole / 1e6)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
