"""The report of searches alone: every setting that was tried on dev, without scores of test sets.

Several experiment directories are different experiments here, not one with different seeds.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from lors.errors import LorsError, unknown_name
from lors.recipe.commands import noted_commands
from lors.recipe.expdir import OVER_LANGS, OVER_LANGS_TASKS, tasks_of
from lors.recipe.parameters import at_edges, shown_params, undefined_searches
from lors.recipe.report import MISSING, UNDEFINED, Section, write_report
from lors.recipe.results import DEFINITION, with_unit
from lors.recipe.sweeps import Sweep, Trial, read_sweeps, varied_params
from lors.score import Score
from lors.tasks import TASKS, Pair, task_called


def write_sweeps(
    expdirs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    title: str,
    command: str | None = None,
    systems: Collection[str] | None = None,
    draw: Callable[[Sequence[Sweep]], list[tuple[str, str]]] | None = None,
    tasks: Collection[str] | None = None,
) -> str:
    """Write the report of the searches in some experiment directories as Markdown.

    Args:
        expdirs: experiment directories.
        out: Markdown file to write.
        title: its heading.
        command: the command that makes the report, listed with those on record.
        systems: the merges to report, e.g. ``lors.langs``; by default all with a search.
        draw: writes figures and returns the caption and path of each; None for none.
        tasks: report the merges of these tasks alone; by default all.

    Returns:
        The same report as plain text, then a line for each file of it.

    Raises:
        LorsError: a directory has no search, or a malformed one.
        UsageError: one of `systems` has no search.
    """
    found = read_sweeps(expdirs)
    if tasks is not None:
        found = [sweep for sweep in found if {*tasks_of(sweep.scope)} <= {*tasks}]
    sweeps = _of_systems(found, systems)
    if without := [str(e) for e in expdirs if str(e) not in {sweep.expdir for sweep in sweeps}]:
        raise LorsError(
            "no search to report",
            where="--expdirs",
            expected="tune/<method>.<scope>/sweep.json in each directory",
            got=without,
            hint="run stage tune",
        )
    sections = [_settings(sweeps)]
    if len(expdirs) > 1:
        sections.insert(0, _experiments(sweeps, list(map(str, expdirs))))
    runs = f"Scores on dev; experiments: {', '.join(map(str, expdirs))}."
    figures = draw(sweeps) if draw else []
    return write_report(out, sections, title, runs, figures, noted_commands(expdirs, command))


def _of_systems(sweeps: Sequence[Sweep], systems: Collection[str] | None) -> Sequence[Sweep]:
    """Return the sweeps of some systems, by default all."""
    over = {True: OVER_LANGS, False: OVER_LANGS_TASKS}
    names = [f"{sweep.method}.{over[len(tasks_of(sweep.scope)) == 1]}" for sweep in sweeps]
    if unknown := [name for name in systems or () if name not in names]:
        raise unknown_name("merge with a search on dev", unknown, set(names), "--systems")
    return [sweep for sweep, name in zip(sweeps, names, strict=True) if name in (systems or names)]


def _experiments(sweeps: Sequence[Sweep], expdirs: Sequence[str]) -> Section:
    """Return the section with the chosen setting of each method in each experiment."""
    found = {(sweep.method, sweep.scope, sweep.expdir): _performance(sweep) for sweep in sweeps}
    rows = [
        [method, _tasks(scope), *(found.get((method, scope, e), MISSING) for e in expdirs)]
        for method, scope in dict.fromkeys((sweep.method, sweep.scope) for sweep in sweeps)
    ]
    above = [
        "The best setting of each search. Each experiment has its own ends: 0 is its base model "
        "and 1 its experts, over its languages.",
        DEFINITION,
    ]
    header = ["method", "tasks", *expdirs]
    return Section("Normalised performance on dev by experiment", header, rows, 2, above)


def _settings(sweeps: Sequence[Sweep]) -> Section:
    """Return the section with a row for each setting, after the scores of base and experts."""
    used = {task for sweep in sweeps for task in tasks_of(sweep.scope)}
    tasks = [task for task in TASKS if task in used]
    rows = [*_ends(sweeps, tasks)]
    for sweep in sweeps:
        varied = varied_params([other for other in sweeps if other.method == sweep.method])
        for trial in sweep.grid:
            place = [sweep.method, _tasks(sweep.scope), sweep.expdir]
            place += [shown_params(sweep, trial, varied), "yes" if trial is sweep.chosen else ""]
            numbers = [_performance(sweep, trial), _part(sweep, trial)]
            rows.append([*place, *numbers, *_means(trial.scores, tasks)])
    header = ["method", "tasks", "run", "parameters", "chosen", "norm. perf.", "part of dev"]
    header += [with_unit(task_called(task).metric) for task in tasks]
    above = [
        "A score is the mean over languages. Normalised performance on different parts of dev "
        "cannot be compared; a setting is chosen among those that have seen all of it. Parameters "
        "not shown have their defaults.",
    ]
    below = [*undefined_searches(sweeps), *at_edges(sweeps)]
    return Section("Settings tried on dev", header, rows, 5, above, below)


def _ends(sweeps: Iterable[Sweep], tasks: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of base and experts of each experiment and scope."""
    known = {(sweep.scope, sweep.expdir): sweep for sweep in sweeps if sweep.base}
    for (scope, expdir), sweep in known.items():
        for name, value, scores in (("base", 0.0, sweep.base), ("expert", 1.0, sweep.expert)):
            performance = UNDEFINED if sweep.undefined else f"{value:.3f}"
            row = [name, _tasks(scope), expdir, "-", "", performance, "100 %"]
            yield [*row, *_means(scores, tasks)]


def _performance(sweep: Sweep, trial: Trial | None = None) -> str:
    """Return the normalised performance of a trial, by default the chosen one, as text."""
    return UNDEFINED if sweep.undefined else f"{(trial or sweep.chosen).objective:.3f}"


def _part(sweep: Sweep, trial: Trial) -> str:
    whole = sweep.chosen.evaluations
    return f"{100 * trial.evaluations / whole:.0f} %" if whole else "n/a"


def _means(scores: Mapping[Pair, Score], tasks: Sequence[str]) -> list[str]:
    """Return the mean of each task's main metric over the languages; a dash where there is none."""
    cells = []
    for task in tasks:
        metric = task_called(task).metric
        values = [score.value(metric) for pair, score in scores.items() if pair.task == task]
        cells.append(f"{statistics.fmean(values):.1f}" if values else "-")
    return cells


def _tasks(scope: str) -> str:
    return " + ".join(tasks_of(scope))
