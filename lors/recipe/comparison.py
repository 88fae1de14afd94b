"""Comparisons of systems on the same test sets, with intervals and tests of significance.

Word error rate: the matched-pairs test of NIST and a paired bootstrap; other metrics: the paired
bootstrap. :mod:`lors.score.significance` states the hypotheses. Test sets of several languages are
pooled: a score over all their words, segments of all of them in one matched-pairs test, and
bootstrap samples that draw the utterances of each language for themselves.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import lors
from lors.errors import LorsError, shortened
from lors.recipe.expdir import utterances_file
from lors.recipe.score_tree import check_comparable, read_score_files
from lors.score import ErrorRates, Score
from lors.score.significance import (
    SEED,
    Difference,
    MatchedPairs,
    holm,
    interval,
    matched_pairs,
    paired_difference,
    resampled_totals,
)
from lors.score.utterances import UTTERANCES, RecognisedUtterances, Utterances
from lors.tasks import ASR, Metric, Pair, task_called

if TYPE_CHECKING:
    import numpy as np

SAMPLES = 10_000
"""Number of bootstrap samples, as in Kaldi.

The smallest p-value is 2 / (samples + 1); with sacreBLEU's 1,000 samples, no difference among 30
systems could be significant after Holm's correction.
"""
LEVEL = 0.05
"""A corrected p-value below it is a significant difference."""
FEW = 50
"""With fewer utterances or segments the tests find more differences than there are."""
SHOWN = 20
"""Number of files or utterance ids that a message lists; the others are counted."""

Outputs = Mapping[str, Mapping[Pair, Sequence[Utterances]]]
"""System -> pair -> its utterances, one for each training run (seed)."""


def read_outputs(
    files: Mapping[str, Mapping[Pair, Sequence[Path]]],
) -> tuple[Outputs, dict[Pair, Score]]:
    """Read the utterances of systems, and check that all are of the same test sets.

    Args:
        files: system -> pair -> its score files, one for each training run.

    Returns:
        The utterances, and for each pair one of its scores.

    Raises:
        LorsError: files are missing or malformed; utterances are missing in one of two files, have
            other references, or were scored with other settings; all problems are listed.
    """
    paths = [(p, pair) for of in files.values() for pair, ps in of.items() for p in ps]
    scores = read_score_files(paths)
    if missing := [u for path, _ in paths if not (u := utterances_file(path)).exists()]:
        raise LorsError(
            "files of utterances are missing",
            got=shortened(missing, SHOWN),
            hint="score these systems again (python -m lors.bin.score_expdir, or stage score)",
        )
    utterances = {path: UTTERANCES[pair.task].read(utterances_file(path)) for path, pair in paths}
    examples: dict[Pair, Score] = {}
    first: dict[Pair, Path] = {}
    problems = []
    for path, pair in paths:
        if abs(utterances[path].score(pair.speech_task.metric) - _main(scores[path])) > 1e-6:
            problems.append(f"{utterances_file(path)}: not the utterances of the score file")
        examples.setdefault(pair, scores[path])
        expected = first.setdefault(pair, path)
        problems += _differences(path, utterances[path], expected, utterances[expected])
    if problems:
        raise LorsError(
            "systems that cannot be compared",
            expected="outputs for the same utterances with the same references",
            got=problems,
            hint="score these systems again, on the same test set",
        )
    check_comparable(scores)
    outputs = {
        system: {pair: [utterances[path] for path in paths] for pair, paths in of.items()}
        for system, of in files.items()
    }
    return outputs, examples


def _main(score: Score) -> float:
    return score.value(score.task.metric)


def _differences(path: Path, found: Utterances, other: Path, expected: Utterances) -> list[str]:
    """List the utterances in one of two files only, and those with other references."""
    if (found.ids, found.references) == (expected.ids, expected.references):
        return []
    here = dict(zip(found.ids, found.references, strict=True))
    there = dict(zip(expected.ids, expected.references, strict=True))
    changed = sorted(name for name in here.keys() & there.keys() if here[name] != there[name])
    lists = (
        (path, f"utterances missing, which {other} has", sorted(there.keys() - here.keys())),
        (other, f"utterances missing, which {path} has", sorted(here.keys() - there.keys())),
        (path, f"utterances with another reference than in {other}", changed),
    )
    return [
        f"{where}: {len(names)} {what}: {', '.join(shortened(names, SHOWN))}"
        for where, what, names in lists
        if names
    ]


class Resampled:
    """Scores of systems on the same bootstrap samples.

    Args:
        outputs: the systems.
        metric: the metric.
        pairs: pairs of the metric's task.
        seed: seed of the samples.
    """

    def __init__(self, outputs: Outputs, metric: Metric, pairs: Sequence[Pair], seed: int = SEED):
        import numpy as np

        self.metric = metric
        self._class = UTTERANCES[pairs[0].task]
        self._scores: dict[tuple[str, tuple[Pair, ...]], np.ndarray] = {}
        columns = self._class.columns[metric.key]
        width = columns.stop - columns.start
        self._totals: dict[str, list[dict[Pair, np.ndarray]]] = {
            system: [{} for _ in of[pairs[0]]] for system, of in outputs.items()
        }
        for pair in pairs:
            runs = [
                (system, run) for system in outputs for run in range(len(outputs[system][pair]))
            ]
            counts = [outputs[system][pair][run].counts[:, columns] for system, run in runs]
            totals = resampled_totals(np.hstack(counts), SAMPLES, seed)
            for index, (system, run) in enumerate(runs):
                self._totals[system][run][pair] = totals[:, index * width : (index + 1) * width]

    def pooled(self, system: str, pairs: Sequence[Pair]) -> np.ndarray:
        """Return the scores (samples,) over all utterances of some pairs, mean over runs."""
        key = (system, tuple(pairs))
        if key not in self._scores:
            totals = [_pooled(run, pairs) for run in self._totals[system]]
            scores = [self._class.scores(self.metric, of_run) for of_run in totals]
            self._scores[key] = _total(scores) / len(scores)
        return self._scores[key]

    def averages(self, system: str, pairs: Sequence[Pair]) -> np.ndarray:
        """Return the means over some pairs of their scores (samples,), mean over runs."""
        import numpy as np

        scores = [np.roll(self.pooled(system, [pair]), k) for k, pair in enumerate(pairs)]
        return _total(scores) / len(scores)


def _pooled(totals: Mapping[Pair, np.ndarray], pairs: Sequence[Pair]) -> np.ndarray:
    """Add up the totals of pairs.

    The samples of all pairs come from one seed. Moved by one place from pair to pair, they are
    independent of each other.
    """
    import numpy as np

    return _total(np.roll(totals[pair], k, axis=0) for k, pair in enumerate(pairs))


def _total(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return functools.reduce(operator.add, arrays)


@dataclass(frozen=True)
class Comparison:
    """A system beside a reference system.

    Attributes:
        system: name of the system.
        reference: name of the system that it is compared with.
        pairs: its test sets, pooled if there are several.
        metric: the metric.
        utterances: number of utterances.
        score: score of the system, mean over runs.
        reference_score: score of the reference system.
        interval: 95 % interval of `score`.
        reference_interval: the same of `reference_score`.
        difference: `score` less `reference_score`, by the paired bootstrap.
        matched_pairs: the test of NIST; None for other metrics than WER, and for several runs,
            whose errors in one utterance are not independent.
        corrected_p: `p` after Holm's correction over the comparisons of the same table.
    """

    system: str
    reference: str
    pairs: tuple[Pair, ...]
    metric: Metric
    utterances: int
    score: float
    reference_score: float
    interval: tuple[float, float]
    reference_interval: tuple[float, float]
    difference: Difference
    matched_pairs: MatchedPairs | None
    corrected_p: float = 1.0

    @property
    def p(self) -> float:
        """The p-value that is corrected: of the matched-pairs test, else of the bootstrap.

        It is not below 2 / 2^n for n segments or utterances, the smallest p-value of an exact test
        of n paired differences by their signs: one utterance never shows a difference.
        """
        test = self.matched_pairs
        p = self.difference.p if test is None or test.is_undefined else test.p
        return max(p, min(1.0, 2.0 ** (1 - self._units)))

    @property
    def is_small(self) -> bool:
        """Whether there are too few utterances or segments for the tests."""
        return min(self.utterances, self._units) < FEW

    @property
    def _units(self) -> int:
        return self.utterances if self.matched_pairs is None else self.matched_pairs.segments

    @property
    def languages(self) -> str:
        """The language, or ``all``."""
        return self.pairs[0].lang if len(self.pairs) == 1 else "all"

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` than the reference system if that is significant, else ``~``."""
        if self.corrected_p >= LEVEL:
            return "~"
        is_better = (self.difference.value < 0) == self.metric.lower_is_better
        return "better" if is_better else "worse"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as an entry of a file."""
        content = dataclasses.asdict(self)
        content |= {"pairs": [*map(str, self.pairs)], "metric": self.metric.name}
        return {**content, "p": self.p, "verdict": self.verdict}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Make the comparison of such an entry."""
        pairs = tuple(map(Pair.parse, content["pairs"]))
        metrics = {metric.name: metric for metric in pairs[0].speech_task.metrics}
        test = content["matched_pairs"]
        values = {field.name: content[field.name] for field in dataclasses.fields(cls)} | {
            "pairs": pairs,
            "metric": metrics[content["metric"]],
            "interval": tuple(content["interval"]),
            "reference_interval": tuple(content["reference_interval"]),
            "difference": Difference(**content["difference"]),
            "matched_pairs": test and MatchedPairs(**test),
        }
        return cls(**values)


