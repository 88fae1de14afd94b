"""Tests of significance and confidence intervals for the scores of two systems.

Every test here is two-sided, and takes the utterances (or segments of them) of one test set as
independent. Utterances of one speaker are not: a result holds for further utterances of the
speakers, and the way of speaking, of the test set.
"""

from lors.score.significance.alignment import align
from lors.score.significance.bootstrap import (
    SEED,
    Difference,
    interval,
    paired_difference,
    resampled_totals,
)
from lors.score.significance.holm import holm
from lors.score.significance.matched_pairs import MatchedPairs, matched_pairs

__all__ = [
    "SEED",
    "Difference",
    "MatchedPairs",
    "align",
    "holm",
    "interval",
    "matched_pairs",
    "paired_difference",
    "resampled_totals",
]
