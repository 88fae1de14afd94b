"""Write the page of an experiment: one self-contained HTML file with tables and plots."""

from __future__ import annotations

import argparse
import sys

from lors.bin.results import SYSTEMS_HELP
from lors.log import run_main
from lors.page.write import TITLE, write_page


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.report``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.report",
        description="Write one HTML file from the results in <expdir>: scores, sweeps on dev, "
        "comparisons, utterances, records of merges and trainings. It loads nothing from anywhere. "
        "Several experiment directories are repetitions with different seeds.",
    )
    parser.add_argument("--expdirs", required=True, nargs="+", help="experiment directories")
    parser.add_argument("--out", required=True, help="HTML file to write (report.html)")
    parser.add_argument("--title", default=TITLE, help="heading (default: %(default)s)")
    parser.add_argument(
        "--significance",
        metavar="FILE",
        help="intervals and comparisons that python -m lors.bin.results wrote (default: "
        "RESULTS.significance.json in the first directory, if it is there); of the same --systems",
    )
    parser.add_argument("--systems", nargs="+", metavar="SYSTEM", help=SYSTEMS_HELP)
    return parser


def work(args: argparse.Namespace) -> None:
    for remark in write_page(args.expdirs, args.out, args.title, args.significance, args.systems):
        print(remark)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
