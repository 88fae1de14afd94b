"""Text normalisation that keeps every word as it is: its letters, their marks and its digits.

The result is lower-case text with single spaces. Two texts become equal only if they differ in
case, punctuation, symbols, invisible characters or the encoding of a character.

- Letters, marks and digits (Unicode categories L, M and N) stay. A mark belongs to the letter
  before it: a vowel sign in Tamil, a tone mark in Yoruba, a vowel mark in Arabic. A mark without a
  letter is removed, and so is a frame around a digit or symbol (category Me).
- Encoding: NFKC, as in Whisper's normalisers. Corpora have full-width digits, ligatures and
  presentation forms of Arabic, which spell ordinary letters; NFC would keep them apart. Letters
  that NFKC would change stay: `MODIFIERS`, and ``am`` in Thai and Lao.
- Case: lower case; German ``ß`` stays. In Turkish and the other languages of `DOTLESS_I`, ``I`` is
  the capital of ``ı`` and ``İ`` of ``i``. A dot above ``i`` or ``j`` is not a separate mark (``İ``
  in other languages, accented ``i`` in Lithuanian). The two small forms of Greek sigma are equal.
- Invisible characters are removed: zero-width joiners and spaces, direction marks, soft hyphens,
  variation selectors, and the tatweel that only stretches an Arabic word. They are optional in most
  spellings: a Persian word with and without the zero-width non-joiner is one word, like a conjunct
  of Hindi with and without the joiner. If an invisible character makes another letter (Malayalam
  chillus, Bengali khanda ta, Marathi eyelash ra, Kurdish ``ە``), the text has that letter instead.
- Brackets ``<...>``, ``[...]`` and ``(...)`` are removed with their text.
- Punctuation and symbols become spaces. This includes hyphens: ``e-mail`` equals ``e mail``.
  Punctuation between two letters stays if it is part of the word (`ELISION`, `INNER_PUNCTUATION`).
  The question, stress and exclamation signs above a letter of an Armenian word are removed.

For German, Spanish, French, Italian, Portuguese, Dutch, Catalan, Swedish, Russian and Indonesian,
letters and punctuation give the same text as Whisper's basic normaliser, except for the Catalan
``l·l``, which that normaliser cuts in two.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping

VERSION = "1"
"""Changed with every change of the normalised text."""

_CHINESE_AND_JAPANESE = "zh yue nan wuu hak gan hsn lzh ja"
_SOUTH_EAST_ASIAN_AND_TIBETAN = "th tts nod lo my shn mnw km bo dz"
CHARACTER_LANGUAGES = frozenset(f"{_CHINESE_AND_JAPANESE} {_SOUTH_EAST_ASIAN_AND_TIBETAN}".split())
"""Languages without spaces between words: Chinese, Japanese, Thai, Lao, Burmese, Shan, Mon, Khmer,
Tibetan, Dzongkha.

Their unit is the code point, as in published character error rates: a vowel sign or a tone mark is
a unit. Grapheme clusters would depend on the version of Unicode, and a wrong tone mark would count
as much as a wrong syllable.
"""

# The article or pronoun of "l'été" is a word.
_ROMANCE = (
    "an ast ca co es ext fr frp fur gl it lij lld lmo mwl nap oc pcd pms pt rm ro sc scn vec wa"
)
# Contractions ("geht's"), as in Whisper's normaliser; in Luxembourgish the article ("d'Kanner").
_OTHER_ELISION = "de id lb nl ru sv"
ELISION = frozenset(f"{_ROMANCE} {_OTHER_ELISION}".split())
"""Languages in which an apostrophe separates two words.

