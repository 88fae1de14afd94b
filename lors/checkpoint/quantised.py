"""Models in NF4 on disk: a ``.safetensors`` file of codes and scales, which is data only.

A tensor ``<name>`` in NF4 is stored as ``<name>.codes``, ``<name>.absmax`` and, with double
quantisation, ``<name>.scale`` and ``<name>.offset`` (:class:`lors.checkpoint.nf4.Nf4`). Other
tensors have their own names, in float32. The header says what the file is, the shapes, and the
fingerprint of the model that was quantised.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lors.checkpoint.adapter_base import hash_of_weights
from lors.checkpoint.expert import open_model
from lors.checkpoint.finite import check_finite
from lors.checkpoint.nf4 import BLOCK, SCALE_BLOCK, Nf4, quantise
from lors.checkpoint.places import RECIPE_MODEL, RECIPE_VECTOR
from lors.checkpoint.reader import QUANTISED, Checkpoint, SafetensorsCheckpoint
from lors.checkpoint.writer import CheckpointWriter
from lors.config import build
from lors.errors import LorsError, UsageError, shortened

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Header:
    """The header of a quantised file.

    Attributes:
        kind: the format of the codes.
        block: weights in a block.
        double: whether the scales are quantised too.
        base: hash of the weights of the full-precision model
            (:func:`lors.checkpoint.adapter_base.hash_of_weights`).
        shapes: tensor in NF4 -> its shape.
    """

    kind: str
    block: int
    double: bool
    base: str
    shapes: dict[str, list[int]]


class QuantisedCheckpoint(Checkpoint):
    """A quantised model; :meth:`tensor` returns the dequantised weights in float32.

    Args:
        path: the file.

    Raises:
        LorsError: the file is damaged, or no quantised model.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self._file = SafetensorsCheckpoint(path)
        self.header = _read_header(self._file.metadata, path)
        self.full_precision = self.header.base
        stored = self._file.spec()
        expected = _parts(self.header)
        problems = [
            f"{name}: expected {_form(*form)}, got {_form(*stored[name])}"
            if name in stored
            else f"{name}: missing"
            for name, form in expected.items()
            if stored.get(name) != form
        ]
        if problems:
            raise LorsError(
                "this quantised model is damaged",
                where=path,
                got=shortened(problems, 20),
                hint="copy it again, or quantise the model again",
            )
        whole = {name: form for name, form in stored.items() if name not in expected}
        in_nf4 = {n: (tuple(shape), torch.float32) for n, shape in self.header.shapes.items()}
        self._spec = {**whole, **in_nf4}

    def names(self) -> list[str]:
        return list(self._spec)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._spec[name][0]

    def dtype(self, name: str) -> torch.dtype:
        return self._spec[name][1]

    def quantised_names(self) -> list[str]:
        """Return the names of the tensors in NF4."""
        return list(self.header.shapes)

    def nf4(self, name: str) -> Nf4:
        """Return a tensor that is in NF4."""
        codes, absmax = (self._file.tensor(f"{name}.{part}") for part in ("codes", "absmax"))
        scale = offset = None
        if self.header.double:
            scale, offset = (self._file.tensor(f"{name}.{part}") for part in ("scale", "offset"))
        return Nf4(self.shape(name), codes, absmax, scale, offset, self.header.block)

    def tensor(self, name: str) -> Tensor:
        if name in self.header.shapes:
            return self.nf4(name).dequantised()
        return self._file.tensor(name)


def is_quantised(directory: str | os.PathLike) -> bool:
    """Return whether a model directory holds a quantised model, and none in full precision."""
    path = Path(directory) / RECIPE_VECTOR
    if not path.is_file() or path.with_name(RECIPE_MODEL).exists():
        return False
    return QUANTISED in SafetensorsCheckpoint(path).metadata


