"""The base model of an adapter, recorded in ``base.json`` in the adapter's directory."""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from xxhash import xxh3_128

from lors.checkpoint.lora_files import from_description
from lors.checkpoint.naming import names_in
from lors.checkpoint.reader import Checkpoint, bytes_of
from lors.errors import LorsError
from lors.fileio import read_json_object, write_json

BASE_RECORD = "base.json"


@dataclass(frozen=True)
class _BaseRecord:
    """The content of ``base.json``.

    Attributes:
        model: path of the base model, relative to the adapter's directory.
        fingerprint: hash of its weights.
        full_precision: if it is quantised, hash of the model that was quantised.
    """

    model: str
    fingerprint: str
    full_precision: str | None = None


def record_base(base: Checkpoint, directory: str | os.PathLike) -> None:
    """Write ``base.json`` for an adapter of `base` into the adapter's directory.

    An adapter of a quantised model fits the model in full precision too.
    """
    model = os.path.relpath(base.path, directory)
    record = _BaseRecord(model, hash_of_weights(base), base.full_precision)
    write_json(Path(directory) / BASE_RECORD, dataclasses.asdict(record))


def recorded_base(adapter: str | os.PathLike) -> Path:
    """Return the path of the base model of an adapter, from its ``base.json``.

    Args:
        adapter: the adapter's file.

    Raises:
        LorsError: there is no ``base.json``, it is damaged, or the base model is missing.
    """
    record = Path(adapter).parent / BASE_RECORD
    path = Path(os.path.normpath(record.parent / _read_record(record).model))
    if not path.exists():
        raise LorsError("the base model of this adapter is missing", where=path)
    return path


def check_base(base: Checkpoint, adapter: Path, trained_on: str | None = None) -> None:
    """Check that an adapter was trained on `base`; log a warning if there is no ``base.json``.

    It may have been trained on the quantised `base`, or on the model that `base` is quantised from.

    Args:
        adapter: the adapter's file or directory.
        trained_on: name of the base model in PEFT's own record, which has no fingerprint.

    Raises:
        LorsError: the adapter was trained on a model with other weights.
    """
    record = (adapter if adapter.is_dir() else adapter.parent) / BASE_RECORD
    if not record.is_file():
        known = f"was trained on {trained_on}" if trained_on else "does not name its base model"
        logging.warning(
            "%s %s; without a %s, LoRS cannot check that the weights are those of %s",
            *(adapter, known, BASE_RECORD, base.path),
        )
        return
    recorded = _read_record(record)
    expected = {recorded.fingerprint, recorded.full_precision}
    if expected.isdisjoint({base.full_precision or hash_of_weights(base), hash_of_weights(base)}):
        raise LorsError(
            "the adapter was trained on another model",
            where=adapter,
            expected=f"the base model with the weights of {recorded.model} (in {record})",
            got=base.path,
            hint="give that model with --base",
        )


def _read_record(path: Path) -> _BaseRecord:
    return from_description(_BaseRecord, read_json_object(path), path)


def hash_of_weights(model: Checkpoint) -> str:
    """Return a hash of a model's weights in float32, equal for all its file formats and dtypes.

    Whisper has the same hash under the names of every naming scheme.
    """
    try:
        names = names_in("openai", model.names())
    except LorsError:
        names = {name: name for name in model.names()}
    whole = xxh3_128()
    for name, key in sorted((new, old) for old, new in names.items()):
        if model.dtype(key) == torch.float32:
            digest = model.digest(key)  # computed once, also used for the record of a merge
        else:
            digest = xxh3_128(bytes_of(model.tensor(key).float())).hexdigest()
        whole.update(f"{name} {digest}\n".encode())
    return whole.hexdigest()
