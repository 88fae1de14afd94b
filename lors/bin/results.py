"""Report an experiment: RESULTS.md, the same tables on the terminal, and plots."""

from __future__ import annotations

import argparse
import functools
import sys

from lors.log import run_main
from lors.plots.report import write_plots
from lors.plots.searches import write_sweep_plots
from lors.recipe.results import write_results
from lors.recipe.significance import DEFAULT, MERGES
from lors.recipe.sweep_report import write_sweeps
from lors.tasks import TASKS

SYSTEMS_HELP = (
    "the rows, all of whose scores must be there, e.g. base expert lors.langs (default: all that "
    "have scores; those that are missing are marked; with --sweeps_only all that have a search)"
)


def get_parser() -> argparse.ArgumentParser:
    """Return the command line of ``python -m lors.bin.results``."""
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.results",
        description="Report the test scores in <expdir>/scores and the dev sweeps in "
        "<expdir>/tune. Several experiment directories are repetitions with different seeds; with "
        "--sweeps_only they are different experiments.",
    )
    parser.add_argument("--expdirs", required=True, nargs="+", help="experiment directories")
    parser.add_argument("--out", required=True, help="Markdown file to write (RESULTS.md)")
    parser.add_argument("--plots", help="folder for PNG plots (default: no plots)")
    parser.add_argument("--title", default="Results", help="heading (default: %(default)s)")
    parser.add_argument(
        "--compare_to",
        metavar="SYSTEM",
        help="method or system that every other row is compared with, with tests of significance "
        f"(default: {DEFAULT})",
    )
    parser.add_argument(
        "--family",
        nargs="+",
        metavar="SYSTEM",
        help="the rows that are compared, which Holm's correction is over: methods, systems, or "
        f"{MERGES} for all that are merges (default: all rows)",
    )
    parser.add_argument("--systems", nargs="+", metavar="SYSTEM", help=SYSTEMS_HELP)
    parser.add_argument(
        "--sweeps_only",
        action="store_true",
        help="report every setting that was tried on dev, and no test scores: after a run that "
        "ended with stage tune",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=list(TASKS),
        help="with --sweeps_only: the searches of merges of these tasks alone (default: all)",
    )
    parser.add_argument(
        "--x_label",
        metavar="TEXT",
        help="with --sweeps_only and --plots: the quantity in which the experiments differ, in the "
        "order of --expdirs; lines then join them",
    )
    parser.add_argument(
        "--command", help="command to list beside those that the directories have on record"
    )
    return parser


def work(args: argparse.Namespace) -> None:
    if args.sweeps_only:
        draw = None
        if args.plots:
            draw = functools.partial(write_sweep_plots, folder=args.plots, x_label=args.x_label)
        where = (args.expdirs, args.out, args.title, args.command)
        print(write_sweeps(*where, systems=args.systems, draw=draw, tasks=args.tasks))
        return
    draw = functools.partial(write_plots, folder=args.plots) if args.plots else None
    report = write_results(
        *(args.expdirs, args.out, args.title, args.command, draw),
        *(args.compare_to, args.systems, args.family),
    )
    print(report)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    parser = get_parser()
    args = parser.parse_args(argv)
    for option in ("compare_to", "family"):
        if args.sweeps_only and getattr(args, option):
            parser.error(f"--{option} is about test scores, which --sweeps_only leaves out")
    for option in ("x_label", "tasks"):
        if getattr(args, option) and not args.sweeps_only:
            parser.error(f"--{option} is of the report of --sweeps_only")
    return run_main(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
