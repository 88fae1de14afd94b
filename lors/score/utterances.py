"""Texts and counts of each utterance of a test set, from which all its scores follow.

A file of them (``<lang>_<task>.utterances.tsv`` beside a score file) has a head line and one line
for each utterance, sorted by id. Intervals and tests of significance need nothing else.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from lors.errors import LorsError, from_os_error, shortened
from lors.score.significance import align
from lors.tasks import ASR, ST, Metric

if TYPE_CHECKING:
    import numpy as np

SHOWN = 20
"""Number of problems that a message lists."""
SCORE_AGAIN = "score this system again: python -m lors.bin.score_expdir"


@dataclass(frozen=True)
class Utterances(ABC):
    """Utterances of a test set, sorted by id.

    Attributes:
        ids: utterance ids.
        references: reference texts with single spaces between words; normalised where the score is.
        hypotheses: the same for the hypotheses.
        counts: int64 (utterances, columns): the numbers that a corpus score is computed from.
    """

    ids: tuple[str, ...]
    references: tuple[str, ...]
    hypotheses: tuple[str, ...]
    counts: np.ndarray

    head: ClassVar[tuple[str, ...]]
    """Names of the columns of a file."""
    columns: ClassVar[dict[str, slice]]
    """Key of a metric -> its columns of `counts`."""

    def totals(self, metric: Metric) -> np.ndarray:
        """Return the counts of a metric, summed over the utterances."""
        return self.counts[:, self.columns[metric.key]].sum(axis=0)

    def score(self, metric: Metric) -> float:
        """Return the score of the test set."""
        return float(self.scores(metric, self.totals(metric)[None])[0])

    @classmethod
    @abstractmethod
    def scores(cls, metric: Metric, totals: np.ndarray) -> np.ndarray:
        """Return the corpus scores (samples,) of summed counts (samples, columns of the metric)."""

    @property
    def references_digest(self) -> str:
        """16 hex digits of the SHA-256 of ids and references."""
        lines = zip(self.ids, self.references, strict=True)
        text = "".join(f"{name}\t{reference}\n" for name, reference in lines)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def lines(self) -> Iterator[str]:
        """Yield the lines of a file."""
        yield "\t".join(self.head) + "\n"
        rows = zip(self.ids, self._cells(), self.references, self.hypotheses, strict=True)
        for name, cells, reference, hypothesis in rows:
            yield "\t".join((name, *cells, reference, hypothesis)) + "\n"

    @abstractmethod
    def _cells(self) -> Iterator[Sequence[str]]:
        """Yield the cells between the id and the texts."""

    @classmethod
    def read(cls, path: str | os.PathLike) -> Self:
        """Read a file.

        Raises:
            LorsError: the file is missing or malformed; all problems are listed.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise from_os_error(error) from None
        except ValueError as error:
            raise LorsError("not UTF-8", where=path, got=error, hint=SCORE_AGAIN) from None
        head, *lines = text.removesuffix("\n").split("\n")
        if head.split("\t") != list(cls.head):
            expected = " ".join(cls.head)
            raise LorsError(
                "not a file of utterances with these columns",
                where=path,
                expected=expected,
                got=head[:200],
                hint=SCORE_AGAIN,
            )
        rows, problems = [], []
        for number, line in enumerate(lines, 2):
            cells = line.split("\t")
            problem = cls._problem(cells)
            rows.append(cells)
            if problem:
                problems.append(f"line {number}: {problem}")
        if [row[0] for row in rows] != sorted({row[0] for row in rows}):
            problems.append("the ids are not sorted, or one is there twice")
        if problems or not rows:
            raise LorsError(
                "a malformed file of utterances",
                where=path,
                got=shortened(problems, SHOWN) or "no utterance",
                hint=SCORE_AGAIN,
            )
        return cls._of(rows)

    @classmethod
    @abstractmethod
    def _problem(cls, cells: Sequence[str]) -> str:
        """Return the problem of a line's cells; empty if there is none."""

    @classmethod
    @abstractmethod
    def _of(cls, rows: Sequence[Sequence[str]]) -> Self:
        """Make the utterances of valid rows."""


def _are_counts(cells: Sequence[str]) -> bool:
    return all(cell.isascii() and cell.isdigit() and len(cell) < 10 for cell in cells)


