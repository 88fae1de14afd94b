"""Utterances of the page: references and hypotheses, with the differences between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.recipe.expdir import ExpDir, utterances_file
from lors.recipe.score_tree import ScoreTable
from lors.score.significance import align
from lors.score.utterances import UTTERANCES, Utterances
from lors.tasks import Pair

UTTERANCES_SHOWN = 20
"""Largest number of utterances of a test set."""
FEWEST = 5
"""Number of utterances of a test set that are shown however many systems there are."""
TEXTS_SHOWN = 4000
"""Number of hypotheses of all test sets, about 1 MB; more only for `FEWEST`."""


@dataclass(frozen=True)
class Step:
    """A step of an alignment.

    Attributes:
        kind: ``C`` (correct), ``S`` (substitution), ``D`` (deletion) or ``I`` (insertion).
        reference: word of the reference; empty for an insertion.
        hypothesis: word of the hypothesis; empty for a deletion.
    """

    kind: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Utterance:
    """An utterance with its hypotheses.

    Attributes:
        name: its id.
        reference: the reference text.
        hypotheses: system -> steps of the alignment with the reference.
    """

    name: str
    reference: str
    hypotheses: dict[str, list[Step]]


@dataclass(frozen=True)
class TestSet:
    """Utterances of a test set.

    Attributes:
        pair: language and task.
        language: code of the language of the texts.
        total: number of utterances of the whole test set.
        utterances: those that are shown.
        left_out: systems with other utterances or references.
    """

    pair: Pair
    language: str
    total: int
    utterances: Sequence[Utterance]
    left_out: Sequence[str]


def utterance_files(table: ScoreTable) -> dict[Pair, dict[str, Path]]:
    """Return pair -> system -> its file of utterances in the first run, for files that exist."""
    expdir = ExpDir(table.expdirs[0])
    found = {}
    for pair in table.pairs:
        paths = {s: utterances_file(expdir.score(table.split, s, pair)) for s in table.systems}
        if existing := {system: path for system, path in paths.items() if path.exists()}:
            found[pair] = existing
    return found


def read_texts(table: ScoreTable) -> list[TestSet]:
    """Read utterances of each test set, taken at equal steps from all of them.

    Raises:
        LorsError: a file is malformed.
    """
    files = utterance_files(table)
    texts = sum(map(len, files.values()))
    shown = max(FEWEST, min(UTTERANCES_SHOWN, TEXTS_SHOWN // max(texts, 1)))
    return [_test_set(pair, of, shown) for pair, of in files.items()]


def _test_set(pair: Pair, files: dict[str, Path], shown: int) -> TestSet:
    read = {system: UTTERANCES[pair.task].read(path) for system, path in files.items()}
    first = next(iter(read.values()))
    same = {s: u for s, u in read.items() if _is_of(first, u)}
    total = len(first.ids)
    count = min(shown, total)
    chosen = [k * total // count for k in range(count)]
    utterances = [
        Utterance(first.ids[k], first.references[k], {s: _steps(u, k) for s, u in same.items()})
        for k in chosen
    ]
    left_out = [system for system in read if system not in same]
    return TestSet(pair, pair.speech_task.text_language(pair.lang), total, utterances, left_out)


def _is_of(first: Utterances, other: Utterances) -> bool:
    return (first.ids, first.references) == (other.ids, other.references)


def _steps(utterances: Utterances, index: int) -> list[Step]:
    reference = utterances.references[index].split()
    hypothesis = utterances.hypotheses[index].split()
    return [*_pairs_of_words(reference, hypothesis)]


def _pairs_of_words(reference: Sequence[str], hypothesis: Sequence[str]) -> Iterator[Step]:
    of_reference, of_hypothesis = iter(reference), iter(hypothesis)
    for kind in align(reference, hypothesis):
        yield Step(
            kind,
            "" if kind == "I" else next(of_reference),
            "" if kind == "D" else next(of_hypothesis),
        )


def first_two(table: ScoreTable, best: str | None) -> list[str]:
    """Return the two systems to show first: the best merge on dev, and a baseline beside it."""
    preferred = [best, "joint", "expert", "base", *reversed(table.systems)]
    return [s for s in dict.fromkeys(preferred) if s in table.systems][:2]
