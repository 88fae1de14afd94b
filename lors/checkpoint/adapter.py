"""Low-rank adapters (LoRA) as models: their task vectors come in two thin factors.

Two kinds of files hold adapters: a directory of PEFT (``adapter_config.json`` and
``adapter_model.safetensors``), and a checkpoint of ESPnet with ``*.lora_A`` and ``*.lora_B``,
alone or among the model's weights, whose scale stands in the ``config.yaml`` beside it. Either may
have ``base.json`` beside it, which says what model it was trained on.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from torch import Tensor
from xxhash import xxh3_128

from lors.checkpoint.naming import names_in, translation
from lors.checkpoint.reader import PEFT_CONFIG, Checkpoint, bytes_of
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.config import Range, build, describe, read_yaml
from lors.errors import LorsError, UsageError
from lors.fileio import read_json_object, write_json

PEFT_MODEL = "adapter_model.safetensors"
PEFT_PICKLE = "adapter_model.bin"
PEFT_PREFIX = "base_model.model."
BASE_RECORD = "base.json"
T = TypeVar("T")


@dataclass(frozen=True)
class _PeftConfig:
    """What counts of PEFT's ``adapter_config.json``, with PEFT's defaults.

    Ranks are seen in the factors themselves.
    """

    peft_type: str = "LORA"
    use_dora: bool = False
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    lora_alpha: Annotated[float, Range()] = 8.0
    alpha_pattern: dict[str, Annotated[float, Range()]] | None = None


@dataclass(frozen=True)
class _EspnetAdapter:
    """What counts of the ``adapter_conf`` of ESPnet."""

    alpha: Annotated[float, Range()]


@dataclass(frozen=True)
class _BaseRecord:
    """``base.json``: the file of the base model, from the adapter's directory, and its weights."""

    model: str
    fingerprint: str


@dataclass(frozen=True)
class _Parts:
    """What an adapter's file holds, under the names of its own kind of file.

    Attributes:
        tensors: the file.
        config: the file that the scale stands in.
        factors: adapted weight -> names of its factors B (out x r) and A (r x in).
        scale: adapted weight -> factor of B A.
        whole: weight that was trained as a whole -> its name in the file.
    """

    tensors: Checkpoint
    config: Path
    factors: Mapping[str, tuple[str, str]]
    scale: Mapping[str, float]
    whole: Mapping[str, str]


