"""Training under masks that are found a second time, on the model after half of the training.

After Dynamic ASR Pathways (arXiv 2309.13018): masks that are found before the training are a
decision before the model knows its languages. The second masks are found as the first were, by the
same criterion, rate and scope, with the half-trained model in place of the base model: by its
Taylor scores on each language; or (magnitude, common) by the weights after fine-tuning it on each
language for half of an expert's training, which are rewound to the half-trained model. An entry
that the first mask of a language leaves out can so come back. When and how often that paper does it
is not known to us.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.done_marker import DoneMarker, recorded_inputs
from lors.errors import LorsError
from lors.recipe.expdir import ExpDir
from lors.recipe.subnetworks import find_masks_of
from lors.recipe.train import estimate_importance, train
from lors.recipe.training_config import training_config
from lors.subnet.criteria import BY_TAYLOR
from lors.tasks import Pair

OTHER_SEED = 10_000
"""Distance between the seeds of the halves. ESPnet shuffles each pass over the data by the seed and
the number of the pass, added up: after a small distance some orders would come again."""


def train_in_two_rounds(
    system: str,
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    config: Mapping[str, Any],
    expdir: ExpDir,
    masks: Path,
    *,
    num_nodes: int = 1,
    **options: Any,
) -> None:
    """Train a system under its masks for half of its epochs, find masks again, train the rest.

    ``half/<system>`` of the experiment receives the half-trained model as its base model, and its
    scores or experts and masks. Each half has a learning rate schedule of its own, of half the
    length; the second begins with the best epoch of the first. Both count their epochs from 1, so
    the second has another seed (:func:`second_seed`): with the first one's it would see the same
    batches in the same order again.

    Args:
        system: the system.
        pairs: language-task pairs.
        dump: data directories ``<lang>/{train,dev}``.
        config: ESPnet's options, from :func:`lors.recipe.training_config.fine_tuning_config`.
        expdir: the experiment.
        masks: file of the first masks.
        num_nodes: nodes of the Slurm job that this process is in.
        options: further keyword arguments of :func:`lors.recipe.train.train`: ``stats``, ``seed``,
            ``ngpu``, ``dev``.

    Raises:
        LorsError: as :func:`lors.recipe.train.train`; a training of one epoch; or the system was
            trained in another way, for example in one round.
    """
    from lors.checkpoint.masks import Masks  # torch is slow to import

    half, (first, second) = expdir.half(system), halves(config)
    training = {**options, "num_nodes": num_nodes}
    found = Masks(masks).settings
    start = {"init_param": [str(half.base / "model.pth")]}
    of_second = {**training, "seed": second_seed(options["seed"])}
    _check_second_half(pairs, {**second, **start}, expdir.subnet(system), of_second["seed"])
    train(pairs, dump, first, half.base, masks=masks, **training)
    langs = list(dict.fromkeys(pair.lang for pair in pairs))
    if found["criterion"] in BY_TAYLOR:
        for lang in langs:
            own = [pair for pair in pairs if pair.lang == lang]
            estimate_importance(own, dump, {**first, **start}, half.importance(lang), **options)
    else:
        for pair in pairs:
            train([pair], dump, {**first, **start}, half.expert(pair), **training)
    tasks = list(dict.fromkeys(pair.task for pair in pairs))
    find_masks_of(half, langs, tasks, found["criterion"], found["rate"], found["scope"])
    again = half.masks(system)
    train(pairs, dump, {**second, **start}, expdir.subnet(system), masks=again, **of_second)


def second_seed(seed: int) -> int:
    """Return the seed of the second half of a training whose first half has this seed."""
    return (seed + OTHER_SEED) % 2**32  # within lors.config.SEED


def _check_second_half(
    pairs: Sequence[Pair], config: Mapping[str, Any], out: Path, seed: int
) -> None:
    """Check a training that is there before the first half takes its hours.

    Raises:
        LorsError: `out` was trained on other pairs or with another configuration.
    """
    known = {"pairs": [*map(str, pairs)], "config": training_config(config, len(pairs), seed)}
    marker = DoneMarker(out / ".done", known)
    for path in (marker.path, marker.started):
        if path.exists():
            made = recorded_inputs(path)
            marker.check({key: made.get(key) for key in known})


def halves(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a training configuration for the first half of its epochs, and one for the others.

    Raises:
        LorsError: there are not two epochs.
    """
    epochs = config.get("max_epoch")
    if type(epochs) is not int or epochs < 2:
        raise LorsError(
            "this training has no half",
            where="max_epoch of the training configuration",
            expected="2 epochs or more, to find masks again between two of them",
            got=epochs,
            hint="set max_epoch, and num_iters_per_epoch accordingly; or --mask_rounds 1",
        )
    return _part(config, epochs // 2, epochs), _part(config, epochs - epochs // 2, epochs)


def _part(config: Mapping[str, Any], part: int, epochs: int) -> dict[str, Any]:
    shorter = {**config, "max_epoch": part}
    schedule = config.get("scheduler_conf") or {}
    if "total_steps" in schedule:
        # Rounded up: the scheduler refuses a step after its last one.
        steps = -(-schedule["total_steps"] * part // epochs)
        shorter["scheduler_conf"] = {**schedule, "total_steps": steps}
    return shorter
