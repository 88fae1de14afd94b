"""Look into task vectors: spectra, sparsity, and how experts interfere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tqdm import tqdm

from lors.checkpoint.masks import Masks
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
        "--labels", nargs="+", help="short names of the experts (default: from the file names)"
    )
    parser.add_argument("--rank", type=int, default=7, help="rank of low-rank parts (default: 7)")
    parser.add_argument("--match", help="inspect only matrices with this text in their names")
    parser.add_argument("--policy", help="as for python -m lors.bin.merge")
    parser.add_argument("--out", help="JSON file for all findings, spectra included")
    parser.add_argument("--plots", help="folder for PNG plots")
    return parser


def work(args: argparse.Namespace) -> None:
    if (args.masks is None) == (args.base is None or not args.experts):
        raise UsageError(
            "nothing to inspect, or too much",
            where="the command line",
            expected="--base and --experts, or --masks",
        )
    if args.masks is not None:
        _inspect_masks(args)
        return
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
    tables = summary_tables(matrices, labels, args.rank)
    print("\n\n".join("\n".join(aligned(table)) for table in tables))
    if args.out:
        content = {"base": args.base, "experts": dict(zip(labels, args.experts, strict=True))}
        write_json(args.out, {**content, "rank": args.rank, "matrices": matrices})
        print(f"written: {args.out}")
    if args.plots:
        for path in write_inspection_plots(matrices, labels, args.plots):
            print(f"written: {path}")


def _inspect_masks(args: argparse.Namespace) -> None:
    findings = mask_findings(Masks(args.masks))
    print("\n\n".join("\n".join(aligned(table)) for table in overlap_tables(findings)))
    if args.out:
        write_json(args.out, findings)
        print(f"written: {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
