"""Files of ``torch.save``, read as data: no code in them is ever run."""

from __future__ import annotations

import datetime
import math
import pickle
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from lors.checkpoint.torch_archive import (
    BadArchive,
    PackedArchive,
    Record,
    read_archive,
    records_of_storages,
)
from lors.errors import LorsError, shortened

_SCALAR: Any = np.float64(0).__reduce__()[0]
SAFE_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    datetime.timedelta,
    # The constructor of numpy numbers, under its names in numpy 1 and 2.
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")),
]
"""Types that a file may hold besides tensors: the statistics in ESPnet's training checkpoints.

They hold values only. Use: ``torch.serialization.safe_globals(SAFE_GLOBALS)``.
"""


DTYPES = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.bool),
        *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
        *(torch.complex64, torch.complex128),
    )
)
"""Dtypes of the tensors that LoRS reads. torch cannot compute with the others, such as float8."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""Start of the small file that git leaves in place of a file of Git LFS that was not fetched."""
_LEGACY_PICKLE_BYTES = 2**20
"""Size of the start of a file of PyTorch 1.5 or earlier that is searched for a bytearray."""


@dataclass(frozen=True)
class TorchFile:
    """The content of a file of ``torch.save``.

    Attributes:
        content: what was saved.
        records: key of a storage -> its record in the archive; empty for the format of PyTorch 1.5
            and earlier, which has no archive and no checksums.
    """

    content: Any
    records: Mapping[str, Record] = field(default_factory=dict)


def load_torch(path: Path) -> TorchFile:
    """Read a file of ``torch.save``.

    Tensors are memory-mapped if the format allows it (PyTorch 1.6 and later).

    Raises:
        LorsError: the file cannot be opened, is truncated, corrupt or compressed, or would need to
            run code.
    """
    with open_to_read(path) as handle:
        start = handle.read(_LEGACY_PICKLE_BYTES)
    try:
        is_zip = start.startswith(b"PK")
        if is_zip:
            records, pickled = read_archive(path)
        elif start.startswith(pickle.PROTO):
            records, pickled = {}, start
        else:
            raise pickle.UnpicklingError(f"the file begins with {start[:40]!r}")
        # A pickle of a few bytes could ask for a bytearray of any size.
        if b"bytearray\n" in pickled:
            raise pickle.UnpicklingError("it holds a bytearray")
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
        return TorchFile(content, records)
    except PackedArchive as error:
        raise LorsError(
            "this checkpoint is compressed, and cannot be read one tensor at a time",
            where=path,
            expected="an archive as torch.save writes it",
            got=error,
            hint="save it again, in its directory: python -c 'import torch; torch.save(torch.load("
            f'"{path.name}", weights_only=True), "plain{path.suffix}")\'',
        ) from None
    except Exception as error:
        # A damaged file can raise nearly any exception, depending on the place of the damage.
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed is None or not isinstance(error, pickle.UnpicklingError):
            raise corrupt_file(path, error) from error
        raise LorsError(
            "this checkpoint needs code to be run when it is read, and LoRS never does that",
            where=path,
            expected="a file of tensors only",
            got=f"a pickle that asks for {needed[1]}",
            hint="if you trust the file, load it in the program that made it and save the weights "
            'alone: torch.save(model.state_dict(), "model.pth")',
        ) from None


def is_torch_file(path: Path) -> bool:
    """Return whether a file begins as torch.save writes it; False if it cannot be opened."""
    try:
        with path.open("rb") as handle:
            return handle.read(2).startswith((b"PK", pickle.PROTO))
    except OSError:
        return False


