"""The report of an inspection: labels of the experts, tables of means, places of its files."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.errors import UsageError
from lors.merge.inspection import defined_mean, mean_inflations, mean_over
from lors.merge.plan import MergePlan

Table = list[list[str]]
EXPERT_COLUMNS = {
    "relative_norm": "norm/base",
    "stable_rank": "stable rank",
    "energy": "energy in rank",
    "largest_energy": "energy in largest 20%",
    "zeros": "zeros",
}
PAIR_TABLES = {
    "cosine": "cosine",
    "sign_agreement": "sign agreement (0.5 is chance)",
    "overlap": "overlap of the leading subspaces (1 is the same)",
}


def labels_of(experts: Sequence[str], labels: Sequence[str] | None) -> list[str]:
    """Return a label for every expert: the given ones, or the parts in which the paths differ.

    Raises:
        UsageError: the number of given labels is wrong, or two of them are equal.
    """
    if not labels:
        return _differing_parts(experts)
    if len(labels) != len(experts):
        raise UsageError(
            "the number of labels is not the number of experts",
            where="--labels",
            expected=f"{len(experts)} words",
            got=" ".join(labels),
        )
    if len(set(labels)) < len(labels):
        raise UsageError(
            "two experts have the same label",
            where="--labels",
            expected="all different",
            got=" ".join(labels),
        )
    return list(labels)


def _differing_parts(paths: Sequence[str]) -> list[str]:
    """Return the parts in which paths differ: exp/expert/de_asr/model.pth -> de_asr."""
    parts = [Path(path).with_suffix("").parts for path in paths]
    width = max(map(len, parts))
    padded = [("",) * (width - len(p)) + p for p in parts]
    varying = [i for i in range(width) if len({p[i] for p in padded}) > 1]
    names = ["/".join(p[i] for i in varying if p[i]) for p in padded]
    distinct = all(names) and len(set(names)) == len(names)
    return names if distinct else [str(path) for path in paths]


def check_places(plan: MergePlan, out: str | None, plots: str | None) -> None:
    """Check the places for the findings and the plots, before anything is read.

    Args:
        plan: the models to inspect.
        out: JSON file for the findings, or None.
        plots: folder for the plots, or None.

    Raises:
        UsageError: `out` is no JSON file or would overwrite an input; a folder is a file; or there
            are plots to make without matplotlib.
    """
    if out:
        _check_findings_file(Path(out), plan)
        _check_folder("--out", Path(out).parent)
    if plots:
        _check_folder("--plots", Path(plots))
    if plots and importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "plots need matplotlib, which is not installed",
            where="--plots",
            hint="pip install matplotlib, or leave --plots out",
        )


def _check_findings_file(out: Path, plan: MergePlan) -> None:
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
            hint=f"name a file in it: {out / 'inspect.json'}",
        )
    # A Hugging Face model and an adapter are directories: the files in them are inputs too.
    inputs = {Path(path).resolve() for path in (plan.base, *plan.experts)}
    if inputs & {out.resolve(), out.resolve().parent}:
        raise UsageError(
            "this file is an input, or it is in the directory of an input",
            where=f"--out {out}",
            hint="write the findings to another place",
        )


def _check_folder(option: str, folder: Path) -> None:
    place = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    if not place.is_dir():
        raise UsageError(
            "a file, not a directory",
            where=f"{option}: {place}",
            hint="name a directory; it is made if it is not there",
        )


def summary_tables(
    matrices: Mapping[str, Mapping[str, Any]], labels: Sequence[str], rank: int
) -> list[Table]:
    """Return the means over the matrices as tables of text; lines of prose are one-column tables.

    Args:
        matrices: from :func:`lors.merge.inspection.inspect_matrices`.
        labels: one label for each expert.
        rank: rank of the low-rank parts.

    Returns:
        Tables: one with a row for each expert, and one for each measure between experts. A matrix
        without a value is left out of a mean; "-" is the mean if no matrix has a value.
    """
    tables = [
        [[f"{len(matrices)} matrices, rank {rank}; means over matrices"]],
        _expert_table(matrices, labels),
    ]
    for key, title in PAIR_TABLES.items():
        means = zip(labels, mean_over(matrices, key), strict=True)
        tables.append([[title, *labels], *([label, *map(_text, row)] for label, row in means)])
    if len(labels) > 1:
        tables.append(_inflation_lines(matrices, len(labels)))
    return tables


def _expert_table(matrices: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> Table:
    rows = [["expert", *EXPERT_COLUMNS.values()]]
    for number, label in enumerate(labels):
        found = [matrix["experts"][number] for matrix in matrices.values()]
        rows.append([label, *(_mean_text([f[key] for f in found]) for key in EXPERT_COLUMNS)])
    return rows


def _inflation_lines(matrices: Mapping[str, Mapping[str, Any]], count: int) -> Table:
    inflation = _mean_text(mean_inflations(matrices))
    return [
        [f"inflation of the leading directions of the sum: {inflation}"],
        [f"(1 for orthogonal experts, {count} if all are the same; these are no bounds:"],
        [f"unrelated experts have more than 1, equal experts of different size more than {count},"],
        ["opposite experts less than 1)"],
    ]


def _mean_text(values: Sequence[float | None]) -> str:
    return _text(float(defined_mean(values)))


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
