"""``interference.json``: interference of two languages' experts, and the loss of merging them."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lors.fileio import write_json
from lors.recipe.expdir import ExpDir
from lors.recipe.made_from import MadeFrom
from lors.recipe.measured import Finite, read_measured
from lors.recipe.merging_loss import inputs_of_losses, losses_of_two
from lors.recipe.report import Section, two_digits, write_report
from lors.tasks import Pair

if TYPE_CHECKING:
    from lors.models.family import InferenceOptions

MEASURES = {
    "cosine": "cosine",
    "sign_agreement": "sign agreement",
    "overlap": "subspace overlap",
    "inflation": "inflation",
}
"""Measures of ``lors inspect`` -> their headings."""
FEWEST = 4
"""Fewest pairs of languages for a rank correlation."""


@dataclass(frozen=True)
class TwoExperts:
    """Interference of the experts of two languages, as means over the matrices.

    Attributes:
        langs: the two languages.
        task: the task of the experts.
        cosine, sign_agreement, overlap: between the task vectors
            (:func:`lors.merge.inspection.inspect_matrices`); None where undefined.
        inflation: of the leading directions of their sum; None where undefined.
        loss: 1 - normalised performance of their average on dev; None where undefined.
    """

    langs: tuple[str, ...]
    task: str
    cosine: Finite | None
    sign_agreement: Finite | None
    overlap: Finite | None
    inflation: Finite | None
    loss: Finite | None


@dataclass(frozen=True)
class Interference:
    """The content of ``interference.json``.

    Attributes:
        rank: rank of the leading subspaces and directions.
        pairs: every two languages, for each task.
    """

    rank: int
    pairs: tuple[TwoExperts, ...]


def write_interference(
    expdir: ExpDir,
    langs: Sequence[str],
    tasks: Sequence[str],
    dump: str | os.PathLike,
    options: InferenceOptions,
    rank: int,
    limit: int | None = None,
    device: str = "cpu",
) -> Path:
    """Measure the experts of every two languages and their average; a current file is kept.

    Args:
        expdir: the experiment, with base model and experts.
        langs: languages, two or more.
        tasks: tasks of the experts.
        dump: data directories ``<lang>/dev``.
        options: settings of inference; the search is greedy.
        rank: rank of the leading subspaces and directions.
        limit: number of dev utterances of each language; None for all.
        device: torch device.

    Returns:
        The file, ``interference.json`` of the experiment.

    Raises:
        LorsError: a model is missing or damaged.
        UsageError: `rank` is less than 1.
    """
    out = expdir.root / "interference.json"
    settings = {**inputs_of_losses(expdir, langs, tasks, dump, options, limit), "rank": rank}
    record = MadeFrom(out.with_name(".interference.json"), [], [out], settings)
    if record.is_current():
        return out
    found = [
        TwoExperts(loss.langs, task, **_measures(expdir, loss.langs, task, rank), loss=loss.loss)
        for task in tasks
        for loss in losses_of_two(expdir, langs, task, dump, options, limit, device)
    ]
    write_json(out, dataclasses.asdict(Interference(rank, tuple(found))))
    record.record()
    return out


def _measures(
    expdir: ExpDir, langs: Sequence[str], task: str, rank: int
) -> dict[str, float | None]:
    """Return the measures of two experts, as means over the matrices."""
    from lors.merge.inspection import (
        defined_mean,
        inspect_matrices,
        mean_inflations,
        mean_over,
    )
    from lors.merge.plan import open_inputs
    from lors.recipe.tuner import plan_of

    two = [Pair(lang, task) for lang in langs]
    matrices = dict(inspect_matrices(open_inputs(plan_of(expdir, two, "average", {})), rank))
    found = {name: mean_over(matrices, name)[0, 1] for name in MEASURES if name != "inflation"}
    found["inflation"] = defined_mean(mean_inflations(matrices))
    return {name: None if math.isnan(value) else float(value) for name, value in found.items()}


def write_interference_report(file: Path, out: str | os.PathLike, title: str) -> str:
    """Write the table of an ``interference.json`` as Markdown; return it as text.

    Raises:
        LorsError: the file is missing or malformed.
    """
    found = read_measured(Interference, file, "experts")
    return write_report(out, [_section(found)], title, f"Experts and dev sets of {file.parent}.")


def _section(found: Interference) -> Section:
    rows = [
        [" ".join(two.langs), two.task, *map(two_digits, [*_values(two), two.loss])]
        for two in found.pairs
    ]
    above = [
        "Interference of the task vectors of two experts as lors inspect measures it, means over "
        f"the matrices, rank {found.rank}; loss of merging: 1 - normalised performance, on dev, of "
        "the average of the two (0: as good as the experts, 1: as the base model); -: undefined."
    ]
    header = ["languages", "task", *MEASURES.values(), "loss of merging"]
    below = [line for task in _tasks(found) for line in _correlations(found, task)]
    return Section("Interference and loss of merging", header, rows, 2, above, below)


def _tasks(found: Interference) -> list[str]:
    return list(dict.fromkeys(two.task for two in found.pairs))


def _values(two: TwoExperts) -> list[float | None]:
    return [getattr(two, name) for name in MEASURES]


def _correlations(found: Interference, task: str) -> list[str]:
    """Return a line with the rank correlation of each measure and the loss; none for few pairs."""
    from scipy.stats import spearmanr

    texts, pairs = [], [two for two in found.pairs if two.task == task and two.loss is not None]
    for name, title in MEASURES.items():
        known = [(v, two.loss) for two in pairs if (v := getattr(two, name)) is not None]
        values, losses = zip(*known, strict=True) if known else ((), ())
        if len(known) >= FEWEST and len(set(values)) > 1 and len(set(losses)) > 1:
            result = spearmanr(values, losses)
            texts.append(f"{title} {result.statistic:+.2f} (p {result.pvalue:.2f})")
    if not texts:
        return []
    return [
        f"Rank correlation (Spearman) with the loss, {task}, {len(pairs)} pairs of languages: "
        f"{'; '.join(texts)}. The pairs share experts, so p is too small."
    ]
