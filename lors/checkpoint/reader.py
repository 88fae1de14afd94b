"""Model checkpoints, opened lazily.

Checkpoints are data. Files of PyTorch are read with ``weights_only=True``, so nothing in them is
ever run; a file that cannot be read in this way is refused.
"""

from __future__ import annotations

import abc
import datetime
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from xxhash import xxh3_128

from lors.errors import LorsError
from lors.fileio import read_json_object

Spec = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of every tensor of a model, in order."""

# ESPnet's training checkpoint keeps its statistics beside the weights as durations and numpy
# numbers; these types hold values only.
HARMLESS_GLOBALS = [
    datetime.timedelta,
    # The constructor of numpy numbers, under its names in numpy 1 and 2.
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")),
]
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


class Checkpoint(abc.ABC):
    """The named tensors of one model file; a tensor's values are read when it is asked for."""

    def __init__(self, path: Path):
        self.path = path
        self._digests: dict[str, str] = {}

    @staticmethod
    def open(path: str | os.PathLike) -> Checkpoint:
        """Open a checkpoint file.

        Known are ``.pth``/``.pt`` with a plain state dict (ESPnet), an ESPnet training checkpoint
        (its ``model``) or an OpenAI Whisper model (its ``model_state_dict``), ``.safetensors``,
        the index of a sharded one (``.safetensors.index.json``), and a directory of Hugging Face
        that holds either.

        Raises:
            LorsError: the file is missing, truncated, corrupt, of another kind, or needs code.
        """
        path = Path(path)
        if not path.exists():
            raise LorsError("checkpoint not found", where=path)
        if path.is_dir():
            path = _file_of(path)
        if path.name.endswith(INDEX_SUFFIX):
            return _ShardedCheckpoint(path)
        if path.suffix not in OPENERS:
            raise LorsError(
                "not a kind of checkpoint that LoRS reads",
                where=path,
                expected=f"a file that ends in {', '.join(OPENERS)}",
            )
        if not path.is_file():
            raise LorsError("not a file", where=path)
        return OPENERS[path.suffix](path)

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Tensor names in the order of the file."""

    @abc.abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor (KeyError if there is none of this name)."""

    @abc.abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor's elements (KeyError if there is none of this name)."""

    @abc.abstractmethod
    def tensor(self, name: str) -> Tensor:
        """A tensor (KeyError if there is none of this name); it must not be modified."""

    def files(self) -> list[Path]:
        """All files that the model is read from, which nothing may overwrite."""
        return [self.path]

    def is_adapted(self, name: str) -> bool:
        """Whether this is an adapter that adds a product of two factors to this tensor."""
        return False

    def factors(self, name: str) -> tuple[Tensor, Tensor] | None:
        """``(B, A)`` in float32 with B A what an adapter adds to this tensor; None if it is not
        adapted."""
        return None

    def spec(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every tensor, in the order of the file."""
        return {name: (self.shape(name), self.dtype(name)) for name in self.names()}

    def fingerprint(self) -> str:
        """XXH3 hash (128 bits, hex) of all names, shapes, dtypes and values.

        It does not depend on the order of the tensors or the kind of file: the same weights as
        ``.pth`` and as ``.safetensors`` have one fingerprint.
        """
        whole = xxh3_128()
        for name in sorted(self.names()):
            line = (name, list(self.shape(name)), str(self.dtype(name)), self.digest(name))
            whole.update(repr(line).encode())
        return whole.hexdigest()

    def note(self, name: str) -> None:
        """Prepare :meth:`fingerprint` while a tensor's values are at hand (and in the cache)."""
        self.digest(name)

    def digest(self, name: str) -> str:
        """XXH3 hash (128 bits, hex) of a tensor's values; each is computed once.

        It is quicker by far than reading from disk; like a checksum it tells what is equal, and
        does not withstand somebody who wants two models to look equal.
        """
        if name not in self._digests:
            self._digests[name] = xxh3_128(bytes_of(self.tensor(name))).hexdigest()
        return self._digests[name]


class _TorchCheckpoint(Checkpoint):
    """A file of ``torch.save``, memory-mapped where its format allows it."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._state = _state_dict(path, load_torch(path))

    def names(self) -> list[str]:
        return list(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._state[name].dtype

    def tensor(self, name: str) -> Tensor:
        return self._state[name].detach()


class _SafetensorsCheckpoint(Checkpoint):
    """A single ``.safetensors`` file."""

    def __init__(self, path: Path):
        super().__init__(path)
        _open_file(path).close()  # safetensors would say that one not to be read is not there
        try:
            self._file = safetensors.safe_open(str(path), framework="pt")
        except safetensors.SafetensorError as error:
            raise _corrupt(path, error) from None
        self._spec = {}
        for name in self._file.keys():  # noqa: SIM118 - not a dict, it has no iterator
            part = self._file.get_slice(name)
            if part.get_dtype() not in SAFETENSORS_DTYPES:
                raise LorsError(
                    f"dtype {part.get_dtype()} is not supported", where=f"{path}: {name}"
                )
            self._spec[name] = (tuple(part.get_shape()), SAFETENSORS_DTYPES[part.get_dtype()])

    def names(self) -> list[str]:
        return list(self._spec)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._spec[name][0]

    def dtype(self, name: str) -> torch.dtype:
        return self._spec[name][1]

    def tensor(self, name: str) -> Tensor:
        if name not in self._spec:
            raise KeyError(name)
        return self._file.get_tensor(name)


class _ShardedCheckpoint(Checkpoint):
    """Several ``.safetensors`` files with an index, as Hugging Face writes large models."""

    def __init__(self, path: Path):
        super().__init__(path)
        index = read_json_object(path).get("weight_map")
        if not isinstance(index, Mapping) or not index:
            raise LorsError("no weight_map in this index", where=path)
        # A file name only: an index cannot lead elsewhere.
        names = {name: path.parent / Path(str(file)).name for name, file in index.items()}
        missing = sorted({str(file) for file in names.values() if not file.is_file()})
        if missing:
            raise LorsError("parts of the model are missing", where=path, got=", ".join(missing))
        shards = {file: _SafetensorsCheckpoint(file) for file in dict.fromkeys(names.values())}
        self._shard_of = {name: shards[file] for name, file in names.items()}
        self._files = list(shards)
        held = {(name, file) for file, shard in shards.items() for name in shard.names()}
        problems = [f"{name}: not in {file.name}" for name, file in names.items() - held]
        problems += [f"{name}: not listed for {file.name}" for name, file in held - names.items()]
        if problems:
            raise LorsError(
                "the index and the parts of the model do not list the same tensors",
                where=path,
                expected="every tensor in the part that the index says",
                got="\n    - ".join(["", *sorted(problems)]),
                hint="copy or download the model again, with all its parts",
            )

    def files(self) -> list[Path]:
        # A single file in this directory would be read in the place of the parts.
        return [self.path, self.path.with_name(DIRECTORY_FILES[0]), *self._files]

    def names(self) -> list[str]:
        return list(self._shard_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shard_of[name].shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._shard_of[name].dtype(name)

    def tensor(self, name: str) -> Tensor:
        return self._shard_of[name].tensor(name)


INDEX_SUFFIX = ".safetensors.index.json"
PEFT_CONFIG = "adapter_config.json"
DIRECTORY_FILES = ("model.safetensors", f"model{INDEX_SUFFIX}")


def _file_of(directory: Path) -> Path:
    """The model file in a directory of Hugging Face."""
    found = [directory / name for name in DIRECTORY_FILES if (directory / name).is_file()]
    if not found and (directory / PEFT_CONFIG).is_file():
        raise LorsError(
            "this is the directory of a PEFT adapter, and no full model",
            where=directory,
            expected=" or ".join(DIRECTORY_FILES),
            hint="give the model that the adapter was trained on; an adapter can be an expert",
        )
    if not found:
        raise LorsError(
            "no model in this directory",
            where=directory,
            expected=" or ".join(DIRECTORY_FILES),
            hint="give the model file itself",
        )
    return found[0]


OPENERS: dict[str, Callable[[Path], Checkpoint]] = {
    ".pth": _TorchCheckpoint,
    ".pt": _TorchCheckpoint,
    ".safetensors": _SafetensorsCheckpoint,
}


def _corrupt(path: Path, error: Exception) -> LorsError:
    # torch's own words are mostly the advice to let the file run code (weights_only=False).
    lines = [line.strip() for line in str(error).split("\n") if "weights_only" not in line]
    said = next(filter(None, lines), "nothing that can be read without running code")
    return LorsError(
        "cannot read this checkpoint: the file is truncated or corrupt",
        where=path,
        got=f"{type(error).__name__}: {said}",
        hint="copy or download the file again",
    )


def _open_file(path: Path) -> IO[bytes]:
    """The file itself: one that may not be read is not a corrupt one."""
    try:
        return path.open("rb")
    except OSError as error:
        raise LorsError(
            "this checkpoint cannot be opened",
            where=path,
            got=error.strerror,
            hint="check who may read the file",
        ) from None


def load_torch(path: Path) -> Any:
    """What ``torch.save`` stored, with nothing run and the values left on disk where possible."""
    with _open_file(path) as handle:
        start = handle.read(40)
    try:
        # Only the zip format (PyTorch 1.6 and later) can be mapped.
        is_zip = zipfile.is_zipfile(path)
        if start.startswith(b"PK") and not is_zip:
            raise EOFError("the end of the archive is missing")
        if not is_zip and not start.startswith(pickle.PROTO):
            raise pickle.UnpicklingError(f"the file begins with {start!r}")
        with torch.serialization.safe_globals(HARMLESS_GLOBALS):
            return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except Exception as error:
        # What is raised for a damaged file depends on where the damage is: nearly anything.
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed is None or not isinstance(error, pickle.UnpicklingError):
            raise _corrupt(path, error) from error
        raise LorsError(
            "this checkpoint needs code to be run when it is read, and LoRS never does that",
            where=path,
            expected="a file of tensors only",
            got=f"a pickle that asks for {needed[1]}",
            hint="in the program that made it (and only if you trust the file) save the weights "
            'alone: torch.save(model.state_dict(), "model.pth")',
        ) from None


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The model's weights within what a file holds."""

    keys = list(content) if isinstance(content, Mapping) else []
    places = [content, *(content[key] for key in ("model", "model_state_dict") if key in keys)]
    got = f"a {type(content).__name__} with keys: {', '.join(map(str, keys[:20])) or 'none'}"
    hint = None
    for place in places:
        if not isinstance(place, Mapping) or not place:
            continue
        others = [key for key, value in place.items() if not isinstance(value, Tensor)]
        if not others:
            return dict(place)
        if len(others) < len(place):
            told = [f"{key} ({type(place[key]).__name__})" for key in others[:20]]
            got = f"entries that are no tensors: {', '.join(told)}"
            hint = "save the state dict again without these entries"
    raise LorsError(
        "no model weights found in this file",
        where=path,
        expected="a state dict, or one under 'model' (ESPnet) or 'model_state_dict' (Whisper)",
        got=got,
        hint=hint,
    )


def bytes_of(tensor: Tensor) -> np.ndarray:
    """The values of a tensor as a flat array of bytes, not copied if they lie one after another."""
    # reshape first: a tensor without dimensions cannot be viewed as bytes.
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def size_of(spec: Spec) -> int:
    """Bytes that the tensors of `spec` take."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in spec.values())
