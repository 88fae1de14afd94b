"""The choice of the text normaliser for error rates, by language.

Hypothesis and reference go through the same normaliser. English has Whisper's English normaliser.
Every other language has that of LoRS (:mod:`lors.score.words`), which splits languages that are
written without spaces into characters, so that their error rate is a character error rate.

Whisper's own normalisers can be chosen for comparison with published numbers. The basic one deletes
combining marks or cuts words at them, which changes the words of many languages, e.g. of Tamil,
Hindi, Thai and vowelled Arabic; it also cuts ``İ`` in two. The code is that of the installed
package ``openai-whisper``; nothing of it is copied here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from lors.errors import unknown_name
from lors.score import words
from lors.score.versions import installed_version
from lors.whisper_package import whisper_part

LORS, WHISPER = "lors", "whisper"
NORMALISERS = (LORS, WHISPER)
"""Names of the choices; the first is the default."""
ENGLISH = "en"
WORD, CHARACTER = "word", "character"
WHISPER_CHARACTER_LANGUAGES = frozenset({"zh", "yue", "ja"})
OTHER_CODES = {
    **{"arg": "an", "aze": "az", "bod": "bo", "cat": "ca", "cmn": "zh", "cos": "co", "deu": "de"},
    **{"dzo": "dz", "eng": "en", "fra": "fr", "glg": "gl", "heb": "he", "ind": "id", "ita": "it"},
    **{"iw": "he", "jpn": "ja", "khm": "km", "lao": "lo", "ltz": "lb", "mya": "my", "nld": "nl"},
    **{"oci": "oc", "por": "pt", "roh": "rm", "ron": "ro", "rus": "ru", "spa": "es", "srd": "sc"},
    **{"swe": "sv", "tha": "th", "tur": "tr", "uzb": "uz", "yid": "yi", "zho": "zh"},
}
"""Codes of ISO 639-3, and an old one -> the code in the rules of LoRS."""


@dataclass(frozen=True)
class Normaliser:
    """A text normaliser with its name, unit and version for score files.

    Attributes:
        name: ``whisper-english``, ``lors-basic``, ``lors-characters``, ``whisper-basic`` or
            ``whisper-basic-characters``.
        unit: unit of the error rate, ``word`` or ``character``.
        version: package or project with the normaliser, and the version, e.g. ``lors 1``.
        function: str -> str.
    """

    name: str
    unit: str
    version: str
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        """Normalise `text`: units with single spaces between them, and no space at the ends."""
        return " ".join(self.function(text).split())


def base_language(lang: str) -> str:
    """Return the language of a code without its region: ``sv`` for ``sv-SE`` and for ``swe``."""
    language = lang.split("-")[0].lower()
    return OTHER_CODES.get(language, language)


def normaliser_versions() -> dict[str, str]:
    """Return the versions of all normalisers, without importing any package."""
    return {"lors": words.VERSION, "openai-whisper": installed_version("openai-whisper")}


@functools.cache
def get_normaliser(lang: str, choice: str = LORS) -> Normaliser:
    """Return the normaliser for text in `lang`.

    Args:
        lang: Common Voice code.
        choice: one of `NORMALISERS`.

    Raises:
        UsageError: an unknown choice.
        LorsError: a normaliser of Whisper is needed and ``openai-whisper`` is not installed.
    """
    if choice not in NORMALISERS:
        raise unknown_name("normaliser", choice, NORMALISERS)
    language = base_language(lang)
    if choice == WHISPER or language == ENGLISH:
        return _of_whisper(language)
    version = f"lors {words.VERSION}"
    if language in words.CHARACTER_LANGUAGES:
        characters = functools.partial(words.normalise_characters, language=language)
        return Normaliser("lors-characters", CHARACTER, version, characters)
    basic = functools.partial(words.normalise_words, language=language)
    return Normaliser("lors-basic", WORD, version, basic)


def _of_whisper(language: str) -> Normaliser:
    whisper = whisper_part("normalizers")
    version = f"openai-whisper {installed_version('openai-whisper')}"
    if language == ENGLISH:
        return Normaliser("whisper-english", WORD, version, whisper.EnglishTextNormalizer())
    if language in WHISPER_CHARACTER_LANGUAGES:
        characters = whisper.BasicTextNormalizer(split_letters=True)
        return Normaliser("whisper-basic-characters", CHARACTER, version, characters)
    return Normaliser("whisper-basic", WORD, version, whisper.BasicTextNormalizer())