In all others it is part of the word: ``п'ять`` in Ukrainian, ``Ankara'da`` in Turkish, ``c'h`` in
Breton.
"""

DOTLESS_I = frozenset({"tr", "az", "crh", "gag", "kaa"})
"""Languages in which ``I`` is the capital of ``ı``."""

MODIFIERS = "ʰʲʷˠˤⁿⵯ"
"""Letters of their own that NFKC would replace, e.g. by ``w`` or ``ⵡ`` (Tamazight)."""

_APOSTROPHE, _GERSHAYIM, _MIDDLE_DOT = "'", "\u05f4", "\u00b7"
_APOSTROPHES = dict.fromkeys("'\u2018\u2019\u201b\uff07`\u00b4\u055a\u05f3\u1fbd", _APOSTROPHE)
_HEBREW = {**_APOSTROPHES, **dict.fromkeys('"\u201c\u201d\u201e\u05f4', _GERSHAYIM)}
INNER_PUNCTUATION: Mapping[str, Mapping[str, str]] = {
    **{language: {} for language in ELISION | CHARACTER_LANGUAGES},
    **{language: {_MIDDLE_DOT: _MIDDLE_DOT} for language in ("ca", "oc")},  # col·lecció
    **{language: _HEBREW for language in ("he", "yi")},  # an acronym, צה"ל
}
"""Language -> punctuation that is part of a word between two letters -> its one spelling.

