"""Report an experiment: RESULTS.md, the same tables on the terminal, and plots."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lors.fileio import write_text
from lors.log import run_main
from lors.plots import write_plots
from lors.recipe.results import (
    describe_runs,
    make_report,
    relative_to,
    render_markdown,
    render_text,
)
from lors.recipe.score_tree import read_scores
from lors.recipe.sweeps import read_sweeps


def get_parser() -> argparse.ArgumentParser:
    """The command line of ``python -m lors.bin.results``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.results",
        description="Report the test scores under <expdir>/scores and the dev sweeps under "
        "<expdir>/tune. Several experiment directories are repetitions with different seeds.",
    )
    parser.add_argument("--expdirs", required=True, nargs="+", help="experiment directories")
    parser.add_argument("--out", required=True, help="Markdown file to write (RESULTS.md)")
    parser.add_argument("--plots", help="folder for PNG plots (default: none are made)")
    parser.add_argument("--title", default="Results", help="heading (default: %(default)s)")
    parser.add_argument("--command", help="command that made the results, to be shown with them")
    return parser


def work(args: argparse.Namespace) -> None:
    """Read everything, then write the plots and the report, then print it."""
    table = read_scores(args.expdirs)
    sweeps = read_sweeps(args.expdirs)
    sections = make_report(table, sweeps)
    runs = describe_runs(table)
    plots = write_plots(table, sweeps, args.plots) if args.plots else []
    links = [(caption, relative_to(path, Path(args.out).parent)) for caption, path in plots]
    write_text(args.out, render_markdown(sections, args.title, runs, links, args.command))
    print(render_text(sections, args.title, runs))
    for path in [args.out, *(path for _, path in plots)]:
        print(f"written: {path}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
