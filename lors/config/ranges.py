"""Ranges of numbers: in type annotations, for command-line options and for arguments."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

from lors.errors import UsageError


@dataclass(frozen=True)
class Range:
    """Limits of a number, both included, as in ``Annotated[float, Range(0, 1)]``.

    Infinite values, NaN and integers of more than 64 bits are out of every range.
    """

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: object) -> bool:
        if isinstance(value, int) and abs(value) >= 2**63:
            return False
        return (
            isinstance(value, (int, float))
            and math.isfinite(value)
            and (self.low <= value <= self.high)
        )

    def __str__(self) -> str:
        if self.low == -math.inf and self.high == math.inf:
            return "(finite)"
        if self.high == math.inf:
            return f"at least {self.low:g}"
        if self.low == -math.inf:
            return f"at most {self.high:g}"
        return f"from {self.low:g} to {self.high:g}"


FLOAT32 = Range(-3.4028234663852886e38, 3.4028234663852886e38)
"""Range of the finite numbers of float32."""
FRACTION = Range(0, 1)
"""Range of a share of a whole."""
LARGEST_COUNT = 1_000_000
"""Largest number of clips, or of anything else that an option counts."""
MOST_PROCESSES = 1000
"""Largest number of processes that a program starts."""


def option_number(limits: Range, whole: bool = False) -> Callable[[str], float]:
    """Return a ``type`` for argparse that reads a number within `limits`.

    Args:
        limits: the range; infinite values and NaN are in none.
        whole: whether the number must be whole; it is then an ``int``.
    """

    def parse(text: str) -> float:
        try:
            number = int(text) if whole else float(text)
        except ValueError:
            number = math.nan
        if number not in limits:
            kind = "a whole number" if whole else "a number"
            raise argparse.ArgumentTypeError(f"expected {kind} {limits}, got {text[:40]!r}")
        return number

    return parse


finite_number = option_number(Range())
fraction = option_number(FRACTION)
count = option_number(Range(1, LARGEST_COUNT), whole=True)
process_count = option_number(Range(1, MOST_PROCESSES), whole=True)
SEED = Range(0, 2**32 - 1)
"""Range of a seed, as numpy requires."""


def check_number(value: float, limits: Range, where: str) -> None:
    """Check a number that a program or a user gives to a function.

    Raises:
        UsageError: the number is not within `limits`; infinite values and NaN never are.
    """
    if value not in limits:
        raise UsageError(
            "a number out of range", where=where, expected=f"a number {limits}", got=repr(value)
        )
