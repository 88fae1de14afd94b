"""Look of the figures (fonts, grid, colours, canvas) and their files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lors.fileio import atomic_write

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Okabe and Ito's palette, safe for every kind of colour vision; vermilion is for lors.
LORS_COLOUR = "#D55E00"
METHOD_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
LOOK = 3
"""Increased with every change of the look: figures of the same scores are then drawn again."""
LEGEND_ROWS = 40
"""Number of entries in a column of a legend."""
MARGIN = 0.15
"""Space around a legend, in inches."""
STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 200,
}


def new_figure(width: float, height: float) -> Any:
    """Return a figure on the Agg canvas, which needs no display and no pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_beside(figure: Any, handles: Iterable[Any], labels: Iterable[str]) -> None:
    """Draw the legend on the right of all axes; enlarge the figure by the size of the legend."""
    handles, labels = [*handles], [*labels]
    columns = math.ceil(len(labels) / LEGEND_ROWS)
    legend = figure.legend(handles, labels, loc="outside right center", fontsize=8, ncols=columns)
    extent = legend.get_window_extent(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    figure.set_size_inches(
        width + extent.width / figure.dpi + 2 * MARGIN,
        max(height, extent.height / figure.dpi + 2 * MARGIN),
    )


def method_colours(methods: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Return method -> RGB: the palette, then its darker and lighter shades; lors is vermilion."""
    from matplotlib.colors import to_rgb

    colours = {}
    for i, method in enumerate(method for method in methods if method != "lors"):
        lap, place = divmod(i, len(METHOD_COLOURS))
        towards, kept = (0.0, 0.5) if lap % 2 else (1.0, 0.45)
        share = 1 - kept ** ((lap + 1) // 2)
        red, green, blue = (
            c * (1 - share) + towards * share for c in to_rgb(METHOD_COLOURS[place])
        )
        colours[method] = (red, green, blue)
    return {**colours, "lors": to_rgb(LORS_COLOUR)}


def save_figures(figures: Mapping[Path, Callable[[], Any]]) -> None:
    """Draw figures in the common style and write them as PNG files.

    Args:
        figures: path -> function that draws the figure.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        for path, draw in figures.items():
            figure = draw()
            with atomic_write(path, "wb") as handle:
                figure.savefig(handle, format="png")
