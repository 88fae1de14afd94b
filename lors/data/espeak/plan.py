"""The plan of the synthetic corpus: the speaker and the possible sentences of every clip."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lors.data.espeak import grammar, voices
from lors.data.espeak.voices import Condition, Speaker
from lors.errors import LorsError
from lors.tasks import SPLITS, TARGET

COMMON_VOICE = "cv-corpus-4-2019-12-10"
RESERVE = 3
"""Additional sentences drawn for each clip. All except the longest ones replace sentences that turn
out to be too long when spoken."""
SPARE_KINDS = ("validated_only", "other", "invalidated")
"""Kinds of clips that CoVoST 2 does not use."""
KINDS = {
    **{split: split for split in SPLITS},
    **dict.fromkeys(("train_covost", *SPARE_KINDS), "train"),
}
"""Kind of clips -> the split whose speakers and sentences they use."""
COVOST_SHARE = 0.03
"""Share of the training clips that only CoVoST 2 trains on (split ``train_covost``)."""
SPARE_SHARE = 0.01
"""Clips of each of :data:`SPARE_KINDS`, relative to the training clips."""
MOST_IN_VAIN = 20_000
"""So many sentences in a row that are not needed mean that the grammar has no others."""
SPLIT_SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
"""Share of all possible sentences that belongs to each split."""


@dataclass(frozen=True)
class Settings:
    """The settings that a corpus depends on.

    Attributes:
        out: directory of the corpus.
        languages: Common Voice codes.
        condition: ``pool`` or ``domain``.
        num_train: training clips of each language, ``train_covost`` included.
        num_dev: dev clips of each language.
        num_test: test clips of each language.
        seed: seed of all random choices.
        vocab_holdout: replaces the condition's own value, unless it is None.
    """

    out: Path
    languages: tuple[str, ...]
    condition: str
    num_train: int
    num_dev: int
    num_test: int
    seed: int = 0
    vocab_holdout: float | None = None

    def count(self, split: str) -> int:
        """Return the number of clips that CoVoST 2 uses in `split`."""
        return {"train": self.num_train, "dev": self.num_dev, "test": self.num_test}[split]


class Candidate(NamedTuple):
    """A possible sentence of a clip, its translation, and the clip's file name for it."""

    sentence: str
    translation: str
    path: Path


@dataclass(frozen=True)
class Clip:
    """A clip to be spoken.

    Attributes:
        kind: a key of :data:`KINDS`.
        speaker: its speaker.
        candidates: its possible sentences; the first one that is not too long is used.
    """

    kind: str
    speaker: Speaker
    candidates: tuple[Candidate, ...]


SentencePair = tuple[str, str]
"""A sentence and its translation."""


def language_dir(out: Path, language: str) -> Path:
    """Return the directory of Common Voice's files of one language."""
    return out / COMMON_VOICE / language


def clip_counts(settings: Settings) -> dict[str, int]:
    """Return the number of clips of each kind; train and train_covost together are num_train."""
    covost = round(COVOST_SHARE * settings.num_train)
    spare = max(1, round(SPARE_SHARE * settings.num_train))
    return {
        "train": settings.num_train - covost,
        "train_covost": covost,
        "dev": settings.num_dev,
        "test": settings.num_test,
        **dict.fromkeys(SPARE_KINDS, spare),
    }


def plan(settings: Settings, language: str, condition: Condition) -> list[Clip]:
    """Return the clips of one language; the same settings give the same plan."""
    counts = clip_counts(settings)
    wanted = {
        split: sum(count for kind, count in counts.items() if KINDS[kind] == split)
        for split in SPLITS
    }
    sentences = draw_sentences(settings, language, condition, wanted)
    seed = (settings.seed, settings.condition, language)
    speakers = {
        split: voices.draw_speakers(
            condition, min(condition.speakers[split], settings.count(split)), *seed, split
        )
        for split in SPLITS
    }
    paths = _clip_paths(language_dir(settings.out, language) / "clips", language, seed)
    clips = []
    for kind, count in counts.items():
        people = speakers[KINDS[kind]]
        for number in range(count):
            clips.append(
                Clip(
                    kind=kind,
                    speaker=people[number % len(people)],
                    candidates=tuple(
                        Candidate(*pair, next(paths)) for pair in next(sentences[KINDS[kind]])
                    ),
                )
            )
    return clips


def _clip_paths(directory: Path, language: str, seed: Sequence[object]) -> Iterator[Path]:
    """Yield different file names in Common Voice's form, with ten digits."""
    used = set()
    for number in itertools.count():
        digits = 10**9 + grammar.stable_hash("clip", *seed, number) % (9 * 10**9)
        if digits not in used:
            used.add(digits)
            yield directory / f"common_voice_{language}_{digits}.mp3"


def draw_sentences(
    settings: Settings, language: str, condition: Condition, wanted: Mapping[str, int]
) -> dict[str, Iterator[list[SentencePair]]]:
    """Draw the candidate sentences of each clip, in the order in which they are tried.

    All sentences differ. The split of a sentence depends only on its meaning: no test sentence is
    in a training set, whatever the corpus, seed or language.

    Args:
        settings: the seed and the condition.
        language: Common Voice code.
        condition: the share of the vocabulary to leave out.
        wanted: split -> number of clips.

    Returns:
        split -> an iterator with a list for each clip.

    Raises:
        LorsError: the grammar does not have enough sentences.
    """
    source, target = grammar.load(language), grammar.load(TARGET)
    words = grammar.vocabulary(source, condition.vocab_holdout)
    rng = random.Random(f"sentences {settings.seed} {settings.condition} {language}")
    numbers = {split: (1 + RESERVE) * count for split, count in wanted.items()}
    drawn: dict[str, list[SentencePair]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    in_vain = 0
    while any(len(drawn[split]) < numbers[split] for split in SPLITS):
        in_vain += 1
        if in_vain > MOST_IN_VAIN:
            raise LorsError(
                f"the grammar has too few sentences for {sum(wanted.values())} clips",
                where=f"language {language}",
                hint="ask for fewer clips, or for a smaller --vocab_holdout",
            )
        meaning = grammar.draw(rng, target.templates, words)
        split, sentence = split_of(meaning), source.render(meaning)
        if len(drawn[split]) < numbers[split] and sentence not in seen:
            in_vain = 0
            seen.add(sentence)
            drawn[split].append((sentence, target.render(meaning)))
    return {split: _with_reserve(drawn[split], wanted[split]) for split in SPLITS}


def _with_reserve(pairs: Sequence[SentencePair], count: int) -> Iterator[list[SentencePair]]:
    """Yield the candidates of each clip: one of any length, then a medium and a short one."""
    reserve = sorted(pairs[count:], key=lambda pair: (len(pair[0]), pair))
    for number in range(count):
        ranks = range(RESERVE - 2, -1, -1)
        yield [pairs[number], *(reserve[rank * count + number] for rank in ranks)]


def split_of(meaning: grammar.Meaning) -> str:
    """Return the split of all sentences with this meaning."""
    position = grammar.stable_hash("split", meaning.key()) / 2**64
    for split, share in SPLIT_SHARES.items():
        if position < share:
            return split
        position -= share
    return SPLITS[-1]
