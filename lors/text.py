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
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from lors.errors import LorsError

# Chinese (Common Voice: zh-CN, zh-HK, zh-TW and yue) and Japanese put no spaces between words.
CHARACTER_LANGUAGES = frozenset({"zh", "yue", "ja"})

_PRIVATE_NAME = "_lors_whisper_normalizers"


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
    whisper = _whisper_normalizers()
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


def _whisper_normalizers() -> ModuleType:
    """The package ``whisper.normalizers``, loaded without its parent.

    ``import whisper.normalizers`` would first run ``whisper/__init__.py``, which imports torch,
    numba and the model code: seconds, for functions that need only ``re`` and ``regex``.
    """
    if _PRIVATE_NAME in sys.modules:
        return sys.modules[_PRIVATE_NAME]
    parent = importlib.util.find_spec("whisper")  # finds the folder, imports nothing
    folders = list(parent.submodule_search_locations or []) if parent else []
    for folder in (Path(name) / "normalizers" for name in folders):
        if (folder / "__init__.py").is_file():
            spec = importlib.util.spec_from_file_location(
                _PRIVATE_NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
            module = importlib.util.module_from_spec(spec)
            sys.modules[_PRIVATE_NAME] = module  # its relative imports look the package up here
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[_PRIVATE_NAME]
                raise
            return module
    raise LorsError(
        "Whisper's text normalisers are not installed",
        expected="the Python package openai-whisper",
        got=f"a package 'whisper' without normalisers in {folders}" if folders else "no package",
        hint="pip install --no-deps openai-whisper more-itertools regex",
    )
