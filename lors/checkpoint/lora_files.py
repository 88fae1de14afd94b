"""Files of LoRA adapters: the factors, their scales and other trained weights, with file names.

PEFT writes a directory with ``adapter_config.json`` and ``adapter_model.safetensors``. ESPnet
writes a checkpoint with ``*.lora_A`` and ``*.lora_B``, with or without the other weights of the
model; the scale of the factors is in ``config.yaml`` in the same directory.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from lors.checkpoint.patterns import BadPattern, first_match
from lors.checkpoint.places import PEFT_CONFIG, PEFT_MODEL, PEFT_PICKLE
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.config import FLOAT32, Range, build, describe, read_yaml
from lors.config.schema import T
from lors.errors import BRIEF, LorsError, UsageError, shortened
from lors.fileio import read_json_object

Value = TypeVar("Value")
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraFile:
    """The content of an adapter's files, under the names in the files.

    Attributes:
        tensors: the file with the tensors.
        config: the file with the scale.
        factors: adapted weight -> names of its factors B (out x r) and A (r x in).
        scale: adapted weight -> factor that multiplies B A.
        whole: weight that was trained without factors -> its name in `tensors`. In a file of
            ESPnet also the weights of adapted layers, with or without the product B A in them.
        trained_on: name of the base model, as recorded in `config`.
        keeps_ties: whether the training kept tied weights equal.
        weights_are_base: whether the weight of an adapted layer in `whole`, if there is one, is
            that of the base model (PEFT).
    """

    tensors: Checkpoint
    config: Path
    factors: Mapping[str, tuple[str, str]]
    scale: Mapping[str, float]
    whole: Mapping[str, str]
    trained_on: str | None = None
    keeps_ties: bool = False
    weights_are_base: bool = False


@dataclass(frozen=True)
class _PeftConfig:
    """The entries of PEFT's ``adapter_config.json`` that LoRS uses, with PEFT's defaults.

    The rank is also a dimension of the factors; if ``r`` is there, the two must agree.
    """

    peft_type: str = "LORA"
    use_rslora: bool = False
    lora_alpha: Annotated[float, FLOAT32] = 8.0
    alpha_pattern: dict[str, Annotated[float, FLOAT32]] | None = None
    r: Annotated[int, Range(1)] | None = None
    rank_pattern: dict[str, Annotated[int, Range(1)]] | None = None
    base_model_name_or_path: str | None = None
    ensure_weight_tying: bool = False


HARMLESS_INITS = (True, False, "gaussian", "orthogonal", "mica")
"""Values of ``init_lora_weights`` that leave the weights of the base model as they are.

