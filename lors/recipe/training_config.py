"""The configuration of a training: ESPnet's options, completed for a base model and the pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.checkpoint.places import MASKS, RECIPE_MODEL, RECIPE_VECTOR, model_in
from lors.config import read_yaml
from lors.errors import LorsError, shortened
from lors.fileio import file_digest
from lors.models import family_from
from lors.tasks import Pair

QUANTISED_BASE = "quantised_base"
"""Option of LoRS's ESPnet tasks: the quantised model that adapters are trained on."""
LORA_DEFAULTS = {"rank": 8, "alpha": 8, "target_modules": ["query"]}
"""ESPnet's defaults of those keys of ``adapter_conf`` that make the adapter what it is."""

UNDER_MASKS = {
    # The one kind of batches that ESPnet makes by category, here by language.
    "batch_type": ("folded",),
    "valid_batch_type": ("folded", None),
    "iterator_type": ("sequence",),
    "valid_iterator_type": ("sequence", None),
    # Batches shuffled into each other would mix languages.
    "shuffle_within_batch": (False,),
    # The last batch of a language may be its only one.
    "drop_last_iter": (False,),
    "accum_grad": (1,),
    # The number of updates of an entry is kept in this dtype.
    "train_dtype": ("float32", "float64"),
    "use_adapter": (False,),
}
"""Option of ESPnet -> its values for a training under masks, the default first."""


