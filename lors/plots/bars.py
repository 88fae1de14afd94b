"""Bars: a group for each language, a bar for each system."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from lors.plots.style import method_colours, new_figure
from lors.recipe.score_tree import ScoreTable
from lors.tasks import task_called

BARS_IN_A_ROW = 110  # more are too thin to read: the languages go on in another row
GREYS = ("#C4C4C4", "#3C3C3C", "#8A8A8A", "#E3E3E3", "#636363")  # baselines
KEY = {"facecolor": "white", "edgecolor": "#444444", "linewidth": 0.6}
HATCHED = {"hatch": "////", "edgecolor": "white"}


def _bar_styles(systems: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Grey for baselines, a colour for each method, hatched where tasks are merged too."""
    colours = method_colours(_methods(systems))
    plain = [system for system in systems if "." not in system]
    styles: dict[str, dict[str, Any]] = {}
    for system in systems:
        method, _, scope = system.partition(".")
        if system in plain:
            styles[system] = {"facecolor": GREYS[plain.index(system) % len(GREYS)]}
        else:
            styles[system] = {"facecolor": colours[method]}
            if scope != "langs":
                styles[system].update(HATCHED)
    return styles


def _methods(systems: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(s.partition(".")[0] for s in systems if "." in s))


def bar_figure(table: ScoreTable, task: str) -> Any:
    """Groups of bars, a group for each language and one for the average, in as few rows as fit."""
    metric, bars = task_called(task).metric, len(table.systems)
    groups = [*table.languages(task), "average"]
    a_row = min(len(groups), max(1, BARS_IN_A_ROW // bars))
    rows = math.ceil(len(groups) / a_row)
    a_row = math.ceil(len(groups) / rows)
    width = max(6.5, 2.2 + a_row * (bars * 0.085 + 0.2))
    legend_height = 0.2 * (len(_methods(table.systems)) + 7)
    figure = new_figure(width, max(3.2 if rows == 1 else 2.3 * rows, legend_height))
    panels = figure.subplots(rows, 1, sharey=True, squeeze=False)[:, 0]
    better = "lower" if metric.lower_is_better else "higher"
    for row, axes in enumerate(panels):
        _draw_groups(axes, table, task, groups[row * a_row : (row + 1) * a_row])
        axes.set_xlim(-0.5, a_row - 0.5)
        axes.set_ylabel(f"{metric.name}{' (%)' if metric.lower_is_better else ''}")
    panels[0].set_title(f"{better} is better", loc="left", fontsize=8, color="#555555")
    _bar_legend(figure, table.systems)
    return figure


def _draw_groups(axes: Any, table: ScoreTable, task: str, groups: Sequence[str]) -> None:
    key, bars, styles = task_called(task).metric.key, len(table.systems), _bar_styles(table.systems)
    width = 0.84 / bars
    error = {"elinewidth": 0.7, "capsize": min(1.8, 16 / bars), "capthick": 0.7}
    for i, system in enumerate(table.systems):
        columns = [
            table.averages(system, task, key)
            if group == "average"
            else table.values(system, f"{group}_{task}", key)
            for group in groups
        ]
        means = [statistics.fmean(values) for values in columns]
        spread = [statistics.stdev(v) for v in columns] if len(table.expdirs) > 1 else None
        places = [group + (i - (bars - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, means, width * 0.92, yerr=spread, error_kw=error, **styles[system])
    if groups[-1] == "average" and len(groups) > 1:
        axes.axvline(len(groups) - 1.5, color="#777777", linewidth=0.7, linestyle=":")
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")


def _bar_legend(figure: Any, systems: Sequence[str]) -> None:
    """One entry a baseline and a method, and what plain and hatched mean."""
    from matplotlib.patches import Patch

    styles, colours = _bar_styles(systems), method_colours(_methods(systems))
    handles = [Patch(**styles[system], label=system) for system in systems if "." not in system]
    handles += [Patch(facecolor=colours[m], label=m) for m in _methods(systems)]
    scopes = {system.partition(".")[2] for system in systems}
    if "langs" in scopes:
        handles.append(Patch(**KEY, label="merged over languages"))
    if "langs_tasks" in scopes:
        label = "merged over languages\nand tasks"
        handles.append(Patch(**KEY, hatch=HATCHED["hatch"], label=label))
    figure.legend(handles=handles, loc="outside right center", fontsize=8)
