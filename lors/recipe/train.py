"""Train base models, experts, joint and sequential models by the training program of a family.

Every model directory, also of a merged model, holds ``config.yaml`` (ESPnet's, with structure and
vocabulary) and ``model.pth`` (a state dict).
"""

from __future__ import annotations

import contextlib
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lors.checkpoint.places import MASKS, TRAINING_STATE
from lors.done_marker import DoneMarker
from lors.errors import LorsError
from lors.fileio import atomic_write, copy_file, file_digest, replace_link, write_text
from lors.models import family_from
from lors.models.adapter_conf import not_alone
from lors.models.family import Family
from lors.recipe.expdir import IMPORTANCE, ORDERS, sequential_steps
from lors.recipe.launch import LOG, run_training, training_command
from lors.recipe.training_config import (
    base_models,
    check_masked_training,
    needs_feature_stats,
    stats_config,
    training_config,
)
from lors.recipe.training_data import SPLITS, data_digests, data_options, shape_options, write_data
from lors.recipe.training_options import KEPT_MODELS
from lors.tasks import Pair

log = logging.getLogger(__name__)

MOMENTS = "corrected by an entry's own updates"
"""How Adam treats entries of sub-networks; earlier versions counted the steps of all languages."""


def collect_stats(
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    config: Mapping[str, Any],
    out: str | os.PathLike,
    dev: int | None = None,
) -> None:
    """Collect the shapes of the training data, and feature statistics for a new S2T model.

    Writes ``out/{train,valid}/{speech,text}_shape``, and ``feats_stats.npz`` beside the new model's
    vocabulary. The arguments are those of :func:`train`.

    Raises:
        LorsError: `out` was made with other settings, or the program failed.
    """
    out = Path(out)
    family = family_from(config, out)
    ids = write_data(family, pairs, dump, out, dev)
    settings = stats_config(config)
    digests = data_digests(family, out / "data")
    marker = DoneMarker(out / ".done", {"config": settings, "data": digests})
    if marker.is_done():
        return
    with marker.work():
        options = [*data_options(family, out / "data"), "--collect_stats", "true"]
        for split, option in SPLITS.items():
            keys = out / "data" / split / "keys"
            write_text(keys, "".join(f"{i} 1\n" for i in ids[split]))
            options += [f"--{option}_shape_file", str(keys)]
        _run(family, settings, out, options)
        if needs_feature_stats(config):
            collected = out / "train" / "feats_stats.npz"
            with atomic_write(config["normalize_conf"]["stats_file"], "wb") as handle:
                handle.write(collected.read_bytes())


def train(
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    config: Mapping[str, Any],
    out: str | os.PathLike,
    *,
    stats: str | os.PathLike,
    seed: int,
    ngpu: int = 0,
    num_nodes: int = 1,
    dev: int | None = None,
    masks: str | os.PathLike | None = None,
) -> None:
    """Train one model on the data of `pairs`, or resume its training.

    Args:
        pairs: language-task pairs. ``num_iters_per_epoch`` and the scheduler's ``total_steps`` of
            `config` count per pair: a joint model has the budget of all experts together.
        dump: data directories ``<lang>/{train,dev}``.
        config: ESPnet's options, from :mod:`lors.recipe.training_config`.
        out: the model directory to make.
        stats: directory that :func:`collect_stats` wrote for `pairs`, or for more pairs.
        seed: seed of initialisation, data order and augmentation.
        ngpu: number of GPUs of each node; 0 trains on the CPU.
        num_nodes: nodes of the Slurm job that this process is in.
        dev: number of dev utterances of each pair for the choice of the best epoch; None for all.
        masks: file of masks: each batch is of one language and sees and changes its sub-network
            only. A copy stays beside the model, for inference.

    Raises:
        LorsError: `out` was made with other settings, the masks belong to another base model, or
            the training failed.
        UsageError: a language without a mask.
    """
    out = Path(out)
    config = training_config(config, len(pairs), seed)
    family = family_from(config, out)
    if masks is not None:
        check_masked_training(config, pairs, masks)
    ids = write_data(family, pairs, dump, out, dev, by_language=masks is not None)
    base = base_models(config)
    marker = DoneMarker(out / ".done", _inputs(pairs, config, family, out, masks))
    if marker.is_done():
        log.info("%s is there already", out)
        remove_checkpoint(out)
        return
    with marker.work():
        if base and config.get("use_adapter"):
            _record_base(base[0], out)
        options = [*data_options(family, out / "data"), "--resume", "true"]
        if masks is not None:
            copy_file(masks, out / MASKS)
            options += ["--subnetworks", str(out / MASKS)]
        options += shape_options(Path(stats), ids, seed, out / "data")
        _discard_torn_checkpoint(out)
        _run(family, config, out, options, ngpu, num_nodes)
        _link_best_epoch(config, out)
    remove_checkpoint(out)


def _link_best_epoch(config: Mapping[str, Any], out: Path) -> None:
    """Let ``model.pth`` be the epoch that is best by the first criterion."""
    [phase, score, *_], *_ = config.get("best_model_criterion") or [["valid", "acc"]]
    best = out / f"{phase}.{score}.best.pth"
    if not best.exists():
        raise LorsError("the training left no model", where=best, hint=f"see {out / LOG}")
    replace_link(out / "model.pth", best.name)


