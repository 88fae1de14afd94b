"""The grid of a search for another number of experts."""

from __future__ import annotations

import argparse
import sys

from lors.log import run_main
from lors.recipe.scaled_grid import scale_grid


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.scale_grid``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.scale_grid",
        description="Multiply the scaling_coef of each method of a grid for another NUMBER of "
        "experts: that of a sum by TUNED / NUMBER, that of iso_c and iso_cts by the root of it, "
        "that of a mean by 1. Prints the names of the grid, each with its multiplier.",
        epilog="example: python -m lors.bin.scale_grid --grid conf/tune_full.yaml --experts 5 2 "
        "--out exp/tune_2.yaml",
    )
    parser.add_argument("--grid", required=True, help="settings to try (conf/tune.yaml)")
    parser.add_argument(
        "--experts",
        required=True,
        nargs=2,
        type=int,
        metavar=("TUNED", "NUMBER"),
        help="the number of experts that the grid was made for, and that of the merge",
    )
    parser.add_argument("--out", help="grid to write (default: print the factors alone)")
    return parser


def work(args: argparse.Namespace) -> None:
    tuned, number = args.experts
    for name, factor in scale_grid(args.grid, tuned, number, args.out).items():
        print(f"{name}\t{factor:.6g}")


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
