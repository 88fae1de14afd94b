"""Experts that hold only the change of a base model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError, shortened


class BasedCheckpoint(Checkpoint):
    """A base model with a change; it has the names, shapes and dtypes of the base model.

    Args:
        base: the base model.
        path: the file or directory with the change.
    """

    def __init__(self, base: Checkpoint, path: Path):
        super().__init__(path)
        self._base = base

    def names(self) -> list[str]:
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._base.dtype(name)

    def _check_fit(self, found: Iterable[tuple[str, tuple[int, ...] | None]]) -> None:
        """Check names and shapes of changed tensors against the base model.

        Args:
            found: names, each with its shape, or None for a shape to check later.

        Raises:
            LorsError: the base model has no such tensor, or one of another shape; all are listed.
        """
        spec = self._base.spec()
        problems = []
        for name, shape in found:
            if name not in spec:
                problems.append(f"{name}: not in the base model")
            elif shape not in (None, spec[name][0]):
                problems.append(f"{name}: shape {list(spec[name][0])}, in the expert {list(shape)}")
        if problems:
            raise LorsError(
                "the expert does not fit the base model",
                where=self.path,
                expected=f"the names and shapes of {self._base.path}",
                got=shortened(sorted(problems), 20),
                hint="give the base model that the expert was made from",
            )