The others (pissa, olora, corda, loftq, lora_ga ...) change them before the training, so that the
factors are not the difference to the base model.
"""
_OF_TRAINING = frozenset(
    (
        *(
            "task_type",
            "auto_mapping",
            "peft_version",
            "revision",
            "inference_mode",
            "runtime_config",
        ),
        *("lora_dropout", "target_modules", "exclude_modules"),
        *("layers_to_transform", "layers_pattern", "bias", "modules_to_save", "megatron_core"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
    )
)
"""Entries that do not change the meaning of the factors: they say how the training was set up, are
repeated in the tensor file, or have no effect without another entry."""


@dataclass(frozen=True)
class _EspnetConfig:
    """The entries of ESPnet's ``adapter_conf`` that LoRS uses."""

    alpha: Annotated[float, FLOAT32]


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Return whether an ESPnet checkpoint has LoRA factors in it."""
    return any(name.endswith(".lora_A") for name in checkpoint.names())


def is_peft_file(checkpoint: Checkpoint) -> bool:
    """Return whether this is the tensor file of a PEFT adapter, which does not hold the scale."""
    return any(name.startswith(PEFT_PREFIX) and ".lora_" in name for name in checkpoint.names())


def read_peft(directory: Path) -> LoraFile:
    """Open the directory of a PEFT adapter.

    Raises:
        LorsError: a file is missing or damaged, a factor lacks its partner, or the adapter is not
            a plain LoRA of linear layers on the unchanged base model.
    """
    config_file = directory / PEFT_CONFIG
    values = read_json_object(config_file)
    config = from_description(_PeftConfig, values, config_file)
    problems = _other_settings(values)
    tensors = _open_peft_tensors(directory)
    pairs: dict[str, dict[str, str]] = {}
    whole = {}
    for name in tensors.names():
        short = name.removeprefix(PEFT_PREFIX)
        found = re.fullmatch(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight", short)
        if found and found[2] in pairs.get(found[1], {}):
            problems.append(f"{name}: a second adapter of this layer")
        elif found and len(tensors.shape(name)) == 2:
            pairs.setdefault(found[1], {})[found[2]] = name
        elif ".lora_" in short:
            problems.append(f"{name}: not a factor of a linear layer")
        else:
            whole[re.sub(r"\.modules_to_save(\.\w+)?|\.base_layer", "", short)] = name
    if problems:
        raise not_plain(config_file, problems)
    alpha = _by_module(pairs, config.lora_alpha, config.alpha_pattern, "alpha_pattern", config_file)
    ranks = _by_module(pairs, config.r, config.rank_pattern, "rank_pattern", config_file)

    def scale(module: str, rank: int) -> float:
        if config.r is not None and rank != ranks[module]:
            raise LorsError(
                "the factors of this adapter do not have the rank of its description",
                where=f"{config_file}: {module}",
                expected=f"rank {ranks[module]} (r, rank_pattern)",
                got=f"rank {rank}",
                hint="copy the adapter again, with its own adapter_config.json",
            )
        return alpha[module] / (math.sqrt(rank) if config.use_rslora else rank)

    adapter = _lora_file(tensors, config_file, pairs, scale, whole)
    return dataclasses.replace(
        adapter,
        trained_on=config.base_model_name_or_path,
        keeps_ties=config.ensure_weight_tying,
        weights_are_base=True,
    )


def not_plain(config: Path, problems: list[str]) -> LorsError:
    """Return the error for an adapter that is more than factors beside an unchanged base model."""
    return LorsError(
        "this adapter is not a plain LoRA",
        where=config,
        expected="LoRA of linear layers, whose product is added to the unchanged base model",
        got=shortened(problems, 20),
        hint="merge it into its model with PEFT's merge_and_unload(), if PEFT can do that, and "
        "give the merged model",
    )


def _other_settings(values: Mapping[str, Any]) -> list[str]:
    """Return the entries of ``adapter_config.json`` that make an adapter other than a plain LoRA.

    Entries that LoRS does not know are among them, unless they are switched off: a later version of
    PEFT may use them to change the meaning of the factors.
    """
    required = {"peft_type": ("LORA",), "init_lora_weights": HARMLESS_INITS}
    known = {field.name for field in dataclasses.fields(_PeftConfig)} | _OF_TRAINING
    problems = []
    for key, value in values.items():
        if key in required:
            # 1 and 0 are equal to True and False, but mean nothing to PEFT.
            fits = any(type(value) is type(good) and value == good for good in required[key])
        else:
            fits = key in known or not value
        if not fits:
            shown = value if isinstance(value, str) else BRIEF.repr(value)
            problems.append(f"{key}: {shown:.200}")
    return problems


def read_espnet(tensors: Checkpoint) -> LoraFile:
    """Return the adapter in an ESPnet checkpoint for which :func:`is_adapter` is true.

    Raises:
        LorsError: the scale is not in the ``config.yaml``, or a factor lacks its partner.
    """
    pairs: dict[str, dict[str, str]] = {}
    whole = {}
    for name in tensors.names():
        found = re.fullmatch(r"(.+)\.lora_([AB])", name)
        if found:
            pairs.setdefault(found[1], {})[found[2]] = name
        else:
            whole[name] = name
    config_file = tensors.path.parent / ESPNET_CONFIG
    config = read_yaml(config_file) if config_file.is_file() else {}
    settings = config.get("adapter_conf")
    if not isinstance(settings, Mapping) or "alpha" not in settings:
        raise LorsError(
            "the scale of this adapter is not known",
            where=config_file,
            expected="adapter_conf with the rank and alpha of the training",
            got="no adapter_conf with alpha" if config_file.is_file() else "no such file",
            hint="copy the config.yaml of the training into the directory of the checkpoint",
        )
    alpha = from_description(_EspnetConfig, settings, f"{config_file}: adapter_conf").alpha
    return _lora_file(tensors, config_file, pairs, lambda _, rank: alpha / rank, whole)


def from_description(cls: type[T], values: Mapping[str, Any], where: object) -> T:
    """Make an instance of the dataclass `cls` from a file about an expert; ignore other keys.

    Raises:
        LorsError: a key is missing or has a wrong value.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    try:
        return build(cls, {key: value for key, value in values.items() if key in known}, where)
    except UsageError as error:
        raise LorsError(
            "the description of this expert is damaged",
            where=where,
            expected=describe(cls),
            got=error.got,
            hint="copy it again from where the expert was made",
        ) from None


def _open_peft_tensors(directory: Path) -> Checkpoint:
    pickled = not (directory / PEFT_MODEL).exists() and (directory / PEFT_PICKLE).exists()
    return Checkpoint.open(directory / (PEFT_PICKLE if pickled else PEFT_MODEL))


def _by_module(
    modules: Iterable[str],
    default: Value,
    patterns: Mapping[str, Value] | None,
    key: str,
    where: Path,
) -> dict[str, Value]:
    """Return the value of each module.

    The first of `patterns` that matches the end of the name decides; without a match it is
    `default`.

    Args:
        key: name of `patterns` in the file, for the error message.
        where: the file.
    """
    patterns = patterns or {}
    try:
        matches = first_match(patterns, modules)
    except BadPattern as error:
        raise LorsError(
            f"{key} cannot be used",
            where=where,
            expected="as its keys, the ends of names of modules, or regular expressions for them",
            got=error,
            hint="give the names of the modules instead, each with its value",
        ) from None
    return {
        module: default if pattern is None else patterns[pattern]
        for module, pattern in matches.items()
    }


def _lora_file(
    tensors: Checkpoint,
    config: Path,
    pairs: Mapping[str, Mapping[str, str]],
    scale: Callable[[str, int], float],
    whole: Mapping[str, str],
) -> LoraFile:
    """Check that every factor has its partner; return the adapter.

    Args:
        pairs: module -> the names of its factors, under ``A`` and ``B``.
        scale: function of module and rank.
    """
    problems = []
    factors, scales = {}, {}
    for module, pair in pairs.items():
        if len(pair) < 2:
            problems.append(f"{next(iter(pair.values()))}: its partner is missing")
            continue
        up, down = tensors.shape(pair["B"]), tensors.shape(pair["A"])
        if 0 in (*up, *down) or len(up) != 2 or len(down) != 2 or up[1] != down[0]:
            problems.append(f"{module}: factors of shape {list(up)} and {list(down)}")
            continue
        weight = f"{module}.weight"
        factors[weight] = (pair["B"], pair["A"])
        scales[weight] = scale(module, down[0])
    if problems or not factors:
        raise LorsError(
            "this adapter is incomplete",
            where=tensors.path,
            expected="factors lora_A (r x in) and lora_B (out x r) for every adapted layer",
            got=shortened(problems, 20) or "no factors at all",
            hint="copy the adapter again from where it was trained",
        )
    return LoraFile(tensors, config, factors, scales, whole)
