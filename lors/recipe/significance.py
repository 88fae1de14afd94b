"""Intervals and comparisons in the report of an experiment."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lors.errors import LorsError, UsageError, unknown_name
from lors.fileio import read_json, write_json
from lors.recipe.compare_systems import CAPTION, comparison_section
from lors.recipe.comparison import (
    FEW,
    LEVEL,
    SAMPLES,
    Comparison,
    Resampled,
    compare,
    mixed_units,
    read_outputs,
)
from lors.recipe.expdir import MERGED_OVER, ExpDir, is_merge, split_system, utterances_file
from lors.recipe.made_from import MadeFrom
from lors.recipe.report import Section
from lors.recipe.score_tree import ScoreTable
from lors.score.significance import SEED, interval
from lors.tasks import Pair, task_called

log = logging.getLogger(__name__)

DEFAULT = "lors"
"""The method that the rows of a report are compared with."""
MERGES = "merges"
"""The family of all rows that are merges."""


@dataclass(frozen=True)
class Significance:
    """Intervals of the scores of a table, and comparisons of its rows.

    Attributes:
        compared_with: the method or system that rows are compared with; None without comparisons.
        intervals: (task, system) -> an interval for each language, then one of their average.
        comparisons: task -> comparisons of rows, all languages pooled.
        family: methods and systems that Holm's correction is over; None for all rows.
        problem: why there are no intervals; empty if there are.
    """

    compared_with: str | None
    intervals: Mapping[tuple[str, str], Sequence[tuple[float, float]]]
    comparisons: Mapping[str, Sequence[Comparison]]
    family: Sequence[str] | None = None
    problem: str = ""

    def verdict(self, task: str, system: str) -> str:
        """Return ``better``, ``worse`` or ``~``, or why a row of the report has none of them."""
        for found in self.comparisons[task]:
            if found.system == system:
                return found.verdict
        if _is_named(system, [self.compared_with]):
            return "-"
        is_scored = (task, system) in self.intervals
        return "not compared" if is_scored else "not compared: incomplete"

    def to_json(self) -> dict[str, Any]:
        """Return the content of a file."""
        return {
            "compared_with": self.compared_with,
            "family": self.family,
            "samples": SAMPLES,
            "seed": SEED,
            "about": CAPTION,
            "intervals": [
                {"task": task, "system": system, "languages_and_average": [*ends]}
                for (task, system), ends in self.intervals.items()
            ],
            "comparisons": {
                task: [comparison.to_json() for comparison in found]
                for task, found in self.comparisons.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Make it of the content of a file."""
        return cls(
            content["compared_with"],
            {
                (row["task"], row["system"]): [tuple(e) for e in row["languages_and_average"]]
                for row in content["intervals"]
            },
            {
                task: [Comparison.from_json(comparison) for comparison in found]
                for task, found in content["comparisons"].items()
            },
            content.get("family"),
        )

    def note(self, table: ScoreTable, task: str) -> str:
        """Return the meaning of the verdicts."""
        found = self.comparisons[task]
        pooled = ", all languages pooled" if len(found[0].pairs) > 1 else ""
        has_test = any(comparison.matched_pairs for comparison in found)
        test = "matched-pairs test of NIST" if has_test else "paired bootstrap"
        others = [c.reference for c in found if not is_merge(c.system)]
        cautions = mixed_units({pair: table.example(pair) for pair in found[0].pairs}, found)
        if any(comparison.is_small for comparison in found):
            cautions.append(f"Caution: fewer than {FEW} utterances or segments.")
        scopes = f"; rows that are no merges beside {others[0]}" if others else ""
        rows = f"{len(found)} row{'s' if len(found) > 1 else ''}"
        rows += f": {', '.join(self.family)}" if self.family else ""
        meaning = (
            f"vs. {self.compared_with}: better or worse if p < {LEVEL} ({test}{pooled}; two-sided, "
            f"after Holm's correction over {rows}), ~ if not{scopes}."
        )
        return " ".join([meaning, *cautions])


