"""The sweep figure: normalised performance on dev against scaling_coef."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lors.plots.style import legend_beside, method_colours, new_figure
from lors.recipe.expdir import tasks_of
from lors.recipe.sweeps import SCALING, Sweep, scopes_in, selected_params, varied_params
from lors.score.result import is_number

MARKERS = "os^Dv<>Pd"
DASHES = ("-", "--", ":", "-.")
FLOOR = -0.2  # 0 is the base model; merges far below it have failed, however far


@dataclass(frozen=True)
class _Curve:
    """A line of the sweep figure.

    Attributes:
        label: its text in the legend.
        points: scaling_coef -> objectives, one for each seed; a method without a scaling_coef has
            the one key None and is drawn as a level.
        style: its colour, marker and dashes for matplotlib.
    """

    label: str
    points: dict[float | None, list[float]]
    style: dict[str, Any]


def objectives_of(
    sweeps: Sequence[Sweep], names: Sequence[str]
) -> dict[str, dict[float | None, list[float]]]:
    """Return other parameters as text -> scaling_coef -> objectives, one for each seed.

    Args:
        sweeps: sweeps of one method and scope.
        names: the parameters of the method that vary, without scaling_coef.
    """
    found: dict[str, dict[float | None, list[float]]] = {}
    for sweep in sweeps:
        for trial in sweep.finalists:  # others have objectives on a part of dev
            points = found.setdefault(selected_params(trial.params, names), {})
            points.setdefault(trial.params.get(SCALING), []).append(trial.objective)
    return found


def in_all_runs(
    found: Mapping[str, Mapping[float | None, list[float]]], runs: int
) -> dict[str, dict[float | None, list[float]]]:
    """Return those of :func:`objectives_of` that every run has.

    Successive halving leaves out other settings in each run: the mean of one that only the best run
    has kept would stand above its neighbours.
    """
    return {
        setting: {c: values for c, values in points.items() if len(values) == runs}
        for setting, points in found.items()
    }


def is_partial(sweeps: Sequence[Sweep]) -> bool:
    """Return whether some setting has seen all of dev in some runs only."""
    for method, scope in {(sweep.method, sweep.scope) for sweep in sweeps}:
        own = [sweep for sweep in sweeps if (sweep.method, sweep.scope) == (method, scope)]
        found = objectives_of(own, varied_params(own))
        if in_all_runs(found, len(own)) != found:
            return True
    return False


def _lors_curves(
    sweeps: Sequence[Sweep], names: Sequence[str], styles: Mapping[str, dict[str, Any]]
) -> list[_Curve]:
    """Return one curve for each setting of the parameters other than scaling_coef."""
    found = in_all_runs(objectives_of(sweeps, names), len(sweeps))
    order = [setting for setting in styles if found.get(setting)]
    return [_Curve(f"lors {setting}".strip(), found[setting], styles[setting]) for setting in order]


def _other_curve(
    method: str, sweeps: Sequence[Sweep], names: Sequence[str], style: dict[str, Any]
) -> _Curve:
    """Return the curve of a method other than lors: one best point at each scaling_coef.

    The best setting of the other parameters has the highest mean over the seeds, among those that
    all of them have.

    Args:
        method: its name, for the legend.
        sweeps: sweeps of this method and one scope.
        names: the parameters of the method that vary, without scaling_coef.
        style: style of the curve for matplotlib.
    """
    found = in_all_runs(objectives_of(sweeps, names), len(sweeps))
    best: dict[float | None, list[float]] = {}
    for points in found.values():
        for coefficient, values in points.items():
            kept = best.get(coefficient)
            if kept is None or statistics.fmean(values) > statistics.fmean(kept):
                best[coefficient] = values
    label = method if len(found) == 1 else f"{method}, best of its other parameters"
    return _Curve(label, best, style)


def _lors_styles(sweeps: Sequence[Sweep], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a setting of lors as text -> style.

    Each rank has a shade; each setting of the other parameters has a marker and dashes.
    """
    import matplotlib

    others = [name for name in names if name != "rank"]
    trials = [trial for sweep in sweeps if sweep.method == "lors" for trial in sweep.grid]
    ranks = _numbered([trial.params.get("rank", 0) for trial in trials])
    variants = _numbered([selected_params(trial.params, others) for trial in trials])
    kinds = {}
    for trial in trials:
        rank = ranks[str(trial.params.get("rank", 0))]
        variant = variants[selected_params(trial.params, others)]
        kinds[selected_params(trial.params, names)] = (rank, variant)
    shades = matplotlib.colormaps["YlOrRd"]
    return {
        text: {
            "color": shades(0.35 + 0.6 * (rank / (len(ranks) - 1) if len(ranks) > 1 else 0.5)),
            "marker": MARKERS[variant % len(MARKERS)],
            "linestyle": DASHES[variant % len(DASHES)],
        }
        for text, (rank, variant) in sorted(kinds.items(), key=lambda item: item[1])
    }


