"""Files of LoRA adapters: the factors, their scales and other trained weights, with file names.

PEFT writes a directory with ``adapter_config.json`` and ``adapter_model.safetensors``. ESPnet
writes a checkpoint with ``*.lora_A`` and ``*.lora_B``, with or without the other weights of the
model; the scale of the factors is in ``config.yaml`` in the same directory.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from lors.checkpoint.reader import PEFT_CONFIG, Checkpoint
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.config import Range, build, describe, read_yaml
from lors.errors import LorsError, UsageError, shortened
from lors.fileio import read_json_object

PEFT_MODEL = "adapter_model.safetensors"
PEFT_PICKLE = "adapter_model.bin"
PEFT_PREFIX = "base_model.model."
T = TypeVar("T")


@dataclass(frozen=True)
class LoraFile:
    """The content of an adapter's files, under the names in the files.

    Attributes:
        tensors: the file with the tensors.
        config: the file with the scale.
        factors: adapted weight -> names of its factors B (out x r) and A (r x in).
        scale: adapted weight -> factor that multiplies B A.
        whole: weight that was trained without factors -> its name in `tensors`.
    """

    tensors: Checkpoint
    config: Path
    factors: Mapping[str, tuple[str, str]]
    scale: Mapping[str, float]
    whole: Mapping[str, str]


@dataclass(frozen=True)
class _PeftConfig:
    """The entries of PEFT's ``adapter_config.json`` that LoRS uses, with PEFT's defaults.

    The rank is not among them: it is a dimension of the factors.
    """

    peft_type: str = "LORA"
    use_dora: bool = False
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    lora_alpha: Annotated[float, Range()] = 8.0
    alpha_pattern: dict[str, Annotated[float, Range()]] | None = None


@dataclass(frozen=True)
class _EspnetConfig:
    """The entries of ESPnet's ``adapter_conf`` that LoRS uses."""

    alpha: Annotated[float, Range()]


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
            a plain LoRA of linear layers.
    """
    config_file = directory / PEFT_CONFIG
    config = from_description(_PeftConfig, read_json_object(config_file), config_file)
    required = {"peft_type": "LORA", "use_dora": False, "fan_in_fan_out": False}
    problems = [
        f"{key}: {getattr(config, key)}"
        for key, value in required.items()
        if getattr(config, key) != value
    ]
    tensors = _open_peft_tensors(directory)
    pairs: dict[str, dict[str, str]] = {}
    whole = {}
    for name in tensors.names():
        short = name.removeprefix(PEFT_PREFIX)
        found = re.fullmatch(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight", short)
        if found:
            pairs.setdefault(found[1], {})[found[2]] = name
        elif ".lora_" in short:
            problems.append(f"{name}: not a factor of a linear layer")
        else:
            whole[re.sub(r"\.modules_to_save(\.\w+)?|\.base_layer", "", short)] = name
    if problems:
        raise LorsError(
            "this adapter is not a plain LoRA",
            where=config_file,
            expected="LoRA of linear layers",
            got=shortened(problems, 20),
            hint="merge it into its model with PEFT's merge_and_unload() and give that model",
        )

    def scale(module: str, rank: int) -> float:
        alpha = _alpha_of(module, config, config_file)
        return alpha / (math.sqrt(rank) if config.use_rslora else rank)

    return _lora_file(tensors, config_file, pairs, scale, whole)


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
    """Make an instance of the dataclass `cls` from a file about an adapter; ignore other keys.

    Raises:
        LorsError: a key is missing or has a wrong value.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    try:
        return build(cls, {key: value for key, value in values.items() if key in known}, where)
    except UsageError as error:
        raise LorsError(
            "the description of an adapter is damaged",
            where=where,
            expected=describe(cls),
            got=error.got,
            hint="copy it again from where the adapter was trained",
        ) from None


def _open_peft_tensors(directory: Path) -> Checkpoint:
    if not (directory / PEFT_MODEL).exists() and (directory / PEFT_PICKLE).exists():
        raise LorsError(
            "LoRS does not read this file format of an adapter",
            where=directory / PEFT_PICKLE,
            expected=PEFT_MODEL,
            hint="convert it, in its directory: python -c 'import torch, safetensors.torch as s; "
            f's.save_file(torch.load("{PEFT_PICKLE}", weights_only=True), "{PEFT_MODEL}")\'',
        )
    return Checkpoint.open(directory / PEFT_MODEL)


def _alpha_of(module: str, config: _PeftConfig, where: Path) -> float:
    """Return the alpha of a module.

    The first pattern in ``alpha_pattern`` that matches the end of its name decides; without a match
    it is ``lora_alpha``.
    """
    for pattern, alpha in (config.alpha_pattern or {}).items():
        try:
            found = re.fullmatch(rf"(.*\.)?({pattern})", module)
        except re.error as error:
            raise LorsError(
                "a key of alpha_pattern is not a valid pattern",
                where=where,
                expected="the end of a module's name, or a regular expression for it",
                got=f"{pattern!r}: {error}",
                hint="correct it to the value that the adapter was trained with",
            ) from None
        if found:
            return alpha
    return config.lora_alpha


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
        if len(up) != 2 or len(down) != 2 or up[1] != down[0]:
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
        )
    return LoraFile(tensors, config, factors, scales, whole)
