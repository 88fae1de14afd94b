"""Write the merged models that the search on dev has chosen."""

from __future__ import annotations

import argparse
import logging
import sys

from lors.done_marker import DoneMarker
from lors.fileio import file_digest, read_json
from lors.log import run_main
from lors.recipe.expdir import ExpDir
from lors.tasks import Pair


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.merge_tuned",
        description="Merge an experiment's experts with the parameters of its sweeps; writes "
        "EXPDIR/merged/<method>.<scope>/ for each scope.",
    )
    parser.add_argument("--expdir", required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--langs", nargs="+", required=True)
    parser.add_argument("--scopes", nargs="+", required=True, help="e.g. asr st asr_st")
    return parser


def work(args: argparse.Namespace) -> None:
    expdir = ExpDir(args.expdir)
    for scope in args.scopes:
        pairs = [Pair(lang, task) for task in scope.split("_") for lang in args.langs]
        for method in args.methods:
            sweep = read_json(expdir.sweep(method, scope))
            params = sweep["grid"][sweep["best"]]["params"]
            out = expdir.merged(method, scope)
            models = [expdir.base, *map(expdir.expert, pairs)]
            digests = {
                str(d.relative_to(expdir.root)): file_digest(d / "model.pth") for d in models
            }
            marker = DoneMarker(out / ".done", {"params": params, "models": digests})
            if marker.is_done():
                continue
            from lors.merge.run import run_merge  # torch is slow to import: only if there is work
            from lors.recipe.tune import plan_of

            with marker.work():
                run_merge(plan_of(expdir, pairs, method, params), out / "model.pth")
            logging.info("%s: %s", out, params)


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