def compare(
    outputs: Outputs,
    metric: Metric,
    requests: Sequence[tuple[str, str, Sequence[Pair]]],
    resampled: Resampled,
) -> list[Comparison]:
    """Compare systems; Holm's correction is over all these comparisons.

    Args:
        outputs: the systems.
        metric: the metric.
        requests: (system, reference system, pairs to pool) of each comparison.
        resampled: scores of the systems on bootstrap samples.
    """
    found = [_compare(outputs, metric, *request, resampled) for request in requests]
    corrected = holm([comparison.p for comparison in found])
    return [
        dataclasses.replace(comparison, corrected_p=p)
        for comparison, p in zip(found, corrected, strict=True)
    ]


def _compare(
    outputs: Outputs,
    metric: Metric,
    system: str,
    reference: str,
    pairs: Sequence[Pair],
    resampled: Resampled,
) -> Comparison:
    ours, theirs = ([outputs[name][pair] for pair in pairs] for name in (system, reference))
    score, reference_score = (pooled_score(outputs[n], metric, pairs) for n in (system, reference))
    samples, reference_samples = (resampled.pooled(n, pairs) for n in (system, reference))
    test = None
    if metric == ASR.metric and all(len(runs) == 1 for runs in (*ours, *theirs)):
        test = matched_pairs(_alignments(ours), _alignments(theirs))
    return Comparison(
        system,
        reference,
        tuple(pairs),
        metric,
        utterances=sum(len(runs[0].ids) for runs in ours),
        score=score,
        reference_score=reference_score,
        interval=interval(samples),
        reference_interval=interval(reference_samples),
        difference=paired_difference(score, reference_score, samples, reference_samples),
        matched_pairs=test,
    )


