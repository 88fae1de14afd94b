"""Write model checkpoints, one tensor at a time; a file appears under its name when complete."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lors.checkpoint.places import exists
from lors.checkpoint.reader import Spec, bytes_of
from lors.checkpoint.safetensors_file import SAFETENSORS_DTYPES
from lors.errors import LorsError, UsageError, shortened
from lors.fileio import atomic_write


def size_of(spec: Spec) -> int:
    """Return the size in bytes of all tensors in `spec`."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in spec.values())


def check_no_directory(path: Path) -> None:
    """Check that the path of a model file to write is not that of a directory.

    Raises:
        UsageError: it is.
        LorsError: the operating system refuses to look for it.
    """
    suffixes = CheckpointWriter.SUFFIXES
    if exists(path) and path.is_dir():
        suffix = path.suffix if path.suffix in suffixes else suffixes[0]
        raise UsageError(
            "this is a directory; a model is written to a file",
            where=path,
            expected=f"a name that ends in {', '.join(suffixes)}",
            hint=f"give a file in it: {path / f'model{suffix}'}",
        )


def write_tensors(
    path: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors that are in memory, in their order.

    Args:
        path: the target file, as for :class:`CheckpointWriter`.
        tensors: name -> tensor.
        metadata: texts for the header of a ``.safetensors`` file.

    Raises:
        UsageError, LorsError: as :class:`CheckpointWriter`.
    """
    spec = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with CheckpointWriter(path, spec, metadata=metadata) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)


class CheckpointWriter:
    """Write a model file, one tensor at a time; it appears under its name when complete.

    Use it as a context manager and call :meth:`add` for every tensor, in the order of `spec`. Each
    tensor is written at once, so that only one is in memory. After an exception in the ``with``
    block the target file is unchanged, and directories that were made for it are removed if they
    are empty.

    Args:
        path: the target file. ``.pth`` is a plain state dict as ESPnet reads it, ``.pt`` a file of
            OpenAI's Whisper, ``.safetensors`` a single safetensors file.
        spec: shape and dtype of every tensor that will be added.
        dims: the dimensions to store in a ``.pt``.
        metadata: texts for the header of a ``.safetensors`` file.

    Raises:
        UsageError: `path` has another suffix, or is a directory.
        LorsError: a ``.safetensors`` file cannot hold a dtype of `spec`, the disk space is too
            small (checked on entry), or writing fails.
    """

    SUFFIXES = (".pth", ".safetensors", ".pt")

    def __init__(
        self,
        path: str | os.PathLike,
        spec: Spec,
        dims: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ):
        self.path = Path(path)
        self.spec = dict(spec)
        self._dims, self._metadata = dims, dict(metadata or {})
        self._missing = list(self.spec)[::-1]
        self._stack = contextlib.ExitStack()
        self._layout: _SafetensorsLayout | _TorchLayout | None = None
        self._made: list[Path] = []  # directories, the innermost first
        check_no_directory(self.path)
        if self.path.suffix not in self.SUFFIXES:
            raise UsageError(
                "cannot tell the kind of model file to write",
                where=self.path,
                expected=f"a name that ends in {', '.join(self.SUFFIXES)}",
            )
        if self.path.suffix == ".safetensors":
            self._check_dtypes()

    def _check_dtypes(self) -> None:
        known = SAFETENSORS_DTYPES.values()
        others = [f"{n}: {dtype}" for n, (_, dtype) in self.spec.items() if dtype not in known]
        if others:
            raise LorsError(
                "a .safetensors file cannot hold the dtypes of some tensors of this model",
                where=self.path,
                expected=", ".join(map(str, known)),
                got=shortened(others),
                hint="write a .pth file",
            )

    def __enter__(self) -> CheckpointWriter:
        # Names and alignment take less than 1 KB for each tensor.
        needed = size_of(self.spec) + 1024 * len(self.spec)
        needed += sum(map(len, self._metadata.values()))
        folder = self.path.parent
        with self._os_errors():
            self._made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        if free < needed:
            self._remove_directories()
            raise LorsError(
                "not enough disk space for the model",
                where=self.path,
                expected=f"{needed / 1e6:.1f} MB free",
                got=f"{free / 1e6:.1f} MB",
                hint="free some space, or choose another disk with --out",
            )
        with self._os_errors():
            self._file = self._stack.enter_context(atomic_write(self.path, "wb"))
            if self.path.suffix == ".safetensors":
                self._layout = _SafetensorsLayout(self._file, self.spec, self._metadata)
            else:
                dims = dict(self._dims or {}) if self.path.suffix == ".pt" else None
                self._layout = _TorchLayout(self._file, self.spec, dims)
        return self

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor; ValueError if it is not the next one in `spec`."""
        if self._layout is None:
            raise ValueError("no file is open: use the writer as a context manager")
        if not self._missing or name != self._missing[-1]:
            raise ValueError(f"{name} was added twice, out of order, or is not in spec")
        if self.spec[name] != (tuple(tensor.shape), tensor.dtype):
            raise ValueError(f"{name}: {tuple(tensor.shape)} {tensor.dtype} is not as in spec")
        self._missing.pop()
        values = bytes_of(tensor)
        with self._os_errors():
            self._layout.write(name, values)

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is not None:
            self._abandon(error)
            return
        if self._missing:
            left_out = ValueError(f"in spec but never added: {', '.join(self._missing[::-1])}")
            self._abandon(left_out)
            raise left_out
        assert self._layout is not None  # made by __enter__
        with self._os_errors():
            self._layout.finish()
            self._stack.close()

    def _abandon(self, error: BaseException) -> None:
        """Remove the unfinished file, and the directories that were made for it."""
        if self._layout is not None:
            self._layout.abandon()
        self._stack.__exit__(type(error), error, error.__traceback__)
        self._remove_directories()

    def _remove_directories(self) -> None:
        for path in self._made:
            with contextlib.suppress(OSError):  # others have written into it
                path.rmdir()

    @contextlib.contextmanager
    def _os_errors(self) -> Iterator[None]:
        """Turn an error of the operating system into a LorsError."""
        try:
            yield
        except OSError as error:
            self._abandon(error)
            raise LorsError(
                "the model could not be written",
                where=self.path,
                got=error,
                hint="check the free space and the permissions of the directory, or choose another",
            ) from error


class _SafetensorsLayout:
    """A safetensors file: the length of the header, the header in JSON, then all values."""

    def __init__(self, file: IO[bytes], spec: Spec, metadata: Mapping[str, str]):
        self._file = file
        names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
        header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
        self._offsets = {}
        end = 0
        # Dtypes with large elements first: every tensor is then aligned to its element size.
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

    def write(self, name: str, values: memoryview) -> None:
        self._file.seek(self._start + self._offsets[name])
        self._file.write(values)

    def finish(self) -> None:
        pass  # the file is complete

    def abandon(self) -> None:
        pass


class _TorchLayout:
    """A file of ``torch.save``: a zip archive with one uncompressed record for each tensor.

    The pickled part is made from `spec` alone, so that no memory is needed for the values.
    """

    ALIGNMENT = 64
    """Alignment of the values in the file, in bytes, as in torch: they can be memory-mapped."""
    ROOT = "archive"

    def __init__(self, file: IO[bytes], spec: Spec, dims: Mapping[str, int] | None):
        content: dict[str, Any] = {
            name: _TensorToCome(str(number), shape, dtype)
            for number, (name, (shape, dtype)) in enumerate(spec.items())
        }
        if dims is not None:
            content = {"dims": dims, "model_state_dict": content}
        pickled = io.BytesIO()
        _StateDictPickler(pickled, protocol=2).dump(content)  # the protocol of torch.save
        self._file = file
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._record = {name: f"data/{number}" for number, name in enumerate(spec)}
        self._write("data.pkl", pickled.getvalue())
        self._write("byteorder", sys.byteorder.encode())

    def write(self, name: str, values: memoryview) -> None:
        self._write(self._record[name], values)

    def _write(self, record: str, content: bytes | memoryview) -> None:
        # Fixed header fields and a fixed date: equal models give equal files.
        info = zipfile.ZipInfo(f"{self.ROOT}/{record}")
        # The header: 30 bytes, the name, this padding (with 4 bytes in front), and zipfile's field
        # of 64-bit sizes (20 bytes).
        start = self._file.tell() + 30 + len(info.filename.encode()) + 4 + 20
        padding = -start % self.ALIGNMENT
        info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
        with self._archive.open(info, "w", force_zip64=True) as handle:
            handle.write(content)

    def finish(self) -> None:
        self._write("version", b"3\n")  # of the format, as torch.save writes it
        self._archive.close()

    def abandon(self) -> None:
        self._archive.fp = None  # otherwise garbage collection would complete the archive


@dataclass(frozen=True)
class _TensorToCome:
    """A tensor whose values are not known yet.

    Attributes:
        key: name of the record with its values.
        shape, dtype: as in `spec`.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class _StorageToCome:
    """The storage of such a tensor: what ``torch.save`` pickles in its place."""

    identity: tuple[str, Any, str, str, int]


class _StateDictPickler(pickle.Pickler):
    """Pickle tensors to come as ``torch.save`` pickles tensors."""

    def persistent_id(self, obj: Any) -> Any:
        return obj.identity if isinstance(obj, _StorageToCome) else None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, _TensorToCome):
            return NotImplemented
        # torch itself says how it pickles a tensor of this dtype; only the sizes are replaced.
        sample = torch.empty(0, dtype=obj.dtype)
        rebuild, (storage, offset, _, _, *more) = sample.__reduce_ex__(2)
        numel = math.prod(obj.shape)
        if isinstance(storage, torch.UntypedStorage):  # of newer dtypes, such as uint16
            kind, size = torch.UntypedStorage, numel * obj.dtype.itemsize
        else:
            name = sample.type().removeprefix("torch.").replace("Tensor", "Storage")
            kind, size = getattr(torch, name), numel
        strides = torch.empty(obj.shape, device="meta").stride()
        to_come = _StorageToCome(("storage", kind, obj.key, "cpu", size))
        return rebuild, (to_come, offset, tuple(obj.shape), strides, *more)
