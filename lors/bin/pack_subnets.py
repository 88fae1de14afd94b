"""Write the sub-network of each language as a model of its own, and all with their masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from lors.checkpoint.expert import open_model
from lors.checkpoint.masks import Masks, write_model_with_masks, write_subnetwork
from lors.checkpoint.places import MASKS, RECIPE_MODEL, SUBNETWORK
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.fileio import copy_file, write_json
from lors.log import run_main
from lors.recipe.names import check_names
from lors.recipe.report import aligned

ALL = "all"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.pack_subnets",
        description=f"Write OUT/<lang>/{SUBNETWORK}, the sub-network of a language with only those "
        f"entries of each matrix that are inside its mask, and OUT/{ALL}/{SUBNETWORK}, the whole "
        "model with the masks of all its languages. Each is a model directory for inference.",
    )
    parser.add_argument("--model", required=True, help="model directory of a training under masks")
    parser.add_argument("--langs", nargs="+", help="languages to write (default: all)")
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="of all files (default: that of the model)",
    )
    parser.add_argument("--out", required=True, help="directory to write")
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    source, out = Path(args.model), Path(args.out)
    masks, model = Masks(source / MASKS), open_model(source / RECIPE_MODEL)
    langs = args.langs or masks.languages
    masks.check_languages(langs)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    rows, sizes = [["file", "MB", "of the model"]], {}
    whole = (source / RECIPE_MODEL).stat().st_size
    for name in (*langs, ALL):
        file = out / name / SUBNETWORK
        if name == ALL:
            write_model_with_masks(file, model, masks, dtype)
        else:
            write_subnetwork(file, model, masks, name, dtype)
        if (source / ESPNET_CONFIG).exists():
            copy_file(source / ESPNET_CONFIG, file.with_name(ESPNET_CONFIG))
        sizes[name] = file.stat().st_size
        rows.append([str(file), f"{sizes[name] / 1e6:.1f}", f"{sizes[name] / whole:.1%}"])
    mask_bytes = (source / MASKS).stat().st_size
    rows.append([str(source / MASKS), f"{mask_bytes / 1e6:.1f}", f"{mask_bytes / whole:.1%}"])
    print("\n".join(aligned(rows)))
    write_json(out / "sizes.json", {"model": whole, "masks": mask_bytes, "files": sizes})


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