def _alignments(of_pairs: Sequence[Sequence[Utterances]]) -> list[str]:
    """Return the alignments of the utterances of recognition, those of all pairs together."""
    found = (runs[0] for runs in of_pairs)
    return [a for of in found if isinstance(of, RecognisedUtterances) for a in of.alignments]


def pooled_score(
    of_system: Mapping[Pair, Sequence[Utterances]], metric: Metric, pairs: Sequence[Pair]
) -> float:
    """Return the score of a system over all utterances of some pairs, mean over runs."""
    import numpy as np

    runs = zip(*(of_system[pair] for pair in pairs), strict=True)
    totals = np.array([sum(utterances.totals(metric) for utterances in run) for run in runs])
    return float(UTTERANCES[pairs[0].task].scores(metric, totals).mean())


def mixed_units(scores: Mapping[Pair, Score], found: Sequence[Comparison]) -> list[str]:
    """Return a caution if languages whose error rates have different units are pooled.

    Args:
        scores: a score of each pair.
        found: comparisons of one metric.
    """
    pairs = max((comparison.pairs for comparison in found), key=len)
    units: dict[str, list[str]] = {}
    for pair in pairs:
        if isinstance(score := scores[pair], ErrorRates):
            units.setdefault(score.unit, []).append(pair.lang)
    if len(units) < 2:
        return []
    parts = " and ".join(f"{unit}s ({', '.join(langs)})" for unit, langs in sorted(units.items()))
    return [
        f"Caution: {found[0].metric.name} of all languages pooled adds up {parts}; languages that "
        "are scored by characters weigh more in it."
    ]


def signature(found: Sequence[Comparison], seed: int = SEED) -> str:
    """Return one line with all settings of the tests of some comparisons."""
    is_tested = any(comparison.matched_pairs for comparison in found)
    tests = ["test:mapsswe", "align:sclite", "good:2"] if is_tested else []
    bootstrap = [f"bs:{SAMPLES}", f"seed:{seed}", "ci:95", "correction:holm"]
    return "|".join([*tests, *bootstrap, f"lors:{lors.__version__}"])


def tests_of(task: str) -> tuple[Metric, ...]:
    """Return the metrics that systems are compared by: WER of recognition, BLEU and chrF."""
    speech_task = task_called(task)
    return speech_task.metrics[:1] if speech_task == ASR else speech_task.metrics