class AdaptedCheckpoint(Checkpoint):
    """A base model with an adapter, as if the adapter were merged into it.

    Args:
        base: the model that the adapter was trained on.
        path: a directory of PEFT or a checkpoint file of ESPnet.
        parts: what is in it.

    Raises:
        LorsError: it does not fit the base model.
    """

    def __init__(self, base: Checkpoint, path: Path, parts: _Parts):
        super().__init__(path)
        self._base = base
        self._tensors, self._config = parts.tensors, parts.config
        own = [*parts.factors, *parts.whole]
        to_base = {name: name for name in own} | {
            theirs: ours for ours, theirs in translation(base.names(), own).items()
        }
        self._factors = {to_base[name]: pair for name, pair in parts.factors.items()}
        self._scale = {to_base[name]: scale for name, scale in parts.scale.items()}
        self._whole = {to_base[name]: name_ for name, name_ in parts.whole.items()}
        self._check_fit()

    def _check_fit(self) -> None:
        spec = self._base.spec()
        got = {name: self._tensors.shape(key) for name, key in self._whole.items()}
        for name, (up, down) in self._factors.items():
            got[name] = (self._tensors.shape(up)[0], self._tensors.shape(down)[1])
        problems = []
        for name, shape in got.items():
            if name not in spec:
                problems.append(f"{name}: not in the base model")
            elif spec[name][0] != shape:
                problems.append(
                    f"{name}: shape {list(spec[name][0])}, in the adapter {list(shape)}"
                )
        if problems:
            raise LorsError(
                "the adapter does not fit the base model",
                where=self.path,
                expected=f"the names and shapes of {self._base.path}",
                got="\n    - ".join(["", *sorted(problems)]),
                hint="an adapter must be given with the very model that it was trained on",
            )

    def files(self) -> list[Path]:
        return [*self._tensors.files(), self._config]

    def names(self) -> list[str]:
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._base.dtype(name)

    def tensor(self, name: str) -> Tensor:
        base = self._base.tensor(name)
        factors = self.factors(name)
        if factors is None:
            return self._tensors.tensor(self._whole[name]) if name in self._whole else base
        up, down = factors
        return (base.double() + up.double() @ down.double()).to(base.dtype)

    def is_adapted(self, name: str) -> bool:
        if name not in self._factors or name not in self._whole:
            return name in self._factors
        # A weight that is not the base's has its adapter merged into it already.
        return self._tensors.digest(self._whole[name]) == self._base.digest(name)

    def factors(self, name: str) -> tuple[Tensor, Tensor] | None:
        if not self.is_adapted(name):
            return None
        up, down = (self._tensors.tensor(key).float() for key in self._factors[name])
        return up * self._scale[name], down

    def fingerprint(self) -> str:
        """Of the adapter's file and its scales, however they are written, without the base model.

        A name in the file stands for each scale: it is the same on every form of the base model.
        """
        # alpha / r and alpha / sqrt(r) may differ in the last digit of one and the same scale.
        scales = sorted(
            (self._factors[name][0], f"{scale:.12g}") for name, scale in self._scale.items()
        )
        return xxh3_128(f"{self._tensors.fingerprint()} {scales}".encode()).hexdigest()

    def note(self, name: str) -> None:
        for key in (*self._factors.get(name, ()), *filter(None, [self._whole.get(name)])):
            self._tensors.digest(key)


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint of ESPnet has factors of LoRA in it."""
    return any(name.endswith(".lora_A") for name in checkpoint.names())


def is_peft_file(checkpoint: Checkpoint) -> bool:
    """Whether this is the file of a PEFT adapter, which does not say its scale."""
    return any(name.startswith(PEFT_PREFIX) and ".lora_" in name for name in checkpoint.names())


def open_adapter(base: Checkpoint, adapter: Path | Checkpoint) -> AdaptedCheckpoint:
    """Open a directory of PEFT or a checkpoint of ESPnet that :func:`is_adapter`.

    Logs a warning if it does not say which model it was trained on.

    Raises:
        LorsError: a file is missing or damaged, a factor has no partner, it does more than add a
            product of two factors (DoRA, for one), or it was trained on another model than `base`.
    """
    path = adapter if isinstance(adapter, Path) else adapter.path
    _check_base(base, path)
    parts = _read_peft(adapter) if isinstance(adapter, Path) else _read_espnet(adapter)
    return AdaptedCheckpoint(base, path, parts)


def record_base(base: Checkpoint, directory: str | os.PathLike) -> None:
    """Note in an adapter's directory which model it is trained on: ``base.json``."""
    record = _BaseRecord(os.path.relpath(base.path, directory), _values(base))
    write_json(Path(directory) / BASE_RECORD, dataclasses.asdict(record))


def recorded_base(adapter: str | os.PathLike) -> Path:
    """The model file that an adapter was trained on, as :func:`record_base` noted it.

    Raises:
        LorsError: there is no such note, it is damaged, or there is no such model any more.
    """
    record = Path(adapter).parent / BASE_RECORD
    path = Path(os.path.normpath(record.parent / _read_base_record(record).model))
    if not path.exists():
        raise LorsError("the model that this adapter was trained on is missing", where=path)
    return path


def _check_base(base: Checkpoint, adapter: Path) -> None:
    record = (adapter if adapter.is_dir() else adapter.parent) / BASE_RECORD
    if not record.is_file():
        logging.warning(
            "%s does not say which model it was trained on (no %s): taken for %s",
            *(adapter, BASE_RECORD, base.path),
        )
        return
    noted = _read_base_record(record)
    if _values(base) != noted.fingerprint:
        raise LorsError(
            "the adapter was trained on another model",
            where=adapter,
            expected=f"the base model with the weights of {noted.model} (in {record})",
            got=base.path,
            hint="give --base that model",
        )


def _read_base_record(path: Path) -> _BaseRecord:
    return _described(_BaseRecord, read_json_object(path), path)


def _values(model: Checkpoint) -> str:
    """A hash of a model's weights, whatever kind of file they are in and whatever their dtype."""
    try:
        names = names_in("openai", model.names())
    except LorsError:
        names = {name: name for name in model.names()}
    whole = xxh3_128()
    for name, key in sorted((new, old) for old, new in names.items()):
        if model.dtype(key) == torch.float32:
            digest = model.digest(key)  # kept for the merge's record
        else:
            digest = xxh3_128(bytes_of(model.tensor(key).float())).hexdigest()
        whole.update(f"{name} {digest}\n".encode())
    return whole.hexdigest()