def fine_tuning_config(
    base: str | os.PathLike,
    config: Mapping[str, Any],
    pairs: Sequence[Pair],
    adapter: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Return `config` with the structure and the vocabulary of a base model.

    Args:
        base: directory of the base model, quantised or not.
        config: ESPnet's options for fine-tuning.
        pairs: language-task pairs that will be trained.
        adapter: directory of an adapter of the base model, to start from.

    Raises:
        LorsError: `config` sets keys that belong to the base model, or names one itself; the base
            model does not know a language or a task of `pairs`, or `adapter` is of another base
            model or another kind.
    """
    source = Path(base) / "config.yaml"
    base_config = read_yaml(source)
    family = family_from(base_config, source)
    family.check_pairs(pairs)
    clash = [key for key in config if key in family.model_keys]
    clash += [key for key in ("init_param", QUANTISED_BASE) if config.get(key)]
    if clash:
        raise LorsError(
            "a fine-tuning configuration sets keys of the base model",
            got=clash,
            hint=f"remove them: the base model is {base}, and they are taken from {source}",
        )
    keys = (key for key in family.model_keys if base_config.get(key) is not None)
    model = {key: base_config[key] for key in keys}
    started = [] if adapter is None else [_checked_adapter(base, adapter, config)]
    quantised = Path(base) / RECIPE_VECTOR
    if quantised.exists() and _is_quantised(base):
        return {**config, **model, "init_param": started, QUANTISED_BASE: str(quantised)}
    return {**config, **model, "init_param": [str(Path(base) / RECIPE_MODEL), *started]}


def continued_config(config: Mapping[str, Any], model: str | os.PathLike) -> dict[str, Any]:
    """Return `config` that begins with the weights of another model than its base model.

    Args:
        config: from :func:`fine_tuning_config`.
        model: directory of a model that was trained from the same base model.

    Raises:
        LorsError: the model is missing, or has other tensors or another vocabulary.
    """
    from lors.checkpoint.expert import open_model  # torch is slow to import
    from lors.checkpoint.vocabulary import check_same_vocabulary

    file, base = Path(model) / RECIPE_MODEL, config["init_param"][0]
    if not file.exists():
        raise LorsError("no pre-trained model", where=file, hint="run the pre-training first")
    found, expected = open_model(file).spec(), open_model(base).spec()
    if found != expected:
        differ = sorted({*found.items()} ^ {*expected.items()}, key=str)
        raise LorsError(
            "a pre-trained model of another structure than the base model",
            where=file,
            expected=f"the tensors of {base}",
            got=shortened(f"{name}: {list(shape)}" for name, (shape, _) in differ),
            hint="pre-train and fine-tune with the same base model and the same languages",
        )
    check_same_vocabulary(base, file)
    return {**config, "init_param": [str(file)]}


def _is_quantised(base: str | os.PathLike) -> bool:
    from lors.checkpoint.quantised import is_quantised  # torch is slow to import

    return is_quantised(base)


def adapter_differences(start: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return why an adapter of one configuration cannot be trained on by another.

    Another rank or other layers do not fit; another alpha would scale the adapter anew.

    Args:
        start: configuration that the adapter was trained with.
        config: configuration that it shall be trained on with.

    Returns:
        A line ``rank: 4 -> 8`` for each key of ``adapter_conf`` that differs.
    """
    before, now = _lora_of(start), _lora_of(config)
    return [f"{key}: {before[key]} -> {now[key]}" for key in before if before[key] != now[key]]


def _lora_of(config: Mapping[str, Any]) -> dict[str, Any]:
    given = config.get("adapter_conf")
    found = {**LORA_DEFAULTS, **(given if isinstance(given, Mapping) else {})}
    modules = found["target_modules"]
    if isinstance(modules, list):  # their order means nothing
        found["target_modules"] = sorted(map(str, modules))
    return {key: found[key] for key in LORA_DEFAULTS}


def _checked_adapter(
    base: str | os.PathLike, adapter: str | os.PathLike, config: Mapping[str, Any]
) -> str:
    """Return the file of an adapter.

    Raises:
        LorsError: it is missing, no adapter, the adapter of another base model, or of another rank,
            alpha or other layers than those of `config`.
    """
    from lors.checkpoint.adapter import open_adapter  # torch is slow to import
    from lors.checkpoint.lora_files import is_adapter
    from lors.checkpoint.quantised import open_base
    from lors.checkpoint.reader import Checkpoint

    file = Path(adapter) / RECIPE_MODEL
    opened = Checkpoint.open(file)
    if not is_adapter(opened):
        raise LorsError("not an adapter", where=file, expected="a checkpoint with LoRA factors")
    open_adapter(open_base(model_in(Path(base))), opened)
    trained_with = Path(adapter) / "config.yaml"
    if differences := adapter_differences(read_yaml(trained_with), config):
        raise LorsError(
            "the training begins with an adapter of another kind",
            where=f"adapter_conf of {trained_with}, and of the training configuration",
            expected="one rank, one alpha and the same target_modules",
            got=differences,
            hint="train both with the same adapter_conf",
        )
    return str(file)


def base_models(config: Mapping[str, Any]) -> list[str]:
    """Return the files that a training starts from; the first one is the base model."""
    quantised = config.get(QUANTISED_BASE)
    return [*([quantised] if quantised else []), *config.get("init_param", [])]


def from_scratch_config(tokens: str | os.PathLike, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with the vocabulary and the feature statistics of a new S2T model.

    Args:
        tokens: directory of ``tokens.txt`` and ``bpe.model``; it receives ``feats_stats.npz`` when
            statistics are collected.
        config: ESPnet's options for a training from scratch.
    """
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


def needs_feature_stats(config: Mapping[str, Any]) -> bool:
    """Return whether feature statistics must be collected; a base model already has them."""
    return "init_param" not in config and config.get("normalize") == "global_mvn"


def stats_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` for the collection of statistics, which needs no weights."""
    config = {**config, "num_workers": 0}
    if needs_feature_stats(config):
        del config["normalize_conf"]
        config["normalize"] = None
        # S2T models pad speech with silence, which would dominate the statistics. The first second
        # of a clip is speech alone.
        config["preprocessor_conf"] = {**config["preprocessor_conf"], "speech_length": 1.0}
    else:
        model_conf = {**config.get("model_conf", {}), "extract_feats_in_collect_stats": False}
        config["model_conf"] = model_conf
    config.pop("init_param", None)
    config.pop(QUANTISED_BASE, None)
    return config


def training_config(config: Mapping[str, Any], pairs: int, seed: int) -> dict[str, Any]:
    """Return `config` with a seed and with the budget of a number of pairs.

    ``num_iters_per_epoch`` and ``total_steps`` (the length of the training for the scheduler
    onecyclelr) are multiplied by `pairs`.
    """
    config = {**config, "seed": seed}
    if config.get("num_iters_per_epoch"):
        config["num_iters_per_epoch"] *= pairs
    schedule = config.get("scheduler_conf") or {}
    if "total_steps" in schedule:
        config["scheduler_conf"] = {**schedule, "total_steps": schedule["total_steps"] * pairs}
    return config


def check_masked_config(config: Mapping[str, Any], where: object) -> None:
    """Check that a model can be trained under masks with these options; no model is read.

    Args:
        config: ESPnet's options.
        where: their file, for the error.

    Raises:
        LorsError: batches would mix languages, gradients of several batches would be added up, or
            there are adapters.
    """
    problems = [
        f"{key}: {config[key]}, expected {allowed[0]}"
        for key, allowed in UNDER_MASKS.items()
        if config.get(key, allowed[0]) not in allowed
    ]
    if problems:
        raise LorsError(
            "this configuration cannot train under masks",
            where=where,
            expected="batches of one language each, and an update after each",
            got=problems,
            hint="correct it, or give another one with --s3net_config",
        )


def check_masked_training(
    config: Mapping[str, Any], pairs: Sequence[Pair], masks: str | os.PathLike
) -> None:
    """Check that a model can be trained on `pairs` under masks with this configuration.

    Raises:
        LorsError: as :func:`check_masked_config`, or the masks belong to another base model. A
            model that was trained under these masks can be trained further under them.
        UsageError: a language without a mask.
    """
    check_masked_config(config, "the training configuration")
    from lors.checkpoint.expert import open_model  # torch is slow to import
    from lors.checkpoint.masks import Masks

    found = Masks(masks)
    found.check_languages(pair.lang for pair in pairs)
    start = Path(config["init_param"][0])
    own = start.with_name(MASKS)
    if not own.exists() or file_digest(own) != file_digest(masks):
        found.check_base(open_model(start))
