"""Model checkpoints written tensor by tensor, and never seen half written."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from lors.checkpoint.reader import SAFETENSORS_DTYPES, Spec, bytes_of, size_of
from lors.errors import LorsError, UsageError
from lors.fileio import atomic_write


class CheckpointWriter:
    """Write a model file tensor by tensor; it appears under its name only when it is whole.

    Use as a context manager and call :meth:`add` for every tensor, in the order of `spec`. Each
    goes straight to the file, so that no more than one is in memory.
    ``.pth`` becomes a plain state dict as ESPnet reads it, ``.pt`` a file of OpenAI's Whisper, and
    ``.safetensors`` a single safetensors file. After any exception in the ``with`` block the target
    is what it was before.

    Args:
        path: the target; its ending chooses the format.
        spec: shape and dtype of every tensor that will be added.
        dims: the dimensions that go into a ``.pt``.

    Raises:
        UsageError: the ending is none of these.
        LorsError: a ``.safetensors`` cannot hold a dtype of `spec`; there is not enough disk space
            (checked on entry), or writing fails.
    """

    SUFFIXES = (".pth", ".safetensors", ".pt")

    def __init__(self, path: str | os.PathLike, spec: Spec, dims: Mapping[str, int] | None = None):
        self.path = Path(path)
        self.spec = dict(spec)
        self._dims = dims
        self._missing = list(self.spec)[::-1]
        self._stack = contextlib.ExitStack()
        self._layout: _SafetensorsLayout | _TorchLayout | None = None
        if self.path.suffix not in self.SUFFIXES:
            raise UsageError(
                "cannot tell the kind of model file to write",
                where=self.path,
                expected=f"a name that ends in {', '.join(self.SUFFIXES)}",
            )
        if self.path.suffix == ".safetensors":
            self._check_dtypes()

    def _check_dtypes(self) -> None:
        held = SAFETENSORS_DTYPES.values()
        others = [f"{name}: {dtype}" for name, (_, dtype) in self.spec.items() if dtype not in held]
        if others:
            raise LorsError(
                "a .safetensors file cannot hold some tensors of this model",
                where=self.path,
                expected=", ".join(map(str, held)),
                got="\n    - ".join(["", *others]),
                hint="write a .pth",
            )

    def __enter__(self) -> CheckpointWriter:
        # Names and alignment cost well under 1 KB a tensor.
        needed = size_of(self.spec) + 1024 * len(self.spec)
        with self._told():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise LorsError(
                "not enough disk space for the model",
                where=self.path,
                expected=f"{needed / 1e6:.1f} MB free",
                got=f"{free / 1e6:.1f} MB",
                hint="make room or choose another place with --out",
            )
        with self._told():
            self._file = self._stack.enter_context(atomic_write(self.path, "wb"))
            if self.path.suffix == ".safetensors":
                self._layout = _SafetensorsLayout(self._file, self.spec)
            else:
                dims = dict(self._dims or {}) if self.path.suffix == ".pt" else None
                self._layout = _TorchLayout(self._file, self.spec, dims)
        return self

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor; ValueError if it is not what `spec` announced."""
        if not self._missing or name != self._missing[-1]:
            raise ValueError(f"{name} was added twice, out of order or not announced")
        if self.spec[name] != (tuple(tensor.shape), tensor.dtype):
            raise ValueError(f"{name}: {tuple(tensor.shape)} {tensor.dtype} was not announced")
        self._missing.pop()
        values = bytes_of(tensor)
        with self._told():
            self._layout.write(name, values)

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is not None:
            self._abandon(error)
            return
        if self._missing:
            left_out = ValueError(f"announced but never added: {', '.join(self._missing[::-1])}")
            self._abandon(left_out)
            raise left_out
        with self._told():
            self._layout.finish()
            self._stack.close()

    def _abandon(self, error: BaseException) -> None:
        """Remove the unfinished file."""
        if self._layout is not None:
            self._layout.abandon()
        self._stack.__exit__(type(error), error, error.__traceback__)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the operating system as the user is to see them."""
        try:
            yield
        except OSError as error:
            self._abandon(error)
            raise LorsError(
                "the model could not be written",
                where=self.path,
                got=error,
                hint="check the free space and who may write in the directory, or choose another",
            ) from error


class _SafetensorsLayout:
    """A safetensors file: the length of a JSON header, the header, the values one after another."""

    def __init__(self, file: IO[bytes], spec: Spec):
        self._file = file
        names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._offsets = {}
        end = 0
        # Large elements first, so that every tensor is aligned to its element size.
        for name in sorted(spec, key=lambda name: -spec[name][1].itemsize):
            shape, dtype = spec[name]
            start, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": names[dtype],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
            self._offsets[name] = start
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()
        self._start = 8 + len(text)
        os.ftruncate(file.fileno(), self._start + end)

    def write(self, name: str, values: np.ndarray) -> None:
        _write_at(self._file, values, self._start + self._offsets[name])

    def finish(self) -> None:
        pass  # all is in its place

    def abandon(self) -> None:
        pass


class _TorchLayout:
    """A file of ``torch.save``: a zip archive of stored, uncompressed records, one a tensor."""

    ALIGNMENT = 64
    """Of the values in the file, in bytes: torch's own, so that they can be memory-mapped."""

    def __init__(self, file: IO[bytes], spec: Spec, dims: Mapping[str, int] | None):
        # torch itself writes all that is not values; memory that is never touched takes no space.
        skeleton = io.BytesIO()
        empty = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in spec.items()}
        if dims is not None:
            empty = {"dims": dims, "model_state_dict": empty}
        with torch.serialization.skip_data():
            torch.save(empty, skeleton)
        self._file = file
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        with zipfile.ZipFile(skeleton) as source:
            root = source.namelist()[0].split("/")[0]
            self._record = {name: f"{root}/data/{number}" for number, name in enumerate(spec)}
            for record in source.namelist():
                if "/data/" not in record:
                    self._write(record, source.read(record))

    def write(self, name: str, values: np.ndarray) -> None:
        self._write(self._record[name], values.data)

    def _write(self, record: str, content: bytes | memoryview) -> None:
        # Fixed fields and a fixed date: the same model is the same file.
        info = zipfile.ZipInfo(record)
        # The header has 30 bytes, the name, this padding field and zipfile's field of 64-bit sizes.
        start = self._file.tell() + 30 + len(record.encode()) + 4 + 20
        padding = -start % self.ALIGNMENT
        info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
        with self._archive.open(info, "w", force_zip64=True) as handle:
            handle.write(content)

    def finish(self) -> None:
        self._archive.close()

    def abandon(self) -> None:
        self._archive.fp = None  # else the archive is completed when it is collected


def _write_at(file: IO[bytes], values: np.ndarray, offset: int) -> None:
    view = memoryview(values)
    while view:
        written = os.pwrite(file.fileno(), view, offset)
        view, offset = view[written:], offset + written
