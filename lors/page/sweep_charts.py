"""Geometry of the plots of the search on dev: one small plot for each method."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lors.page.charts import Field, scale, tick_text, ticks_between
from lors.plots.sweep import all_objectives, lowest_shown, objectives_of, scope_title
from lors.recipe.results import cell
from lors.recipe.sweeps import SCALING, Sweep, scopes_in, selected_params, varied_params


@dataclass(frozen=True)
class Trial:
    """A setting that was tried.

    Attributes:
        x, y: its place; y is the edge of the field for a value below it.
        title: text on hover.
        kind: number of its scope.
        is_chosen: whether it was chosen.
        is_partial: whether only some runs have it, in which case no line leads there.
    """

    x: float
    y: float
    title: str
    kind: int
    is_chosen: bool
    is_partial: bool


@dataclass(frozen=True)
class Level:
    """The value of a method without scaling_coef, as a level line."""

    y: float
    title: str
    kind: int


@dataclass(frozen=True)
class SweepPanel(Field):
    """A plot of the search for one method; its title is the method, 0 is the base model.

    Attributes:
        lines: number of the scope and points of the line through the best settings.
        trials: all settings; those of some runs only if they are chosen.
        levels: methods without scaling_coef.
    """

    x_axis = SCALING
    y_axis = "norm. perf. on dev"

    lines: Sequence[tuple[int, str]]
    trials: Sequence[Trial]
    levels: Sequence[Level]


def scopes_of_sweeps(sweeps: Sequence[Sweep]) -> dict[str, str]:
    """Return scope -> title, those of one task first."""
    scopes = scopes_in(sweeps)
    return {scope: scope_title(scope) for scope in scopes}


def sweep_panels(sweeps: Sequence[Sweep]) -> list[SweepPanel]:
    """Return a panel for each method, all with the same axes."""
    if not sweeps:
        return []
    low, high = lowest_shown(sweeps), max(all_objectives(sweeps))
    margin = 0.06 * (high - low) or 0.1
    y = scale(low - margin, high + margin, Field.bottom, Field.top)
    coefficients = [
        trial.params[SCALING] for s in sweeps for trial in s.grid if SCALING in trial.params
    ]
    left, right = min([0.0, *coefficients]), max([0.0, *coefficients])
    right = right if right > left else 1.0
    x = scale(left, right + 0.05 * (right - left), Field.left, Field.right)
    x_ticks = [(x(t), tick_text(t)) for t in ticks_between(left, right)]
    y_ticks = [(y(t), tick_text(t)) for t in ticks_between(low - margin, high + margin)]
    zero = y(0) if low - margin < 0 < high + margin else None
    kinds = {scope: number for number, scope in enumerate(scopes_of_sweeps(sweeps))}
    panels = []
    for method in dict.fromkeys(sweep.method for sweep in sweeps):
        own = [sweep for sweep in sweeps if sweep.method == method]
        names = varied_params(own)
        lines, trials, levels = [], [], []
        for scope, kind in kinds.items():
            of_scope = [sweep for sweep in own if sweep.scope == scope]
            found = _trials(of_scope, names, kind, x, lambda value: y(max(value, low)))
            trials += [trial for trial in found.values() if isinstance(trial, Trial)]
            levels += [level for level in found.values() if isinstance(level, Level)]
            if line := _line(found):
                lines.append((kind, line))
        about = f"Normalised performance on dev against {SCALING}, {method}"
        field = (method, about, x_ticks, y_ticks, zero)
        panels.append(SweepPanel(*field, lines, trials, levels))
    return panels


def _trials(
    sweeps: Sequence[Sweep],
    names: Sequence[str],
    kind: int,
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> dict[tuple[str, float | None], Trial | Level]:
    """Return (other parameters, scaling_coef) -> the trial at the mean over the runs."""
    chosen = {
        (selected_params(p, names), p.get(SCALING)) for p in (s.chosen.params for s in sweeps)
    }
    found: dict[tuple[str, float | None], Trial | Level] = {}
    for setting, points in objectives_of(sweeps, names).items():
        for coefficient, values in points.items():
            key, is_partial = (setting, coefficient), len(values) < len(sweeps)
            if is_partial and key not in chosen:
                continue
            part = [] if coefficient is None else [f"{SCALING}={coefficient:g}"]
            words = " ".join([*([setting] if setting else []), *part]) or "no parameters"
            text = f"{scope_title(sweeps[0].scope)}, {words}: {cell(values, 3)}"
            text += f", {len(values)} of {len(sweeps)} runs" if is_partial else ""
            text += ", chosen" if key in chosen else ""
            place = y(statistics.fmean(values))
            if coefficient is None:
                found[key] = Level(place, text, kind)
            else:
                found[key] = Trial(x(coefficient), place, text, kind, key in chosen, is_partial)
    return found


def _line(found: Mapping[tuple[str, float | None], Trial | Level]) -> str:
    """Return the points of the line through the best setting of all runs at each scaling_coef."""
    best: dict[float, float] = {}
    for trial in found.values():
        if isinstance(trial, Trial) and not trial.is_partial:
            best[trial.x] = min(best.get(trial.x, trial.y), trial.y)
    return " ".join(f"{x},{y}" for x, y in sorted(best.items())) if len(best) > 1 else ""