def kept_significance(
    table: ScoreTable,
    compare_to: str | None,
    report: str | os.PathLike,
    family: Sequence[str] | None = None,
) -> Significance:
    """Return :func:`significance_of` the table from a file beside the report, if it is current.

    The file is ``<report>.significance.json``, ``RESULTS.significance.json`` for ``RESULTS.md``; it
    is made again after any change of the scores or of the utterances.
    """
    path = significance_file(report)
    record = _record(table, compare_to, family, path)
    if record.is_current():
        return Significance.from_json(read_json(path))
    found = significance_of(table, compare_to, family)
    if not found.problem:
        write_json(path, found.to_json())
        record.record()
    return found


def significance_file(report: str | os.PathLike) -> Path:
    """Return the path of the file with the intervals and comparisons of a report."""
    return Path(report).with_suffix(".significance.json")


def read_significance(table: ScoreTable, path: Path) -> Significance | None:
    """Read the intervals and comparisons of a report; None if they are not of these scores.

    Raises:
        LorsError: the file is missing or malformed.
    """
    try:
        found = Significance.from_json(read_json(path))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise LorsError(
            "not the intervals and comparisons of a report",
            where=path,
            got=f"{type(error).__name__}: {error}",
            hint="remove it and call python -m lors.bin.results again",
        ) from None
    names = (None, found.compared_with)
    records = (_record(table, name, found.family, path) for name in names)
    return found if any(record.is_current() for record in records) else None


def _record(
    table: ScoreTable, compare_to: str | None, family: Sequence[str] | None, path: Path
) -> MadeFrom:
    scores = [file for of in _files(table).values() for files in of.values() for file in files]
    settings = {
        "compare_to": compare_to,
        "family": family and [*family],
        "systems": [*table.systems],
        "expdirs": [*table.expdirs],
        "samples": SAMPLES,
        "seed": SEED,
    }
    sources = [*scores, *map(utterances_file, scores)]
    return MadeFrom(path.with_name(f".{path.stem}.made_from"), sources, [path], settings)


def significance_of(
    table: ScoreTable, compare_to: str | None = None, family: Sequence[str] | None = None
) -> Significance:
    """Compute intervals and comparisons for the main metric of each task.

    A system without all scores of a task has none there.

    Args:
        table: the scores.
        compare_to: a method, or the name of a system; by default `DEFAULT`. A merge is compared
            with the method's merge over the same, other rows with its first merge in the report.
        family: the rows that are compared, methods, systems or ``merges``; by default all.

    Raises:
        UsageError: `compare_to` or a name of `family` is not in the table, or `family` has no row
            besides those of `compare_to`.
    """
    names = {split_system(system)[0] for system in table.systems} | {*table.systems}
    all_partners = _partners(table.systems, compare_to or DEFAULT)
    if compare_to and not all_partners:
        raise unknown_name("system", compare_to, names, "--compare_to")
    if unknown := [name for name in family or () if name not in names | {MERGES}]:
        raise unknown_name("system", unknown, names | {MERGES}, "--family")
    if family and all_partners and not any(_is_in(system, family) for system in all_partners):
        raise UsageError(
            "no row to compare",
            where="--family",
            expected=f"rows other than those of {compare_to or DEFAULT}",
            got=[*family],
        )
    try:
        outputs, _ = read_outputs(_files(table))
    except LorsError as error:
        log.warning("no intervals and no comparisons of systems in the report: %s", error)
        problem = f"Without intervals and comparisons: {error.what}."
        return Significance(None, {}, {}, problem=problem)
    intervals = {}
    comparisons: dict[str, list[Comparison]] = {}
    for task in table.tasks:
        metric = task_called(task).metric
        pairs = [Pair(lang, task) for lang in table.languages(task)]
        comparisons[task] = []
        complete = {system: of for system, of in outputs.items() if pairs[0] in of}
        if not complete:
            continue
        resampled = Resampled(complete, metric, pairs)
        for system in complete:
            scores = [resampled.pooled(system, [pair]) for pair in pairs]
            scores.append(resampled.averages(system, pairs))
            intervals[task, system] = [interval(samples) for samples in scores]
        partners = _partners([*complete], compare_to or DEFAULT)
        compared = [system for system in partners if family is None or _is_in(system, family)]
        requests = [(system, partners[system], pairs) for system in compared]
        comparisons[task] = compare(complete, metric, requests, resampled)
    compared_with = compare_to or (DEFAULT if any(comparisons.values()) else None)
    return Significance(compared_with, intervals, comparisons, family and [*family])


