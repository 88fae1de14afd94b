"""The matched-pairs sentence-segment word error test of NIST (MAPSSWE).

L. Gillick and S. J. Cox, "Some statistical issues in the comparison of speech recognition
algorithms", ICASSP 1989. The definition of a segment is that of NIST's sc_stats: errors of either
system belong to one segment unless two or more consecutive words between them are correct in both
systems, with no insertion among these words. A segment never reaches into another utterance.

The null hypothesis: the two systems make the same number of errors in a segment on average. The
test is two-sided. Z = mean / (deviation / sqrt(segments)) of the differences in errors is compared
with the normal distribution, which needs many segments: from about 50 on it is a fair picture.

sc_stats has one fault that is not repeated here: it overlooks insertions of the second system after
the last word of the reference if the first system has none there, so that its result depends on the
order of the systems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MIN_CORRECT = 2
"""Number of consecutive words that both systems have correct between two segments."""


@dataclass(frozen=True)
class MatchedPairs:
    """Result of the test.

    Attributes:
        segments: number of segments with an error.
        mean: mean over segments of the errors of the first system less those of the second.
        deviation: standard deviation of that difference (divisor: segments - 1).
        z: the test statistic; 0 if all segments have the same difference, as in sc_stats. Such a
            difference counts as none, even if it is large (`is_undefined`).
        p: two-sided p-value.
    """

    segments: int
    mean: float
    deviation: float
    z: float
    p: float

    @property
    def is_undefined(self) -> bool:
        """Whether all segments have the same difference, and not zero: the test says nothing."""
        return self.mean != 0 and self.deviation == 0


@dataclass(frozen=True)
class _Slots:
    """A slot for each reference word and one for the end of each utterance.

    Attributes:
        errors: errors at the word and insertions before it.
        correct: whether the word is correct.
        is_end: whether the slot is the end of an utterance.
    """

    errors: np.ndarray
    correct: np.ndarray
    is_end: np.ndarray


def matched_pairs(first: Sequence[str], second: Sequence[str]) -> MatchedPairs:
    """Test whether two systems differ in word errors.

    Args:
        first: alignment of each utterance by :func:`lors.score.significance.align`.
        second: the same for the second system, with the same references in the same order.

    Raises:
        ValueError: the references of the two differ in their numbers of words.
    """
    errors = segment_errors(first, second)
    differences = errors[:, 0] - errors[:, 1]
    count = len(differences)
    mean = float(differences.mean()) if count else 0.0
    deviation = float(differences.std(ddof=1)) if count > 1 else 0.0
    z = mean / (deviation / math.sqrt(count)) if deviation else 0.0
    return MatchedPairs(count, mean, deviation, z, math.erfc(abs(z) / math.sqrt(2)))


def segment_errors(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """Return the errors of both systems in each segment, (segments, 2) integers."""
    import numpy as np

    one, two = _slots(first), _slots(second)
    if not np.array_equal(one.is_end, two.is_end):
        raise ValueError("alignments with different references")
    wrong = np.flatnonzero(one.errors + two.errors)
    if not len(wrong):
        return np.zeros((0, 2), dtype=int)
    utterance = np.cumsum(one.is_end) - one.is_end
    both_correct = one.correct & two.correct  # after an insertion, a word may be correct
    gaps = np.diff(wrong) - 1 + both_correct[wrong[:-1]]
    is_new = (gaps >= MIN_CORRECT) | (np.diff(utterance[wrong]) > 0)
    starts = np.concatenate([[0], np.flatnonzero(is_new) + 1])
    errors = np.stack([one.errors[wrong], two.errors[wrong]], axis=1)
    return np.add.reduceat(errors, starts, axis=0)


def _slots(alignments: Sequence[str]) -> _Slots:
    import numpy as np

    steps = np.frombuffer("".join(f"{steps}\n" for steps in alignments).encode(), dtype=np.uint8)
    closes = steps != ord("I")
    slot = np.cumsum(closes) - closes
    is_error = closes & (steps != ord("C")) & (steps != ord("\n")) | ~closes
    last = steps[closes]
    errors = np.bincount(slot, weights=is_error, minlength=len(last)).astype(int)
    return _Slots(errors, last == ord("C"), last == ord("\n"))