def _read_peft(directory: Path) -> _Parts:
    source = directory / PEFT_CONFIG
    config = _described(_PeftConfig, read_json_object(source), source)
    problems = [
        f"{key}: {getattr(config, key)}"
        for key, plain in (("peft_type", "LORA"), ("use_dora", False), ("fan_in_fan_out", False))
        if getattr(config, key) != plain
    ]
    tensors = _open_peft(directory)
    stems: dict[str, dict[str, str]] = {}
    whole = {}
    for name in tensors.names():
        short = name.removeprefix(PEFT_PREFIX)
        found = re.fullmatch(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight", short)
        if found:
            stems.setdefault(found[1], {})[found[2]] = name
        elif ".lora_" in short:
            problems.append(f"{name}: not a factor of a linear layer")
        else:
            whole[re.sub(r"\.modules_to_save(\.\w+)?|\.base_layer", "", short)] = name
    if problems:
        raise LorsError(
            "this adapter does not just add low-rank matrices",
            where=source,
            expected="LoRA of linear layers",
            got="\n    - ".join(["", *problems]),
            hint="merge it into its model with PEFT's merge_and_unload() and give that model",
        )

    def scale(module: str, rank: int) -> float:
        alpha = _alpha_of(module, config, source)
        return alpha / (math.sqrt(rank) if config.use_rslora else rank)

    return _adapter(tensors, directory / PEFT_CONFIG, stems, scale, whole)


def _open_peft(directory: Path) -> Checkpoint:
    """The tensors of an adapter."""
    if not (directory / PEFT_MODEL).exists() and (directory / PEFT_PICKLE).exists():
        raise LorsError(
            "this adapter is in a kind of file that LoRS does not read",
            where=directory / PEFT_PICKLE,
            expected=PEFT_MODEL,
            hint="convert it, in its directory: python -c 'import torch, safetensors.torch as s; "
            f's.save_file(torch.load("{PEFT_PICKLE}", weights_only=True), "{PEFT_MODEL}")\'',
        )
    return Checkpoint.open(directory / PEFT_MODEL)


def _alpha_of(module: str, config: _PeftConfig, where: Path) -> float:
    """PEFT's settings for single modules: the first key that ends the module's name."""
    for pattern, alpha in (config.alpha_pattern or {}).items():
        try:
            found = re.fullmatch(rf"(.*\.)?({pattern})", module)
        except re.error as error:
            raise LorsError(
                "a key of alpha_pattern is no pattern of names",
                where=where,
                expected="the end of modules' names, or a regular expression for it",
                got=f"{pattern!r}: {error}",
                hint="correct it to what the adapter was trained with",
            ) from None
        if found:
            return alpha
    return config.lora_alpha


def _read_espnet(tensors: Checkpoint) -> _Parts:
    stems: dict[str, dict[str, str]] = {}
    whole = {}
    for name in tensors.names():
        found = re.fullmatch(r"(.+)\.lora_([AB])", name)
        if found:
            stems.setdefault(found[1], {})[found[2]] = name
        else:
            whole[name] = name
    source = tensors.path.parent / ESPNET_CONFIG
    config = read_yaml(source) if source.is_file() else {}
    settings = config.get("adapter_conf")
    if not isinstance(settings, Mapping) or "alpha" not in settings:
        raise LorsError(
            "the scale of this adapter is not known",
            where=source,
            expected="adapter_conf with the rank and alpha of its training",
            got="no such file" if not source.is_file() else "no adapter_conf with alpha",
            hint="put the config.yaml of the training beside the checkpoint",
        )
    alpha = _described(_EspnetAdapter, settings, f"{source}: adapter_conf").alpha
    return _adapter(tensors, source, stems, lambda _, rank: alpha / rank, whole)


def _adapter(
    tensors: Checkpoint,
    config: Path,
    stems: Mapping[str, Mapping[str, str]],
    scale: Callable[[str, int], float],
    whole: Mapping[str, str],
) -> _Parts:
    problems = []
    factors, scales = {}, {}
    for stem, pair in stems.items():
        if len(pair) < 2:
            problems.append(f"{next(iter(pair.values()))}: its partner is missing")
            continue
        up, down = tensors.shape(pair["B"]), tensors.shape(pair["A"])
        if len(up) != 2 or len(down) != 2 or up[1] != down[0]:
            problems.append(f"{stem}: factors of shape {list(up)} and {list(down)}")
            continue
        weight = f"{stem}.weight"
        factors[weight] = (pair["B"], pair["A"])
        scales[weight] = scale(stem, down[0])
    if problems or not factors:
        raise LorsError(
            "not a whole adapter",
            where=tensors.path,
            expected="a factor lora_A (r x in) and lora_B (out x r) for every adapted layer",
            got="\n    - ".join(["", *problems]) if problems else "no factors at all",
        )
    return _Parts(tensors, config, factors, scales, whole)


def _described(cls: type[T], values: Mapping[str, Any], where: object) -> T:
    """Make a `cls` from the description of an adapter; its further entries may be anything."""
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
