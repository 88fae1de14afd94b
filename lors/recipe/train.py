"""Training through ESPnet: base model from scratch; experts, joint and sequential models from it.

A model directory holds ``config.yaml`` (ESPnet's, with the architecture and the vocabulary) and
``model.pth`` (a bare state dict), whoever made it: the base, an expert, a joint model, a merge.
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

from lors.config import read_yaml
from lors.done_marker import DoneMarker
from lors.errors import LorsError
from lors.fileio import atomic_write, file_digest, replace_link, write_text
from lors.models import family_from
from lors.models.family import Family
from lors.recipe.expdir import sequential_steps
from lors.recipe.launch import run_training, training_command
from lors.recipe.training_data import SPLITS, data_digests, data_options, shape_options, write_data
from lors.tasks import Pair

log = logging.getLogger(__name__)


def fine_tuning_config(
    base: str | os.PathLike, config: Mapping[str, Any], pairs: Sequence[Pair]
) -> dict[str, Any]:
    """`config` completed by the architecture and vocabulary of the base model.

    Raises:
        LorsError: `config` sets a key that is the base's to decide, or the base does not know a
            language or task of `pairs`.
    """
    source = Path(base) / "config.yaml"
    of_base = read_yaml(source)
    family = family_from(of_base, source)
    family.check_pairs(pairs)
    clash = [key for key in config if key in family.model_keys]
    if clash:
        raise LorsError(
            "a fine-tuning configuration must leave the model to its base",
            got=f"keys {', '.join(clash)}",
            hint=f"remove them; they are taken from {source}",
        )
    model = {key: of_base[key] for key in family.model_keys if of_base.get(key) is not None}
    return {**config, **model, "init_param": [str(Path(base) / "model.pth")]}


def from_scratch_config(tokens: str | os.PathLike, config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` completed by the vocabulary (and feature statistics, once collected) in `tokens`."""
    tokens = Path(tokens)
    config = {
        **config,
        "token_type": "bpe",
        "bpemodel": str(tokens / "bpe.model"),
        "token_list": str(tokens / "tokens.txt"),
    }
    if config.get("normalize") == "global_mvn":
        config["normalize_conf"] = {"stats_file": str(tokens / "feats_stats.npz")}
    return config


def collect_stats(
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    config: Mapping[str, Any],
    out: str | os.PathLike,
    dev: int | None = None,
) -> None:
    """Run ESPnet's collection of shapes (and feature statistics) over the data of `pairs`.

    Writes ``out/{train,valid}/{speech,text}_shape``, and ``feats_stats.npz`` for a model that is
    trained from scratch. The arguments are those of :func:`train`.
    """
    out = Path(out)
    family = family_from(config, out)
    ids = write_data(family, pairs, dump, out, dev)
    config = {**config, "num_workers": 0}
    # A base brings its feature statistics along, and not every model needs any.
    features = "init_param" not in config and config.get("normalize") == "global_mvn"
    config.pop("init_param", None)
    if features:
        config.pop("normalize_conf")  # about to be collected
        config["normalize"] = None
        # S2T models pad speech with silence; statistics of padded speech would mostly be its.
        # Trimmed to its first second instead, every clip gives speech alone.
        config["preprocessor_conf"] = {**config["preprocessor_conf"], "speech_length": 1.0}
    else:
        config["model_conf"] = {
            **config.get("model_conf", {}),
            "extract_feats_in_collect_stats": False,
        }
    digests = data_digests(family, out / "data")
    marker = DoneMarker(out / ".done", {"config": config, "data": digests})
    if marker.is_done():
        return
    with marker.work():
        shapes = []
        for split, option in SPLITS.items():
            keys = out / "data" / split / "keys"
            write_text(keys, "".join(f"{i} 1\n" for i in ids[split]))
            shapes += [f"--{option}_shape_file", str(keys)]
        options = [*data_options(family, out / "data"), *shapes, "--collect_stats", "true"]
        _launch(family, config, out, options)
        if features:
            # A model trained from scratch keeps its normalisation beside its vocabulary.
            collected = out / "train" / "feats_stats.npz"
            with atomic_write(Path(config["bpemodel"]).parent / collected.name, "wb") as handle:
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
) -> None:
    """Train one model on the data of `pairs`; an interrupted training goes on where it was.

    Args:
        pairs: language-task pairs; ``num_iters_per_epoch`` and the scheduler's ``total_steps``
            of `config` count per pair, so that a joint model gets the budget of all its experts
            together.
        dump: data directories ``<lang>/{train,dev}``.
        config: ESPnet options, from :func:`fine_tuning_config` or :func:`from_scratch_config`.
        out: the model directory to make.
        stats: directory of :func:`collect_stats` over (at least) `pairs`.
        seed: seed of initialisation, data order and augmentation.
        ngpu: number of GPUs of each node; 0 trains on the CPU.
        num_nodes: nodes of the Slurm job that this is called in.
        dev: dev utterances of each pair by which the best epoch is chosen; None for all.

    Raises:
        LorsError: `out` was made with other settings, or the training failed.
    """
    out = Path(out)
    config = {**config, "seed": seed}
    if config.get("num_iters_per_epoch"):
        config["num_iters_per_epoch"] *= len(pairs)
    schedule = config.get("scheduler_conf") or {}
    if "total_steps" in schedule:  # of onecyclelr, which has to know the length of the training
        total = schedule["total_steps"] * len(pairs)
        config["scheduler_conf"] = {**schedule, "total_steps": total}
    family = family_from(config, out)
    ids = write_data(family, pairs, dump, out, dev)
    base = config.get("init_param", [])
    inputs = {
        "pairs": [str(pair) for pair in pairs],
        "config": config,
        "data": data_digests(family, out / "data"),
        "base": [file_digest(path) for path in base],
    }
    marker = DoneMarker(out / ".done", inputs)
    if marker.is_done():
        log.info("%s is there already", out)
        return
    with marker.work():
        if base and config.get("use_adapter"):
            _record_base(base[0], out)
        options = data_options(family, out / "data")
        options += shape_options(Path(stats), ids, seed, out / "data")
        _discard_torn_checkpoint(out)
        _launch(family, config, out, [*options, "--resume", "true"], ngpu, num_nodes)
        best = out / "valid.acc.best.pth"
        if not best.exists():
            raise LorsError("training left no model", where=best, hint=f"see {out / 'train.log'}")
        replace_link(out / "model.pth", best.name)


