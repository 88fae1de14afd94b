"""Decompositions kept on disk: a grid of ranks and densities computes each of them only once."""

from __future__ import annotations

import logging
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
    rank_from_size,
    rank_from_spectrum,
)
from lors.merge.methods import MergeMethod
from lors.merge.task_vector import TaskVector


class Decompositions:
    """A directory of safetensors files with the leading singular directions of task vectors.

    The name of a file is a digest of the values of one tensor in the base model and in one expert.
    So a file is never out of date, and it serves every merge of this expert. It holds the
    directions of the largest rank that was needed so far; a smaller rank takes the first of them.

    Args:
        directory: the directory, made if it is not there.
        rank: smallest rank to compute, e.g. the largest rank of a grid.

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
                hint="name another directory",
            ) from None

    def low_rank(
        self, vector: TaskVector, name: str, delta: Tensor, rank: Rank
    ) -> tuple[Tensor, Tensor]:
        """Return the low-rank factors of a matrix, with directions that a file keeps.

        If no file has enough directions, they are computed and written to a file. A rank that keeps
        the whole matrix needs none.

        Args:
            vector: the task vector of an expert.
            name: name of the matrix in it.
            delta: this matrix, or a multiple of it: the directions are the same.
            rank: rank of the approximation.

        Returns:
            Two factors of the approximation of `delta`, as
            :func:`lors.linalg.low_rank.low_rank_factors` returns them.

        Raises:
            LorsError: the file cannot be read.
        """
        full_rank = min(delta.shape)
        if not isinstance(rank, Energy) and rank_from_size(rank, full_rank) >= full_rank:
            return low_rank_factors(delta, rank)
        digests = vector.base.digest(name) + vector.finetuned.digest(name)
        path = self.directory / f"{xxhash.xxh3_128_hexdigest(digests.encode())}.safetensors"
        directions = _read(path, rank) if path.is_file() else None
        if directions is None:
            found = leading_directions(delta, self._rank_to_compute(rank, full_rank))
            energy = torch.linalg.vector_norm(delta, dtype=torch.float64) ** 2
            _write(path, found, energy)
            number = rank_from_spectrum(rank, found.squares, full_rank, float(energy))
            # By the rounding of the energy, the rank may be one more than was computed.
            directions = found if number is None else found.first(number)
        return directions.factors(delta)

    def _rank_to_compute(self, rank: Rank, full_rank: int) -> Rank:
        if isinstance(rank, Energy) or isinstance(self.rank, Energy):
            return rank
        return max(
            rank_from_size(rank, full_rank), min(rank_from_size(self.rank, full_rank), full_rank)
        )


def _write(path: Path, directions: Directions, energy: Tensor) -> None:
    """Write directions, and the sum of all squared singular values of their matrix."""
    # A direction is a row of the file, so that the first ones are read without the others.
    content = {
        "directions": directions.vectors.T.contiguous(),
        "squares": directions.squares.contiguous(),
        "energy": energy,
    }
    with atomic_write(path, "wb") as handle:
        handle.write(safetensors.torch.save(content))


def _read(path: Path, rank: Rank) -> Directions | None:
    """Return the directions of a rank from a file; None if the file has fewer."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            rows = file.get_slice("directions")
            squares, energy = file.get_tensor("squares"), file.get_tensor("energy")
            number = rank_from_spectrum(rank, squares, rows.get_shape()[1], float(energy))
            return None if number is None else Directions(rows[:number].T, squares[:number])
    except safetensors.SafetensorError as error:
        raise LorsError(
            "a kept decomposition cannot be read", where=path, got=error, hint="remove this file"
        ) from None


def decompositions_for(
    method: MergeMethod, directory: str | os.PathLike | None
) -> Decompositions | None:
    """Return the decompositions in a directory; None for no directory or a method without them."""
    if directory is None:
        return None
    if not method.decomposes:
        logging.info("%s makes no decompositions to be kept", method.name)
        return None
    return Decompositions(directory)
