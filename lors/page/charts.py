"""Geometry of the plots: places in pixels of what the templates draw as SVG."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lors.recipe.expdir import MERGED_OVER, split_system
from lors.recipe.results import cell
from lors.recipe.score_tree import ScoreTable
from lors.recipe.significance import Significance
from lors.tasks import Metric, Pair, task_called

ROW, TOP, BOTTOM, LEFT_PAD, RIGHT_PAD = 18, 8, 24, 12, 16
LETTER = 6.2
"""Width of a letter of a label, in pixels, for the place on its left."""
LONGEST = 30
"""Number of letters of a label; longer ones are cut."""
PLOT_WIDTH = 210


@dataclass(frozen=True)
class Dot:
    """The score of a system.

    Attributes:
        label: name of the system, perhaps cut.
        title: text on hover.
        kind: ``base``, ``langs`` or ``langs_tasks``.
        y: place of the row.
        x: place of the mean; None for a missing score.
        low, high: places of the ends of the interval; None without one.
        runs: places of the scores of the runs; empty for one run.
    """

    label: str
    title: str
    kind: str
    y: float
    x: float | None
    low: float | None
    high: float | None
    runs: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """A plot of the scores of all systems on one test set.

    Attributes:
        title: heading.
        about: description for readers who do not see the plot.
        width, height: size.
        left, right, top, bottom: edges of the field.
        ticks: place and text of each tick.
        dots: the scores.
    """

    title: str
    about: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    ticks: Sequence[tuple[float, str]]
    dots: Sequence[Dot]


def ticks_between(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, about `most` of them at most."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(step * f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= most)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the linear function that takes `low` to `start` and `high` to `end`."""
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def tick_text(value: float) -> str:
    """Return the label of a tick."""
    return f"{value:.10g}" if abs(value) > 1e-9 else "0"


def score_panels(
    table: ScoreTable, task: str, significance: Significance | None
) -> list[Panel]:
    """Return a panel for the average of the main metric, then one for each language."""
    metric = task_called(task).metric
    languages = table.languages(task)
    found = {"average": {s: table.averages(s, task, metric) for s in table.systems}}
    for lang in languages:
        found[lang] = {s: table.values(s, Pair(lang, task), metric) for s in table.systems}
    panels = []
    for index, (title, values) in zip([-1, *range(len(languages))], found.items(), strict=True):
        ends = {}
        for system in table.systems:
            of = significance.intervals.get((task, system)) if significance else None
            if of:
                ends[system] = of[index]
        panels.append(_panel(title, metric.name, values, ends, 1, _unit(metric)))
    return [panel for panel in panels if panel is not None]


def _unit(metric: Metric) -> str:
    return " %" if metric.lower_is_better else ""


def normalised_panels(table: ScoreTable) -> list[Panel]:
    """Return a panel of normalised performance for all pairs, then one for each task."""
    groups = {"all pairs": table.tasks}
    if len(table.tasks) > 1:
        groups |= {task_called(task).metric.name: [task] for task in table.tasks}
    panels = []
    for title, tasks in groups.items():
        values = {system: table.normalised(system, tasks) for system in table.systems}
        panels.append(_panel(title, "normalised performance", values, {}, 2, ""))
    return [panel for panel in panels if panel is not None]


def _panel(
    title: str,
    name: str,
    values: Mapping[str, Sequence[float]],
    ends: Mapping[str, tuple[float, float]],
    digits: int,
    unit: str,
) -> Panel | None:
    """Return the panel of some values; None if there is no value."""
    known = [v for of in values.values() for v in of] + [e for of in ends.values() for e in of]
    if not known:
        return None
    low, high = min(known), max(known)
    margin = 0.04 * (high - low) or 1.0
    letters = max(len(_label(system)) for system in values)
    left = LEFT_PAD + LETTER * letters
    width, bottom = left + PLOT_WIDTH + RIGHT_PAD, TOP + ROW * len(values)
    place = scale(low - margin, high + margin, left, width - RIGHT_PAD)
    dots = [
        _dot(system, of, ends.get(system), place, TOP + ROW * (k + 0.5), (title, name, digits, unit))
        for k, (system, of) in enumerate(values.items())
    ]
    ticks = [(place(t), tick_text(t)) for t in ticks_between(low - margin, high + margin)]
    about = f"{name}{' in %' if unit else ''}, {title}: a row for each system"
    size = (round(width, 1), bottom + BOTTOM)
    edges = (round(left, 1), round(width - RIGHT_PAD, 1), TOP, bottom)
    return Panel(title, about, *size, *edges, ticks, dots)


def _label(system: str) -> str:
    return system if len(system) <= LONGEST else system[: LONGEST - 1] + "…"


def _dot(
    system: str,
    values: Sequence[float],
    ends: tuple[float, float] | None,
    place: Callable[[float], float],
    y: float,
    words: tuple[str, str, int, str],
) -> Dot:
    title, name, digits, unit = words
    text = f"{system}, {title}: {name} {cell(values, digits)}{unit if values else ''}"
    if ends:
        text += f" (95 % interval {ends[0]:.{digits}f} to {ends[1]:.{digits}f})"
    if len(values) > 1:
        text += f", runs: {', '.join(f'{value:.{digits}f}' for value in values)}"
    merged_over = split_system(system)[1]
    return Dot(
        _label(system),
        text,
        merged_over if merged_over in MERGED_OVER else "base",
        y,
        place(statistics.fmean(values)) if values else None,
        *(map(place, ends) if ends else (None, None)),
        [place(value) for value in values] if len(values) > 1 else [],
    )
