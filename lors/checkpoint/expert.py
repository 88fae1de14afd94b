"""Base models and experts in whatever form they come, as checkpoints with the base model's names.

A fine-tuned model may name its tensors as another kind of file does (Whisper of OpenAI, Hugging
Face, ESPnet), or be an adapter (:mod:`lors.checkpoint.adapter`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lors.checkpoint.adapter import is_adapter, is_peft_file, open_adapter
from lors.checkpoint.naming import tied_names, translation
from lors.checkpoint.reader import PEFT_CONFIG, Checkpoint
from lors.errors import LorsError

PARALLEL_PREFIX = "module."


class RenamedCheckpoint(Checkpoint):
    """A checkpoint under other names.

    Args:
        checkpoint: the file.
        name_of: new name -> name in the file; tensors that are not among them are left out.
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
    """Open a model file without the tensors in it that only repeat others (Whisper's output layer).

    Raises:
        LorsError: as :meth:`Checkpoint.open`, it is the file of a PEFT adapter, or a tensor is no
            repetition although it should be.
    """
    return _without_ties(_open_file(path))


def _open_file(path: str | os.PathLike) -> Checkpoint:
    """Open a checkpoint that says itself what it is, as a file of a PEFT adapter does not."""
    checkpoint = Checkpoint.open(path)
    if is_peft_file(checkpoint):
        raise LorsError(
            "this is the file of a PEFT adapter, and no full model",
            where=path,
            expected=f"a model, or as an expert an adapter's directory with {PEFT_CONFIG}",
            hint=f"to merge the adapter give its directory: {checkpoint.path.parent}",
        )
    return checkpoint


def _without_ties(checkpoint: Checkpoint) -> Checkpoint:
    tied = tied_names(checkpoint.names())
    for name, original in tied.items():
        if not torch.equal(checkpoint.tensor(name), checkpoint.tensor(original)):
            raise LorsError(
                f"{name} is not {original}, to which models of this kind tie it",
                where=checkpoint.path,
                hint="train with tied word embeddings, as the model comes",
            )
    if not tied:
        return checkpoint
    return RenamedCheckpoint(
        checkpoint, {name: name for name in checkpoint.names() if name not in tied}
    )


def open_expert(base: Checkpoint, path: str | os.PathLike) -> Checkpoint:
    """Open a fine-tuned model or an adapter under the names of its base model.

    An adapter is a directory of PEFT, or a checkpoint that has factors of LoRA in it.

    Raises:
        LorsError: as :func:`open_model` and :func:`lors.checkpoint.adapter.open_adapter`; or
            DataParallel has put its prefix before the names of one of the two.
    """
    path = Path(path)
    if (path / PEFT_CONFIG).is_file():
        return open_adapter(base, path)
    checkpoint = _open_file(path)
    for model, other in ((base, checkpoint), (checkpoint, base)):
        _check_prefix(model, other)
    if is_adapter(checkpoint):
        return open_adapter(base, checkpoint)
    expert = _without_ties(checkpoint)
    name_of = translation(base.names(), expert.names())
    if not name_of:
        return expert
    # What has no counterpart keeps its name, to be told with all that does not fit.
    others = set(expert.names()) - set(name_of.values())
    return RenamedCheckpoint(expert, name_of | {name: name for name in others})


def _check_prefix(model: Checkpoint, other: Checkpoint) -> None:
    """Check that not this one of two models alone has the prefix of DataParallel."""
    prefixed, other_too = (
        all(name.startswith(PARALLEL_PREFIX) for name in checkpoint.names())
        for checkpoint in (model, other)
    )
    if prefixed and not other_too and model.names():
        raise LorsError(
            f"all names in this model begin with '{PARALLEL_PREFIX}', as DataParallel makes them",
            where=model.path,
            expected=f"names as in {other.path}",
            got=model.names()[0],
            hint="save the model without it: model.module.state_dict() instead of "
            "model.state_dict()",
        )
