"""Read model checkpoints of every supported file format, one tensor at a time."""

from __future__ import annotations

import abc
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from xxhash import xxh3_128

from lors.checkpoint.ctranslate2_whisper import CTranslate2Whisper
from lors.checkpoint.directories import file_of
from lors.checkpoint.hub import local_path
from lors.checkpoint.places import (
    CTRANSLATE2_FILE,
    DIRECTORY_FILES,
    INDEX_SUFFIX,
    conversion,
    exists,
    not_found,
)
from lors.checkpoint.safetensors_file import SafetensorsFile
from lors.checkpoint.torch_archive import checksum
from lors.checkpoint.torch_file import (
    is_torch_file,
    load_torch,
    open_to_read,
    records_in,
    state_dict_in,
)
from lors.errors import LorsError, shortened
from lors.fileio import read_json_object

Spec = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name of every tensor of a model, in order -> its shape and dtype."""
QUANTISED = "lors_quantised"
"""Key in the header of a quantised file (:mod:`lors.checkpoint.quantised`)."""


class Checkpoint(abc.ABC):
    """The named tensors of one model; values are read only when :meth:`tensor` asks for them.

    Attributes:
        path: the file or directory.
        metadata: texts in the header of a ``.safetensors`` file; empty for other files.
    """

    full_precision: str | None = None  # of a quantised model: hash of the model before

    def __init__(self, path: Path):
        self.path = path
        self.metadata: Mapping[str, str] = {}
        self._digests: dict[str, str] = {}

    @staticmethod
    def open(path: str | os.PathLike) -> Checkpoint:
        """Open a checkpoint.

        Args:
            path: one of: ``.pth`` or ``.pt`` with a plain state dict (ESPnet), an ESPnet training
                checkpoint (its ``model``) or an OpenAI Whisper model (its ``model_state_dict``);
                ``.safetensors``; the index of a sharded model (``.safetensors.index.json``); the
                ``model.bin`` of a Whisper in CTranslate2's form (faster-whisper); a ``.bin`` of
                Hugging Face, which torch.save wrote; a directory of Hugging Face or CTranslate2
                with one of the last four, or of an unpacked model of ESPnet; or the name of one of
                all these on the Hugging Face Hub (:mod:`lors.checkpoint.hub`).

        Raises:
            LorsError: the file is missing, truncated or corrupt, has another format, or would need
                to run code; or as :func:`lors.checkpoint.hub.local_path`.
        """
        path = local_path(path)
        if not exists(path):
            raise not_found(path)
        if path.is_dir():
            path = file_of(path)
        if path.is_file():
            open_to_read(path).close()  # before its name or its content decides how it is read
        if path.name.endswith(INDEX_SUFFIX):
            return _ShardedCheckpoint(path)
        opener = OPENERS.get(path.suffix)
        if path.suffix == ".bin" and path.is_file():
            if is_torch_file(path):
                opener = _TorchCheckpoint
            elif path.name == CTRANSLATE2_FILE:
                opener = _CTranslate2Checkpoint
        if opener is None:
            raise LorsError(
                "LoRS does not read this kind of checkpoint",
                where=path,
                expected=f"a file that ends in {', '.join(OPENERS)}, or the {CTRANSLATE2_FILE} of "
                "CTranslate2",
                hint=conversion(path),
            )
        if not path.is_file():
            raise LorsError("not a file", where=path, hint="give the path of the model file")
        opened = opener(path)
        if QUANTISED in opened.metadata:
            raise LorsError(
                "this model is quantised to 4 bits; full precision is needed here",
                where=path,
                hint="give the model that was quantised, or write these weights in float32: "
                f"lors quantise --restore --model {shlex.quote(str(path))} --out copy.pth",
            )
        return opened

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Return the tensor names in the order of the file."""

    @abc.abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; KeyError if the name is unknown."""

    @abc.abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor; KeyError if the name is unknown."""

    @abc.abstractmethod
    def tensor(self, name: str) -> Tensor:
        """Return a tensor, which must not be modified; KeyError if the name is unknown."""

    def files(self) -> list[Path]:
        """Return all files that the model is read from; no output may overwrite them."""
        return [self.path]

    def is_adapted(self, name: str) -> bool:
        """Return whether the file holds the change of this tensor, not its values."""
        return False

    def delta(self, name: str) -> Tensor | None:
        """Return the change of an adapted tensor, float32, as a new tensor; None for any other."""
        return None

    def factors(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return the factors ``(B, A)`` of an adapter in float32; None for an unadapted tensor.

        The adapter adds the product B A, scale included, to the tensor of the base model.
        """
        return None

    def is_term(self, name: str, method: str, params: Mapping[str, Any]) -> bool:
        """Return whether the change of this tensor is already the term of a merge method.

        Args:
            name: the tensor.
            method: name of the method.
            params: its parameters as plain data, without scaling_coef.
        """
        return False

    def spec(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return the shape and dtype of every tensor, in the order of the file."""
        return {name: (self.shape(name), self.dtype(name)) for name in self.names()}

    def numel(self, names: Iterable[str] | None = None) -> int:
        """Return the number of entries of the tensors with these names; by default of all."""
        return sum(math.prod(self.shape(n)) for n in (self.names() if names is None else names))

    def fingerprint(self) -> str:
        """Return the XXH3 hash (128 bits, hex) of all names, shapes, dtypes and values.

        It does not depend on the order of the tensors or on the file format: the same weights in a
        ``.pth`` and in a ``.safetensors`` have the same fingerprint.
        """
        whole = xxh3_128()
        for name in sorted(self.names()):
            line = (name, list(self.shape(name)), str(self.dtype(name)), self.digest(name))
            whole.update(repr(line).encode())
        return whole.hexdigest()

    def note(self, name: str) -> None:
        """Hash a tensor for :meth:`fingerprint` now, while its values are in memory."""
        self.digest(name)

    def digest(self, name: str) -> str:
        """Return the XXH3 hash (128 bits, hex) of a tensor's values; it is computed once.

        It is a checksum, much faster than reading from disk. It does not protect against a model
        that was made on purpose to have the same hash as another.
        """
        if name not in self._digests:
            self._digests[name] = xxh3_128(bytes_of(self.tensor(name))).hexdigest()
        return self._digests[name]


class _TorchCheckpoint(Checkpoint):
    """A file of ``torch.save``, memory-mapped if its format allows it.

    The checksum of a tensor is compared when its values are first asked for.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        file = load_torch(path)
        self._state = state_dict_in(path, file.content)
        self._unchecked = records_in(path, file, self._state)

    def names(self) -> list[str]:
        return list(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._state[name].dtype

    def tensor(self, name: str) -> Tensor:
        tensor = self._state[name].detach()
        storage = tensor.untyped_storage()
        record = self._unchecked.pop(storage.data_ptr(), None)
        if record is not None and checksum(storage) != record.crc:
            raise LorsError(
                "the values of this tensor are damaged: their checksum is not the one in the file",
                where=f"{self.path}: {name}",
                hint="copy or download the file again",
            )
        return tensor.resolve_conj().resolve_neg()


class _IndexedCheckpoint(Checkpoint):
    """A file that begins with an index: a subclass sets `_spec`."""

    _spec: Spec

    def names(self) -> list[str]:
        return list(self._spec)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._spec[name][0]

    def dtype(self, name: str) -> torch.dtype:
        return self._spec[name][1]


class SafetensorsCheckpoint(_IndexedCheckpoint):
    """A single ``.safetensors`` file: a model, or a packed sub-network of one.

    Attributes:
        metadata: the texts of its header.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self._file = SafetensorsFile(path)
        self._spec, self.metadata = self._file.spec, self._file.metadata
        if self._file.masks is not None and not self._spec:
            raise LorsError(
                "this file holds masks of languages, not a model",
                where=path,
                expected="a model, or a sub-network that was written with its weights",
                hint="lors inspect --masks shows the masks",
            )

    def tensor(self, name: str) -> Tensor:
        return self._file.tensor(name)


class _ShardedCheckpoint(Checkpoint):
    """Several ``.safetensors`` files with an index, as Hugging Face writes large models."""

    def __init__(self, path: Path):
        super().__init__(path)
        index = read_json_object(path).get("weight_map")
        if not isinstance(index, Mapping) or not index:
            raise LorsError(
                "no weight_map in this index",
                where=path,
                expected='{"weight_map": {"name of a tensor": "file"}}',
                hint="copy or download the file again",
            )
        # Use the file name alone: an index must not lead to another directory.
        names = {name: path.parent / Path(str(file)).name for name, file in index.items()}
        missing = sorted({str(file) for file in names.values() if not exists(file)})
        if missing:
            raise LorsError(
                "parts of the model are missing",
                where=path,
                got=shortened(missing),
                hint="copy or download the model again, with all its parts",
            )
        shards = {file: SafetensorsCheckpoint(file) for file in dict.fromkeys(names.values())}
        self._shard_of = {name: shards[file] for name, file in names.items()}
        self._files = list(shards)
        held = {(name, file) for file, shard in shards.items() for name in shard.names()}
        problems = [f"{name}: not in {file.name}" for name, file in names.items() - held]
        problems += [f"{name}: not listed for {file.name}" for name, file in held - names.items()]
        if problems:
            raise LorsError(
                "the index and the parts of the model do not list the same tensors",
                where=path,
                expected="every tensor in the part that the index names for it",
                got=shortened(sorted(problems), 50),
                hint="copy or download the model again, with all its parts",
            )

    def files(self) -> list[Path]:
        # A file model.safetensors in this directory would be read instead of the parts.
        return [self.path, self.path.with_name(DIRECTORY_FILES[0]), *self._files]

    def names(self) -> list[str]:
        return list(self._shard_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shard_of[name].shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._shard_of[name].dtype(name)

    def tensor(self, name: str) -> Tensor:
        return self._shard_of[name].tensor(name)


class _CTranslate2Checkpoint(_IndexedCheckpoint):
    """A Whisper in CTranslate2's form, under OpenAI's names."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._model = CTranslate2Whisper(path)
        self._spec = self._model.spec

    def files(self) -> list[Path]:
        # The other files would be read instead of this one.
        return [self.path.with_name(name) for name in DIRECTORY_FILES]

    def tensor(self, name: str) -> Tensor:
        return self._model.tensor(name)


OPENERS: dict[str, Callable[[Path], Checkpoint]] = {
    ".pth": _TorchCheckpoint,
    ".pt": _TorchCheckpoint,
    ".safetensors": SafetensorsCheckpoint,
}


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the values of a tensor as flat bytes; contiguous values are not copied."""
    # reshape first: a scalar tensor cannot be viewed as bytes.
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
