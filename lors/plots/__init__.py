"""Figures of a report, as PNG files (matplotlib is imported only when one is drawn)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.fileio import atomic_write
from lors.plots.bars import bar_figure
from lors.plots.inspection import inflation_figure, pairs_figure, spectrum_figure
from lors.plots.style import STYLE
from lors.plots.sweep import all_objectives, lowest_shown, sweep_figure
from lors.recipe.score_tree import ScoreTable
from lors.recipe.sweeps import Sweep
from lors.tasks import task_called


def write_plots(
    table: ScoreTable, sweeps: Sequence[Sweep], folder: str | os.PathLike
) -> list[tuple[str, str]]:
    """Write ``bars_<task>.png`` for each task and, if there are sweeps, ``sweep.png``.

    Returns:
        (caption, path) of each figure.
    """
    import matplotlib

    written = []
    with matplotlib.rc_context(STYLE):
        for task in table.tasks:
            caption = f"{task_called(task).metric.name} by language and system"
            written.append(
                (caption, _save(bar_figure(table, task), Path(folder) / f"bars_{task}.png"))
            )
        if sweeps:
            caption = "Normalised performance on dev against scaling_coef"
            if len(table.expdirs) > 1:
                caption += ", mean and standard deviation over the seeds"
            if min(all_objectives(sweeps)) < lowest_shown(sweeps):
                caption += f"; what falls below {lowest_shown(sweeps):.2f} is cut off"
            written.append((caption, _save(sweep_figure(sweeps), Path(folder) / "sweep.png")))
    return written


def write_inspection_plots(
    matrices: Mapping[str, Mapping[str, Any]], experts: Sequence[str], folder: str | os.PathLike
) -> list[str]:
    """Write ``spectrum.png``, ``pairs.png`` and ``inflation.png`` of inspected matrices.

    Args:
        matrices: as :func:`lors.merge.inspection.inspect_matrices` yields them.
        experts: their labels.
        folder: where to write.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figures = {
            "spectrum": spectrum_figure(matrices, experts),
            "pairs": pairs_figure(matrices, experts),
            "inflation": inflation_figure(matrices, len(experts)),
        }
        return [_save(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def _save(figure: Any, path: Path) -> str:
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png")
    return str(path)