def _numbered(values: Sequence[Any]) -> dict[str, int]:
    """Return each different value as text -> its place: numbers by size, then the others."""
    texts = {str(value): value for value in values}
    order = sorted(texts, key=lambda t: (0, texts[t], t) if is_number(texts[t]) else (1, 0, t))
    return {text: place for place, text in enumerate(order)}


def scope_title(scope: str) -> str:
    """Return the title of a panel: ``ASR and ST experts``."""
    return f"{' and '.join(task.upper() for task in tasks_of(scope))} experts"


def sweep_figure(sweeps: Sequence[Sweep]) -> Any:
    """Draw a panel for each scope with all methods; a point is the mean over the seeds."""
    scopes = scopes_in(sweeps)
    methods = list(dict.fromkeys(sweep.method for sweep in sweeps))
    varied = {m: varied_params([s for s in sweeps if s.method == m]) for m in methods}
    lors_styles = _lors_styles(sweeps, varied.get("lors", ()))
    figure = new_figure(2.5 * len(scopes) + 1, 3.2)
    panels = figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0]
    for axes, scope in zip(panels, scopes, strict=True):
        for method, style in _method_styles(methods).items():
            own = [s for s in sweeps if (s.method, s.scope) == (method, scope)]
            if not own:
                continue
            if method == "lors":
                curves = _lors_curves(own, varied[method], lors_styles)
            else:
                curves = [_other_curve(method, own, varied[method], style)]
            for curve in curves:
                _draw(axes, curve)
            _mark_chosen(axes, own, varied[method])
        axes.set_title(scope_title(scope), fontsize=9)
        axes.set_xlabel("scaling_coef")
        axes.grid(axis="y")
    _finish_sweep(figure, panels, sweeps)
    return figure


def _method_styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return method -> style of its curve, for all but lors."""
    colours = method_colours(methods)
    return {
        method: {
            "color": colours[method],
            "marker": MARKERS[-1 - i % len(MARKERS)],
            "linewidth": 1.8,  # to stand out from the many thin lines of lors
            "zorder": 4,
        }
        for i, method in enumerate(methods)
    }


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


def _mark_chosen(axes: Any, sweeps: Sequence[Sweep], names: Sequence[str]) -> None:
    """Draw a ring around each chosen setting, at the mean over the seeds that have it."""
    found = objectives_of(sweeps, names)
    chosen = [sweep.chosen.params for sweep in sweeps]
    for setting, coefficient in {(selected_params(p, names), p.get(SCALING)) for p in chosen}:
        values = found[setting][coefficient]
        y = statistics.fmean(values)
        if coefficient is None and len(values) < len(sweeps):  # else it is a level already
            axes.axhline(y, color="black", linewidth=1.0, linestyle=":", label="chosen on dev")
        elif coefficient is not None:
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
    """Return the objectives of all trials that have seen all of dev."""
    return [trial.objective for sweep in sweeps for trial in sweep.finalists]


def lowest_shown(sweeps: Sequence[Sweep]) -> float:
    """Return the start of the vertical axis: the lowest objective, but not far below 0."""
    objectives = all_objectives(sweeps)
    return max(min(objectives), min(FLOOR, max(objectives) - 0.5))


def _finish_sweep(figure: Any, panels: Sequence[Any], sweeps: Sequence[Sweep]) -> None:
    low, high = lowest_shown(sweeps), max(all_objectives(sweeps))
    margin = 0.06 * (high - low) or 0.1
    panels[0].set_ylim(low - margin, high + margin)
    panels[0].set_ylabel("Normalised performance on dev")
    for axes in panels:
        axes.axhline(0, color="#777777", linewidth=0.8, zorder=0)
    shown: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    if "chosen on dev" in shown:  # last in the legend
        shown["chosen on dev"] = shown.pop("chosen on dev")
    legend_beside(figure, shown.values(), shown.keys())
