"""Tables of the page: cells with notes, the best merge of each column marked."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lors.recipe.expdir import is_merge
from lors.recipe.report import Section
from lors.recipe.results import (
    cell,
    normalised_cell,
    runs_column,
    system_cells,
    undefined_notes,
    unhelpful_notes,
    with_unit,
)
from lors.recipe.score_tree import ScoreTable
from lors.recipe.significance import Significance, without_comparisons
from lors.tasks import Metric, Pair, task_called

PLUS_MINUS = " ± "
"""Stands between a mean and its standard deviation."""

Values = Callable[[str], Sequence[float]]
"""System -> its values in a column, one for each run that has them."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: its text.
        note: smaller text below it.
        is_best: whether it is the best merge of its column.
    """

    text: str
    note: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with notes above and below.

    Attributes:
        title: the heading.
        header: heads of the columns.
        rows: the rows.
        labels: number of leading columns with words; the others are numbers, aligned right.
        above: notes above the table.
        below: notes below the table.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: int
    above: Sequence[str] = ()
    below: Sequence[str] = ()

    @property
    def columns_with_spread(self) -> set[int]:
        """Indices of columns in which a cell has a standard deviation."""
        return {k for row in self.rows for k, one in enumerate(row) if PLUS_MINUS in one.text}


def of_section(section: Section) -> Table:
    """Return the table of a section of the report."""
    rows = [[Cell(text) for text in row] for row in section.rows]
    labels, notes = section.labels, (section.above, section.below)
    return Table(section.title, section.header, rows, labels, *notes)


def score_table(
    table: ScoreTable, task: str, metric: Metric, significance: Significance | None
) -> Table:
    """Return the scores of a task by one metric.

    With the main metric of the task come intervals, normalised performance and comparisons.

    Args:
        table: the scores.
        task: name of the task.
        metric: a metric of the task.
        significance: intervals and comparisons, if there are some.
    """
    is_main = metric == task_called(task).metric
    columns = [
        _score_column(table, metric, partial(table.values, pair=Pair(lang, task), metric=metric))
        for lang in table.languages(task)
    ]
    columns.append(_score_column(table, metric, lambda s: table.averages(s, task, metric)))
    header = [*table.languages(task), "average"]
    above, below = [], []
    if is_main and significance is not None:
        columns = _with_intervals(table, task, columns, significance)
        above.append("Small: 95 % interval over the utterances of the test set.")
    if is_main and table.can_normalise:
        header.append("norm. perf.")
        columns.append(_normalised_column(table, [task]))
        below += [*unhelpful_notes(table, task), *undefined_notes(table, [task])]
    if is_main and significance is not None and significance.comparisons.get(task):
        header.append(f"vs. {significance.compared_with}")
        columns.append([Cell(significance.verdict(task, system)) for system in table.systems])
        below.append(significance.note(table, task))
    elif is_main and significance is not None:
        below += without_comparisons(table, significance, task)
    if runs := _runs_column(table, [task]):
        header.append("runs")
        columns.append(runs)
    better = "lower" if metric.lower_is_better else "higher"
    title = f"{with_unit(metric)} ({better} is better)"
    return _system_table(table, title, header, columns, above, below)


def _score_column(table: ScoreTable, metric: Metric, values: Values) -> list[Cell]:
    return best_marked(table, values, 1, metric.lower_is_better, len(table.expdirs))


def best_marked(
    table: ScoreTable, values: Values, digits: int, lower: bool, runs: int
) -> list[Cell]:
    """Return a column of all systems, the best merge marked if there are several merges.

    Merges with values of fewer runs are not marked: the runs differ, so a mean over some of them
    may be better by the choice of these runs.

    Args:
        table: the scores.
        values: values of a system.
        digits: digits after the point.
        lower: whether lower values are better.
        runs: number of runs that a system can have values of.
    """
    found = {system: values(system) for system in table.systems}
    cells = {system: Cell(cell(of, digits)) for system, of in found.items()}
    full = {system: of for system, of in found.items() if of and len(of) == runs}
    means = {system: statistics.fmean(of) for system, of in full.items() if is_merge(system)}
    if len(means) > 1:
        best = (min if lower else max)(means.values())
        shown = f"{best:.{digits}f}"
        for system, mean in means.items():
            if f"{mean:.{digits}f}" == shown:
                cells[system] = replace(cells[system], is_best=True)
    return [*cells.values()]


def _with_intervals(
    table: ScoreTable, task: str, columns: Sequence[list[Cell]], significance: Significance
) -> list[list[Cell]]:
    """Add the interval of each score to its cell."""
    found = [significance.intervals.get((task, system)) for system in table.systems]
    return [
        [
            replace(of_system, note=f"{ends[index][0]:.1f} to {ends[index][1]:.1f}")
            if ends
            else of_system
            for of_system, ends in zip(column, found, strict=True)
        ]
        for index, column in enumerate(columns)
    ]


def _runs_column(table: ScoreTable, tasks: Sequence[str]) -> list[Cell]:
    return [Cell(text) for text in runs_column(table, tasks)]


def normalised_table(table: ScoreTable, definition: str) -> Table:
    """Return normalised performance by task and over all pairs."""
    groups = [*([task] for task in table.tasks), table.tasks]
    columns = [_normalised_column(table, group) for group in groups]
    header = [*(task_called(task).metric.name for task in table.tasks), "all pairs"]
    if runs := _runs_column(table, table.tasks):
        header.append("runs")
        columns.append(runs)
    below = undefined_notes(table, table.tasks)
    return _system_table(table, "", header, columns, [definition], below)


def _normalised_column(table: ScoreTable, tasks: Sequence[str]) -> list[Cell]:
    values = partial(table.normalised, tasks=tasks)
    cells = best_marked(table, values, 2, False, len(values("base")))
    return [
        replace(of_system, text=normalised_cell(table, system, tasks))
        for system, of_system in zip(table.systems, cells, strict=True)
    ]


def _system_table(
    table: ScoreTable,
    title: str,
    header: Sequence[str],
    columns: Sequence[Sequence[Cell]],
    above: Sequence[str],
    below: Sequence[str],
) -> Table:
    if any(one.is_best for column in columns for one in column):
        among = " among those with all runs" if header[-1] == "runs" else ""
        above = [*above, f"Bold: the best merge of a column{among}."]
    rows = [
        [*map(Cell, system_cells(system)), *cells]
        for system, *cells in zip(table.systems, *columns, strict=True)
    ]
    return Table(title, ["system", "merged over", *header], rows, 2, above, below)
