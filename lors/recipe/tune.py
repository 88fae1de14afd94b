"""The search for a merge's parameters on the dev set: every method gets the same budget.

Each point of the grid is merged in memory, run on dev with greedy inference, and scored. The
objective is normalised performance (:mod:`lors.score.normalised`) over the language-task pairs of
the merge; or the average gain over the base model, where that is undefined. The budget is counted
in dev utterances; with successive halving (:mod:`lors.recipe.halving`) the worse points see only
some of them.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lors.done_marker import DoneMarker
from lors.errors import UsageError
from lors.fileio import remove_tree, scratch_directory
from lors.log import show_progress
from lors.models.family import InferenceOptions
from lors.recipe.eval_set import digests_of, recorded_limit
from lors.recipe.expdir import ExpDir, check_data, check_models, scope_of
from lors.recipe.grid import Grid
from lors.recipe.subnetworks import masks_used
from lors.recipe.sweeps import write_sweep
from lors.score.normalised import undefined_because
from lors.tasks import Pair

if TYPE_CHECKING:
    from lors.recipe.tuner import Tuner

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
    scope = scope_of(pair.task for pair in pairs)
    if not todo:
        remove_tree(_decompositions(expdir, scope, grid))  # left by an interruption
        return
    from lors.merge import Decompositions  # torch is slow to import: only if there is work
    from lors.recipe.search import Search
    from lors.recipe.tuner import Tuner

    settings = _settings(expdir, pairs, grid)
    tuner = _checked(Tuner(expdir, pairs, dump, options, grid.limit, device), scope)
    searches = {
        name: Search(
            *(tuner, grid.method(name), of, expdir.sweep(name, scope)),
            *(grid.halving, grid.each_expert.get(name, 0)),
        )
        for name, of in settings.items()
    }
    total = sum(step.points for name in todo for step in searches[name].rounds)
    total += sum(searches[name].room.most for name in todo)
    with (
        tqdm(total=total, unit="merge", desc=scope, disable=not show_progress()) as progress,
        scratch_directory(_decompositions(expdir, scope, grid)) as kept,
    ):
        cache = Decompositions(kept, _largest_rank(settings))
        for name, marker in todo.items():
            search, path = searches[name], expdir.sweep(name, scope)
            with marker.work():
                for _ in search.run(cache):
                    progress.update()
                trials = [search.trials[index] for index in range(len(search.points))]
                ends = tuner.base, tuner.expert
                without = search.without_each(cache) if name in grid.each_expert else ()
                variant = grid.variants.get(name)
                sweep = write_sweep(expdir, name, scope, trials, variant, *ends, without)
            log.info("%s: best of %d: %s", path, len(trials), dict(sweep.chosen.params))


def _checked(tuner: Tuner, scope: str) -> Tuner:
    """Warn if the experts of a tuner are not better than its base model."""
    if reason := undefined_because(tuner.base, tuner.expert):
        log.warning(
            "%s: normalised performance on dev is undefined (%s); settings are chosen by the "
            "average gain over the base model",
            *(scope, reason),
        )
    return tuner


def _largest_rank(settings: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """Return the largest rank that is a number; 0 if there is none."""
    ranks = [of.get("rank") for points in settings.values() for of in points]
    return max((rank for rank in ranks if isinstance(rank, int)), default=0)


def _settings(expdir: ExpDir, pairs: Sequence[Pair], grid: Grid) -> dict[str, list[dict[str, Any]]]:
    """Return name -> the settings of its points, with defaults.

    Raises:
        UsageError: an unknown method or parameter, or a variant with the name of a method.
    """
    from lors.merge.methods import METHODS
    from lors.recipe.tuner import full_setting, plan_of

    for name, method in grid.variants.items():
        if name in METHODS:
            raise UsageError(
                "a variant needs a name of its own, not that of a merge method",
                where=f"the grid of {name}",
                expected=f"for example {method}_2",
                got=f"{name}, a variant of {method}",
            )
    return {
        name: [
            full_setting(plan_of(expdir, pairs, grid.method(name), point), point)
            for point in points
        ]
        for name, points in grid.points.items()
    }


def _unfinished(
    expdir: ExpDir, pairs: Sequence[Pair], dump: Path, grid: Grid, options: InferenceOptions
) -> dict[str, DoneMarker]:
    """Return the methods whose sweep is not finished, with their done markers."""
    models = [expdir.base, *(expdir.expert(pair) for pair in pairs)]
    check_models(models)
    dev = {pair.lang: dump / pair.lang / "dev" for pair in pairs}
    check_data(dev.values())
    common: dict[str, Any] = {
        "models": expdir.digests(models),
        "data": {lang: digests_of(directory) for lang, directory in dev.items()},
        **recorded_limit(grid.limit),
        "options": options.greedy().settings(),
    }
    if grid.halving is not None:
        common["halving"] = dataclasses.asdict(grid.halving)
    todo = {}
    scope = scope_of(pair.task for pair in pairs)
    for name, points in grid.points.items():
        variant = {"method": grid.variants[name]} if name in grid.variants else {}
        inputs = {**common, **variant, "points": points, **masks_used(expdir, points)}
        if name in grid.each_expert:
            inputs["each_expert"] = grid.each_expert[name]
        marker = DoneMarker(expdir.sweep(name, scope).with_name(".done"), inputs)
        if not marker.is_done():
            todo[name] = marker
    return todo


def _decompositions(expdir: ExpDir, scope: str, grid: Grid) -> Path:
    """Return the directory of the decompositions that the methods of a job share."""
    first = next(iter(grid.points), "")  # no two jobs of a scope have a method in common
    return expdir.root / "tune" / f".{first}.{scope}.decompositions"
