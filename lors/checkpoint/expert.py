"""Open base models and experts; an expert gets the names of its base model.

An expert may come in another form than its base model (Whisper of OpenAI, Hugging Face, ESPnet or
CTranslate2), as an adapter (:mod:`lors.checkpoint.adapter`), or as the file of a task vector
(:mod:`lors.checkpoint.vector_file`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lors.checkpoint.adapter import open_adapter
from lors.checkpoint.adapter_base import recorded_base
from lors.checkpoint.hub import local_path
from lors.checkpoint.lora_files import is_adapter, is_peft_file
from lors.checkpoint.naming import counterparts, tied_names
from lors.checkpoint.places import DIRECTORY_FILES, PEFT_CONFIG, PEFT_MODEL
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vector_file import VectorCheckpoint, is_vector, recorded_base_of
from lors.errors import LorsError

WRAPPERS = {
    "module.": "the prefix of DataParallel",
    "_orig_mod.": "the prefix of torch.compile",
    "model.": "the prefix of a Lightning module, or of a Hugging Face model with its output layer",
}
"""Prefix of all names in the state dict of a wrapped model -> the wrapper."""


class RenamedCheckpoint(Checkpoint):
    """A checkpoint under other names.

    Args:
        checkpoint: the original.
        name_of: new name -> name in `checkpoint`; other tensors are left out.
    """

    def __init__(self, checkpoint: Checkpoint, name_of: Mapping[str, str]):
        super().__init__(checkpoint.path)
        self._checkpoint, self._name_of = checkpoint, dict(name_of)

    def files(self) -> list[Path]:
        return self._checkpoint.files()

    def names(self) -> list[str]:
        return list(self._name_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._checkpoint.shape(self._name_of[name])

    def dtype(self, name: str) -> torch.dtype:
        return self._checkpoint.dtype(self._name_of[name])

    def tensor(self, name: str) -> Tensor:
        return self._checkpoint.tensor(self._name_of[name])


def open_model(path: str | os.PathLike) -> Checkpoint:
    """Open a model, leaving out tied tensors, which repeat others (Whisper's output layer).

    Raises:
        LorsError: as in :meth:`Checkpoint.open`, the file is the tensor file of a PEFT adapter, or
            a tied tensor differs from the tensor that it should repeat; or it is the file of a task
            vector.
    """
    checkpoint = _open_file(path)
    if is_vector(checkpoint):
        raise LorsError(
            "this file holds a task vector, not a full model",
            where=path,
            hint="this file is an expert: give it beside its base model, not in its place",
        )
    return _without_ties(checkpoint)


def _open_file(path: str | os.PathLike) -> Checkpoint:
    """Open a checkpoint; refuse the tensor file of a PEFT adapter, which lacks the scale."""
    checkpoint = Checkpoint.open(path)
    if is_peft_file(checkpoint):
        raise LorsError(
            "this is the tensor file of a PEFT adapter, not a full model",
            where=path,
            expected=f"a model, or for an expert the adapter's directory with {PEFT_CONFIG}",
            hint=f"to merge the adapter, give its directory: {checkpoint.path.parent}",
        )
    return checkpoint


def _without_ties(checkpoint: Checkpoint) -> Checkpoint:
    """Leave out tied tensors, after checking that they are equal to those they repeat."""
    tied = tied_names(checkpoint.names())
    for name, original in tied.items():
        if not torch.equal(checkpoint.tensor(name), checkpoint.tensor(original)):
            raise LorsError(
                f"{name} differs from {original}, to which it is tied in this kind of model",
                where=checkpoint.path,
                hint="train with tied word embeddings, the default of the model",
            )
    if not tied:
        return checkpoint
    return RenamedCheckpoint(
        checkpoint, {name: name for name in checkpoint.names() if name not in tied}
    )


def open_expert(base: Checkpoint, path: str | os.PathLike) -> Checkpoint:
    """Open an expert under the names of its base model.

    Args:
        base: the base model.
        path: a fine-tuned model; an adapter: a PEFT directory or an ESPnet checkpoint with LoRA
            factors in it; or the file of a task vector.

    Raises:
        LorsError: as in :func:`open_model`, :func:`lors.checkpoint.adapter.open_adapter` and
            :class:`lors.checkpoint.vector_file.VectorCheckpoint`; or the names in one of the two
            models have the prefix of a wrapper, such as DataParallel.
    """
    path = local_path(path)
    if (path / PEFT_CONFIG).is_file():
        return open_adapter(base, path)
    checkpoint = _open_file(path)
    if is_vector(checkpoint):
        return VectorCheckpoint(base, checkpoint)
    _check_prefix(base, checkpoint)
    if is_adapter(checkpoint):
        return open_adapter(base, checkpoint)
    expert = _without_ties(checkpoint)
    name_of = counterparts(base.names(), expert.names())
    if not name_of:
        return expert
    # Tensors without a counterpart keep their names: the task vector lists them as errors.
    others = set(expert.names()) - set(name_of.values())
    return RenamedCheckpoint(expert, name_of | {name: name for name in others})


def is_change(path: str | os.PathLike) -> bool:
    """Return whether a file or directory holds only the change of a base model, such as an adapter.

    Raises:
        LorsError: as in :meth:`Checkpoint.open`.
    """
    path = local_path(path)
    if (path / PEFT_CONFIG).is_file():
        return not any((path / name).is_file() for name in DIRECTORY_FILES)
    checkpoint = Checkpoint.open(path)
    return is_vector(checkpoint) or is_adapter(checkpoint)


def base_of(path: str | os.PathLike) -> Path | None:
    """Return the recorded base model of an adapter or a task vector; None for a full model.

    Raises:
        LorsError: the file or its record is damaged, or the base model is missing.
    """
    path = local_path(path)
    if (path / PEFT_CONFIG).is_file():
        return recorded_base(path / PEFT_MODEL)
    checkpoint = Checkpoint.open(path)
    if is_vector(checkpoint):
        return recorded_base_of(checkpoint)
    return recorded_base(path) if is_adapter(checkpoint) else None


def _check_prefix(base: Checkpoint, expert: Checkpoint) -> None:
    """Raise LorsError if all names of one model are those of the other after one prefix."""
    for model, other in ((base, expert), (expert, base)):
        prefix = _prefix(model.names(), set(other.names()))
        if prefix is None:
            continue
        wrapper = WRAPPERS.get(prefix, WRAPPERS.get(prefix.split(".")[0] + ".", "a prefix"))
        raise LorsError(
            f"all names in this model begin with '{prefix}', {wrapper}",
            where=model.path,
            expected=f"names as in {other.path}",
            got=model.names()[0],
            hint="save one of the two models again so that the names agree: the state dict of the "
            "model inside the wrapper, such as model.module.state_dict() or "
            "model._orig_mod.state_dict(), not of the wrapper",
        )


def _prefix(names: list[str], others: set[str]) -> str | None:
    """Return what stands before one of `others` in every one of `names`; None if nothing does."""
    parts = names[0].split(".") if names else []
    for number in range(1, len(parts)):
        if ".".join(parts[number:]) in others:
            prefix = ".".join(parts[:number]) + "."
            return prefix if all(name.startswith(prefix) for name in names) else None
    return None
