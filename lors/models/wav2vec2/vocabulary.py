"""Vocabulary of the CTC layer: the characters of all languages, as in transformers' tokenizer.

The texts are those that scores compare: :mod:`lors.score.text` normalises them first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from lors.score.text import CHARACTER, get_normaliser
from lors.tasks import spoken

BLANK, UNKNOWN, SPACE = "<pad>", "<unk>", "|"
"""Special tokens, the first of a vocabulary; the names of ``Wav2Vec2CTCTokenizer``."""
SPECIAL = (BLANK, UNKNOWN, SPACE)


def spelt(text: str, lang: str) -> str:
    """Return a transcript as the CTC layer is to spell it: normalised as for scoring.

    Languages that are written without spaces have none.
    """
    normaliser = get_normaliser(spoken(lang))
    normalised = normaliser(text)
    return normalised.replace(" ", "") if normaliser.unit == CHARACTER else normalised


def vocabulary_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the special tokens and all characters of some texts, sorted."""
    characters = {character for text in texts for character in text}
    return (*SPECIAL, *sorted(characters - {" ", SPACE}))


def encode(text: str, tokens: Sequence[str]) -> list[int]:
    """Return the token ids of a text."""
    numbers = {token: number for number, token in enumerate(tokens)}
    unknown = numbers[UNKNOWN]
    return [numbers.get(SPACE if c == " " else c, unknown) for c in text]


def decode(ids: Iterable[int], tokens: Sequence[str]) -> str:
    """Return the text of the best token of every frame: repetitions and blanks are left out."""
    spelling = [tokens[number] for number, _ in itertools.groupby(ids)]
    letters = (" " if token == SPACE else token for token in spelling)
    return " ".join("".join(t for t in letters if t not in (BLANK, UNKNOWN)).split())


def frames_needed(text: str) -> int:
    """Return the least number of frames for a text: one a character, a blank between two equal."""
    return len(text) + sum(one == other for one, other in itertools.pairwise(text))
