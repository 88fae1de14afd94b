"""Files of task vectors (``lors extract --as lors``): small experts beside their base model.

A file is a ``.safetensors`` with the parts of each changed tensor (:mod:`vector_parts
<lors.checkpoint.vector_parts>`) under ``<name of the tensor>:<part>``, and a description in JSON in
its header: the version of the format, the base model and its fingerprint, the merge method with its
parameters, the tensors that it reduced, and a hash of the content. Tensors without parts are those
of the base model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from lors.checkpoint.adapter_base import BaseRecord, check_recorded, recorded_path
from lors.checkpoint.based import BasedCheckpoint
from lors.checkpoint.lora_files import from_description
from lors.checkpoint.naming import counterparts
from lors.checkpoint.reader import Checkpoint, Spec
from lors.checkpoint.vector_parts import delta_of, problem_of
from lors.checkpoint.writer import write_tensors
from lors.config import Range
from lors.errors import LorsError, shortened

KEY = "lors_task_vector"
"""Name of the description in the header."""
VERSION = 1
"""Version of the format. A later one may have other parts, which this code must not guess at."""
SUFFIX = ".safetensors"
LONGEST_DESCRIPTION = 2**22
"""Largest size of a description in characters: that of 40,000 tensors."""


@dataclass(frozen=True)
class Description:
    """The description of a task vector.

    Attributes:
        version: of the format.
        method: the merge method that reduced the task vector.
        params: its parameters, without scaling_coef.
        reduced: tensor that the method reduced -> share of its energy that the parts hold.
        base: the base model.
        content: fingerprint of the tensors in the file.
        made_from: the options of the command that made the file.
    """

    version: int
    method: str
    params: dict[str, Any]
    reduced: dict[str, Annotated[float, Range()]]
    base: BaseRecord
    content: str
    made_from: dict[str, Any]


class VectorCheckpoint(BasedCheckpoint):
    """A base model with a task vector added to it; the sums are computed when read.

    Args:
        base: the base model.
        tensors: the file, for which :func:`is_vector` is true.

    Raises:
        LorsError: the file is damaged, or of a newer version; or the task vector has another base
            model.
    """

    def __init__(self, base: Checkpoint, tensors: Checkpoint):
        super().__init__(base, tensors.path)
        self._tensors = tensors
        self.description = description = read_description(tensors)
        check_recorded(base, self.path, description.base, self.path)
        parts = _specs(tensors)
        own = [*parts, *description.reduced.keys() - parts.keys()]
        base_name = {name: name for name in own}
        base_name |= {name: match for match, name in counterparts(base.names(), own).items()}
        self._own_name = {base_name[name]: name for name in own}
        spec = base.spec()
        self._check_fit((name, None) for name in self._own_name)
        self._parts = {name: list(found) for name, found in parts.items()}
        problems = {name: problem_of(parts[name], spec[base_name[name]][0]) for name in parts}
        if any(problems.values()):
            found = [f"{name}: {problem}" for name, problem in problems.items() if problem]
            raise _damaged(self.path, shortened(sorted(found), 20))
        # Last: only now is it known that the values are not larger than those of the base model.
        if tensors.fingerprint() != description.content:
            raise _damaged(self.path, "values with another hash than that in the description")

    def files(self) -> list[Path]:
        return self._tensors.files()

    def tensor(self, name: str) -> Tensor:
        base, delta = self._base.tensor(name), self.delta(name)
        return base if delta is None else (base + delta).to(base.dtype)

    def is_adapted(self, name: str) -> bool:
        return self._own_name.get(name) in self._parts

    def delta(self, name: str) -> Tensor | None:
        own = self._own_name.get(name)
        if own not in self._parts:
            return None
        parts = {part: self._tensors.tensor(f"{own}:{part}") for part in self._parts[own]}
        try:
            return delta_of(parts, self.shape(name))
        except ValueError as error:
            raise _damaged(f"{self.path}: {own}", error) from None

    def is_term(self, name: str, method: str, params: Mapping[str, Any]) -> bool:
        made_by = (self.description.method, self.description.params)
        return (method, params) == made_by and self._own_name.get(name) in self.description.reduced

    def fingerprint(self) -> str:
        """Return the hash of the parts; the base model is not included."""
        return self._tensors.fingerprint()

    def note(self, name: str) -> None:
        pass  # all parts were hashed when the file was opened


def is_vector(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is the file of a task vector."""
    return KEY in checkpoint.metadata


def read_description(tensors: Checkpoint) -> Description:
    """Return the description of a task vector.

    Raises:
        LorsError: it is damaged, or the version is newer.
    """
    text, path = tensors.metadata[KEY], tensors.path
    if len(text) > LONGEST_DESCRIPTION:
        raise _damaged(path, f"a description of {len(text)} characters")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"a description that is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise _damaged(path, "a description that is no JSON object")
    version = values.get("version")
    if type(version) is int and version > VERSION:
        raise LorsError(
            "this task vector has a newer format",
            where=path,
            expected=f"version {VERSION}",
            got=f"version {version}",
            hint="install a newer LoRS",
        )
    return from_description(Description, values, path)


def recorded_base_of(tensors: Checkpoint) -> Path:
    """Return the path of the base model that the file of a task vector names.

    Raises:
        LorsError: the file is damaged, or the base model is missing.
    """
    return recorded_path(read_description(tensors).base, tensors.path.parent)


def write_vector(
    path: str | os.PathLike, parts: Mapping[str, Tensor], description: Description
) -> None:
    """Write the file of a task vector; it appears under its name when complete.

    Args:
        path: file name that ends in ``.safetensors``.
        parts: ``<name>:<part>`` -> its values.
        description: its ``content`` is ignored and computed from the parts.

    Raises:
        LorsError: the disk is too small, or writing fails.
    """
    values = {**asdict(description), "content": _Parts(Path(path), parts).fingerprint()}
    write_tensors(path, parts, {KEY: json.dumps(values, ensure_ascii=False, allow_nan=False)})


class _Parts(Checkpoint):
    """Tensors in memory."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]):
        super().__init__(path)
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]


def _specs(tensors: Checkpoint) -> Mapping[str, Spec]:
    """Return tensor -> shape and dtype of each of its parts."""
    found: dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]] = {}
    for key, entry in tensors.spec().items():
        name, _, part = key.rpartition(":")
        found.setdefault(name, {})[part] = entry
    return found


def _damaged(where: object, got: object) -> LorsError:
    return LorsError(
        "this task vector is damaged",
        where=where,
        expected="a file of lors extract, unchanged",
        got=got,
        hint="copy it again, or extract it again",
    )
