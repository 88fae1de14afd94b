"""The bar figure: a group for each language, a bar for each system."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from lors.plots.style import legend_beside, method_colours, new_figure
from lors.recipe.expdir import BASELINES, MERGED_OVER, OVER_LANGS, split_system
from lors.recipe.score_tree import ScoreTable
from lors.tasks import Pair, task_called

BARS_IN_A_ROW = 110  # more would be too thin to read; further languages start another row
GREYS = dict(zip(BASELINES, ("#C4C4C4", "#3C3C3C", "#8A8A8A", "#E3E3E3", "#636363"), strict=True))
KEY: dict[str, Any] = {"facecolor": "white", "edgecolor": "#444444", "linewidth": 0.6}
HATCHED: dict[str, Any] = {"hatch": "////", "edgecolor": "white"}
DOTTED: dict[str, Any] = {"hatch": "....", "edgecolor": "white"}


def _bar_styles(systems: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return system -> style of its bars: grey for a baseline, else the colour of the method.

    The bars of a merge over languages and tasks are hatched; those of systems that are neither
    merges nor baselines have colours of their own, and dots beside merges.
    """
    methods = _methods(systems)
    colours = _colours(systems)
    styles: dict[str, dict[str, Any]] = {}
    for system in systems:
        method, merged_over = split_system(system)
        if system in GREYS:
            styles[system] = {"facecolor": GREYS[system]}
        elif merged_over:
            hatch = HATCHED if merged_over != OVER_LANGS else {}
            styles[system] = {"facecolor": colours[method], **hatch}
        else:
            styles[system] = {"facecolor": colours[system], **(DOTTED if methods else {})}
    return styles


def _colours(systems: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Return method, or system that is no merge and no baseline -> its colour."""
    others = [system for system in _unmerged(systems) if system not in GREYS]
    return method_colours(list(dict.fromkeys([*_methods(systems), *others])))


def _unmerged(systems: Sequence[str]) -> list[str]:
    return [system for system in systems if not split_system(system)[1]]


def _methods(systems: Sequence[str]) -> list[str]:
    merges = map(split_system, systems)
    return list(dict.fromkeys(method for method, merged_over in merges if merged_over))


def bar_figure(table: ScoreTable, task: str) -> Any:
    """Draw a group of bars for each language and for the average, in as few rows as possible."""
    metric, bars = task_called(task).metric, len(table.systems)
    groups = [*table.languages(task), "average"]
    a_row = min(len(groups), max(1, BARS_IN_A_ROW // bars))
    rows = math.ceil(len(groups) / a_row)
    a_row = math.ceil(len(groups) / rows)
    width = max(4.7, 0.6 + a_row * (bars * 0.085 + 0.2))
    figure = new_figure(width, 3.2 if rows == 1 else 2.3 * rows)
    panels = figure.subplots(rows, 1, sharey=True, squeeze=False)[:, 0]
    better = "lower" if metric.lower_is_better else "higher"
    for row, axes in enumerate(panels):
        _draw_groups(axes, table, task, groups[row * a_row : (row + 1) * a_row])
        axes.set_xlim(-0.5, a_row - 0.5)
        axes.set_ylabel(f"{metric.name}{' (%)' if metric.lower_is_better else ''}")
    if not any(bar.get_height() > 0 for axes in panels for bar in axes.patches):
        panels[0].set_ylim(0, 1)  # around a constant 0, the axis would have negative scores
    panels[0].set_title(f"{better} is better", loc="left", fontsize=8, color="#555555")
    _bar_legend(figure, table.systems)
    return figure


def _draw_groups(axes: Any, table: ScoreTable, task: str, groups: Sequence[str]) -> None:
    metric, bars, styles = task_called(task).metric, len(table.systems), _bar_styles(table.systems)
    width = 0.84 / bars
    error = {"elinewidth": 0.7, "capsize": min(1.8, 16 / bars), "capthick": 0.7}
    for i, system in enumerate(table.systems):
        values = [
            table.averages(system, task, metric)
            if group == "average"
            else table.values(system, Pair(group, task), metric)
            for group in groups
        ]
        means = [statistics.fmean(of) if of else math.nan for of in values]  # no bar if missing
        spread = None
        if len(table.expdirs) > 1:
            spread = [statistics.stdev(of) if len(of) > 1 else math.nan for of in values]
        places = [group + (i - (bars - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, means, width * 0.92, yerr=spread, error_kw=error, **styles[system])
    if groups[-1] == "average" and len(groups) > 1:
        axes.axvline(len(groups) - 1.5, color="#777777", linewidth=0.7, linestyle=":")
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")


def _bar_legend(figure: Any, systems: Sequence[str]) -> None:
    """Draw an entry for each other system and method, and the meaning of plain and hatched bars."""
    from matplotlib.patches import Patch

    styles, colours = _bar_styles(systems), _colours(systems)
    handles = [Patch(**styles[system], label=system) for system in _unmerged(systems)]
    handles += [Patch(facecolor=colours[m], label=m) for m in _methods(systems)]
    shown = {split_system(system)[1] for system in systems}
    for merged_over, words in MERGED_OVER.items():
        if merged_over in shown:
            hatched = {} if merged_over == OVER_LANGS else {"hatch": HATCHED["hatch"]}
            label = f"merged over {words}".replace(" and ", "\nand ")
            handles.append(Patch(**KEY, **hatched, label=label))
    legend_beside(figure, handles, [str(handle.get_label()) for handle in handles])
