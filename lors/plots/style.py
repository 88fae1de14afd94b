"""Look of the figures: fonts, grid, colours, canvas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Okabe and Ito's palette, told apart with any kind of colour vision; vermilion is LoRS's own.
LORS_COLOUR = "#D55E00"
METHOD_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
STYLE = {
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
    """A figure on the Agg canvas; pyplot's global state and display are not touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def method_colours(methods: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Method -> RGB: the palette, then darker, then lighter rounds of it; lors has its own."""
    from matplotlib.colors import to_rgb

    colours = {}
    for i, method in enumerate(method for method in methods if method != "lors"):
        lap, place = divmod(i, len(METHOD_COLOURS))
        towards, share = ((1.0, 0.0), (0.0, 0.5), (1.0, 0.55))[lap % 3]
        hue = to_rgb(METHOD_COLOURS[place])
        colours[method] = tuple(c * (1 - share) + towards * share for c in hue)
    return {**colours, "lors": to_rgb(LORS_COLOUR)}
