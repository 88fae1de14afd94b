"""Decompositions kept on disk, so that a grid of ranks and densities makes each only once."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import xxhash
from torch import Tensor

from lors.errors import LorsError
from lors.fileio import atomic_write
from lors.linalg.low_rank import (
    Directions,
    Energy,
    Rank,
    leading_directions,
    low_rank_factors,
    number_found,
    number_of,
)
from lors.merge.task_vector import TaskVector


class Decompositions:
    """The leading singular directions of task vectors, in a directory of safetensors files.

    A file belongs to the values of one tensor of the base model and of one expert, whatever they
    are called and whatever they are merged with, so files never go out of date. It has as many
    directions as the largest rank that was asked for; a smaller rank takes the first of them.

    Args:
        directory: made if it is not there.
        rank: computed at the first time already, whatever is asked for: the largest of a grid.

    Raises:
        LorsError: the directory cannot be made.
    """

    def __init__(self, directory: str | os.PathLike, rank: Rank = 0):
        self.directory, self.rank = Path(directory), rank
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LorsError(
                "the directory for decompositions cannot be made",
                where=self.directory,
                expected="a directory, or a path where one can be made",
                got=error,
                hint="give another directory",
            ) from None

    def low_rank(
        self, vector: TaskVector, name: str, delta: Tensor, rank: Rank
    ) -> tuple[Tensor, Tensor]:
        """As :func:`lors.linalg.low_rank.low_rank_factors` of `delta`.

        Args:
            vector: the task vector of an expert.
            name: of a matrix.
            delta: this matrix of the task vector, perhaps times a number.
            rank: of the approximation.

        Raises:
            LorsError: a file in the directory cannot be read.
        """
        full_rank = min(delta.shape)
        if not isinstance(rank, Energy) and number_of(rank, full_rank) >= full_rank:
            return low_rank_factors(delta, rank)
        digests = vector.base.digest(name) + vector.finetuned.digest(name)
        path = self.directory / f"{xxhash.xxh3_128_hexdigest(digests.encode())}.safetensors"
        directions = _read(path, rank) if path.is_file() else None
        if directions is None:
            found = leading_directions(delta, self._at_first(rank, full_rank))
            energy = torch.linalg.vector_norm(delta, dtype=torch.float64) ** 2
            _write(path, found, energy)
            directions = found.first(number_found(rank, found.squares, full_rank, float(energy)))
        return directions.factors(delta)

    def _at_first(self, rank: Rank, full_rank: int) -> Rank:
        if isinstance(rank, Energy) or isinstance(self.rank, Energy):
            return rank
        return max(number_of(rank, full_rank), min(number_of(self.rank, full_rank), full_rank))


def _write(path: Path, directions: Directions, energy: Tensor) -> None:
    """Keep directions, and the sum of all squared singular values of their matrix."""
    # One direction is one row, so that the first of them are read without the others.
    content = {
        "directions": directions.vectors.T.contiguous(),
        "squares": directions.squares.contiguous(),
        "energy": energy,
    }
    with atomic_write(path, "wb") as handle:
        handle.write(safetensors.torch.save(content))


def _read(path: Path, rank: Rank) -> Directions | None:
    """The directions that make up `rank`; None if there are not so many in the file."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            rows = file.get_slice("directions")
            squares, energy = file.get_tensor("squares"), file.get_tensor("energy")
            number = number_found(rank, squares, rows.get_shape()[1], float(energy))
            return None if number is None else Directions(rows[:number].T, squares[:number])
    except safetensors.SafetensorError as error:
        raise LorsError(
            "a kept decomposition cannot be read", where=path, got=error, hint="remove this file"
        ) from None