def estimate_importance(
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    config: Mapping[str, Any],
    out: str | os.PathLike,
    *,
    stats: str | os.PathLike,
    seed: int,
    ngpu: int = 0,
    dev: int | None = None,
) -> None:
    """Write the Taylor scores of a base model on the data of `pairs` to ``out/importance``.

    The scores are summed over all data of the pairs once, whatever ``num_iters_per_epoch`` is. The
    arguments are those of :func:`train`.

    Raises:
        LorsError: `out` was made with other settings, or the program failed.
    """
    out = Path(out)
    config = training_config({**config, "num_iters_per_epoch": None}, len(pairs), seed)
    family = family_from(config, out)
    ids = write_data(family, pairs, dump, out, dev)
    marker = DoneMarker(out / ".done", _inputs(pairs, config, family, out))
    if marker.is_done():
        log.info("%s is there already", out)
        return
    with marker.work():
        options = [*data_options(family, out / "data"), "--importance", str(out / IMPORTANCE)]
        options += shape_options(Path(stats), ids, seed, out / "data")
        _run(family, config, out, options, min(ngpu, 1))


def _inputs(
    pairs: Sequence[Pair],
    config: Mapping[str, Any],
    family: Family,
    out: Path,
    masks: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Return all that a training depends on, for its done marker."""
    return {
        "pairs": [str(pair) for pair in pairs],
        "config": config,
        "data": data_digests(family, out / "data"),
        "base": [file_digest(path) for path in base_models(config)],
        **({} if masks is None else {"masks": file_digest(masks), "moments": MOMENTS}),
    }


def check_sequence(config: Mapping[str, Any]) -> None:
    """Check that :func:`train_sequence` can train step after step with `config`.

    Raises:
        LorsError: adapters that are saved together with other weights.
    """
    # ESPnet adds the LoRA adapter to the weights for validation, and saves the sum. The next step
    # loads weights and adapter: the adapter would count twice.
    if config.get("use_adapter") and (problems := not_alone(config)):
        raise LorsError(
            "a sequential baseline needs adapters that are saved without other weights",
            where="the training configuration",
            got=problems,
            hint="write save_strategy: adapter_only, or leave "
            f"{' and '.join(ORDERS)} out of --baselines",
        )


def train_sequence(
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    config: Mapping[str, Any],
    out: str | os.PathLike,
    **options: Any,
) -> None:
    """Train one model on one pair after the other, each step from the model of the step before.

    Every step has the budget of an expert. With adapters, all steps train the same adapter.

    Args:
        pairs: language-task pairs, in the order of the steps.
        dump: data directories ``<lang>/{train,dev}``.
        config: ESPnet's options, from :func:`lors.recipe.training_config.fine_tuning_config`.
        out: receives a model directory ``<number>_<pair>`` for each step, and links to the files of
            the last step, so that it is a model directory too.
        options: the keyword arguments of :func:`train`.

    Raises:
        LorsError: as :func:`train` and :func:`check_sequence`; `out` has steps of other pairs, or
            a step was trained from another model than the model that is there now.
    """
    check_sequence(config)
    out, base = Path(out), list(config["init_param"])
    marker = DoneMarker(out / ".done", {"steps": [str(pair) for pair in pairs]})
    finished = marker.is_done()
    # train() also checks the settings of finished steps.
    with contextlib.nullcontext() if finished else marker.work():
        start = base
        # The first step repeats the training of an expert (a tenth of the time for ten pairs): the
        # baseline waits for no other stage and has all its files in one place.
        for pair, name in zip(pairs, sequential_steps(pairs), strict=True):
            step = out / name
            train([pair], dump, {**config, "init_param": start}, step, **options)
            model = str(step / "model.pth")
            start = [*base, model] if config.get("use_adapter") else [model]
        if finished:
            return
        for name in ("config.yaml", "model.pth"):
            replace_link(out / name, Path(step.name) / name)
        if config.get("use_adapter"):
            _record_base(base[0], out)


def _record_base(base: str | os.PathLike, out: Path) -> None:
    """Write the fingerprint of an adapter's base model beside the adapter."""
    from lors.checkpoint.adapter_base import record_base  # torch is slow to import
    from lors.checkpoint.quantised import open_base

    record_base(open_base(base), out)


def remove_checkpoint(out: Path) -> None:
    """Remove what only an unfinished training needs: weights and moments, three times the model."""
    (out / TRAINING_STATE).unlink(missing_ok=True)


def _discard_torn_checkpoint(out: Path) -> None:
    """Remove an incomplete checkpoint, because no training can resume from it.

    The trainer of LoRS writes files atomically; but a disk may fail, or another trainer may have
    written the checkpoint.
    """
    checkpoint = out / TRAINING_STATE
    # A zip file has its directory at the end: an incomplete file has none.
    if checkpoint.exists() and not zipfile.is_zipfile(checkpoint):
        log.warning("%s is incomplete: training starts over", checkpoint)
        checkpoint.unlink()


def _run(
    family: Family,
    config: Mapping[str, Any],
    out: Path,
    options: Sequence[str],
    ngpu: int = 0,
    num_nodes: int = 1,
) -> None:
    """Run the family's training program with `config` and `options` in the directory `out`."""
    options_of_espnet = {"keep_nbest_models": KEPT_MODELS, **config}
    with atomic_write(out / "train.yaml") as handle:
        yaml.safe_dump(options_of_espnet, handle, sort_keys=True, allow_unicode=True)
    files = ["--config", str(out / "train.yaml"), "--output_dir", str(out)]
    options = [*files, *options, "--use_preprocessor", "true"]
    command = training_command(family.train_module, options, ngpu, num_nodes)
    run_training(command, out, processes=max(ngpu, 1))