@dataclass(frozen=True)
class RecognisedUtterances(Utterances):
    """Utterances of recognition.

    The counts of words and characters are jiwer's, the fewest errors possible. The alignment is
    that of sclite (:mod:`lors.score.significance.alignment`), for the matched-pairs test.
    """

    head = (
        *("utterance", "words", "substitutions", "deletions", "insertions"),
        *("characters", "character_errors", "alignment", "reference", "hypothesis"),
    )
    columns: ClassVar = {"wer": slice(0, 4), "cer": slice(4, 6)}

    @cached_property
    def alignments(self) -> tuple[str, ...]:
        """Alignment of each utterance."""
        texts = zip(self.references, self.hypotheses, strict=True)
        return tuple(
            align(reference.split(), hypothesis.split()) for reference, hypothesis in texts
        )

    @property
    def sentence_errors(self) -> int:
        """Number of utterances with an error."""
        return int(self.counts[:, 1:4].any(axis=1).sum())

    @classmethod
    def scores(cls, metric: Metric, totals: np.ndarray) -> np.ndarray:
        # A sample may hold empty references only: its rate is that of one reference word.
        return 100 * totals[:, 1:].sum(axis=1) / totals[:, 0].clip(min=1)

    def _cells(self) -> Iterator[Sequence[str]]:
        for counts, alignment in zip(self.counts.tolist(), self.alignments, strict=True):
            yield (*map(str, counts), alignment)

    @classmethod
    def _problem(cls, cells: Sequence[str]) -> str:
        if len(cells) != len(cls.head):
            return f"{len(cells)} columns, expected {len(cls.head)}"
        if not _are_counts(cells[1:7]):
            return "counts are expected in columns 2 to 7"
        alignment, reference, hypothesis = cells[7:]
        fits = (
            set(alignment) <= set("CSDI")
            and len(alignment) - alignment.count("I") == len(reference.split()) == int(cells[1])
            and len(alignment) - alignment.count("D") == len(hypothesis.split())
        )
        return "" if fits else "words, alignment and texts do not fit together"

    @classmethod
    def _of(cls, rows: Sequence[Sequence[str]]) -> Self:
        import numpy as np

        counts = np.array([[int(cell) for cell in row[1:7]] for row in rows], dtype=np.int64)
        ids, alignments, references, hypotheses = (
            tuple(row[index] for row in rows) for index in (0, 7, 8, 9)
        )
        utterances = cls(ids, references, hypotheses, counts)
        utterances.__dict__["alignments"] = alignments  # the cached property
        return utterances


@dataclass(frozen=True)
class TranslatedUtterances(Utterances):
    """Utterances of translation, with the statistics that sacreBLEU sums over a corpus.

    BLEU: length of hypothesis and reference, then matches and n-grams of 1 to 4 words. chrF: for 1
    to 6 characters, n-grams of the hypothesis, of the reference, and matches.
    """

    head = ("utterance", "bleu_statistics", "chrf_statistics", "reference", "hypothesis")
    columns: ClassVar = {"bleu": slice(0, 10), "chrf": slice(10, 28)}

    @classmethod
    def scores(cls, metric: Metric, totals: np.ndarray) -> np.ndarray:
        import numpy as np
        from sacrebleu.metrics import BLEU, CHRF

        # The tokenizer has no part in this step.
        scorer = {"bleu": BLEU, "chrf": CHRF}[metric.key]()
        return np.array([scorer._compute_score_from_stats(row).score for row in totals.tolist()])

    def _cells(self) -> Iterator[Sequence[str]]:
        for row in self.counts.tolist():
            yield [" ".join(map(str, row[columns])) for columns in self.columns.values()]

    @classmethod
    def _problem(cls, cells: Sequence[str]) -> str:
        if len(cells) != len(cls.head):
            return f"{len(cells)} columns, expected {len(cls.head)}"
        for cell, columns in zip(cells[1:3], cls.columns.values(), strict=True):
            counts = cell.split(" ")
            if len(counts) != columns.stop - columns.start or not _are_counts(counts):
                return f"{columns.stop - columns.start} counts are expected"
        return ""

    @classmethod
    def _of(cls, rows: Sequence[Sequence[str]]) -> Self:
        import numpy as np

        cells = itertools.chain.from_iterable((row[1], row[2]) for row in rows)
        counts = np.array([int(count) for cell in cells for count in cell.split(" ")])
        ids, references, hypotheses = (tuple(row[index] for row in rows) for index in (0, 3, 4))
        return cls(ids, references, hypotheses, counts.reshape(len(rows), -1))


UTTERANCES: dict[str, type[Utterances]] = {
    ASR.name: RecognisedUtterances,
    ST.name: TranslatedUtterances,
}
"""Name of a task -> class of its utterances."""
