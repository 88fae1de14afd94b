"""Text normalisation for error rates, by language.

Hypothesis and reference go through the same normaliser: Whisper's English one for English, its
basic one (lower case, NFKC, punctuation and symbols to spaces, brackets removed) for every other
language. Languages written without spaces are split into characters, so that their error rate is
a character error rate. The code is that of the installed ``openai-whisper`` package; nothing of
it is copied here.

One property to know: the basic normaliser also turns combining marks that have no composed form
into spaces, which cuts words of, for example, Hindi or Thai apart. It does so in reference and
hypothesis alike.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from lors.whisper_package import whisper_part

# Chinese (Common Voice: zh-CN, zh-HK, zh-TW and yue) and Japanese put no spaces between words.
CHARACTER_LANGUAGES = frozenset({"zh", "yue", "ja"})


@dataclass(frozen=True)
class Normaliser:
    """A text normaliser and what a score file says about it.

    Attributes:
        name: ``whisper-english``, ``whisper-basic`` or ``whisper-basic-characters``.
        unit: what the error rate counts, ``word`` or ``character``.
        version: version of the ``openai-whisper`` package it comes from.
        function: str -> str.
    """

    name: str
    unit: str
    version: str
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        """Normalised `text`: units separated by single spaces, none at either end."""
        return " ".join(self.function(text).split())


def base_language(lang: str) -> str:
    """The language of a Common Voice code without its region: ``sv-SE`` -> ``sv``."""
    return lang.split("-")[0].lower()


@functools.cache
def get_normaliser(lang: str) -> Normaliser:
    """The normaliser for text in `lang` (Common Voice code).

    Raises:
        LorsError: ``openai-whisper`` is not installed.
    """
    whisper = whisper_part("normalizers")
    version = _whisper_version()
    language = base_language(lang)
    if language == "en":
        return Normaliser("whisper-english", "word", version, whisper.EnglishTextNormalizer())
    if language in CHARACTER_LANGUAGES:
        function = whisper.BasicTextNormalizer(split_letters=True)
        return Normaliser("whisper-basic-characters", "character", version, function)
    return Normaliser("whisper-basic", "word", version, whisper.BasicTextNormalizer())


def _whisper_version() -> str:
    try:
        return importlib.metadata.version("openai-whisper")
    except importlib.metadata.PackageNotFoundError:  # a source checkout on PYTHONPATH
        return "unknown"
