"""Sparse parts of a task vector: by magnitude, by a band of magnitudes, at random.

The largest entries are found by selecting their threshold, some 30 times quicker than sorting.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lors.linalg.parallel import BLOCK


@dataclass(frozen=True)
class Cut:
    """Which entries of a tensor are its largest: known without the tensor, so rows can be masked.

    Args:
        threshold: the smallest magnitude among them.
        last: index in row-major order of the last entry of just this magnitude that belongs to
            them; None if all such entries do.
    """

    threshold: float
    last: int | None = None

    def mask(self, magnitudes: Tensor, start: int = 0) -> Tensor:
        """Where the largest entries are, as 0 and 1 in the dtype of `magnitudes`.

        Args:
            magnitudes: of the tensor, or of consecutive rows of it.
            start: index of their first entry in the tensor, in row-major order.
        """
        # Straight into numbers: a mask of truth values that is converted takes five times as long.
        mask = torch.ge(magnitudes, self.threshold, out=torch.empty_like(magnitudes))
        end = start + magnitudes.numel()
        if self.last is not None and end > self.last + 1:
            places = torch.arange(start, end, device=mask.device).reshape(mask.shape)
            mask *= (places <= self.last) | (magnitudes != self.threshold)
        return mask


def largest(tensor: Tensor, count: int) -> Cut:
    """Exactly `count` entries of largest magnitude; of ties the first in row-major order.

    Args:
        tensor: of any shape, without NaN.
        count: from 0 to the number of entries.
    """
    return _cut(lambda: tensor.abs(), count)


def _cut(magnitudes_of: Callable[[], Tensor], count: int) -> Cut:
    """As :func:`largest`, of magnitudes that are made for this purpose, and again if some tie."""
    if count == 0:
        return Cut(math.inf)
    magnitudes = magnitudes_of().reshape(-1).numpy()
    first = magnitudes.size - count
    magnitudes.partition(first)
    threshold = magnitudes[first]
    # Of zeros it does not matter which are kept.
    if first == 0 or threshold == 0 or magnitudes[:first].max() < threshold:
        return Cut(float(threshold))
    excess = np.count_nonzero(magnitudes[:first] == threshold)
    ties = np.flatnonzero(magnitudes_of().reshape(-1).numpy() == threshold)
    return Cut(float(threshold), int(ties[len(ties) - excess - 1]))


def magnitude_prune(matrix: Tensor, density: float, cut: Cut | None = None) -> Tensor:
    """Keep the ``int(numel * density)`` entries of largest magnitude, set the others to zero.

    The count is exact: of entries that tie at the threshold the first in row-major order are kept.

    Args:
        matrix: a tensor of any shape, without NaN.
        density: the kept fraction, from 0 to 1.
        cut: which entries to keep in place of these, if it is known.

    Returns:
        A new tensor with the shape and dtype of `matrix`.

    Raises:
        ValueError: `density` is outside 0 to 1.
    """
    _check_fraction("density", density)
    cut = cut or largest(matrix, int(matrix.numel() * density))
    return matrix * cut.mask(matrix.abs())


def low_rank_plus_sparse(
    matrix: Tensor, up: Tensor, down: Tensor, density: float, cut: Cut | None = None
) -> Tensor:
    """``up @ down`` plus the largest entries of what it leaves of `matrix`.

    Where an entry of the residual is kept, the sum is the entry of `matrix` itself. Which entries
    are kept is decided in the precision of the factors.

    Args:
        matrix: rows x columns, float32, without NaN; or a stack of such matrices, on any device.
        up: rows x k.
        down: k x columns.
        density: fraction of the entries of the residual that is kept (``int(numel * density)``;
            of ties the first in row-major order).
        cut: which entries of the residual to keep in place of these, if it is known.

    Returns:
        A new tensor with the shape and dtype of `matrix`.

    Raises:
        ValueError: `density` is outside 0 to 1.
    """
    _check_fraction("density", density)
    if matrix.ndim > 2 or matrix.device.type != "cpu":
        low_rank = up @ down
        magnitudes = torch.abs(matrix - low_rank)
        if cut is None:
            mask = mask_of_each(magnitudes, int(matrix.shape[-2:].numel() * density))
        else:
            mask = cut.mask(magnitudes.to(matrix.dtype)).to(up.dtype)
        return low_rank.lerp_(matrix.to(up.dtype), mask).to(matrix.dtype)
    low_rank = up @ down

    def magnitudes(rows: slice = slice(None)) -> Tensor:
        return torch.sub(matrix[rows], low_rank[rows]).abs_()

    if cut is None:
        precision = up.dtype
        cut = _cut(magnitudes, int(matrix.numel() * density))
    else:
        precision = matrix.dtype  # in which a cut of several matrices is made
    # A few rows at a time, so that what lies between is in the processor's cache: there magnitudes
    # are made again in less time than it takes to keep them while their threshold is selected.
    step = max(1, BLOCK // matrix.shape[1])
    for start in range(0, matrix.shape[0], step):
        rows = slice(start, start + step)
        mask = cut.mask(magnitudes(rows).to(precision), start * matrix.shape[1]).to(up.dtype)
        # With weights 0 and 1 this selects, several times as fast as torch.where.
        low_rank[rows].lerp_(matrix[rows].to(up.dtype), mask)
    return low_rank.to(matrix.dtype)


def mask_of_each(magnitudes: Tensor, count: int) -> Tensor:
    """Where the `count` largest entries of each matrix are, as 0 and 1; of ties the first.

    Args:
        magnitudes: ... x rows x columns, without negative entries, on any device.
        count: of entries of a matrix, 0 or more.
    """
    flat = magnitudes.flatten(-2)
    if count == 0:
        return torch.zeros_like(magnitudes)
    threshold = flat.kthvalue(flat.shape[-1] - count + 1, dim=-1, keepdim=True).values
    above, ties = flat > threshold, flat == threshold
    room = count - above.sum(dim=-1, keepdim=True)
    mask = above | (ties & (ties.cumsum(dim=-1) <= room))
    return mask.to(magnitudes.dtype).reshape(magnitudes.shape)


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}")


class PooledThreshold:
    """The count-th largest of many float32 magnitudes that are never in memory together.

    Non-negative floats sort as their bits do, so a histogram of the upper half of the bits finds
    the interval of the threshold, and one of the lower half within that interval the threshold.

    Use: ``for _ in range(pooled.PASSES)``: :meth:`add` all magnitudes, then :meth:`end_pass`.

    Args:
        density: the fraction of all magnitudes that is at least the threshold (rounded down; more
            if some tie at the threshold).
    """

    PASSES = 2

    def __init__(self, density: float):
        _check_fraction("density", density)
        self._density = density
        self._upper: int | None = None
        self._missing = 0
        self._counts = np.zeros(2**16, dtype=np.int64)
        self._lock = threading.Lock()
        self.threshold = math.inf

    def add(self, magnitudes: Tensor) -> None:
        """Count a tensor of magnitudes; may be called from several threads."""
        bits = magnitudes.float().reshape(-1).numpy().view(np.uint32)
        if self._upper is None:
            found = np.bincount(bits >> np.uint32(16), minlength=2**16)
        else:
            inside = bits[bits >> np.uint32(16) == self._upper] & np.uint32(0xFFFF)
            found = np.bincount(inside, minlength=2**16)
        with self._lock:
            self._counts += found

    def end_pass(self) -> None:
        """Go on to the next pass; after the last, `threshold` is known."""
        if self._upper is None:
            self._missing = int(self._counts.sum() * self._density)
        if self._missing == 0:
            return
        from_top = np.cumsum(self._counts[::-1])
        place = int(np.searchsorted(from_top, self._missing))
        self._missing -= int(from_top[place] - self._counts[::-1][place])
        value = 2**16 - 1 - place
        if self._upper is None:
            self._upper = value
            self._counts[:] = 0
        else:
            bits = np.array(self._upper << 16 | value, dtype=np.uint32)
            self.threshold = float(bits.view(np.float32))


def band(tensor: Tensor, density: float, gamma: float) -> tuple[Cut, Cut]:
    """The entries without the ``int(numel * gamma)`` largest and without the smallest.

    Args:
        tensor: of any shape, without NaN.
        density: the kept fraction; less if there are not so many entries below the largest.
        gamma: the fraction of largest entries that goes.

    Returns:
        What is in the band: the entries of the first cut that are not in the second.

    Raises:
        ValueError: `density` or `gamma` is outside 0 to 1.
    """
    _check_fraction("density", density)
    _check_fraction("gamma", gamma)
    outliers = int(tensor.numel() * gamma)
    keep = min(int(tensor.numel() * density), tensor.numel() - outliers)
    return largest(tensor, outliers + keep), largest(tensor, outliers)


def random_prune(tensor: Tensor, density: float, random: np.random.Generator) -> Tensor:
    """Keep every entry with probability `density` and divide it by that; the others become zero.

    Each entry takes 16 random bits, so that the probability is the multiple of 2^-16 nearest to
    `density` (at least one), and differs from it by less than 8e-6. Kept entries are divided by
    this very probability.

    Args:
        tensor: a tensor of any shape.
        density: probability to be kept, above 0 and at most 1.
        random: where the mask comes from. Four entries take one word of its bit generator: what is
            drawn for consecutive pieces of a tensor is the same as for the whole, if they have
            multiples of four entries.

    Returns:
        A new float32 tensor with the shape of `tensor` and, in the mean, its values.

    Raises:
        ValueError: `density` is not in its range.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density}")
    kept = max(1, round(density * 2**16))
    # The words as they are: five times as quick as a float for every entry.
    words = random.bit_generator.random_raw(-(-tensor.numel() // 4))
    draws = words.view(np.uint16)[: tensor.numel()]
    pruned = torch.from_numpy(tensor.reshape(-1).numpy() * (draws <= kept - 1))
    return pruned.div_(kept / 2**16).reshape(tensor.shape)
