"""One ``.safetensors`` file: tensors by name, and the masks of languages that LoRS stores in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor
from xxhash import xxh3_128

from lors.checkpoint.torch_file import corrupt_file, open_to_read
from lors.errors import BRIEF, LorsError, shortened

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
HEADER = "lors_masks"
"""Key of the metadata whose value, as JSON, describes the masks in a file."""
PREFIX = "mask/"
"""Start of the name of a tensor with the bits of a language's mask."""
MOST_DIMENSIONS, LONGEST_DIMENSION = 8, 2**40
"""Limits of the shape of a matrix under masks."""


class SafetensorsFile:
    """An open ``.safetensors`` file; values are read only when they are asked for.

    A file with masks (:mod:`lors.checkpoint.masks`) may hold a packed sub-network: of every matrix
    under the mask only the entries inside it, which :meth:`tensor` puts in their places.

    Args:
        path: the file.

    Attributes:
        spec: name of every tensor of the model -> shape and dtype; masks are left out.
        metadata: texts in its header.
        masks: the header of the masks; None in a file without masks.

    Raises:
        LorsError: the file cannot be read, or its masks are damaged.
    """

    def __init__(self, path: Path):
        open_to_read(path).close()  # safetensors would report an unreadable file as missing
        self.path = path
        self._checked: dict[str, np.ndarray] = {}
        try:
            self._file = safetensors.safe_open(str(path), framework="pt")
            self.metadata: Mapping[str, str] = self._file.metadata() or {}
        except safetensors.SafetensorError as error:
            raise corrupt_file(path, error) from None
        self.spec = {}
        for name in self._file.keys():  # noqa: SIM118 - not a dict, no iterator
            part = self._file.get_slice(name)
            if part.get_dtype() not in SAFETENSORS_DTYPES:
                raise LorsError(
                    "LoRS does not read this dtype",
                    where=f"{path}: {name}",
                    expected=", ".join(SAFETENSORS_DTYPES),
                    got=part.get_dtype(),
                    hint="load and save the model in float32 or bfloat16",
                )
            self.spec[name] = (tuple(part.get_shape()), SAFETENSORS_DTYPES[part.get_dtype()])
        self.masks = self._read_masks() if HEADER in self.metadata else None

    def _read_masks(self) -> MasksHeader:
        """Take the masks out of `spec`, and give packed matrices their shapes."""
        masks = MasksHeader(self.path, self.metadata[HEADER])
        for lang in masks.languages:
            length = -(-masks.entries // 8)
            found = self.spec.pop(PREFIX + lang, None)
            if found != ((length,), torch.uint8):
                raise damaged(self.path, f"the mask of {lang}: {found}, expected {length} bytes")
        if masks.packed:
            missing = [name for name in masks.shapes if name not in self.spec]
            if missing:
                raise damaged(self.path, shortened(f"{name}: no values" for name in missing))
            for name, shape in masks.shapes.items():
                self.spec[name] = (shape, self.spec[name][1])
        return masks

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the model.

        Raises:
            KeyError: the name is unknown.
            LorsError: the values of a packed matrix are not those of its mask.
        """
        if name not in self.spec:
            raise KeyError(name)
        values = self._file.get_tensor(name)
        if self.masks is None or not self.masks.packed or name not in self.masks.shapes:
            return values
        inside = self.mask(next(iter(self.masks.languages)), name)
        if values.ndim != 1 or values.numel() != int(inside.sum()):
            raise damaged(self.path, f"{name}: values of another mask")
        return torch.zeros(inside.shape, dtype=values.dtype).masked_scatter_(inside, values)

    def mask(self, lang: str, name: str) -> Tensor:
        """Return a language's mask of a matrix: True for the entries of its sub-network.

        Raises:
            KeyError: no such language or matrix in `masks`.
            LorsError: the bits are damaged.
        """
        if self.masks is None:
            raise KeyError(lang)
        shape, start = self.masks.shapes[name], self.masks.starts[name]
        count = math.prod(shape)
        first = start // 8
        part = self._bits(lang, self.masks)[first : -(-(start + count) // 8)]
        bits = np.unpackbits(part, bitorder="little")[start - 8 * first :][:count]
        return torch.from_numpy(bits.view(bool).reshape(shape))

    def _bits(self, lang: str, masks: MasksHeader) -> np.ndarray:
        if lang not in self._checked:
            bits = self._file.get_tensor(PREFIX + lang).numpy()
            if xxh3_128(bits).hexdigest() != masks.languages[lang]:
                raise damaged(self.path, f"the mask of {lang}: its checksum differs")
            self._checked[lang] = bits
        return self._checked[lang]


class MasksHeader:
    """The description of the masks in a file.

    Attributes:
        base: fingerprint of the base model.
        shapes: name of each matrix under the masks -> its shape, in the order of the bits.
        starts: name -> place of its first bit.
        entries: number of bits of a mask.
        languages: language -> checksum of its bits.
        settings: how the masks were found.
        packed: whether the matrices hold only the entries inside the mask.

    Raises:
        LorsError: `text` is no such description.
    """

    def __init__(self, path: Path, text: str):
        try:
            content = json.loads(text)
            self.base = _typed(content, "base", str)
            shapes = _typed(content, "shapes", dict)
            self.languages: Mapping[str, str] = _typed(content, "languages", dict)
            self.settings: Mapping[str, Any] = _typed(content, "settings", dict)
            self.packed = _typed(content, "packed", bool)
            self.shapes = {name: _shape(shape) for name, shape in shapes.items()}
            if not self.languages or (self.packed and len(self.languages) > 1):
                raise ValueError(f"languages: {', '.join(self.languages) or 'none'}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged(path, f"its header: {BRIEF.repr(error)}") from None
        self.starts, self.entries = {}, 0
        for name, shape in self.shapes.items():
            self.starts[name] = self.entries
            self.entries += math.prod(shape)


def _typed(content: Any, key: str, kind: type) -> Any:
    value = content[key]
    if not isinstance(value, kind):
        raise TypeError(f"{key} is {BRIEF.repr(value)}")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    is_short = isinstance(value, list) and 0 < len(value) <= MOST_DIMENSIONS
    if is_short and all(type(n) is int and 0 < n <= LONGEST_DIMENSION for n in value):
        return tuple(value)
    raise ValueError(f"shape {BRIEF.repr(value)}")


def damaged(path: Path, problem: object) -> LorsError:
    return LorsError(
        "the masks in this file are damaged",
        where=path,
        got=problem,
        hint="copy the file again, or find the masks again",
    )
