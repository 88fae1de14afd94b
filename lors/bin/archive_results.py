"""Archive the results of an experiment without its models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lors.log import run_main
from lors.recipe.archive import archive_results


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.archive_results``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.archive_results",
        description="Write the scores, hypotheses, the search on dev and the records of training "
        "and merging of an experiment as one file, without models, training data and logs. "
        "`tar -xf FILE -C exp` unpacks it beside other seeds, for python -m lors.bin.results, "
        "report and compare.",
    )
    parser.add_argument("--expdir", required=True, help="experiment directory")
    parser.add_argument("--out", required=True, help="file to write (.tar.gz)")
    return parser


def work(args: argparse.Namespace) -> None:
    number = archive_results(args.expdir, args.out)
    megabytes = Path(args.out).stat().st_size / 1e6
    print(f"{args.out}: {number} files, {megabytes:.1f} MB")


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
