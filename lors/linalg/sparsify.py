"""Sparse parts of a task vector: the largest magnitudes, a band of magnitudes, random entries.

The threshold of the largest magnitudes is found by selection, about 30 times faster than by
sorting.
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
class TopKMask:
    """The mask of the k entries of largest magnitude of a tensor.

    Args:
        threshold: the k-th largest magnitude.
        last: row-major index of the last entry that is kept among those whose magnitude equals the
            threshold; None if all of them are kept.
    """

    threshold: float
    last: int | None = None

    def mask(self, magnitudes: Tensor, start: int = 0) -> Tensor:
        """Return 1 for the entries to keep and 0 for the others, in the dtype of `magnitudes`.

        Args:
            magnitudes: absolute values of the tensor, or of consecutive rows of it.
            start: row-major index of the first of these entries in the tensor.
        """
        # Write numbers directly: to convert a boolean mask takes five times as long.
        mask = torch.ge(magnitudes, self.threshold, out=torch.empty_like(magnitudes))
        end = start + magnitudes.numel()
        if self.last is not None and end > self.last + 1:
            places = torch.arange(start, end, device=mask.device).reshape(mask.shape)
            mask *= (places <= self.last) | (magnitudes != self.threshold)
        return mask


def top_k_mask(tensor: Tensor, k: int) -> TopKMask:
    """Return the mask of the k entries of largest magnitude.

    Among entries that tie, the first in row-major order are kept.

    Args:
        tensor: of any shape, without NaN.
        k: from 0 to the number of entries.
    """
    return _top_k_mask(lambda: tensor.abs(), k)


def _top_k_mask(magnitudes_of: Callable[[], Tensor], k: int) -> TopKMask:
    """Return the mask of the k largest of the magnitudes that `magnitudes_of` computes.

    The selection overwrites the magnitudes; they are computed again if some tie at the threshold.
    """
    if k == 0:
        return TopKMask(math.inf)
    magnitudes = magnitudes_of().reshape(-1).numpy()
    first = magnitudes.size - k
    magnitudes.partition(first)
    threshold = magnitudes[first]
    # If the threshold is 0, it does not matter which zeros are kept.
    if first == 0 or threshold == 0 or magnitudes[:first].max() < threshold:
        return TopKMask(float(threshold))
    excess = np.count_nonzero(magnitudes[:first] == threshold)
    ties = np.flatnonzero(magnitudes_of().reshape(-1).numpy() == threshold)
    return TopKMask(float(threshold), int(ties[len(ties) - excess - 1]))


def magnitude_prune(matrix: Tensor, density: float, kept: TopKMask | None = None) -> Tensor:
    """Keep the ``int(numel * density)`` entries of largest magnitude, set the others to zero.

    The count is exact: if entries tie at the threshold, the first in row-major order are kept.

    Args:
        matrix: a tensor of any shape, without NaN.
        density: fraction of the entries that is kept, from 0 to 1.
        kept: mask of the entries to keep, if it is known; `density` is then not used.

    Returns:
        A new tensor with the shape and dtype of `matrix`.

    Raises:
        ValueError: `density` is outside 0 to 1.
    """
    _check_fraction("density", density)
    kept = kept or top_k_mask(matrix, int(matrix.numel() * density))
    return matrix * kept.mask(matrix.abs())


def low_rank_plus_sparse(
    matrix: Tensor, up: Tensor, down: Tensor, density: float, kept: TopKMask | None = None
) -> Tensor:
    """Return L + S: L is ``up @ down``, S holds the largest entries of the residual `matrix` - L.

    Where an entry of the residual is kept, the sum is the entry of `matrix` itself. Magnitudes are
    compared in the precision of the factors.

    Args:
        matrix: rows x columns, float32, without NaN; or a stack of such matrices, on any device.
        up: rows x k.
        down: k x columns.
        density: fraction of the entries of the residual that is kept (``int(numel * density)``;
            among ties, the first in row-major order).
        kept: mask of the entries of the residual to keep, if it is known; `density` is then not
            used, and magnitudes are compared in the dtype of `matrix`.

    Returns:
        A new tensor with the shape and dtype of `matrix`.

    Raises:
        ValueError: `density` is outside 0 to 1.
    """
    _check_fraction("density", density)
    low_rank = up @ down
    if matrix.ndim > 2 or matrix.device.type != "cpu":
        magnitudes = torch.abs(matrix - low_rank)
        if kept is None:
            mask = top_k_of_each(magnitudes, int(matrix.shape[-2:].numel() * density))
        else:
            mask = kept.mask(magnitudes.to(matrix.dtype)).to(up.dtype)
        return low_rank.lerp_(matrix.to(up.dtype), mask).to(matrix.dtype)

    def magnitudes_of(rows: slice = slice(None)) -> Tensor:
        return torch.sub(matrix[rows], low_rank[rows]).abs_()

    precision = matrix.dtype
    if kept is None:
        precision = up.dtype
        kept = _top_k_mask(magnitudes_of, int(matrix.numel() * density))
    # A few rows at a time stay in the processor's cache. There it is faster to compute the
    # magnitudes twice than to keep those from the selection of the threshold.
    step = max(1, BLOCK // matrix.shape[1])
    for start in range(0, matrix.shape[0], step):
        rows = slice(start, start + step)
        mask = kept.mask(magnitudes_of(rows).to(precision), start * matrix.shape[1]).to(up.dtype)
        # With weights 0 and 1 lerp selects, several times as fast as torch.where.
        low_rank[rows].lerp_(matrix[rows].to(up.dtype), mask)
    return low_rank.to(matrix.dtype)


def top_k_of_each(magnitudes: Tensor, k: int) -> Tensor:
    """Return 1 for the k largest entries of each matrix, else 0; among ties the first are kept.

    Args:
        magnitudes: ... x rows x columns, without negative entries, on any device.
        k: number of entries of a matrix to keep, 0 or more.
    """
    flat = magnitudes.flatten(-2)
    if k == 0:
        return torch.zeros_like(magnitudes)
    threshold = flat.kthvalue(flat.shape[-1] - k + 1, dim=-1, keepdim=True).values
    above, ties = flat > threshold, flat == threshold
    room = k - above.sum(dim=-1, keepdim=True)
    mask = above | (ties & (ties.cumsum(dim=-1) <= room))
    return mask.to(magnitudes.dtype).reshape(magnitudes.shape)


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}")


class GlobalThreshold:
    """The threshold of the largest magnitudes of many tensors that are never in memory together.

    Non-negative float32 numbers have the same order as their bits, read as integers. So a histogram
    of the upper 16 bits gives the interval of the threshold. In a second pass a histogram of the
    lower 16 bits within this interval gives the threshold.

    Use: in each of ``PASSES`` passes call :meth:`add` for every tensor, then :meth:`end_pass`.

    Args:
        density: fraction of all magnitudes to keep: the threshold is the smallest of them. The
            number is rounded down; more are kept if some tie at the threshold.
        count: the number itself, in place of `density`.
    """

    PASSES = 2

    def __init__(self, density: float = 1.0, count: int | None = None):
        _check_fraction("density", density)
        self._density, self._count = density, count
        self._upper: int | None = None
        self._missing = 0
        self._counts = np.zeros(2**16, dtype=np.int64)
        self._lock = threading.Lock()
        self.threshold = math.inf

    def add(self, magnitudes: Tensor) -> None:
        """Count the magnitudes of a tensor; may be called from several threads."""
        bits = magnitudes.float().reshape(-1).numpy().view(np.uint32)
        if self._upper is None:
            found = np.bincount(bits >> np.uint32(16), minlength=2**16)
        else:
            inside = bits[bits >> np.uint32(16) == self._upper] & np.uint32(0xFFFF)
            found = np.bincount(inside, minlength=2**16)
        with self._lock:
            self._counts += found

    def end_pass(self) -> None:
        """End a pass over all tensors; after the last one `threshold` is known."""
        if self._upper is None:
            found = int(self._counts.sum() * self._density)
            self._missing = found if self._count is None else self._count
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


def band(tensor: Tensor, density: float, gamma: float) -> tuple[TopKMask, TopKMask]:
    """Return the masks of a band of magnitudes: the next largest ones below the outliers.

    Args:
        tensor: of any shape, without NaN.
        density: fraction of the entries in the band, at most all that are not outliers.
        gamma: fraction of the entries that are outliers, i.e. the largest; rounded down.

    Returns:
        The mask of the outliers and the band together, and the mask of the outliers.

    Raises:
        ValueError: `density` or `gamma` is outside 0 to 1.
    """
    _check_fraction("density", density)
    _check_fraction("gamma", gamma)
    outliers = int(tensor.numel() * gamma)
    keep = min(int(tensor.numel() * density), tensor.numel() - outliers)
    return top_k_mask(tensor, outliers + keep), top_k_mask(tensor, outliers)


def random_prune(tensor: Tensor, density: float, random: np.random.Generator) -> Tensor:
    """Keep each entry with probability `density`, divided by `density`; set the others to zero.

    Each entry takes 16 random bits. So the probability is the multiple of 2^-16 that is nearest to
    `density` (at least 2^-16; the difference is below 8e-6). Kept entries are divided by this
    probability.

    Args:
        tensor: a tensor of any shape.
        density: probability to keep an entry, above 0 and at most 1.
        random: source of the mask. Four entries take one word of its bit generator. So a tensor in
            consecutive pieces gets the same mask as the whole tensor if the sizes of the pieces are
            multiples of four.

    Returns:
        A new float32 tensor with the shape of `tensor`. Its expectation is `tensor`.

    Raises:
        ValueError: `density` is not in its range.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density}")
    kept = max(1, round(density * 2**16))
    # Use the raw words: five times as fast as to draw a float for each entry.
    words = random.bit_generator.random_raw(-(-tensor.numel() // 4))
    draws = words.view(np.uint16)[: tensor.numel()]
    pruned = torch.from_numpy(tensor.reshape(-1).numpy() * (draws <= kept - 1))
    return pruned.div_(kept / 2**16).reshape(tensor.shape)
