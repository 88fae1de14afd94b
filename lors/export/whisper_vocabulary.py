"""Which of Whisper's vocabularies a model has: its size alone does not tell.

A Whisper of 99 languages with one added token is as large as the vocabulary of large-v3, which has
100 languages, and all its special tokens after the languages have other numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lors.checkpoint.vocabulary import special_tokens_of
from lors.errors import LorsError, shortened
from lors.export.whisper_tokenizer import LANGUAGES, WhisperTokens

MELS_OF_LARGE_V3 = 128
"""Mel channels of the models with 100 languages; the others have 80."""
_OTHER_NAMES = {"<|nocaptions|>": "<|nospeech|>"}
"""Special token under its name in Hugging Face's first directories -> its name today."""


def whisper_tokens(dims: Mapping[str, int], model: Path) -> WhisperTokens:
    """Return the tokens of a multi-lingual Whisper, after checking that they are OpenAI's.

    They are compared with the special tokens in the files beside the model. Without such files, a
    vocabulary of 100 languages needs the mel channels of large-v3, and large-v3 this vocabulary.

    Args:
        dims: dimensions of the model.
        model: its file.

    Raises:
        LorsError: the model has another vocabulary, or one that cannot be told.
    """
    tokens = WhisperTokens(dims["n_vocab"], where=model)
    found = special_tokens_of(model)
    problems = []
    for token, number in sorted(found, key=lambda pair: pair[1]):
        name = _OTHER_NAMES.get(token, token)
        if tokens.special.get(name) != number:
            known = tokens.special.get(name, "no such token")
            problems.append(f"{token}: number {number}, in Whisper {known}")
    if problems:
        raise LorsError(
            "the special tokens of this model are not those of a Whisper with "
            f"{LANGUAGES[dims['n_vocab']]} languages",
            where=model,
            expected=f"those of an official model with {dims['n_vocab']} tokens",
            got=shortened(problems, 10),
            hint="start from a model without added or changed tokens",
        )
    large_v3 = LANGUAGES[dims["n_vocab"]] == max(LANGUAGES.values())
    if not found and large_v3 != (dims["n_mels"] == MELS_OF_LARGE_V3):
        raise LorsError(
            "the vocabulary of this model cannot be told: it may have an added token",
            where=model,
            expected=f"{min(LANGUAGES)} tokens and 80 mels, or {max(LANGUAGES)} tokens and "
            f"{MELS_OF_LARGE_V3} mels (large-v3)",
            got=f"{dims['n_vocab']} tokens, {dims['n_mels']} mels",
            hint="put the added_tokens.json or tokenizer.json of the model into its directory",
        )
    return tokens
