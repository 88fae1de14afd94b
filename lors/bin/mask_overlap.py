"""Overlap of two languages' masks, loss of merging their experts, and sizes of the systems."""

from __future__ import annotations

import argparse
import sys

from lors.config import load_config
from lors.log import run_main
from lors.models import family_of
from lors.recipe.expdir import ExpDir
from lors.recipe.grid import read_grid
from lors.recipe.mask_overlap import overlap_sections, systems_under_masks, write_overlap
from lors.recipe.names import check_names
from lors.recipe.report import render_text
from lors.recipe.subnet_sizes import subnet_size_sections, write_subnet_sizes
from lors.tasks import TASKS, pairs_of


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.mask_overlap",
        description="Write EXPDIR/overlap.json: for every two languages the overlap (Jaccard) of "
        "their masks, and what the average of their experts loses on dev; and EXPDIR/"
        "parameters.json: sizes of the systems. The systems are all of the experiment that are "
        "trained under masks of these languages.",
    )
    parser.add_argument("--expdir", required=True, help="experiment directory")
    parser.add_argument("--dump", required=True, help="data directories <lang>/dev")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    parser.add_argument(
        "--systems", nargs="+", required=True, help="must be there: s3net_taylor_30"
    )
    parser.add_argument("--grid", required=True, help="conf/tune.yaml, for the number of dev clips")
    parser.add_argument("--inference_config", required=True, help="conf/inference_*.yaml")
    parser.add_argument("--device", default="cpu", help="torch device; default: %(default)s")
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    expdir = ExpDir(args.expdir)
    options = load_config(family_of(expdir.base).inference_options, args.inference_config)
    limit, pairs = read_grid(args.grid).limit, pairs_of(args.langs, args.tasks)
    systems = systems_under_masks(expdir, args.systems, [pair.lang for pair in pairs])
    write_overlap(expdir, systems, args.langs, args.tasks, args.dump, options, limit, args.device)
    write_subnet_sizes(expdir, systems, pairs)
    sections = overlap_sections([args.expdir]) + subnet_size_sections([args.expdir])
    print(render_text(sections, "Masks", args.expdir))


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
