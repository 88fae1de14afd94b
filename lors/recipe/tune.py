"""The search for a merge's parameters on the dev set: every method gets the same budget.

Each point of the grid is merged in memory, run on dev with greedy inference, and scored. The
objective is normalised performance (:mod:`lors.score.normalised`) over the language-task pairs of
the merge.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lors.done_marker import DoneMarker
from lors.errors import LorsError, shortened
from lors.fileio import BRIEF, file_digest, read_json, remove_tree, write_json
from lors.log import show_progress
from lors.models.family import InferenceOptions
from lors.recipe.expdir import ExpDir, check_data, check_models, scope_of
from lors.recipe.grid import Grid
from lors.recipe.sweeps import Trial, comparable_trials, write_sweep
from lors.tasks import TASKS, Pair

log = logging.getLogger(__name__)


def tune(
    expdir: ExpDir,
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    grid: Grid,
    options: InferenceOptions,
    device: str = "cpu",
) -> None:
    """Write ``sweep.json`` of every method of `grid` for the merge of `pairs`.

    Finished methods are skipped; an interrupted search continues at the point it had reached.

    Args:
        expdir: experiment with the base model and the experts.
        pairs: language-task pairs that are merged and scored.
        dump: data directories ``<lang>/dev``.
        grid: the settings to try.
        options: settings of inference.
        device: torch device.

    Raises:
        LorsError: a model or data is missing, or a sweep was made with other settings.
        UsageError: an unknown method or parameter in `grid`.
    """
    todo = _unfinished(expdir, pairs, Path(dump), grid, options)
    if not todo:
        return
    from lors.recipe.tuner import Tuner, plan_of  # torch is slow to import: only if there is work

    for method in todo:
        for point in grid.points[method]:
            plan_of(expdir, pairs, method, point)  # a wrong parameter is found before any work
    tuner = Tuner(expdir, pairs, dump, options, grid.limit, device)
    scope = scope_of(pair.task for pair in pairs)
    total = sum(len(grid.points[method]) for method in todo)
    with tqdm(total=total, unit="merge", desc=scope, disable=not show_progress()) as progress:
        for method, marker in todo.items():
            points, path = grid.points[method], expdir.sweep(method, scope)
            with marker.work():
                partial = _partial(path)
                trials = comparable_trials(_read_trials(partial, len(points)), tuner.base)
                progress.update(len(trials))
                for trial in tuner.run(method, points[len(trials) :]):
                    trials.append(trial)
                    write_json(partial, [trial.to_json() for trial in trials])
                    progress.update()
                sweep = write_sweep(expdir, method, scope, trials)
            _clear(path)
            log.info("%s: best of %d: %s", path, len(trials), dict(sweep.chosen.params))


def _unfinished(
    expdir: ExpDir, pairs: Sequence[Pair], dump: Path, grid: Grid, options: InferenceOptions
) -> dict[str, DoneMarker]:
    """Return the methods whose sweep is not finished, with their done markers."""
    models = [expdir.base, *(expdir.expert(pair) for pair in pairs)]
    check_models(models)
    dev = {pair.lang: dump / pair.lang / "dev" for pair in pairs}
    check_data(dev.values())
    common: Mapping[str, Any] = {
        "models": expdir.digests(models),
        "data": {lang: _digests(directory) for lang, directory in dev.items()},
        "limit": grid.limit,
        "options": options.greedy().settings(),
    }
    todo = {}
    scope = scope_of(pair.task for pair in pairs)
    for method, points in grid.points.items():
        path = expdir.sweep(method, scope)
        marker = DoneMarker(path.with_name(".done"), {**common, "points": points})
        if marker.is_done():
            _clear(path)  # files that an interruption has left
        else:
            todo[method] = marker
    return todo


def _digests(directory: Path) -> dict[str, str]:
    """Return the digests of the references and of the durations, which stand for the audio."""
    names = ["utt2dur", *(task.reference_file for task in TASKS.values())]
    files = [directory / name for name in names]
    return {path.name: file_digest(path) for path in files if path.exists()}


def _partial(sweep: Path) -> Path:
    """Return the path of the trials of an unfinished sweep."""
    return sweep.with_name("partial.json")


def _read_trials(partial: Path, number: int) -> list[Trial]:
    """Read the trials of an unfinished sweep of `number` points; none if there is no file.

    Raises:
        LorsError: the file does not hold trials.
    """
    hint = "remove this file: the search then begins again"
    content = read_json(partial) if partial.exists() else []
    if not isinstance(content, list) or len(content) > number:
        expected = f"a list of {number} trials at most"
        got = f"{len(content)} trials" if isinstance(content, list) else BRIEF.repr(content)
        raise LorsError(
            "not the trials of a sweep", where=partial, expected=expected, got=got, hint=hint
        )
    problems = [
        f"trial {index}: {problem}"
        for index, entry in enumerate(content)
        for problem in Trial.problems(entry)
    ]
    if problems:
        raise LorsError(
            "not the trials of a sweep", where=partial, got=shortened(problems), hint=hint
        )
    return [Trial.from_json(entry) for entry in content]


def _clear(sweep: Path) -> None:
    """Remove the files of an unfinished sweep."""
    _partial(sweep).unlink(missing_ok=True)
    remove_tree(sweep.with_name(".decompositions"))