def _is_in(system: str, family: Sequence[str]) -> bool:
    return _is_named(system, family) or (MERGES in family and is_merge(system))


def _is_named(system: str, names: Collection[str | None]) -> bool:
    """Return whether a system or its method is among some names."""
    return system in names or split_system(system)[0] in names


def _files(table: ScoreTable) -> dict[str, dict[Pair, list[Path]]]:
    """Return system -> pair -> its score files, of the tasks whose scores are all there."""
    complete = {s: [t for t in table.tasks if table.is_complete(s, t)] for s in table.systems}
    return {
        system: {
            pair: [ExpDir(d).score(table.split, system, pair) for d in table.expdirs]
            for pair in table.pairs
            if pair.task in tasks
        }
        for system, tasks in complete.items()
    }


def _partners(systems: Sequence[str], compare_to: str) -> dict[str, str]:
    """Return system -> the system that it is compared with; without those compared with."""
    if compare_to in systems:
        return {system: compare_to for system in systems if system != compare_to}
    merges = {over: f"{compare_to}.{over}" for over in MERGED_OVER}
    merges = {over: name for over, name in merges.items() if name in systems}
    if not merges:
        return {}
    first = next(name for name in systems if name in merges.values())
    return {
        system: merges.get(split_system(system)[1], first)
        for system in systems
        if system not in merges.values()
    }


def significance_sections(table: ScoreTable, found: Significance) -> list[Section]:
    """Return the sections with intervals and with comparisons; a note if there are none."""
    if found.problem:
        return [Section("Intervals and comparisons", above=[found.problem])]
    sections, runs = [], _of_runs(table)
    for task in table.tasks:
        metric = task_called(task).metric
        lacking = without_comparisons(table, found, task)
        rows = [
            [system, *map(_interval_text, ends)]
            for system in table.systems
            if (ends := found.intervals.get((task, system)))
        ]
        sections.append(
            Section(
                f"95 % intervals of {metric.name}",
                ["system", *table.languages(task), "average"],
                rows,
                above=[f"Bootstrap, {SAMPLES} samples, seed {SEED}.{runs} {CAPTION}", *lacking],
                below=_few_utterances(table, task),
            )
        )
        if found.comparisons[task]:
            sections.append(compared_section(table, found, task))
    return sections


def without_comparisons(table: ScoreTable, found: Significance, task: str) -> list[str]:
    """Return why rows of a task could be compared and none is, and what to do."""
    name = found.compared_with
    if found.problem or found.comparisons.get(task) or len(table.systems) < 2:
        return []
    if name is None:
        why = f"{DEFAULT} is not among the systems; --compare_to names another one"
        return [f"No comparisons: {why}."]
    rows = [system for system in table.systems if _is_named(system, [name])]
    if any(table.is_complete(system, task) for system in rows):
        return ["No comparisons: no other row has all scores of this task."]
    return [
        f"No comparisons: {name} has not all scores of this task; --compare_to names another one."
    ]


def _few_utterances(table: ScoreTable, task: str) -> list[str]:
    """Return a caution if intervals are of few utterances; that of one has no width."""
    pairs = [Pair(lang, task) for lang in table.languages(task)]
    few = [pair.lang for pair in pairs if table.example(pair).sizes["utterances"] < FEW]
    if not few:
        return []
    return [
        f"Caution: fewer than {FEW} utterances of {', '.join(few)}; these intervals may be too "
        "narrow."
    ]


def _of_runs(table: ScoreTable) -> str:
    return "" if len(table.expdirs) == 1 else " Scores are means over the seeds."


def compared_section(table: ScoreTable, found: Significance, task: str) -> Section:
    """Return the comparisons of a task, of which there are some."""
    metric = task_called(task).metric
    part = comparison_section(metric, found.comparisons[task], SEED)
    title = f"{metric.name} compared with {found.compared_with}"
    above = [f"{found.note(table, task)}{_of_runs(table)} {CAPTION}"]
    return Section(title, part.header, part.rows, part.labels, above, part.below)


def _interval_text(ends: tuple[float, float]) -> str:
    return " to ".join(f"{end:.1f}" for end in ends)
