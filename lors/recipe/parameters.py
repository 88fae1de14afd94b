"""Merge parameters in the report: those chosen on dev, and what was not searched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from lors.recipe.expdir import MERGED_OVER, OVER_LANGS, scope_of, split_system, tasks_of
from lors.recipe.report import UNDEFINED, Section
from lors.recipe.score_tree import ScoreTable
from lors.recipe.sweeps import (
    SCALING,
    Sweep,
    Trial,
    default_params,
    incomparable_sweeps,
    selected_params,
    varied_params,
)
from lors.score.result import is_number


def parameter_section(table: ScoreTable, sweeps: Sequence[Sweep]) -> Section:
    """Return the settings that were chosen on dev."""
    untuned = _untuned(table, sweeps)
    below = [f"Without a sweep on dev: {', '.join(untuned)}."] if untuned else []
    if not sweeps:
        places = ", ".join(table.expdirs)
        above = [f"No search on dev lies in {places}; rows may have been tuned elsewhere."]
        return Section("Merge parameters", above=above, below=below)
    below += [*undefined_searches(sweeps), *at_edges(sweeps), *_other_settings(table, sweeps)]
    varied = {s.method: varied_params([t for t in sweeps if t.method == s.method]) for s in sweeps}
    rows = [
        [
            sweep.method,
            " + ".join(tasks_of(sweep.scope)),
            sweep.expdir,
            shown_params(sweep, sweep.chosen, varied[sweep.method]),
            UNDEFINED if sweep.undefined else f"{sweep.chosen.objective:.3f}",
            str(len(sweep.grid)),
        ]
        for sweep in sweeps
    ]
    header = ["method", "tasks", "run", "parameters", "dev norm. perf.", "settings tried"]
    above = ["Chosen on dev by normalised performance; parameters not shown have their defaults."]
    if any(sweep.variant_of for sweep in sweeps):
        above.append("A variant of a method has the name of the method before its parameters.")
    return Section("Merge parameters", header, rows, 4, above, below)


def undefined_searches(sweeps: Sequence[Sweep]) -> list[str]:
    """Return a note for each run and scope in which settings were chosen by another measure."""
    found = {(s.expdir, s.scope): s.undefined for s in sweeps if s.undefined}
    return [
        f"Normalised performance on dev is undefined for {' + '.join(tasks_of(scope))} in {expdir} "
        f"({reason}): settings were chosen by the average gain over the base model."
        for (expdir, scope), reason in found.items()
    ]


def at_edges(sweeps: Sequence[Sweep]) -> list[str]:
    """Return a note of the chosen values that are the smallest or the largest of their grid.

    A grid of one or two values has nothing but edges and is left out.
    """
    found = []
    for sweep in sweeps:
        for name, value in sweep.chosen.params.items():
            tried: list[Any] = [trial.params.get(name) for trial in sweep.grid]
            values = {float(number) for number in tried if is_number(number)}
            if is_number(value) and len(values) > 2 and value in (min(values), max(values)):
                end = "smallest" if value == min(values) else "largest"
                found.append(
                    f"{sweep.method}.{sweep.scope} in {sweep.expdir} ({name}={value:g}, the {end})"
                )
    if not found:
        return []
    return [f"At the edge of the grid, so a wider one may hold a better value: {', '.join(found)}."]


def _other_settings(table: ScoreTable, sweeps: Sequence[Sweep]) -> list[str]:
    """List sweeps whose dev scores and the scores of the table differ in normaliser or version."""
    scores = {pair: table.example(pair) for pair in table.pairs}
    names = [f"{s.method}.{s.scope} in {s.expdir}" for s in incomparable_sweeps(sweeps, scores)]
    if not names:
        return []
    return [
        "Caution: these parameters were chosen by scores with another normaliser or another "
        f"version of a scorer: {', '.join(names)}. To choose again, remove their folders in "
        "<expdir>/tune and run the recipe from stage tune."
    ]


def shown_params(sweep: Sweep, trial: Trial, varied: Collection[str]) -> str:
    """Return scaling_coef and the parameters that vary or do not have their default, as text."""
    params, defaults = trial.params, sweep.defaults
    if defaults is None:
        defaults = default_params(sweep.merge_method)
    names = [
        name
        for name, value in params.items()
        if name == SCALING or name in varied or name not in defaults or value != defaults[name]
    ]
    text = selected_params(params, names) or ("the defaults" if params else "none")
    return text if sweep.variant_of is None else f"{sweep.variant_of}: {text}"


def _untuned(table: ScoreTable, sweeps: Iterable[Sweep]) -> list[str]:
    """List merges of the table without a sweep file, as ``method.scope in expdir``."""
    tuned = {(sweep.expdir, sweep.method, sweep.scope) for sweep in sweeps}
    missing = []
    for system in table.systems:
        method, merged_over = split_system(system)
        if merged_over not in MERGED_OVER:
            continue
        for index, expdir in enumerate(table.expdirs):
            scored = [task for task in table.tasks if table.scores_in(system, index, [task])]
            scopes = scored if merged_over == OVER_LANGS else [scope_of(table.tasks)]
            for scope in scopes if scored else []:
                if (expdir, method, scope) not in tuned:
                    missing.append(f"{method}.{scope} in {expdir}")
    return missing