def state_dict_in(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict of the model in the content of a file.

    Args:
        path: the file, for errors.
        content: a state dict, or a mapping that holds it under ``model`` (ESPnet),
            ``model_state_dict`` (OpenAI Whisper) or ``state_dict`` (Lightning).

    Raises:
        LorsError: there is no state dict, or it has entries that are not plain tensors under names.
    """
    keys = list(content) if isinstance(content, Mapping) else []
    places = [content, *(content[key] for key in _PLACES if key in keys)]
    for place in places:
        if not isinstance(place, Mapping) or not place:
            continue
        others = [key for key, value in place.items() if not isinstance(value, Tensor)]
        if not others:
            return _plain_tensors(path, place)
        if len(others) < len(place):
            raise LorsError(
                "this state dict has entries that are not tensors",
                where=path,
                expected="tensors only",
                got=shortened(
                    [f"{key!s:.200} ({type(place[key]).__name__})" for key in others], 20
                ),
                hint="save the state dict again without these entries",
            )
    shown = ", ".join(shortened((f"{key!s:.200}" for key in keys), 20)) or "none"
    raise LorsError(
        "no model weights found in this file",
        where=path,
        expected="a state dict, or one under "
        + ", ".join(f"'{key}' ({program})" for key, program in _PLACES.items()),
        got=f"a {type(content).__name__} with keys: {shown}",
        hint="save the weights alone in the program that made the file: "
        'torch.save(model.state_dict(), "model.pth")',
    )


_PLACES = {"model": "ESPnet", "model_state_dict": "Whisper", "state_dict": "Lightning"}
"""Key under which a training checkpoint holds the state dict -> the program that writes it."""


def _plain_tensors(path: Path, state: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """Check that a state dict has names and tensors that can be read as plain values."""
    kinds = {name: _other_kind(tensor) for name, tensor in state.items()}
    problems = [f"{name}: {kind}" for name, kind in kinds.items() if kind]
    problems += [f"{name!r}: a key that is not a text" for name in state if not _is_text(name)]
    if problems:
        raise LorsError(
            "some tensors in this file cannot be read as plain values",
            where=path,
            expected="names that are texts, and dense tensors of the dtypes "
            + ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES)),
            got=shortened(problems, 20),
            hint="in the program that made the file, save plain tensors: "
            "{name: tensor.to_dense().float().contiguous()}, or load and save the model in float32",
        )
    return dict(state)


def _is_text(name: Any) -> bool:
    if not isinstance(name, str):
        return False
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def _other_kind(tensor: Tensor) -> str | None:
    """Return what distinguishes a tensor from a plain one; None for a plain tensor."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__}"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.layout != torch.strided:
        return "a sparse tensor"
    if tensor.device.type != "cpu":
        return f"a tensor without values (device {tensor.device})"
    if tensor.dtype not in DTYPES:
        return f"dtype {str(tensor.dtype).removeprefix('torch.')}"
    stored = tensor.untyped_storage().nbytes()
    if math.prod(tensor.shape) * tensor.dtype.itemsize > stored:
        return (
            f"an expanded tensor of shape {list(tensor.shape)}, of which {stored} bytes are stored"
        )
    return None


def records_in(path: Path, file: TorchFile, state: Mapping[str, Tensor]) -> dict[int, Record]:
    """Return the record of every storage in a state dict, under its address in memory.

    Empty for the format of PyTorch 1.5 and earlier.

    Raises:
        LorsError: a tensor does not cover its record.
    """
    if not file.records:
        return {}
    try:
        return records_of_storages(state.values(), file.records)
    except BadArchive as error:
        raise corrupt_file(path, error) from None


def open_to_read(path: Path) -> IO[bytes]:
    """Open a checkpoint file in binary mode.

    Raises:
        LorsError: the operating system refuses it, e.g. for missing permission; or the file is a
            pointer of Git LFS.
    """
    try:
        check_no_pointer(path)
        return path.open("rb")
    except OSError as error:
        raise LorsError(
            "cannot open this checkpoint",
            where=path,
            got=error.strerror,
            hint="check the permissions of the file",
        ) from None


def check_no_pointer(path: Path) -> None:
    """Raise LorsError if a file is a pointer of Git LFS in place of a model file.

    Raises:
        LorsError: it is.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as handle:
        if handle.read(len(_LFS_POINTER)) != _LFS_POINTER:
            return
    raise LorsError(
        "this is a pointer of Git LFS, not the model file itself",
        where=path,
        hint=f"fetch it: cd {shlex.quote(str(path.parent))} && git lfs pull; or download the file",
    )


def corrupt_file(path: Path, error: Exception) -> LorsError:
    """Return the error for a checkpoint file that cannot be read.

    Args:
        error: the exception of torch or safetensors; its first line is shown.
    """
    # Leave out torch's advice to load the file with weights_only=False, which would run its code.
    lines = [line.strip() for line in str(error).split("\n") if "weights_only" not in line]
    reason = next(filter(None, lines), "nothing that can be read without running code")
    return LorsError(
        "cannot read this checkpoint: the file is truncated or corrupt",
        where=path,
        got=f"{type(error).__name__}: {reason}",
        hint="copy or download the file again",
    )
