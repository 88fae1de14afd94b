"""Text normalisation for error rates, by language.

Hypothesis and reference go through the same normaliser: Whisper's English one for English, and
its basic one (lower case, NFKC, punctuation and symbols to spaces, brackets removed) for every
other language. Languages that are written without spaces are split into characters, so that
their error rate is a character error rate. The code is that of the installed ``openai-whisper``
package; nothing of it is copied here.

The basic normaliser also turns combining marks without a composed form into spaces. This cuts
words of, for example, Hindi or Thai apart, in reference and hypothesis alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from lors.score.versions import installed_version
from lors.whisper_package import whisper_part

ENGLISH = "en"
WORD, CHARACTER = "word", "character"
CHARACTER_LANGUAGES = frozenset({"zh", "yue", "ja"})
"""Languages without spaces between words (Common Voice: zh-CN, zh-HK, zh-TW, yue and ja)."""


@dataclass(frozen=True)
class Normaliser:
    """A text normaliser with its name, unit and version for score files.

    Attributes:
        name: ``whisper-english``, ``whisper-basic`` or ``whisper-basic-characters``.
        unit: unit of the error rate, ``word`` or ``character``.
        version: version of the ``openai-whisper`` package.
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
    """Return the language of a Common Voice code without its region: ``sv-SE`` -> ``sv``."""
    return lang.split("-")[0].lower()


@functools.cache
def get_normaliser(lang: str) -> Normaliser:
    """Return the normaliser for text in `lang` (Common Voice code).

    Raises:
        LorsError: ``openai-whisper`` is not installed.
    """
    whisper = whisper_part("normalizers")
    version = installed_version("openai-whisper")
    language = base_language(lang)
    if language == ENGLISH:
        return Normaliser("whisper-english", WORD, version, whisper.EnglishTextNormalizer())
    if language in CHARACTER_LANGUAGES:
        function = whisper.BasicTextNormalizer(split_letters=True)
        return Normaliser("whisper-basic-characters", CHARACTER, version, function)
    return Normaliser("whisper-basic", WORD, version, whisper.BasicTextNormalizer())
