"""CTranslate2's ``model.bin``: where its variables lie, checked before they are read.

The format is that of ``ModelSpec`` in ``ctranslate2/specs/model_spec.py``: the version of the
format, the name and revision of the architecture, the variables, each with its values, and the
aliases, which are further names of variables. All numbers are little-endian.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lors.checkpoint.places import CTRANSLATE2_FILE
from lors.checkpoint.torch_file import corrupt_file, open_to_read
from lors.errors import BRIEF, LorsError

VERSION = 6
"""Version of the format, which CTranslate2 4 writes."""
DTYPES = (
    *(torch.float32, torch.int8, torch.int16, torch.int32),
    *(torch.float16, torch.bfloat16),
)
"""Dtypes in the order of their numbers in the file."""
SCALE = "_scale"
"""Ending of the variable with the scale of a quantised one."""
_MOST_VARIABLES = 5000
"""Most variables and most aliases that are read: three times those of a quantised Whisper-large."""
_LONGEST_NAME, _MOST_AXES = 255, 8
_OTHER_FILE = 1000
"""A version from here on is the beginning of another kind of file."""


class _BadFile(Exception):
    """The structure of the file is damaged."""


@dataclass(frozen=True)
class Variable:
    """One variable of a model.

    Attributes:
        start: place of its first byte in the file.
        shape: its shape; ``()`` for a number.
        dtype: its dtype.
    """

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Number of its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class CTranslate2File:
    """The variables of a ``model.bin``, memory-mapped.

    Args:
        path: the file.
        architecture: name and revision of the architecture that is expected.

    Attributes:
        variables: name -> variable; an alias is another name of the same variable.
        scales: name of a quantised variable or of its alias -> the variable with its scale.

    Raises:
        LorsError: the file cannot be opened, is truncated, corrupt, of another version of the
            format or of another architecture.
    """

    def __init__(self, path: Path, architecture: tuple[str, int]):
        self.path = path
        with open_to_read(path) as handle:
            # An empty file cannot be mapped.
            empty = not handle.read(1)
            self._bytes = b"" if empty else mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = _Cursor(self._bytes)
        try:
            _check_version(path, cursor.number(4))
            _check_architecture(path, cursor, architecture)
            self.variables = dict(_variables(cursor))
            targets = _aliases(cursor, self.variables)
            cursor.check_end()
        except _BadFile as error:
            raise corrupt_file(path, error) from None
        self.variables |= {alias: self.variables[name] for alias, name in targets.items()}
        places = {name: name for name in self.variables} | targets
        self.scales = {
            name: self.variables[place + SCALE]
            for name, place in places.items()
            if place + SCALE in self.variables
        }

    def values(self, variable: Variable, rows: slice = slice(None)) -> Tensor:
        """Return a copy of a variable's values, or of some of its rows."""
        held = np.frombuffer(self._bytes, np.uint8, variable.size, variable.start)
        if not variable.shape:
            return torch.from_numpy(held.copy()).view(variable.dtype).reshape(())
        kept = range(*rows.indices(variable.shape[0]))
        row = variable.size // variable.shape[0] if variable.shape[0] else 0
        # The values are not aligned in the file, and torch needs that: copy them as bytes.
        part = torch.from_numpy(held[kept.start * row : kept.stop * row].copy())
        return part.view(variable.dtype).reshape(len(kept), *variable.shape[1:])


class _Cursor:
    """A place in the bytes of a file, from which they are read one after the other."""

    def __init__(self, content: bytes | mmap.mmap):
        self._content, self._place, self._end = content, 0, len(content)

    def skip(self, size: int) -> int:
        """Go on by `size` bytes; return the place of the first of them."""
        start = self._place
        if size > self._end - start:
            raise _BadFile(f"{size} bytes expected at {start}, the file ends at {self._end}")
        self._place += size
        return start

    def number(self, width: int) -> int:
        start = self.skip(width)
        return int.from_bytes(self._content[start : start + width], "little")

    def name(self) -> str:
        """Read a name: its length with the final zero byte, and its bytes."""
        length = self.number(2)
        start = self.skip(length)
        if not 2 <= length <= _LONGEST_NAME + 1:
            raise _BadFile(f"a name of {length} bytes at {start}")
        found = self._content[start : start + length]
        text = found[:-1].decode("ascii", "replace")
        if found[-1] or not (text.isascii() and text.isprintable()):
            raise _BadFile(f"no name at {start}: {BRIEF.repr(found)}")
        return text

    def count(self, kind: str) -> int:
        number = self.number(4)
        if number > _MOST_VARIABLES:
            raise _BadFile(f"{number} {kind}, more than {_MOST_VARIABLES}")
        return number

    def check_end(self) -> None:
        if self._place != self._end:
            raise _BadFile(f"the model ends at {self._place}, the file at {self._end}")


def _check_version(path: Path, version: int) -> None:
    if version == VERSION:
        return
    if version >= _OTHER_FILE:
        raise LorsError(
            "this is not a model of CTranslate2",
            where=path,
            expected=f"{CTRANSLATE2_FILE} as ct2-transformers-converter writes it",
            got="another kind of file",
            hint="give the model in another form: see lors merge --help",
        )
    raise LorsError(
        "LoRS does not read this version of CTranslate2's format",
        where=path,
        expected=f"version {VERSION}",
        got=f"version {version}",
        hint="give the model that was converted, or convert it with a ctranslate2 package that "
        f"writes version {VERSION}",
    )


def _check_architecture(path: Path, cursor: _Cursor, expected: tuple[str, int]) -> None:
    found = cursor.name(), cursor.number(4)
    if found != expected:
        raise LorsError(
            "LoRS does not read this kind of CTranslate2 model",
            where=path,
            expected="{}, revision {}".format(*expected),
            got="{}, revision {}".format(*found),
            hint="give a Whisper model"
            if found[0] != expected[0]
            else "give the model that was converted, or convert it with a ctranslate2 package that "
            f"writes revision {expected[1]}",
        )


def _variables(cursor: _Cursor) -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    for _ in range(cursor.count("variables")):
        name = cursor.name()
        if name in found:
            raise _BadFile(f"two variables are called {name}")
        rank = cursor.number(1)
        if rank > _MOST_AXES:
            raise _BadFile(f"{name} has {rank} axes")
        shape = tuple(cursor.number(4) for _ in range(rank))
        kind, size = cursor.number(1), cursor.number(4)
        if kind >= len(DTYPES):
            raise _BadFile(f"{name} has the unknown dtype {kind}")
        variable = Variable(cursor.skip(size), shape, DTYPES[kind])
        if variable.size != size:
            raise _BadFile(f"{name} has {size} bytes, its shape {variable.size}")
        found[name] = variable
    return found


def _aliases(cursor: _Cursor, variables: dict[str, Variable]) -> dict[str, str]:
    """Return alias -> name of the variable."""
    found: dict[str, str] = {}
    for _ in range(cursor.count("aliases")):
        alias, name = cursor.name(), cursor.name()
        if alias in found or alias in variables:
            raise _BadFile(f"two variables are called {alias}")
        target = found.get(name, name)
        if target not in variables:
            raise _BadFile(f"{alias} is another name of {name}, which is not in the file")
        found[alias] = target
    return found
