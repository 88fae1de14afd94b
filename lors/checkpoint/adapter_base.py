"""The base model of an expert that holds only the change of it.

It is recorded in ``base.json`` in the directory of an adapter, and in the file of a task vector.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from xxhash import xxh3_128

from lors.checkpoint.hub import SCHEME, hub_name, local_path, origin_of
from lors.checkpoint.lora_files import from_description
from lors.checkpoint.naming import names_in
from lors.checkpoint.places import BASE_RECORD
from lors.checkpoint.reader import Checkpoint, bytes_of
from lors.errors import LorsError
from lors.fileio import read_json_object, write_json


@dataclass(frozen=True)
class BaseRecord:
    """The content of ``base.json``.

    Attributes:
        model: path of the base model, relative to the directory of the expert; or its name on the
            Hub, with the commit.
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
    write_json(Path(directory) / BASE_RECORD, dataclasses.asdict(base_record(base, directory)))


def base_record(base: Checkpoint, directory: str | os.PathLike) -> BaseRecord:
    """Return the record of `base` for an expert in a directory."""
    model = origin_of(base.path) or os.path.relpath(base.path, directory)
    return BaseRecord(model, hash_of_weights(base), base.full_precision)


def recorded_base(adapter: str | os.PathLike) -> Path:
    """Return the path of the base model of an adapter, from its ``base.json``.

    Args:
        adapter: the adapter's file.

    Raises:
        LorsError: there is no ``base.json``, it is damaged, or the base model is missing.
    """
    record = Path(adapter).parent / BASE_RECORD
    return recorded_path(_read_record(record), record.parent)


def recorded_path(record: BaseRecord, directory: Path) -> Path:
    """Return the path of a recorded base model; LorsError if it is missing."""
    if record.model.startswith(SCHEME):
        return local_path(record.model)
    path = Path(os.path.normpath(directory / record.model))
    if not path.exists():
        raise LorsError(
            "the base model of this expert is missing",
            where=path,
            expected=f"the base model of the expert in {directory}",
            hint="put the base model at this path",
        )
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
        name = hub_name(origin_of(base.path) or "")
        if name is not None and name.repo == trained_on:
            return  # PEFT records no commit
        known = f"was trained on {trained_on}" if trained_on else "does not name its base model"
        logging.warning(
            "%s %s; without a %s, LoRS cannot check that the weights are those of %s",
            *(adapter, known, BASE_RECORD, base.path),
        )
        return
    check_recorded(base, adapter, _read_record(record), record)


def check_recorded(base: Checkpoint, expert: Path, record: BaseRecord, where: Path) -> None:
    """Check that `base` is the recorded base model of an expert.

    Logs a warning if the same model was quantised in another way, e.g. with scales in 8 bits.

    Args:
        base: the base model.
        expert: the expert's file or directory.
        record: the record.
        where: its file, for the error.

    Raises:
        LorsError: the weights are others.
    """
    expected, found = {record.fingerprint, record.full_precision}, hash_of_weights(base)
    if expected.isdisjoint({found, base.full_precision or found}):
        raise LorsError(
            "the expert was made from another base model",
            where=expert,
            expected=f"the base model with the weights of {record.model} (in {where})",
            got=base.path,
            hint="give that model with --base",
        )
    if record.full_precision and base.full_precision and record.fingerprint != found:
        logging.warning(
            "%s was trained on %s (in %s), which is quantised in another way than %s",
            *(expert, record.model, where, base.path),
        )


def _read_record(path: Path) -> BaseRecord:
    return from_description(BaseRecord, read_json_object(path), path)


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
