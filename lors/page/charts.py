"""Geometry of the plots: places in pixels of what the templates draw as SVG."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lors.recipe.expdir import MERGED_OVER, is_merge, split_system
from lors.recipe.results import cell
from lors.recipe.score_tree import ScoreTable
from lors.recipe.significance import Significance
from lors.tasks import Pair, task_called

ROW, TOP, BOTTOM, LEFT_PAD, RIGHT_PAD = 18, 8, 40, 12, 16
LETTER = 6.2
"""Width of a letter of a label, in pixels, for the place on its left."""
LONGEST = 30
"""Number of letters of a label; longer ones are cut."""
PLOT_WIDTH = 210


@dataclass(frozen=True)
class Quantity:
    """A quantity that is plotted.

    Attributes:
        name: its name.
        digits: digits after the point.
        unit: what follows a value.
        lower_is_better: whether lower values are better.
    """

    name: str
    digits: int
    unit: str
    lower_is_better: bool

    def order(self, values: Mapping[str, Sequence[float]]) -> list[str]:
        """Return systems in the order of rows: first those not merged, then merges, best first."""

        def key(system: str) -> tuple[bool, bool, float]:
            of = values[system]
            mean = statistics.fmean(of) if of and is_merge(system) else 0.0
            return (is_merge(system), not of, mean if self.lower_is_better else -mean)

        return sorted(values, key=key)

    def text(self, of: str, values: Sequence[float], ends: tuple[float, float] | None) -> str:
        """Return a value as text, with its interval and the values of the runs."""
        text = f"{of}: {self.name} {cell(values, self.digits)}{self.unit if values else ''}"
        if ends:
            text += f" (95 % interval {ends[0]:.{self.digits}f} to {ends[1]:.{self.digits}f})"
        if len(values) > 1:
            text += f", runs: {', '.join(f'{value:.{self.digits}f}' for value in values)}"
        return text


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
        axis: quantity and unit of the horizontal axis.
        width, height: size.
        left, right, top, bottom: edges of the field.
        ticks: place and text of each tick.
        dots: the scores.
    """

    title: str
    about: str
    axis: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    ticks: Sequence[tuple[float, str]]
    dots: Sequence[Dot]


@dataclass(frozen=True)
class Field:
    """A small plot with two axes of numbers.

    Attributes:
        title: heading.
        about: description for readers who do not see the plot.
        x_ticks, y_ticks: place and text of each tick.
        zero: place of 0 on the vertical axis, if it is in the field.
        width, height: size.
        left, right, top, bottom: edges of the field.
        x_axis, y_axis: quantity and unit of each axis.
    """

    x_axis: ClassVar[str]
    y_axis: ClassVar[str]
    width: ClassVar[float] = 260
    height: ClassVar[float] = 202
    left: ClassVar[float] = 36
    right: ClassVar[float] = 250
    top: ClassVar[float] = 24
    bottom: ClassVar[float] = 162

    title: str
    about: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    zero: float | None


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


def score_panels(table: ScoreTable, task: str, significance: Significance | None) -> list[Panel]:
    """Return a panel for the average of the main metric, then one for each language."""
    metric = task_called(task).metric
    languages = table.languages(task)
    found = {"average": {s: table.averages(s, task, metric) for s in table.systems}}
    for lang in languages:
        found[lang] = {s: table.values(s, Pair(lang, task), metric) for s in table.systems}
    intervals = {
        system: of
        for system in table.systems
        if significance and (of := significance.intervals.get((task, system)))
    }
    ends = {
        title: {system: of[index] for system, of in intervals.items()}
        for index, title in zip([-1, *range(len(languages))], found, strict=True)
    }
    unit = " %" if metric.lower_is_better else ""
    return _panels(Quantity(metric.name, 1, unit, metric.lower_is_better), found, ends)


def normalised_panels(table: ScoreTable) -> list[Panel]:
    """Return a panel of normalised performance for all pairs, then one for each task."""
    groups = {"all pairs": table.tasks}
    if len(table.tasks) > 1:
        groups |= {task_called(task).metric.name: [task] for task in table.tasks}
    found = {
        title: {system: table.normalised(system, tasks) for system in table.systems}
        for title, tasks in groups.items()
    }
    return _panels(Quantity("normalised performance", 2, "", False), found, {})


def _panels(
    quantity: Quantity,
    found: Mapping[str, Mapping[str, Sequence[float]]],
    ends: Mapping[str, Mapping[str, tuple[float, float]]],
) -> list[Panel]:
    """Return panels with one axis for all, and rows in the order of the first.

    Args:
        quantity: the quantity.
        found: title of a panel -> system -> its values; a panel without any value is left out.
        ends: title of a panel -> system -> its interval.
    """
    known = [value for of in found.values() for values in of.values() for value in values]
    known += [end for of in ends.values() for pair in of.values() for end in pair]
    if not known:
        return []
    low, high = min(known), max(known)
    margin = 0.04 * (high - low) or 1.0
    low, high = low - margin, high + margin
    order = quantity.order(next(iter(found.values())))
    return [
        _panel(title, quantity, {s: values[s] for s in order}, ends.get(title, {}), low, high)
        for title, values in found.items()
        if any(values.values())
    ]


def _panel(
    title: str,
    quantity: Quantity,
    values: Mapping[str, Sequence[float]],
    ends: Mapping[str, tuple[float, float]],
    low: float,
    high: float,
) -> Panel:
    letters = max(len(_label(system)) for system in values)
    left = LEFT_PAD + LETTER * letters
    width, bottom = left + PLOT_WIDTH + RIGHT_PAD, TOP + ROW * len(values)
    place = scale(low, high, left, width - RIGHT_PAD)
    dots = []
    for k, (system, of) in enumerate(values.items()):
        text = quantity.text(f"{system}, {title}", of, ends.get(system))
        dots.append(_dot(system, text, of, ends.get(system), place, TOP + ROW * (k + 0.5)))
    ticks = [(place(t), tick_text(t)) for t in ticks_between(low, high)]
    axis = f"{quantity.name}{' in %' if quantity.unit else ''}"
    about = f"{axis}, {title}: a row for each system"
    size = (round(width, 1), bottom + BOTTOM)
    edges = (round(left, 1), round(width - RIGHT_PAD, 1), TOP, bottom)
    return Panel(title, about, axis, *size, *edges, ticks, dots)


def _label(system: str) -> str:
    return system if len(system) <= LONGEST else system[: LONGEST - 1] + "…"


def _dot(
    system: str,
    text: str,
    values: Sequence[float],
    ends: tuple[float, float] | None,
    place: Callable[[float], float],
    y: float,
) -> Dot:
    merged_over = split_system(system)[1]
    return Dot(
        _label(system),
        text,
        merged_over if merged_over in MERGED_OVER else "base",
        y,
        x=place(statistics.fmean(values)) if values else None,
        low=place(ends[0]) if ends else None,
        high=place(ends[1]) if ends else None,
        runs=[place(value) for value in values] if len(values) > 1 else [],
    )