def check_sequence(config: Mapping[str, Any]) -> None:
    """Check that :func:`train_sequence` can go from step to step with `config`.

    Raises:
        LorsError: adapters that are not saved alone.
    """
    strategy = config.get("save_strategy", "all")  # ESPnet's default
    # ESPnet saves a model of LoRA after validation, with the adapter added into the weights; in
    # the next step, which loads the adapter beside them, it would count twice.
    if config.get("use_adapter") and strategy != "adapter_only":
        raise LorsError(
            "the sequential baseline cannot go on from adapters that are saved with other weights",
            where="save_strategy of the training configuration",
            expected="adapter_only",
            got=strategy,
            hint="write save_strategy: adapter_only, or leave 'sequential' out of --baselines",
        )


def train_sequence(
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    config: Mapping[str, Any],
    out: str | os.PathLike,
    **options: Any,
) -> None:
    """Train one model on one pair after the other, each step from the model of the step before.

    Every step has the budget of an expert. Adapters stay one adapter of the base model, which
    every step trains on.

    Args:
        pairs: language-task pairs, in the order of the steps.
        dump: data directories ``<lang>/{train,dev}``.
        config: ESPnet options, from :func:`fine_tuning_config`.
        out: receives a model directory ``<number>_<pair>`` for each step; links to the last one's
            files make it a model directory itself.
        options: the keywords of :func:`train`.

    Raises:
        LorsError: as :func:`train` and :func:`check_sequence`; `out` has a chain of other pairs,
            or a step was trained from another model than the one that is there now.
    """
    check_sequence(config)
    out, base = Path(out), list(config["init_param"])
    marker = DoneMarker(out / ".done", {"steps": [str(pair) for pair in pairs]})
    finished = marker.is_done()
    # Finished steps are passed through as well, where train() compares them with what is there now.
    with contextlib.nullcontext() if finished else marker.work():
        start = base
        # The first step is the first expert over again. It is not taken from there: a tenth of the
        # time, for ten pairs, is the price of a baseline that waits for no other stage and is all
        # in one place.
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
    """Note beside an adapter which model it is trained on."""
    from lors.checkpoint.adapter_base import record_base  # torch is slow to import
    from lors.checkpoint.expert import open_model

    record_base(open_model(base), out)


def _discard_torn_checkpoint(out: Path) -> None:
    """Remove a checkpoint that is not whole: a training cannot go on from it.

    LoRS's trainer writes none, but another may have been at work here, or a disk failed.
    """
    checkpoint = out / "checkpoint.pth"
    # The directory of a zip file is at its end: without it the file is not whole.
    if checkpoint.exists() and not zipfile.is_zipfile(checkpoint):
        log.warning("%s is not whole: training starts over", checkpoint)
        checkpoint.unlink()


def _launch(
    family: Family,
    config: Mapping[str, Any],
    out: Path,
    options: Sequence[str],
    ngpu: int = 0,
    num_nodes: int = 1,
) -> None:
    """Run the family's training program with `config` and `options` in the directory `out`."""
    with atomic_write(out / "train.yaml") as handle:
        yaml.safe_dump(dict(config), handle, sort_keys=True, allow_unicode=True)
    options = ["--config", str(out / "train.yaml"), "--output_dir", str(out), *options]
    options += ["--use_preprocessor", "true"]
    run_training(training_command(family.train_module, options, ngpu, num_nodes), out)
