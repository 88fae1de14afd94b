"""Positions of the entries of a sparse part, in bytes: gaps or a bitmap, whichever is smaller.

- ``gaps``: for each entry the number of skipped entries before it, in one byte. The byte 255 skips
  255 entries and holds none. At a density of 0.1 an entry takes 1.0 bytes.
- ``bitmap``: a bit for each entry of the matrix, row-major, the highest bit of a byte first. It is
  the smaller one at densities above about an eighth.
"""

from __future__ import annotations

import numpy as np

GAPS, BITMAP = "gaps", "bitmap"
SKIP = 255
"""Byte of ``gaps`` that skips this many entries and holds none."""


def encode(kept: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the smaller code of the positions where `kept` is true.

    Args:
        kept: boolean, one-dimensional.

    Returns:
        ``GAPS`` or ``BITMAP``, and the bytes (uint8).
    """
    positions = np.flatnonzero(kept)
    skipped = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum(skipped // SKIP + 1) - 1
    length = int(ends[-1]) + 1 if len(ends) else 0
    if length > -(-len(kept) // 8):
        return BITMAP, np.packbits(kept)
    code = np.full(length, SKIP, dtype=np.uint8)
    code[ends] = skipped % SKIP
    return GAPS, code


def longest(kind: str, size: int) -> int:
    """Return the largest number of bytes of a code for `size` entries."""
    return -(-size // 8) if kind == BITMAP else size + size // SKIP


def decode(kind: str, code: np.ndarray, size: int) -> np.ndarray:
    """Return the positions in a code, ascending (int64).

    Args:
        kind: ``GAPS`` or ``BITMAP``.
        code: bytes, at most :func:`longest`.
        size: number of entries of the matrix.

    Raises:
        ValueError: the code does not fit `size` entries.
    """
    if kind == BITMAP:
        if len(code) != longest(kind, size):
            raise ValueError(f"{len(code)} bytes of a bitmap for {size} entries")
        bits = np.unpackbits(code)
        if bits[size:].any():
            raise ValueError(f"a position beyond the {size} entries")
        return np.flatnonzero(bits[:size])
    holds = code != SKIP
    if len(code) and not holds[-1]:
        raise ValueError("the positions end with a gap")
    # A byte below 255 also passes the entry that it holds.
    positions = np.cumsum(code + holds.astype(np.int64))[holds] - 1
    if len(positions) and positions[-1] >= size:
        raise ValueError(f"position {positions[-1]} of {size} entries")
    return positions
