"""Who says what in the synthetic corpus: all that is decided before anything is spoken."""

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
"""Further sentences drawn for each clip; all but the longest stand in for those that when spoken
turn out too long."""
SPARE_KINDS = ("validated_only", "other", "invalidated")
"""Kinds that CoVoST 2 makes no use of."""
KINDS = {
    **{split: split for split in SPLITS},
    **dict.fromkeys(("train_covost", *SPARE_KINDS), "train"),
}
"""The kinds of clips and the split whose speakers and sentences they have."""
COVOST_SHARE = 0.03
"""Part of the training clips that only CoVoST 2 trains on (split ``train_covost``)."""
SPARE_SHARE = 0.01
"""Clips, relative to the training clips, in each file that CoVoST 2 makes no use of."""
SPLIT_SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
"""How all sentences there could ever be are divided among the splits."""


@dataclass(frozen=True)
class Settings:
    """Everything that a corpus depends on."""

    out: Path
    languages: tuple[str, ...]
    condition: str
    num_train: int
    num_dev: int
    num_test: int
    seed: int = 0
    vocab_holdout: float | None = None
    """Takes the place of the condition's own value if given."""

    def count(self, split: str) -> int:
        """Number of clips that CoVoST 2 uses in `split`."""
        return {"train": self.num_train, "dev": self.num_dev, "test": self.num_test}[split]


class Candidate(NamedTuple):
    """A sentence that a clip may consist of."""

    sentence: str
    translation: str
    path: Path


@dataclass(frozen=True)
class Clip:
    """One clip to be spoken: the first of its candidates that is not too long when spoken."""

    kind: str
    speaker: Speaker
    candidates: tuple[Candidate, ...]


Pair = tuple[str, str]


def language_dir(out: Path, language: str) -> Path:
    """Where Common Voice's files of one language are."""
    return out / COMMON_VOICE / language


def clip_counts(settings: Settings) -> dict[str, int]:
    """How many clips of each kind there are; train and train_covost together are num_train."""
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
    """Who could say what in each clip of one language; the same settings give the same plan."""
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
    """File names in Common Voice's form (eight digits or more; here ten), without repetition."""
    used = set()
    for number in itertools.count():
        digits = 10**9 + grammar.stable_hash("clip", *seed, number) % (9 * 10**9)
        if digits not in used:
            used.add(digits)
            yield directory / f"common_voice_{language}_{digits}.mp3"


def draw_sentences(
    settings: Settings, language: str, condition: Condition, wanted: Mapping[str, int]
) -> dict[str, Iterator[list[Pair]]]:
    """For each split, `wanted` lists of (sentence, translation) pairs in the order to be tried.

    All sentences differ. The split that a sentence can occur in is a function of its meaning
    alone: a test sentence is in no training set, of whatever corpus, seed or language.

    Raises:
        LorsError: the grammar does not hold that many sentences.
    """
    source, target = grammar.load(language), grammar.load(TARGET)
    words = grammar.vocabulary(source, condition.vocab_holdout)
    rng = random.Random(f"sentences {settings.seed} {settings.condition} {language}")
    numbers = {split: (1 + RESERVE) * count for split, count in wanted.items()}
    drawn: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    attempts = 0
    while any(len(drawn[split]) < numbers[split] for split in SPLITS):
        attempts += 1
        if attempts > 100 * sum(numbers.values()):
            raise LorsError(
                f"the grammar has too few sentences for {sum(wanted.values())} clips",
                where=f"language {language}",
                hint="ask for fewer clips",
            )
        meaning = grammar.draw(rng, target.templates, words)
        split, sentence = split_of(meaning), source.render(meaning)
        if len(drawn[split]) < numbers[split] and sentence not in seen:
            seen.add(sentence)
            drawn[split].append((sentence, target.render(meaning)))
    return {split: _with_reserve(drawn[split], wanted[split]) for split in SPLITS}


def _with_reserve(pairs: Sequence[Pair], count: int) -> Iterator[list[Pair]]:
    """Share out `pairs` among `count` clips: any for a start, then a medium and a short one."""
    reserve = sorted(pairs[count:], key=lambda pair: (len(pair[0]), pair))
    for number in range(count):
        ranks = range(RESERVE - 2, -1, -1)
        yield [pairs[number], *(reserve[rank * count + number] for rank in ranks)]


def split_of(meaning: grammar.Meaning) -> str:
    """The split whose sentences may mean this."""
    position = grammar.stable_hash("split", meaning.key()) / 2**64
    for split, share in SPLIT_SHARES.items():
        if position < share:
            return split
        position -= share
    return SPLITS[-1]
