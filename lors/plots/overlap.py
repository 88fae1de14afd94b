"""Figure of the overlap of masks against the loss of merging the experts of the same languages."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from lors.plots.style import legend_beside, method_colours, new_figure
from lors.recipe.mask_overlap import Overlap

MARKERS = ("o", "s", "^", "D")

Point = tuple[float, float, str]
"""Overlap, loss, and the names of the two languages."""


def overlap_points(overlaps: Sequence[Overlap]) -> dict[tuple[str, str], list[Point]]:
    """Return the points of the figure.

    Args:
        overlaps: the ``overlap.json`` of each experiment.

    Returns:
        (system, task) -> the point of each two languages where both values are known.
    """
    points: dict[tuple[str, str], list[Point]] = {}
    for content in overlaps:
        for (system, of), loss in itertools.product(content.masks.items(), content.merging):
            overlap = of.overlap(*loss.langs)
            if overlap is not None and loss.loss is not None:
                point = (overlap, loss.loss, " ".join(loss.langs))
                points.setdefault((system, loss.task), []).append(point)
    return points


def overlap_figure(overlaps: Sequence[Overlap]) -> Any:
    """Return the figure: a point for each two languages, a colour for each system under masks."""
    points = overlap_points(overlaps)
    systems = list(dict.fromkeys(system for system, _ in points))
    tasks = list(dict.fromkeys(task for _, task in points))
    colours = method_colours(systems)
    figure = new_figure(5, 3.5)
    axes = figure.add_subplot()
    for (system, task), of in points.items():
        x, y, names = zip(*of, strict=True)
        marker = MARKERS[tasks.index(task) % len(MARKERS)]
        axes.scatter(x, y, color=colours[system], marker=marker, label=f"{system}, {task}")
        for place in zip(x, y, names, strict=True):
            axes.annotate(place[2], place[:2], xytext=(3, 3), textcoords="offset points", size=7)
    axes.set_xlabel("overlap of the masks (Jaccard)")
    axes.set_ylabel("loss of merging the experts")
    legend_beside(figure, *axes.get_legend_handles_labels())
    return figure
