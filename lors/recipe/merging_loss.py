"""Loss of merging the experts of two languages, for what it is compared with."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lors.recipe.eval_set import digests_of, recorded_limit
from lors.recipe.expdir import ExpDir, check_models, model_digest
from lors.recipe.measured import Finite
from lors.score import normalised_performance
from lors.score.normalised import UndefinedPerformanceError
from lors.tasks import pairs_of

if TYPE_CHECKING:
    from lors.models.family import InferenceOptions


@dataclass(frozen=True)
class MergingLoss:
    """Loss of merging the experts of two languages.

    Attributes:
        langs: the two languages.
        task: the task of the experts.
        loss: 1 - normalised performance on dev; None if it is undefined.
    """

    langs: tuple[str, ...]
    task: str
    loss: Finite | None


def inputs_of_losses(
    expdir: ExpDir,
    langs: Sequence[str],
    tasks: Sequence[str],
    dump: str | os.PathLike,
    options: InferenceOptions,
    limit: int | None,
) -> dict[str, Any]:
    """Return all that the losses depend on, for the record of a file that has them.

    Args:
        expdir: the experiment, with its base model and experts.
        langs: the languages.
        tasks: tasks of the experts.
        dump: data directories ``<lang>/dev``.
        options: settings of inference; the search is greedy.
        limit: number of dev utterances of each language; None for all.

    Raises:
        LorsError: the base model or an expert is missing.
    """
    models = [expdir.base, *map(expdir.expert, pairs_of(langs, tasks))]
    check_models(models)
    return {
        "options": options.greedy().settings(),
        **recorded_limit(limit),
        "langs": [*langs],
        "data": {lang: digests_of(Path(dump) / lang / "dev") for lang in langs},
        "models": {str(directory): model_digest(directory) for directory in models},
        "tasks": [*tasks],
    }


def losses_of_two(
    expdir: ExpDir,
    langs: Sequence[str],
    task: str,
    dump: str | os.PathLike,
    options: InferenceOptions,
    limit: int | None,
    device: str = "cpu",
) -> list[MergingLoss]:
    """Return what the average of the experts of every two languages loses on their dev sets.

    Args:
        expdir: the experiment, with its base model and experts.
        langs: the languages.
        task: the task of the experts.
        dump: data directories ``<lang>/dev``.
        options: settings of inference; the search is greedy.
        limit: number of dev utterances of each language; None for all.
        device: torch device.

    Raises:
        LorsError: a model is missing or damaged.
    """
    from lors.merge.run import iter_merged  # torch is slow to import
    from lors.recipe.tuner import Tuner, plan_of

    pairs, losses = pairs_of(langs, [task]), []
    tuner = Tuner(expdir, pairs, dump, options, limit, device)
    for two in itertools.combinations(pairs, 2):
        tuner.model.load_state(dict(iter_merged(plan_of(expdir, two, "average", {}))))
        merged = {pair: tuner.score(tuner.model, pair) for pair in two}
        try:
            loss = 1 - normalised_performance(merged, tuner.base, tuner.expert)
        except UndefinedPerformanceError:
            loss = None
        losses.append(MergingLoss(tuple(pair.lang for pair in two), task, loss))
    return losses
