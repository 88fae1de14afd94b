"""Summary of the page: the merge that is the best on dev, beside base, experts and baselines."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lors.page.tables import Cell
from lors.recipe.expdir import BASELINES, MERGED_OVER, OVER_LANGS, scope_of, split_system
from lors.recipe.results import cell, normalised_cell, with_unit
from lors.recipe.score_tree import ScoreTable
from lors.recipe.significance import Significance
from lors.recipe.sweeps import Sweep
from lors.tasks import task_called

WORDS = {
    "base": "the base model",
    "expert": "the experts",
    "joint": "joint training",
    "sequential": "sequential training",
    "sequential_reversed": "sequential training in the opposite order",
}
"""Baseline -> its name in a sentence."""


@dataclass(frozen=True)
class Chosen:
    """The merge of a kind that is the best on dev.

    Attributes:
        system: name of the system.
        dev: its normalised performance on dev, mean over the pairs and then over the runs.
    """

    system: str
    dev: float

    @property
    def words(self) -> str:
        """The system in words."""
        method, merged_over = split_system(self.system)
        return f"{method} over {MERGED_OVER[merged_over]}"


@dataclass(frozen=True)
class Measure:
    """A score of the key figures.

    Attributes:
        name: its name.
        unit: what follows a value in a sentence.
        values: system -> mean over languages, as text.
    """

    name: str
    unit: str
    values: dict[str, str]


@dataclass(frozen=True)
class Summary:
    """The key figures of an experiment.

    Attributes:
        chosen: the best merge on dev over languages and the one over languages and tasks, the
            better first; empty without sweeps.
        baselines: name of a system with all scores -> its name in a sentence.
        measures: scores on test.
        header: heads of the table.
        rows: rows of the table.
    """

    chosen: Sequence[Chosen]
    baselines: dict[str, str]
    measures: Sequence[Measure]
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def summarise(
    table: ScoreTable, sweeps: Sequence[Sweep], significance: Significance | None
) -> Summary:
    """Return the key figures, of systems with all scores: means over other runs differ by the runs.

    Test scores have no part in the choice of a merge.
    """
    chosen = best_on_dev(table, sweeps)
    baselines = {s: WORDS[s] for s in BASELINES if s in table.systems and _is_full(table, s)}
    systems = {**baselines, **{of.system: of.words for of in chosen}}
    measures, columns = [], []
    for task in table.tasks:
        metric = task_called(task).metric
        values = {s: cell(table.averages(s, task, metric), 1) for s in systems}
        measures.append(Measure(metric.name, " %" if metric.lower_is_better else "", values))
        notes = {s: _average_interval(significance, task, s) for s in systems}
        columns.append([Cell(values[s], notes[s]) for s in systems])
    header = [with_unit(task_called(task).metric) for task in table.tasks]
    if table.can_normalise:
        values = {s: normalised_cell(table, s, table.tasks) for s in systems}
        measures.append(Measure("normalised performance", "", values))
        columns.append([Cell(values[s]) for s in systems])
        header.append("norm. perf.")
    rows = [
        [Cell(name, "" if system in baselines else "best on dev"), *cells]
        for (system, name), *cells in zip(systems.items(), *columns, strict=True)
    ]
    return Summary(chosen, baselines, measures, ["averages on test", *header], rows)


def _average_interval(significance: Significance | None, task: str, system: str) -> str:
    ends = significance.intervals.get((task, system)) if significance else None
    return f"{ends[-1][0]:.1f} to {ends[-1][1]:.1f}" if ends else ""


def best_on_dev(table: ScoreTable, sweeps: Sequence[Sweep]) -> list[Chosen]:
    """Return the best merge on dev for each kind of merge, the better kind first.

    The choice is among the merges with all scores and with a sweep in every run.
    """
    found: dict[str, list[Chosen]] = {}
    for system in table.systems:
        dev = dev_performance(system, table, sweeps) if _is_full(table, system) else None
        if dev is not None:
            found.setdefault(split_system(system)[1], []).append(Chosen(system, dev))
    best = [max(of, key=lambda chosen: chosen.dev) for of in found.values()]
    return sorted(best, key=lambda chosen: -chosen.dev)


def _is_full(table: ScoreTable, system: str) -> bool:
    return all(table.is_complete(system, task) for task in table.tasks)


def dev_performance(system: str, table: ScoreTable, sweeps: Sequence[Sweep]) -> float | None:
    """Return the normalised performance of a merge on dev, mean over the runs.

    Runs where it is undefined for a merge of the same scope have no part. None if a run lacks a
    sweep of the merge, or if it is undefined in all runs.

    A merge over languages has a sweep for each task: their mean is weighted by the pairs.
    """
    method, merged_over = split_system(system)
    if merged_over not in MERGED_OVER:
        return None
    scopes = table.tasks if merged_over == OVER_LANGS else [scope_of(table.tasks)]
    undefined = {s.expdir for s in sweeps if s.undefined and s.scope in scopes}
    values = []
    for expdir in table.expdirs:
        of_run = [s for s in sweeps if (s.expdir, s.method) == (expdir, method)]
        trials = {s.scope: s.chosen for s in of_run}
        if not all(scope in trials for scope in scopes):
            return None
        if expdir not in undefined:
            weights = [len(trials[scope].scores) or 1 for scope in scopes]
            objectives = [trials[scope].objective for scope in scopes]
            values.append(statistics.fmean(objectives, weights))
    return statistics.fmean(values) if values else None
