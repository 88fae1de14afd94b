"""Figures of task vectors: spectra, and relations between experts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lors.merge.inspection import mean_over
from lors.plots.style import LORS_COLOUR, legend_beside, method_colours, new_figure, save_figures

PAIRS = {
    "cosine": ("cosine", -1.0, 1.0),
    "sign_agreement": ("sign agreement", 0.0, 1.0),
    "overlap": ("subspace overlap", 0.0, 1.0),
}


def write_inspection_plots(
    matrices: Mapping[str, Mapping[str, Any]], experts: Sequence[str], folder: str | os.PathLike
) -> list[str]:
    """Write ``spectrum.png``, ``pairs.png`` and ``inflation.png`` of inspected matrices.

    Args:
        matrices: results of :func:`lors.merge.inspection.inspect_matrices`.
        experts: their labels.
        folder: folder of the files.

    Returns:
        The paths of the files.
    """
    figures = {
        Path(folder) / "spectrum.png": lambda: spectrum_figure(matrices, experts),
        Path(folder) / "pairs.png": lambda: pairs_figure(matrices, experts),
        Path(folder) / "inflation.png": lambda: inflation_figure(matrices, len(experts)),
    }
    save_figures(figures)
    return [str(path) for path in figures]


def spectrum_figure(matrices: Mapping[str, Mapping[str, Any]], experts: Sequence[str]) -> Any:
    """Draw the spectra: singular value / the largest against index / rank; median over matrices."""
    figure = new_figure(4.7, 3.2)
    axes = figure.subplots()
    grid = np.linspace(0, 1, 101)
    colours = list(method_colours(experts).values())
    for number, (expert, colour) in enumerate(zip(experts, colours, strict=False)):
        curves = []
        for found in matrices.values():
            values = np.asarray(found["experts"][number]["spectrum"])
            if values[0] > 0:
                places = np.linspace(0, 1, len(values))
                curves.append(np.interp(grid, places, values / values[0]))
        if not curves:
            continue
        low, median, high = np.percentile(curves, [25, 50, 75], axis=0)
        axes.plot(grid, median, color=colour, label=expert)
        axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.set_xlabel("index / full rank")
    axes.set_ylabel("singular value / largest")
    axes.set_title("median and quartiles over matrices", loc="left", fontsize=8, color="#555555")
    if axes.lines:
        legend_beside(figure, *axes.get_legend_handles_labels())
    return figure


def pairs_figure(matrices: Mapping[str, Mapping[str, Any]], experts: Sequence[str]) -> Any:
    """Draw cosine, sign agreement and subspace overlap between experts, means over matrices."""
    side = max(2.2, 0.42 * len(experts) + 1.2)
    figure = new_figure(side * len(PAIRS), side)
    for axes, (key, (title, low, high)) in zip(
        figure.subplots(1, len(PAIRS)), PAIRS.items(), strict=True
    ):
        mean = mean_over(matrices, key)
        image = axes.imshow(mean, vmin=low, vmax=high, cmap="RdBu_r" if low < 0 else "viridis")
        axes.set_xticks(range(len(experts)), experts, rotation=90, fontsize=7)
        axes.set_yticks(range(len(experts)), experts, fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.grid(visible=False)
        for row, column in np.ndindex(mean.shape):
            value = mean[row, column]
            dark = (value - low) / (high - low) < 0.5
            colour = "white" if (dark if low == 0 else abs(value) > 0.6) else "black"
            axes.text(
                *(column, row, "-" if np.isnan(value) else f"{value:.2f}"),
                **{"ha": "center", "va": "center", "fontsize": 6, "color": colour},
            )
        figure.colorbar(image, ax=axes, shrink=0.7)
    return figure


def inflation_figure(matrices: Mapping[str, Mapping[str, Any]], count: int) -> Any:
    """Draw inflation of the leading directions of the sum: median over matrices."""
    figure = new_figure(5.2, 3.2)
    axes = figure.subplots()
    rank = max(len(found["inflation"]) for found in matrices.values())
    padded = np.full((len(matrices), rank), np.nan)
    for row, found in zip(padded, matrices.values(), strict=True):
        row[: len(found["inflation"])] = found["inflation"]
    if rank:
        low, median, high = np.nanpercentile(padded, [25, 50, 75], axis=0)
        index = np.arange(1, rank + 1)
        axes.plot(index, median, color=LORS_COLOUR)
        axes.fill_between(index, low, high, color=LORS_COLOUR, alpha=0.2, linewidth=0)
    # The levels are examples, not bounds; a single expert has inflation 1 everywhere.
    for level, text in ((1, "orthogonal experts"), (count, "all experts the same"))[:count]:
        axes.axhline(level, color="#999999", linewidth=0.8)
        axes.annotate(text, (rank, level), fontsize=7, color="#555555", ha="right", va="bottom")
    axes.set_xlabel("direction of the sum, by singular value")
    axes.set_ylabel("inflation")
    axes.set_title("median and quartiles over matrices", loc="left", fontsize=8, color="#555555")
    return figure
