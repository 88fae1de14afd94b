"""The figures of a report, drawn again only if scores or sweeps have changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.plots.bars import bar_figure
from lors.plots.overlap import overlap_figure, overlap_points
from lors.plots.style import LOOK, save_figures
from lors.plots.sweep import all_objectives, is_partial, lowest_shown, sweep_figure
from lors.recipe.expdir import ExpDir
from lors.recipe.made_from import MadeFrom
from lors.recipe.mask_overlap import Overlap, overlap_files, read_overlap
from lors.recipe.score_tree import ScoreTable
from lors.recipe.sweeps import Sweep
from lors.tasks import task_called


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report.

    Attributes:
        path: PNG file.
        caption: its caption.
        draw: draws it as a matplotlib figure.
    """

    path: Path
    caption: str
    draw: Callable[[], Any]


def write_plots(
    table: ScoreTable, sweeps: Sequence[Sweep], folder: str | os.PathLike
) -> list[tuple[str, str]]:
    """Write ``bars_<task>.png`` for each task, ``sweep.png`` if there are sweeps whose
    normalised performance is defined, and ``overlap.png`` if the overlap of masks was measured.

    Figures that are there and were drawn from the same score and sweep files are left alone.

    Returns:
        (caption, path) of each figure.
    """
    folder = Path(folder)
    figures = [_bars(table, task, folder) for task in table.tasks]
    if plotted := [sweep for sweep in sweeps if not sweep.undefined]:
        figures.append(_sweep(table, plotted, folder))
    files = overlap_files(table.expdirs)
    overlaps = [read_overlap(file) for file in files]
    if overlap_points(overlaps):
        figures.append(_overlap(overlaps, folder))
    paths = [figure.path for figure in figures]
    captions = {figure.path.name: figure.caption for figure in figures}
    settings = {"captions": captions, "look": LOOK}
    sources = [*_sources(table, sweeps), *files]
    record = MadeFrom(folder / ".made_from", sources, paths, settings)
    if not record.is_current():
        save_figures({figure.path: figure.draw for figure in figures})
        record.record()
    return [(figure.caption, str(figure.path)) for figure in figures]


def _sources(table: ScoreTable, sweeps: Sequence[Sweep]) -> list[Path]:
    return table.files() + [ExpDir(s.expdir).sweep(s.method, s.scope) for s in sweeps]


def _bars(table: ScoreTable, task: str, folder: Path) -> ReportFigure:
    caption = f"{task_called(task).metric.name} by language and system"
    return ReportFigure(folder / f"bars_{task}.png", caption, lambda: bar_figure(table, task))


def _overlap(overlaps: Sequence[Overlap], folder: Path) -> ReportFigure:
    caption = "Overlap of the masks of two languages against the loss of merging their experts"
    return ReportFigure(folder / "overlap.png", caption, lambda: overlap_figure(overlaps))


def _sweep(table: ScoreTable, sweeps: Sequence[Sweep], folder: Path) -> ReportFigure:
    caption = "Normalised performance on dev against scaling_coef"
    if len(table.expdirs) > 1:
        caption += ", mean and standard deviation over the seeds"
        if is_partial(sweeps):
            caption += (
                "; lines join the settings that all seeds have, a ring beside them is of some"
            )
    if any(sweep.evaluations < sweep.plain_evaluations for sweep in sweeps):
        caption += "; settings that successive halving left out are not shown"
    lowest = lowest_shown(sweeps)
    if min(all_objectives(sweeps)) < lowest:
        caption += f"; values below {lowest:.2f} are cut off"
    return ReportFigure(folder / "sweep.png", caption, lambda: sweep_figure(sweeps))
