"""The sweep: normalised performance on dev against scaling_coef."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lors.plots.style import method_colours, new_figure
from lors.recipe.sweeps import Sweep, format_params

MARKERS = "os^Dv<>Pd"
DASHES = ("-", "--", ":", "-.")
SCOPE_TITLES = {"asr": "ASR experts", "st": "ST experts", "asr_st": "ASR and ST experts"}
FLOOR = -0.2  # 0 is the base model; how far below it a failed merge falls is of no interest


@dataclass(frozen=True)
class _Curve:
    """A line of the sweep figure; `points`: scaling_coef -> objectives, one a seed.

    A method without a scaling_coef has the one key None and is drawn as a level.
    """

    label: str
    points: dict[float | None, list[float]]
    style: dict[str, Any]


def _split_params(params: dict[str, Any]) -> tuple[str, float | None]:
    """The parameters other than scaling_coef as text, whatever their order, and scaling_coef."""
    names = sorted(params.keys() - {"scaling_coef"}, reverse=True)  # rank before density
    text = format_params({name: params[name] for name in names}) if names else ""
    return text, params.get("scaling_coef")


def _objectives(sweeps: Sequence[Sweep]) -> dict[str, dict[float | None, list[float]]]:
    """Other parameters -> scaling_coef -> objectives, of one method and scope, one a seed."""
    found: dict[str, dict[float | None, list[float]]] = {}
    for sweep in sweeps:
        for entry in sweep.grid:
            rest, coefficient = _split_params(entry["params"])
            found.setdefault(rest, {}).setdefault(coefficient, []).append(entry["objective"])
    return found


def _lors_curves(sweeps: Sequence[Sweep], styles: dict[str, dict[str, Any]]) -> list[_Curve]:
    """One curve for each (rank, density)."""
    found = _objectives(sweeps)
    order = [rest for rest in styles if rest in found]
    return [_Curve(f"lors {rest}".strip(), found[rest], styles[rest]) for rest in order]


def _other_curve(method: str, sweeps: Sequence[Sweep], style: dict[str, Any]) -> _Curve:
    """One curve: at each scaling_coef the best (by mean) of the method's other parameters."""
    found = _objectives(sweeps)
    best: dict[float | None, list[float]] = {}
    for points in found.values():
        for coefficient, values in points.items():
            kept = best.get(coefficient)
            if kept is None or statistics.fmean(values) > statistics.fmean(kept):
                best[coefficient] = values
    label = method if len(found) == 1 else f"{method}, best of its other parameters"
    return _Curve(label, best, style)


def _lors_styles(sweeps: Sequence[Sweep]) -> dict[str, dict[str, Any]]:
    """(rank, density) as text -> style: a shade for each rank, marker and dash a density."""
    import matplotlib

    kinds = {}
    for params in (e["params"] for s in sweeps if s.method == "lors" for e in s.grid):
        # A parameter that a sweep left at its default sorts first.
        kinds[_split_params(params)[0]] = (params.get("rank", 0), params.get("density", 0))
    ranks = sorted({rank for rank, _ in kinds.values()})
    densities = sorted({density for _, density in kinds.values()})
    shades = matplotlib.colormaps["YlOrRd"]
    styles = {}
    for text, (rank, density) in sorted(kinds.items(), key=lambda item: (item[1], item[0])):
        place = ranks.index(rank) / (len(ranks) - 1) if len(ranks) > 1 else 0.5
        variant = densities.index(density)
        styles[text] = {
            "color": shades(0.35 + 0.6 * place),
            "marker": MARKERS[variant % len(MARKERS)],
            "linestyle": DASHES[variant % len(DASHES)],
        }
    return styles


def sweep_figure(sweeps: Sequence[Sweep]) -> Any:
    """A panel for each scope with all methods in it; a point is the mean over its seeds."""
    scopes = sorted({sweep.scope for sweep in sweeps}, key=lambda s: (s.count("_"), s))
    methods = list(dict.fromkeys(sweep.method for sweep in sweeps))
    colours, lors_styles = method_colours(methods), _lors_styles(sweeps)
    lines = len(methods) + len(lors_styles)
    figure = new_figure(2.5 * len(scopes) + 2.3, max(3.2, 0.19 * (lines + 2)))
    panels = figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0]
    for axes, scope in zip(panels, scopes, strict=True):
        for i, method in enumerate(methods):
            own = [s for s in sweeps if (s.method, s.scope) == (method, scope)]
            if not own:
                continue
            style = {
                "color": colours[method],
                "marker": MARKERS[-1 - i % len(MARKERS)],
                "linewidth": 1.8,  # to stand out from the many thin lines of lors
                "zorder": 4,
            }
            curves = (
                _lors_curves(own, lors_styles)
                if method == "lors"
                else [_other_curve(method, own, style)]
            )
            for curve in curves:
                _draw(axes, curve)
            _mark_chosen(axes, own)
        axes.set_title(SCOPE_TITLES.get(scope, scope), fontsize=9)
        axes.set_xlabel("scaling_coef")
        axes.grid(axis="y")
    _finish_sweep(figure, panels, sweeps)
    return figure


def _draw(axes: Any, curve: _Curve) -> None:
    if None in curve.points:
        level = statistics.fmean(curve.points[None])
        axes.axhline(level, color=curve.style["color"], linewidth=1.4, label=curve.label)
    x = sorted(coefficient for coefficient in curve.points if coefficient is not None)
    if not x:
        return
    y = [statistics.fmean(curve.points[c]) for c in x]
    spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in (curve.points[c] for c in x)]
    axes.errorbar(
        x,
        y,
        yerr=spread if any(spread) else None,
        elinewidth=0.6,
        label=curve.label,
        **{"linewidth": 1.1, "markersize": 4, **curve.style},
    )


def _mark_chosen(axes: Any, sweeps: Sequence[Sweep]) -> None:
    """A ring around each setting that some seed chose, at the mean over the seeds."""
    found = _objectives(sweeps)
    for rest, coefficient in {_split_params(sweep.chosen["params"]) for sweep in sweeps}:
        if coefficient is not None:
            y = statistics.fmean(found[rest][coefficient])
            axes.plot(
                coefficient,
                y,
                "o",
                markersize=9,
                markerfacecolor="none",
                color="black",
                markeredgewidth=1.0,
                linestyle="none",
                label="chosen on dev",
                zorder=5,
            )


def all_objectives(sweeps: Sequence[Sweep]) -> list[float]:
    """The objective of every setting tried."""
    return [entry["objective"] for sweep in sweeps for entry in sweep.grid]


def lowest_shown(sweeps: Sequence[Sweep]) -> float:
    """Where the vertical axis starts: the lowest objective, unless that is far below the base."""
    objectives = all_objectives(sweeps)
    return max(min(objectives), min(FLOOR, max(objectives) - 0.5))


def _finish_sweep(figure: Any, panels: Sequence[Any], sweeps: Sequence[Sweep]) -> None:
    low, high = lowest_shown(sweeps), max(all_objectives(sweeps))
    margin = 0.06 * (high - low) or 0.1
    panels[0].set_ylim(low - margin, high + margin)
    panels[0].set_ylabel("Normalised performance on dev")
    for axes in panels:
        axes.axhline(0, color="#777777", linewidth=0.8, zorder=0)
    shown = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    if "chosen on dev" in shown:  # last in the legend
        shown["chosen on dev"] = shown.pop("chosen on dev")
    figure.legend(shown.values(), shown.keys(), loc="outside right center", fontsize=8)
