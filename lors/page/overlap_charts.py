"""Geometry of the plots of overlap against the loss of merging: one small plot for each system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.page.charts import Field, scale, tick_text, ticks_between
from lors.plots.overlap import overlap_points
from lors.recipe.mask_overlap import read_overlap


@dataclass(frozen=True)
class Mark:
    """Two languages.

    Attributes:
        x, y: place of overlap and loss.
        title: text on hover.
        kind: number of the task.
    """

    x: float
    y: float
    title: str
    kind: int


@dataclass(frozen=True)
class OverlapPanel(Field):
    """A plot of the masks of one system; its title is the system.

    Attributes:
        marks: all two languages, of each task and experiment.
    """

    x_axis = "overlap (Jaccard)"
    y_axis = "loss of merging"

    marks: Sequence[Mark]


@dataclass(frozen=True)
class OverlapPlots:
    """The plots with their legend.

    Attributes:
        tasks: names of the tasks, in the order of the numbers of their marks.
        panels: the plots; none without a point.
    """

    tasks: Sequence[str]
    panels: Sequence[OverlapPanel]


def overlap_plots(files: Sequence[Path]) -> OverlapPlots:
    """Return a panel for each system under masks, all with the same axes.

    Args:
        files: the ``overlap.json`` of each experiment.

    Raises:
        LorsError: such a file is malformed.
    """
    found = {file: overlap_points([read_overlap(file)]) for file in files}
    places = [point[:2] for points in found.values() for of in points.values() for point in of]
    if not places:
        return OverlapPlots([], [])
    (left, right), (low, high) = (_with_margin(values) for values in zip(*places, strict=True))
    x, y = scale(left, right, Field.left, Field.right), scale(low, high, Field.bottom, Field.top)
    x_ticks = [(x(t), tick_text(t)) for t in ticks_between(left, right)]
    y_ticks = [(y(t), tick_text(t)) for t in ticks_between(low, high)]
    zero = y(0) if low < 0 < high else None
    tasks = [*dict.fromkeys(task for points in found.values() for _, task in points)]
    marks: dict[str, list[Mark]] = {}
    for file, points in found.items():
        run = f" ({file.parent})" if len(files) > 1 else ""
        for (system, task), of in points.items():
            for overlap, loss, names in of:
                title = f"{names}, {task}: overlap {overlap:.2f}, loss {loss:.2f}{run}"
                mark = Mark(x(overlap), y(loss), title, tasks.index(task))
                marks.setdefault(system, []).append(mark)
    panels = []
    for system, of_system in marks.items():
        about = f"Loss of merging against overlap of the masks, {system}"
        panels.append(OverlapPanel(system, about, x_ticks, y_ticks, zero, of_system))
    return OverlapPlots(tasks, panels)


def _with_margin(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    # Ticks with more than three digits after the point would run into each other.
    margin = max(0.06 * (high - low), 0.005 * max(1.0, high, -low))
    return low - margin, high + margin
