"""Figures of searches alone: every setting of an experiment, or experiments side by side."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lors.plots.style import legend_beside, method_colours, new_figure, save_figures
from lors.plots.sweep import DASHES, MARKERS, lowest_shown, objectives_of, scope_title
from lors.recipe.sweeps import SCALING, Sweep, scopes_in, varied_params


def write_sweep_plots(
    sweeps: Sequence[Sweep], folder: str | os.PathLike, x_label: str | None = None
) -> list[tuple[str, str]]:
    """Write ``settings.png`` for one experiment, ``experiments.png`` for several.

    Args:
        sweeps: the searches; those without a normalised performance are left out.
        folder: folder of the figure.
        x_label: as of :func:`experiments_figure`.

    Returns:
        (caption, path) of the figure; nothing if no search has a normalised performance.
    """
    shown = [sweep for sweep in sweeps if not sweep.undefined]
    expdirs = list(dict.fromkeys(sweep.expdir for sweep in shown))
    if not shown:
        return []
    if len(expdirs) == 1:
        caption = "Normalised performance on dev of every setting that has seen all of dev"
        name, draw = "settings.png", lambda: settings_figure(shown)
    else:
        caption = (
            f"Normalised performance on dev of the best settings, by {x_label or 'experiment'}"
        )
        name, draw = "experiments.png", lambda: experiments_figure(shown, expdirs, x_label)
    path = Path(folder) / name
    save_figures({path: draw})
    return [(caption, str(path))]


def settings_figure(sweeps: Sequence[Sweep]) -> Any:
    """Draw a panel for each scope: a curve over scaling_coef for all other parameters' values."""
    methods = list(dict.fromkeys(sweep.method for sweep in sweeps))
    colours, scopes = method_colours(methods), scopes_in(sweeps)
    figure = new_figure(3.2 * len(scopes) + 1, 3.4)
    panels = figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0]
    shown: dict[str, Any] = {}
    for axes, scope in zip(panels, scopes, strict=True):
        for method in methods:
            own = [sweep for sweep in sweeps if (sweep.method, sweep.scope) == (method, scope)]
            points_of = objectives_of(own, varied_params(own))
            for number, (setting, points) in enumerate(points_of.items()):
                look = {
                    "color": colours[method],
                    "marker": MARKERS[number % len(MARKERS)],
                    "linestyle": DASHES[number % len(DASHES)],
                }
                line = _curve(axes, points, look)
                shown.setdefault(f"{method} {setting}".strip(), line)
        axes.set(title=scope_title(scope), xlabel=SCALING)
    _finish(figure, panels, shown)
    panels[0].set_ylim(bottom=lowest_shown(sweeps) - 0.05)
    return figure


def experiments_figure(
    sweeps: Sequence[Sweep], expdirs: Sequence[str], x_label: str | None = None
) -> Any:
    """Draw a panel for each scope: marks of each method over the experiments.

    Args:
        sweeps: the searches.
        expdirs: the experiments, in their order.
        x_label: the quantity that the experiments have in this order. Only then lines join the
            marks: experiments that differ in several ways are no curve.
    """
    methods = list(dict.fromkeys(sweep.method for sweep in sweeps))
    colours, scopes = method_colours(methods), scopes_in(sweeps)
    figure = new_figure((0.5 * len(expdirs) + 1.5) * len(scopes) + 1, 3.8)
    panels = figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0]
    shown: dict[str, Any] = {}
    for axes, scope in zip(panels, scopes, strict=True):
        for number, method in enumerate(methods):
            found = {
                expdirs.index(sweep.expdir): sweep.chosen.objective
                for sweep in sweeps
                if (sweep.method, sweep.scope) == (method, scope)
            }
            if found:
                x, y = zip(*sorted(found.items()), strict=True)
                look = {
                    "color": colours[method],
                    "marker": MARKERS[number % len(MARKERS)],
                    "linestyle": "-" if x_label else "none",
                }
                (line,) = axes.plot(x, y, markersize=4, **look)
                shown.setdefault(method, line)
        names = [Path(expdir).name for expdir in expdirs]
        axes.set_xticks(range(len(expdirs)), names, rotation=60, ha="right")
        axes.set_title(scope_title(scope))
        axes.set_xlabel(x_label or "")
    _finish(figure, panels, shown)
    return figure


def _curve(axes: Any, points: dict[float | None, list[float]], look: dict[str, Any]) -> Any:
    if None in points:  # a method without a scaling_coef
        return axes.axhline(statistics.fmean(points[None]), color=look["color"])
    x = sorted(coefficient for coefficient in points if coefficient is not None)
    y = [statistics.fmean(points[coefficient]) for coefficient in x]
    (line,) = axes.plot(x, y, linewidth=1.1, markersize=4, **look)
    return line


def _finish(figure: Any, panels: Sequence[Any], shown: dict[str, Any]) -> None:
    for axes in panels:
        axes.grid(axis="y")
        axes.axhline(0, color="#777777", linewidth=0.8, zorder=0)
    panels[0].set_ylabel("Normalised performance on dev")
    legend_beside(figure, shown.values(), shown.keys())
