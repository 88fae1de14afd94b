"""Look into task vectors (spectra, sparsity, interference), masks, and quantised models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from lors.checkpoint.expert import open_model
from lors.checkpoint.masks import Masks
from lors.checkpoint.quantised import open_quantised
from lors.checkpoint.quantised_findings import quantised_findings, quantised_tables
from lors.errors import UsageError
from lors.fileio import write_json
from lors.log import run_main, show_progress
from lors.merge.inspection import inspect_matrices, matrix_names
from lors.merge.inspection_report import check_places, labels_of, summary_tables
from lors.merge.plan import MergePlan, open_inputs
from lors.plots.inspection import write_inspection_plots
from lors.recipe.report import aligned
from lors.subnet.overlap import mask_findings, overlap_tables


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.inspect",
        description=__doc__,
        epilog="example: python -m lors.bin.inspect --base base.pth --experts de.pth fr.pth "
        "--rank 7 --out inspect.json --plots inspect/",
    )
    parser.add_argument("--base", help="checkpoint of the base model, as for lors merge")
    parser.add_argument("--experts", nargs="+", help="models fine-tuned from it")
    parser.add_argument(
        "--masks",
        help="file of masks of languages, in place of --base and --experts: how many entries each "
        "keeps, and how they overlap",
    )
    parser.add_argument(
        "--quantised",
        help="model in 4 bits, in place of --experts: its sizes and, with --base, how far its "
        "weights are from that model's",
    )
    parser.add_argument(
        "--labels", nargs="+", help="short names of the experts (default: from the file names)"
    )
    parser.add_argument("--rank", type=int, default=7, help="rank of low-rank parts (default: 7)")
    parser.add_argument("--match", help="inspect only matrices with this text in their names")
    parser.add_argument("--policy", help="as for python -m lors.bin.merge")
    parser.add_argument("--out", help="JSON file for all findings, spectra included")
    parser.add_argument("--plots", help="folder for PNG plots")
    return parser


def work(args: argparse.Namespace) -> None:
    kinds = [bool(args.experts), args.masks is not None, args.quantised is not None]
    if sum(kinds) != 1 or (args.experts and not args.base) or (args.masks and args.base):
        raise UsageError(
            "nothing to inspect, or too much",
            where="the command line",
            expected="--base and --experts, or --masks, or --quantised (with or without --base)",
        )
    if args.plots and not args.experts:
        raise UsageError(
            "only task vectors are plotted here",
            where="--plots",
            expected="--experts",
        )
    if args.masks is not None:
        findings = mask_findings(Masks(args.masks))
        _show(overlap_tables(findings), findings, args)
    elif args.quantised is not None:
        base = None if args.base is None else open_model(args.base)
        findings = quantised_findings(open_quantised(args.quantised), base)
        _show(quantised_tables(findings), findings, args)
    else:
        _inspect_experts(args)


def _inspect_experts(args: argparse.Namespace) -> None:
    plan = MergePlan(args.base, tuple(args.experts), "task_arithmetic", policy=args.policy)
    labels = labels_of(args.experts, args.labels)
    check_places(plan, args.out, args.plots)
    inputs = open_inputs(plan)
    matrices = dict(
        tqdm(
            inspect_matrices(inputs, args.rank, args.match),
            total=len(matrix_names(inputs, args.match)),
            unit="matrix",
            disable=not show_progress(),
        )
    )
    content = {"base": args.base, "experts": dict(zip(labels, args.experts, strict=True))}
    findings = {**content, "rank": args.rank, "matrices": matrices}
    _show(summary_tables(matrices, labels, args.rank), findings, args)
    if args.plots:
        for path in write_inspection_plots(matrices, labels, args.plots):
            print(f"written: {path}")


def _show(
    tables: Sequence[Sequence[Sequence[str]]], findings: Mapping[str, Any], args: argparse.Namespace
) -> None:
    """Print tables, and write the findings to ``--out``."""
    print("\n\n".join("\n".join(aligned(table)) for table in tables))
    if args.out:
        write_json(args.out, findings)
        print(f"written: {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
