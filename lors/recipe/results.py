"""The report of an experiment: the same tables as Markdown and as plain text.

Every number comes from a score file or a sweep file. With several experiment directories (one for
each seed) a cell is the mean and the sample standard deviation over them.
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Callable, Collection, Iterable, Sequence

from lors.recipe.commands import noted_commands
from lors.recipe.cost import cost_sections
from lors.recipe.expdir import MERGED_OVER, split_system
from lors.recipe.mask_overlap import overlap_sections
from lors.recipe.parameters import parameter_section
from lors.recipe.personal import size_sections
from lors.recipe.repetitions import repetition_cautions
from lors.recipe.report import MISSING, UNDEFINED, Section, write_report
from lors.recipe.score_tree import ScoreTable, read_scores
from lors.recipe.significance import Significance, kept_significance, significance_sections
from lors.recipe.subnet_sizes import subnet_size_sections
from lors.recipe.sweeps import Sweep, read_sweeps
from lors.recipe.weights import contribution_sections
from lors.score import ErrorRates
from lors.score.normalised import unhelpful_experts
from lors.tasks import ASR, TASKS, Metric, Pair, task_called

log = logging.getLogger(__name__)

_ERROR_RATES = ", ".join(t.metric.name for t in TASKS.values() if t.metric.lower_is_better)
DEFINITION = (
    "Normalised performance (LoRS's own definition): share of the experts' average gain, "
    f"(merged - base) / (expert - base) of the averages over languages, {_ERROR_RATES} "
    "sign-flipped; 0 is the base model, 1 the experts. Over all pairs: mean of the tasks' shares, "
    "weighted by their numbers of languages."
)

MISSING_NOTE = (
    "An average or a normalised performance is over the runs that have all scores it needs."
)

DrawFigures = Callable[[ScoreTable, Sequence[Sweep]], Sequence[tuple[str, str]]]
"""Draws the figures of a report; returns the caption and the path of each."""


def write_results(
    expdirs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    title: str,
    command: str | None = None,
    draw: DrawFigures | None = None,
    compare_to: str | None = None,
    systems: Collection[str] | None = None,
    family: Sequence[str] | None = None,
) -> str:
    """Write the report of some experiment directories as Markdown.

    Args:
        expdirs: experiment directories, one for each seed.
        out: Markdown file to write.
        title: its heading.
        command: the command that makes the report, listed with those on record.
        draw: draws the figures; by default there are none.
        compare_to: the method or system that the others are compared with
            (:func:`lors.recipe.significance.significance_of`). The intervals and comparisons are
            kept beside the report.
        systems: as of :func:`read_report`.
        family: the rows that are compared (:func:`lors.recipe.significance.significance_of`).

    Returns:
        The same report as plain text, then a line for each file of it.

    Raises:
        LorsError: scores are missing or malformed.
        UsageError: `compare_to` or a name of `family` is not in the report, or one of `systems`
            has no scores.
    """
    table, sweeps = read_report(expdirs, systems)
    for line in table.missing():
        log.warning("%s", line)
    significance = kept_significance(table, compare_to, out, family)
    sections, runs = make_report(table, sweeps, significance), describe_runs(table)
    sections += overlap_sections(expdirs) + subnet_size_sections(expdirs)
    figures = draw(table, sweeps) if draw else []
    commands = noted_commands(expdirs, command)
    return write_report(out, sections, title, runs, figures, commands)


def read_report(
    expdirs: Sequence[str | os.PathLike], systems: Collection[str] | None
) -> tuple[ScoreTable, list[Sweep]]:
    """Read what a report is made of.

    Args:
        expdirs: experiment directories, one for each seed.
        systems: the systems to report, all of whose scores must be there; by default all that have
            scores. Some of those may be missing: another run may have scored only one task, or may
            not have come to its end.
    """
    table = read_scores(expdirs, partial=systems is None, systems=systems)
    methods = {split_system(system)[0] for system in table.systems}
    sweeps = read_sweeps(table.expdirs)
    return table, [sweep for sweep in sweeps if systems is None or sweep.method in methods]


def make_report(
    table: ScoreTable, sweeps: Sequence[Sweep], significance: Significance | None = None
) -> list[Section]:
    """Return the sections of the report."""
    missing = table.missing()
    sections = [Section("Missing scores", above=[MISSING_NOTE, *missing])] if missing else []
    sections += [_task_section(table, task, significance) for task in table.tasks]
    if table.can_normalise and len(table.tasks) > 1:
        sections.append(_normalised_section(table))
    if significance is not None:
        sections += significance_sections(table, significance)
    sections += [_second_metric_section(table, task) for task in table.tasks]
    if ASR.name in table.tasks:
        sections.append(error_section(table))
    sections.append(parameter_section(table, sweeps))
    sections += contribution_sections(sweeps)
    sections.append(test_set_section(table))
    sections.append(Section("How the scores are computed", above=descriptions(table)))
    return [*sections, *cost_sections(sweeps), *size_sections(table.expdirs)]


def describe_runs(table: ScoreTable) -> str:
    """Return one line: the test set, the number of seeds, and the meaning of a cell.

    Runs that are no repetitions with different seeds are named there, and logged.
    """
    runs = ", ".join(table.expdirs)
    if len(table.expdirs) == 1:
        return f"Scores on {table.split}; 1 run ({runs}), so no spread is known."
    cautions = repetition_cautions(table)
    for line in cautions:
        log.warning("%s", line)
    about = (
        f"Scores on {table.split}; mean ± sample standard deviation over "
        f"{len(table.expdirs)} seeds ({runs})."
    )
    return " ".join([about, *cautions])


def cell(values: Sequence[float], digits: int) -> str:
    """Return ``mean``, or ``mean ± sample standard deviation`` of several values."""
    if not values:
        return MISSING
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def system_cells(system: str) -> list[str]:
    """Return the method of a system, and in words what it is merged over."""
    method, merged_over = split_system(system)
    return [method, MERGED_OVER.get(merged_over, merged_over) or "-"]


def _score_rows(table: ScoreTable, task: str, metric: Metric) -> list[list[str]]:
    rows = []
    for system in table.systems:
        cells = [table.values(system, Pair(lang, task), metric) for lang in table.languages(task)]
        cells.append(table.averages(system, task, metric))
        rows.append(system_cells(system) + [cell(values, 1) for values in cells])
    return rows


def _score_header(table: ScoreTable, task: str) -> list[str]:
    return ["system", "merged over", *table.languages(task), "average"]


def runs_column(table: ScoreTable, tasks: Sequence[str]) -> list[str]:
    """Return the number of runs with all scores of each system; empty if all have all runs."""
    counts = [len(table.complete_runs(system, tasks)) for system in table.systems]
    all_runs = len(table.expdirs)
    return [*map(str, counts)] if all_runs > 1 and min(counts) < all_runs else []


def _append(header: list[str], rows: list[list[str]], head: str, cells: Iterable[str]) -> None:
    """Append a column to a table."""
    header.append(head)
    for row, text in zip(rows, cells, strict=True):
        row.append(text)


def with_unit(metric: Metric) -> str:
    """Return ``WER in %``, or ``BLEU``, which has no unit."""
    return f"{metric.name} in %" if metric.lower_is_better else metric.name


def _task_section(table: ScoreTable, task: str, significance: Significance | None) -> Section:
    metric = task_called(task).metric
    header, rows = _score_header(table, task), _score_rows(table, task, metric)
    if table.can_normalise:
        normalised = (normalised_cell(table, system, [task]) for system in table.systems)
        _append(header, rows, "norm. perf.", normalised)
        below = [*unhelpful_notes(table, task), *undefined_notes(table, [task])]
    else:
        below = ["No normalised performance: it needs scores of both base and expert."]
    if significance is not None and significance.comparisons.get(task):
        marks = (significance.verdict(task, system) for system in table.systems)
        _append(header, rows, f"vs. {significance.compared_with}", marks)
        below = [*below, significance.note(table, task)]
    if runs := runs_column(table, [task]):
        _append(header, rows, "runs", runs)
    better = "lower" if metric.lower_is_better else "higher"
    title = f"{task_called(task).title}: {with_unit(metric)} ({better} is better)"
    return Section(title, header, rows, labels=2, below=below)


def normalised_cell(table: ScoreTable, system: str, tasks: Sequence[str]) -> str:
    """Return normalised performance over the pairs of `tasks` as text."""
    if table.is_undefined(system, tasks):
        return UNDEFINED
    return cell(table.normalised(system, tasks), 2)


def undefined_notes(table: ScoreTable, tasks: Sequence[str]) -> list[str]:
    """Return a note for each run in which normalised performance over `tasks` is undefined."""
    found = table.undefined(tasks)
    notes = [
        f"Normalised performance is undefined in {table.expdirs[index]}, because the experts are "
        f"not better than the base model: {reason}."
        for index, reason in found.items()
    ]
    if 0 < len(found) < len(table.expdirs):
        notes.append("A mean of normalised performance is over the other runs.")
    return notes


def unhelpful_notes(table: ScoreTable, task: str) -> list[str]:
    """Return a caution for each run with experts that are not better than the base model."""
    notes = []
    complete = (set(table.complete_runs(name, [task])) for name in ("base", "expert"))
    for index in sorted(set.intersection(*complete)):
        expdir = table.expdirs[index]
        base, expert = (table.scores_in(name, index, [task]) for name in ("base", "expert"))
        if pairs := unhelpful_experts(base, expert):
            notes.append(
                f"Caution: in {expdir} the expert is not better than the base model for "
                f"{', '.join(map(str, pairs))}."
            )
    return notes


def _normalised_section(table: ScoreTable) -> Section:
    groups = [*([task] for task in table.tasks), table.tasks]
    rows = [
        system_cells(system) + [normalised_cell(table, system, group) for group in groups]
        for system in table.systems
    ]
    metrics = [task_called(task).metric.name for task in table.tasks]
    header = ["system", "merged over", *metrics, "all pairs"]
    if runs := runs_column(table, table.tasks):
        _append(header, rows, "runs", runs)
    title = "Normalised performance (higher is better)"
    below = undefined_notes(table, table.tasks)
    return Section(title, header, rows, labels=2, above=[DEFINITION], below=below)


def _second_metric_section(table: ScoreTable, task: str) -> Section:
    metric = task_called(task).metrics[1]
    header, rows = _score_header(table, task), _score_rows(table, task, metric)
    if runs := runs_column(table, [task]):
        _append(header, rows, "runs", runs)
    return Section(with_unit(metric), header, rows, labels=2)


def error_section(table: ScoreTable) -> Section:
    """Return the errors of recognition by kind, in the columns of sclite and ESPnet."""
    rows = []
    head = ("Snt", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err")
    for system in table.systems:
        for lang in table.languages(ASR.name):
            scores = table.found(system, Pair(lang, ASR.name))
            runs = [_error_cells(score) for score in scores if isinstance(score, ErrorRates)]
            rows.append([*system_cells(system), lang])
            if not runs:
                rows[-1] += [MISSING] * len(head)
                continue
            sentences, words, *shares = zip(*runs, strict=True)
            rows[-1] += [_range(sentences), _range(words)]
            rows[-1] += ["n/a" if None in values else cell(values, 1) for values in shares]
    note = (
        "Snt: utterances, Wrd: words (characters where these are scored); correct, substituted, "
        "deleted, inserted and all wrong words in % of Wrd; S.Err: utterances with an error in % "
        "of Snt. The texts and counts of each utterance are in "
        "<expdir>/scores/<split>/<system>/<lang>_<task>.utterances.tsv."
    )
    header = ["system", "merged over", "language", *head]
    return Section("Errors of recognition in %", header, rows, labels=3, above=[note])


def _error_cells(score: ErrorRates) -> tuple[float | None, ...]:
    """Return the numbers of a row: counts of utterances and words, then percentages."""
    wrong = (score.substitutions, score.deletions, score.insertions)
    correct = score.ref_words - score.substitutions - score.deletions
    shares = (100 * count / score.ref_words for count in (correct, *wrong, sum(wrong)))
    sentences = score.sentence_errors
    wrong_sentences = None if sentences is None else 100 * sentences / score.utterances
    return (score.utterances, score.ref_words, *shares, wrong_sentences)


def test_set_section(table: ScoreTable) -> Section:
    """Return the sizes of the test sets."""
    rows = []
    for pair in table.pairs:
        found = (table.found(system, pair) for system in table.systems)
        sizes = [score.sizes for score in next(filter(None, found))]
        keys = ("utterances", "ref_words", "empty_refs")
        counts = [_range(size.get(key) for size in sizes) for key in keys]
        rows.append([pair.lang, pair.task, *counts])
    header = ["language", "task", "utterances", "reference words", "empty references"]
    return Section(f"The {table.split} sets", header, rows, labels=2)


def _range(values: Iterable[int | None]) -> str:
    known = sorted({value for value in values if value is not None})
    return "-".join(str(value) for value in (known[:1] + known[1:][-1:])) or "n/a"


def descriptions(table: ScoreTable) -> list[str]:
    """Return the ways in which scores were computed, each with its languages."""
    langs: dict[str, list[str]] = {}
    for pair in table.pairs:
        langs.setdefault(table.example(pair).description, []).append(pair.lang)
    notes = [f"{description} ({', '.join(of)})." for description, of in langs.items()]
    return [*notes, DEFINITION] if table.can_normalise else notes