In other languages these are the apostrophes.
"""

_INNER_SPELLING = {_APOSTROPHE: "\u02bc"}
"""An apostrophe in a word is the letter that Unicode has for it; texts of Ukrainian have both."""
_TURNED_COMMA = "\u02bb"
"""The letter for an apostrophe after ``o`` and ``g`` in Uzbek."""

_LETTERS_WITH_JOINER = {
    "ണ്\u200d": "ൺ",
    "ന്\u200d": "ൻ",
    "ര്\u200d": "ർ",
    "ല്\u200d": "ൽ",
    "ള്\u200d": "ൾ",
    "ക്\u200d": "ൿ",
    "ত্\u200d": "ৎ",
    "र्\u200d": "ऱ्",
}
"""Letters that texts also spell with a zero-width joiner (The Unicode Standard, chapter 12)."""
_LETTERS_WITH_NON_JOINER = {"ckb": {"ه\u200c": "ە"}}

_VARIATION_SELECTORS = (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
_TATWEEL = "\u0640"
_INVISIBLE = frozenset((*_FILLERS, *map(chr, _VARIATION_SELECTORS), _TATWEEL))
"""Invisible characters that are not in category Cf, and the tatweel."""
_ARMENIAN_SIGNS = frozenset("\u055b\u055c\u055e\u055f")

_ANGLE_OR_SQUARE = re.compile(r"[<\[][^>\]]*[>\]]")
_ROUND = re.compile(r"\([^)]+\)")
_MODIFIER = re.compile(f"([{MODIFIERS}])")
_IN_WORD = r"[^\s\d'\u05f4\u00b7]"
_INNER_OR_OUTER = re.compile(f"(?<={_IN_WORD})(['\u05f4\u00b7])(?={_IN_WORD})|['\u05f4\u00b7]")
_UZBEK = re.compile(f"(?<=[og])'(?={_IN_WORD})")
_DOT_ABOVE = re.compile("(?<=[ijįịḭɨɉʝіј])\u0307+")
_DECOMPOSED_AM = (
    (re.compile("\u0e4d([\u0e48-\u0e4b]?)\u0e32"), "\\1\u0e33"),
    (re.compile("\u0ecd([\u0ec8-\u0ecb]?)\u0eb2"), "\\1\u0eb3"),
)
"""The vowel ``am`` of Thai and Lao as two characters, with a tone mark between them or without."""


def normalise_words(text: str, language: str) -> str:
    """Return the words of a text with single spaces between them.

    Args:
        text: any text.
        language: language code without a region, e.g. ``tr``.
    """
    return " ".join(_clean(text, language, " ").split())


def normalise_characters(text: str, language: str) -> str:
    """Return the characters (code points) of a text with single spaces between them."""
    return " ".join(_clean(text, language, ""))


def _clean(text: str, language: str, separator: str) -> str:
    """Normalise a text, with `separator` between its words."""
    inner = INNER_PUNCTUATION.get(language, _APOSTROPHES)
    text = _replace(_without_brackets(text), _LETTERS_WITH_JOINER)
    text = _replace(text, _LETTERS_WITH_NON_JOINER.get(language, {}))
    # Before NFKC, which makes a space and a mark of an acute accent that stands for an apostrophe.
    text = text.translate(_removal()).translate({ord(k): v for k, v in inner.items()})
    text = _compatible(_lower(_compatible(text), language))
    text = separator.join(text.translate(_classes(frozenset(inner.values()))).split())
    text = _lone_marks().sub("", text)
    return _composed(_inner_punctuation(text, language))


def _without_brackets(text: str) -> str:
    for brackets, closing in ((_ANGLE_OR_SQUARE, ">]"), (_ROUND, ")")):
        # Nothing after the last closing bracket matches, and each attempt would read to the end.
        end = 1 + max(map(text.rfind, closing))
        text = brackets.sub("", text[:end]) + text[end:]
    return text


def _replace(text: str, spellings: Mapping[str, str]) -> str:
    for old, new in spellings.items():
        text = text.replace(old, new)
    return text


def _compatible(text: str) -> str:
    """Return the NFKC form of a text, with its `MODIFIERS` as they are."""
    return "".join(
        part if part in MODIFIERS else unicodedata.normalize("NFKC", part)
        for part in _MODIFIER.split(text)
    )


def _lower(text: str, language: str) -> str:
    if language in DOTLESS_I:
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower().replace("ς", "σ")


def _inner_punctuation(text: str, language: str) -> str:
    """Spell punctuation between letters in one way; replace other punctuation by spaces."""
    if language == "uz":
        text = _UZBEK.sub(_TURNED_COMMA, text)
    return _INNER_OR_OUTER.sub(
        lambda match: _INNER_SPELLING.get(match[1], match[1]) if match[1] else " ", text
    )


def _composed(text: str) -> str:
    text = _DOT_ABOVE.sub("", unicodedata.normalize("NFC", text))
    for decomposed, composed in _DECOMPOSED_AM:
        text = decomposed.sub(composed, text)
    return unicodedata.normalize("NFC", text)  # a removed character may have separated marks


class _Table(dict[int, str | None]):
    """Table for ``str.translate`` that has an entry for every character seen so far.

    Args:
        replacement: character -> its replacement; None to remove it.
    """

    def __init__(self, replacement: Callable[[str], str | None]):
        super().__init__()
        self.replacement = replacement

    def __missing__(self, code: int) -> str | None:
        self[code] = new = self.replacement(chr(code))
        return new


def _is_removed(character: str) -> bool:
    """Return whether a character is neither part of a word nor between words."""
    return (
        unicodedata.category(character) in {"Cf", "Me"}  # Me: frames around digits and symbols
        or character in _INVISIBLE
        or character in _ARMENIAN_SIGNS
    )


@functools.cache
def _removal() -> _Table:
    """Return the table that removes invisible characters and nothing else."""
    return _Table(lambda character: None if _is_removed(character) else character)


@functools.cache
def _classes(kept: frozenset[str]) -> _Table:
    """Return the table that makes spaces of all punctuation and symbols that are not in `kept`."""

    def replacement(character: str) -> str | None:
        if _is_removed(character):
            return None
        category = unicodedata.category(character)
        # Unassigned: this version of Python may not know a letter of a newer Unicode.
        is_kept = category[0] in "LMN" or category in {"Cn", "Co"} or character in kept
        return character if is_kept else " "

    return _Table(replacement)


@functools.cache
def _lone_marks() -> re.Pattern[str]:
    """Return the pattern of marks at the start of a text, and after a space or punctuation."""
    planes = (*range(0x300, 0x20000), *range(0xE0000, 0xE0200))
    marks = "".join(c for c in map(chr, planes) if unicodedata.category(c)[0] == "M")
    return re.compile(f"(?:^|(?<=[\\s'\u05f4\u00b7]))[{marks}]+")