def open_quantised(path: str | os.PathLike) -> QuantisedCheckpoint:
    """Open a quantised model.

    Args:
        path: the file, or a model directory with ``model.safetensors``.

    Raises:
        LorsError: there is no such file, it is damaged, or no quantised model.
    """
    path = Path(path)
    if path.is_dir():
        path = path / RECIPE_VECTOR
    if not path.is_file() or path.suffix != SUFFIX:
        raise LorsError("no quantised model", where=path, expected=f"a {SUFFIX} of lors quantise")
    return QuantisedCheckpoint(path)


def open_base(path: str | os.PathLike) -> Checkpoint:
    """Open the file of a base model in a model directory, quantised or in full precision.

    Raises:
        LorsError: as in :func:`open_quantised` and :func:`lors.checkpoint.expert.open_model`.
    """
    return open_quantised(path) if is_quantised(Path(path).parent) else open_model(path)


def write_quantised(
    model: Checkpoint,
    names: Collection[str],
    out: str | os.PathLike,
    double: bool = False,
    block: int = BLOCK,
) -> None:
    """Quantise a model.

    Args:
        model: the model in full precision.
        names: tensors to quantise; the others are written in float32 (integers as they are).
        out: file to write, ``.safetensors``.
        double: quantise the scales too.
        block: weights in a block.

    Raises:
        UsageError: another suffix.
        LorsError: a value is NaN or infinite, or the file cannot be written.
    """
    if Path(out).suffix != SUFFIX:
        raise UsageError("cannot write a quantised model of this kind", where=out, expected=SUFFIX)
    shapes = {name: list(model.shape(name)) for name in names}
    header = Header("nf4", block, double, hash_of_weights(model), shapes)
    whole = {name: _whole(*form) for name, form in model.spec().items() if name not in shapes}
    metadata = {QUANTISED: json.dumps(dataclasses.asdict(header), separators=(",", ":"))}
    with CheckpointWriter(out, {**whole, **_parts(header)}, metadata=metadata) as writer:
        for name, (_, dtype) in whole.items():
            writer.add(name, model.tensor(name).to(dtype))
        for name in shapes:
            weight = model.tensor(name)
            check_finite(weight, f"{model.path}: {name}")
            packed = quantise(weight, block, double)
            for part in ("codes", "absmax", *(("scale", "offset") if double else ())):
                writer.add(f"{name}.{part}", getattr(packed, part))


def _whole(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[tuple[int, ...], torch.dtype]:
    return shape, torch.float32 if dtype.is_floating_point else dtype


def _parts(header: Header) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the spec of the parts of all tensors in NF4."""
    spec: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for name, shape in header.shapes.items():
        numel = math.prod(shape)
        blocks = -(-numel // header.block)
        spec[f"{name}.codes"] = ((-(-numel // 2),), torch.uint8)
        spec[f"{name}.absmax"] = ((blocks,), torch.uint8 if header.double else torch.float32)
        if header.double:
            spec[f"{name}.scale"] = ((-(-blocks // SCALE_BLOCK),), torch.float32)
            spec[f"{name}.offset"] = ((), torch.float32)
    return spec


def _form(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{list(shape)} {dtype}"


def _read_header(metadata: Mapping[str, str], path: Path) -> Header:
    """Return the checked header of a file."""
    problem: Any = "no header of a quantised model"
    if QUANTISED in metadata:
        try:
            header = build(Header, json.loads(metadata[QUANTISED]), path)
            sizes = [size for shape in header.shapes.values() for size in shape]
            if header.kind == "nf4" and header.block > 0 and all(size > 0 for size in sizes):
                return header
            problem = f"kind {header.kind}, blocks of {header.block}"
        except (ValueError, TypeError, UsageError) as error:
            problem = error.got if isinstance(error, UsageError) else error
    raise LorsError(
        "this is not a quantised model that LoRS reads",
        where=path,
        expected="a file of lors quantise, in NF4",
        got=problem,
        hint="quantise the model again",
    )
