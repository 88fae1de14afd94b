"""Bootstrap over utterances: intervals of scores and of differences between two systems.

M. Bisani and H. Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation",
ICASSP 2004; P. Koehn, "Statistical significance tests for machine translation evaluation", EMNLP
2004. A sample draws as many utterances as the test set has, with replacement; its score is that of
a corpus of these utterances. All systems are scored on the same samples (paired bootstrap).

The samples are those of sacreBLEU's paired bootstrap for the same seed and number of samples, so
that its results can be compared number by number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SEED = 12345
"""The default of sacreBLEU."""
TAILS = (2.5, 97.5)
"""Percentiles at the ends of a 95 % interval."""
_DRAWS = 4_000_000
"""Utterances that are drawn at a time: 32 MB for the draws, 32 MB for their counts."""


@dataclass(frozen=True)
class Difference:
    """Difference between the scores of two systems.

    Attributes:
        value: score of the first system less that of the second.
        low: lower end of the 95 % interval of the difference.
        high: upper end.
        p: two-sided p-value. The null hypothesis is a difference of zero: twice the share of the
            samples in which the difference is zero or has the other sign; 1 at most.
        sacrebleu_p: the p-value of sacreBLEU's paired bootstrap, as in published comparisons. It
            compares the size of the difference with sizes of resampled ones about their mean, which
            makes it about half of `p`: in effect it is one-sided, with the side chosen by the data.
    """

    value: float
    low: float
    high: float
    p: float
    sacrebleu_p: float


def resampled_totals(counts: np.ndarray, samples: int, seed: int = SEED) -> np.ndarray:
    """Return the sums of counts over the utterances of each sample.

    Args:
        counts: integers (utterances, columns), of any number of systems beside each other.
        samples: number of samples.
        seed: seed of the generator.

    Returns:
        float64 (samples, columns); exact integers.
    """
    import numpy as np

    number = len(counts)
    generator = np.random.default_rng(seed)
    weights = np.asarray(counts, dtype=np.float64)
    totals = np.empty((samples, weights.shape[1]))
    step = max(1, _DRAWS // number)
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        draws = generator.choice(number, size=(rows, number), replace=True)
        draws += number * np.arange(rows)[:, None]
        times = np.bincount(draws.ravel(), minlength=rows * number).reshape(rows, number)
        totals[start : start + rows] = times @ weights
    return totals


def interval(scores: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of resampled scores: their 2.5 and 97.5 percentiles."""
    import numpy as np

    low, high = np.percentile(scores, TAILS)
    return float(low), float(high)


def paired_difference(
    first: float, second: float, first_samples: np.ndarray, second_samples: np.ndarray
) -> Difference:
    """Compare two systems by their scores on the same samples.

    Args:
        first: score of the first system on the test set.
        second: score of the second system.
        first_samples: scores of the first system on the samples (samples,).
        second_samples: scores of the second system on the same samples.
    """
    differences = first_samples - second_samples
    one_side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p = min(1.0, 2 * (one_side + 1) / (len(differences) + 1))
    value = first - second
    return Difference(value, *interval(differences), p, _sacrebleu_p(value, differences))


def _sacrebleu_p(value: float, differences: np.ndarray) -> float:
    """Return the p-value of ``sacrebleu --paired-bs``; 1 for systems that never differ.

    For these, sacreBLEU has 1 / (samples + 1).
    """
    if not differences.any():
        return 1.0
    sizes = abs(differences)
    larger = int((sizes - sizes.mean() > abs(value)).sum())
    return (larger + 1) / (len(differences) + 1)
