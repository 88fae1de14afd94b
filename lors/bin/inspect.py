"""Look into task vectors: spectra, sparsity, and how experts interfere."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lors.errors import UsageError
from lors.fileio import write_json
from lors.log import run_main, show_progress
from lors.merge.inspection import inspect_matrices, matrix_names
from lors.merge.plan import MergePlan, check_distinct, open_inputs
from lors.plots.inspection import defined_mean, mean_over, write_inspection_plots
from lors.recipe.report import aligned

EXPERT_COLUMNS = {
    "relative_norm": "norm/base",
    "stable_rank": "stable rank",
    "energy": "energy in rank",
    "largest_energy": "energy in largest 20%",
    "zeros": "zeros",
}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.inspect",
        description=__doc__,
        epilog="example: python -m lors.bin.inspect --base base.pth --experts de.pth fr.pth "
        "--rank 7 --out inspect.json --plots inspect/",
    )
    parser.add_argument("--base", required=True, help="checkpoint of the base model")
    parser.add_argument("--experts", required=True, nargs="+", help="models fine-tuned from it")
    parser.add_argument("--labels", nargs="+", help="short names of the experts (default: files)")
    parser.add_argument("--rank", type=int, default=7, help="of low-rank parts (default: 7)")
    parser.add_argument("--match", help="only matrices whose name has this text in it")
    parser.add_argument("--policy", help="as for python -m lors.bin.merge")
    parser.add_argument("--out", help="JSON file with everything, spectra included")
    parser.add_argument("--plots", help="folder for PNG plots")
    return parser


def work(args: argparse.Namespace) -> None:
    plan = MergePlan(args.base, tuple(args.experts), "task_arithmetic", policy=args.policy)
    labels = args.labels or _short_names(args.experts)
    if len(labels) != len(args.experts):
        raise UsageError(
            "a label for every expert, or none at all",
            where="--labels",
            expected=f"{len(args.experts)} words",
            got=" ".join(labels),
        )
    if args.labels and len(set(labels)) < len(labels):
        raise UsageError(
            "two experts have one label",
            where="--labels",
            expected="all different",
            got=" ".join(labels),
        )
    if args.out:
        _check_out(Path(args.out), plan)
        _check_folder("--out", Path(args.out).parent)
    if args.plots:
        _check_folder("--plots", Path(args.plots))
    if args.plots and importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "plots need matplotlib, which is not installed",
            where="--plots",
            hint="pip install matplotlib, or leave --plots out",
        )
    inputs = open_inputs(plan)
    check_distinct(inputs)
    matrices = dict(
        tqdm(
            inspect_matrices(inputs, args.rank, args.match),
            total=len(matrix_names(inputs, args.match)),
            unit="matrix",
            disable=not show_progress(),
        )
    )
    print(summary_tables(matrices, labels, args.rank))
    if args.out:
        content = {"base": args.base, "experts": dict(zip(labels, args.experts, strict=True))}
        write_json(args.out, {**content, "rank": args.rank, "matrices": matrices})
        print(f"written: {args.out}")
    if args.plots:
        for path in write_inspection_plots(matrices, labels, args.plots):
            print(f"written: {path}")


def _check_out(out: Path, plan: MergePlan) -> None:
    """Refuse a file for the findings that is an input or no file for JSON."""
    if out.suffix != ".json":
        raise UsageError(
            "the findings are written as JSON",
            where="--out",
            expected="a file name that ends in .json",
            got=out,
        )
    if out.is_dir():
        raise UsageError(
            "a directory, not a file",
            where=f"--out {out}",
            hint=f"give a file in it: {out / 'inspect.json'}",
        )
    # A model of Hugging Face or an adapter is a directory: what is in it is input as well.
    inputs = {Path(path).resolve() for path in (plan.base, *plan.experts)}
    if inputs & {out.resolve(), out.resolve().parent}:
        raise UsageError(
            "this would overwrite an input, or write into one",
            where=f"--out {out}",
            hint="write the findings elsewhere",
        )


def _check_folder(option: str, folder: Path) -> None:
    """Refuse a folder that is a file or is to be made within one."""
    place = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    if not place.is_dir():
        raise UsageError(
            "a file, not a directory",
            where=f"{option}: {place}",
            hint="name a directory, which is made if it is not there",
        )


def _short_names(paths: Sequence[str]) -> list[str]:
    """The parts of the paths in which they differ: exp/expert/de_asr/model.pth -> de_asr."""
    parts = [Path(path).with_suffix("").parts for path in paths]
    width = max(map(len, parts))
    padded = [("",) * (width - len(p)) + p for p in parts]
    varying = [i for i in range(width) if len({p[i] for p in padded}) > 1]
    names = ["/".join(p[i] for i in varying if p[i]) for p in padded]
    told_apart = all(names) and len(set(names)) == len(names)
    return names if told_apart else [str(path) for path in paths]


def summary_tables(
    matrices: Mapping[str, Mapping[str, Any]], labels: Sequence[str], rank: int
) -> str:
    """Means over the matrices, as text: a row an expert, and how experts meet.

    A matrix with nothing to measure is not in a mean; "-" is what no matrix has.
    """
    lines = [f"{len(matrices)} matrices, rank {rank}; means over matrices", ""]
    rows = [["expert", *EXPERT_COLUMNS.values()]]
    for number, label in enumerate(labels):
        found = [matrix["experts"][number] for matrix in matrices.values()]
        rows.append([label, *(_mean_text([f[key] for f in found]) for key in EXPERT_COLUMNS)])
    lines += aligned(rows)
    for key, title in (
        ("cosine", "cosine"),
        ("sign_agreement", "sign agreement (0.5 is chance)"),
        ("overlap", "overlap of the leading subspaces (1 is the same)"),
    ):
        rows = [[title, *labels]]
        rows += [
            [label, *map(_text, row)]
            for label, row in zip(labels, mean_over(matrices, key), strict=True)
        ]
        lines += ["", *aligned(rows)]
    if len(labels) > 1:
        inflation = [defined_mean(matrix["inflation"] or [None]) for matrix in matrices.values()]
        lines += ["", f"inflation of the leading directions of the sum: {_mean_text(inflation)}"]
        lines += [
            f"(1 for experts at right angles, {len(labels)} if all are the same; neither a bound:",
            "unrelated experts have more than 1, the same ones of different sizes more still,",
            "opposite ones less)",
        ]
    return "\n".join(lines)


def _mean_text(values: Sequence[float | None]) -> str:
    return _text(defined_mean(values))


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
