"""The transcripts of the prompts: reading of the lists, and cleaning of their texts."""

from __future__ import annotations

import fnmatch
import functools
import gzip
import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lors.config import load_config
from lors.data.datadir import one_line
from lors.errors import LorsError

RULES = Path(__file__).parent / "cleaning.yaml"
_LONGEST_NAME = 100  # characters
_LARGEST_LIST = 2**22  # bytes; the real ones have 50,000
_NAME = re.compile(r"[A-Za-z0-9][\w-]*(?:/[A-Za-z0-9][\w-]*)*", re.ASCII)
_PLAIN = str.maketrans({**dict.fromkeys('“”„«»"'), "’": "'", "‘": "'", "–": "-", "—": "-"})
_NOTE = re.compile(r"\[[^][]*\]|\([^()]*\)|<[^<>]*>")
_ELLIPSIS = re.compile(r"…|\.{2,}")
_READ_ALOUD = re.compile(r"[*#/@=+$]")  # symbols whose names are spoken
_NO_SPACE = re.compile(r"([^\W\d_]{2}[.?!:])(?=[A-ZÀ-ÝА-ЯЁ])")
_LOST_LETTER = re.compile(r"\?\s*[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]{2,}")
_TWO_SCRIPTS = re.compile(r"[a-z][а-яё]|[а-яё][a-z]", re.IGNORECASE)


@dataclass(frozen=True)
class Rules:
    """The content of ``cleaning.yaml``.

    Attributes:
        excluded: reason -> patterns of the names of prompts that are left out.
        wrong_transcript: language -> names of prompts whose recording says something else.
        spelling: language -> a word or phrase in lower case -> its correct spelling.
    """

    excluded: dict[str, list[str]]
    wrong_transcript: dict[str, list[str]] = field(default_factory=dict)
    spelling: dict[str, dict[str, str]] = field(default_factory=dict)

    def reason_of(self, name: str, lang: str) -> str:
        """Return why the prompt `name` is left out by its name; an empty string if it is not."""
        if name in self.wrong_transcript.get(lang, ()):
            return "wrong_transcript"
        for reason, patterns in self.excluded.items():
            if any(fnmatch.fnmatchcase(name.casefold(), pattern) for pattern in patterns):
                return reason
        return ""


@dataclass(frozen=True)
class TranscriptList:
    """The texts of one language.

    Attributes:
        texts: name of a prompt -> its text, as it stands in the list.
        contradictory: names that have two different texts -> those texts.
        malformed: number of a line that cannot be read -> the line.
    """

    texts: Mapping[str, str]
    contradictory: Mapping[str, str]
    malformed: Mapping[int, str]


@functools.cache
def load_rules() -> Rules:
    """Return the rules of ``cleaning.yaml``."""
    return load_config(Rules, RULES)


def read_transcripts(path: Path) -> TranscriptList:
    """Read a list of ``name: text`` lines; a comment begins with ``;``.

    Args:
        path: the list, compressed by gzip if its name ends in ``.gz``.

    Raises:
        LorsError: the file cannot be read, or has no line with a name.
    """
    texts: dict[str, str] = {}
    contradictory: dict[str, str] = {}
    malformed = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or line.lstrip().startswith(";"):
            continue
        name, colon, text = line.partition(":")
        name, text = name.strip(), one_line(text)
        if not (colon and is_prompt_name(name)):
            malformed[number] = line
        elif texts.setdefault(name, text) != text:
            contradictory[name] = f"{texts[name]!r} and {text!r}"
    if not texts:
        raise LorsError(
            "a list of transcripts without any",
            where=path,
            expected="lines of the form name: text",
            hint="name a version with transcripts in the list of packages (--packages)",
        )
    return TranscriptList(texts, contradictory, malformed)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, which may be compressed by gzip.

    Raises:
        LorsError: the file is missing, damaged, too large or not UTF-8.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_LARGEST_LIST + 1)
        if len(content) > _LARGEST_LIST:
            raise ValueError(f"more than {_LARGEST_LIST} bytes")
        return content.decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        cause = "no such file"
    except (EOFError, OSError, ValueError, zlib.error) as error:
        cause = str(error)
    raise LorsError(
        "a list of transcripts that cannot be read",
        where=path,
        got=cause,
        hint="check the disk, and the list of packages (--packages) if it is your own",
    )


def is_prompt_name(name: str) -> bool:
    """Return whether `name` is a name of a prompt: a path of ASCII letters, digits, ``_``, ``-``.

    A name becomes a part of a path.
    """
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def clean(text: str, lang: str, names: Collection[str], rules: Rules) -> tuple[str, str]:
    """Return the cleaned text and an empty string, or the text so far and why it is left out.

    1. A line that holds the texts of several prompts (``text other-name: text``) is left out.
    2. A note in brackets at the end is removed; a text with a note elsewhere is left out: it is
       not known whether the note was spoken.
    3. Quotation marks and ellipses are removed, typographic apostrophes and dashes made plain.
    4. Spelling is corrected by the table of the language.
    5. A text with a symbol that was read aloud (``*``), a lost letter (``?`` before a small
       letter), a word in two scripts or no word of two letters is left out. Figures stay.
    6. The text begins with a capital letter and ends with a full stop, if it has no other mark:
       the lists are of both kinds.

    Args:
        text: as it stands in the list.
        lang: its language code.
        names: the names of all prompts of the list.
        rules: the spelling of each language.
    """
    if any(_last_word(part) in names for part in text.split(":")[:-1]):
        return text, "several_prompts"
    text = _NOTE.sub("", text) if _only_final_notes(text) else text
    if _NOTE.search(text):
        return text, "note_in_text"
    text = one_line(_ELLIPSIS.sub(" ", text.translate(_PLAIN)))
    text = _spelled(text, rules.spelling.get(lang, {}))
    text = _NO_SPACE.sub(r"\1 ", re.sub(r"\s+([,.?!;:])", r"\1", text)).strip(" ,;:-")
    if not text:
        return text, "empty_text"
    if not _WORD.search(text):
        return text, "no_word"
    if _READ_ALOUD.search(text):
        return text, "symbol_read_aloud"
    if any(text[found.end() - 1].islower() for found in _LOST_LETTER.finditer(text)):
        return text, "lost_letter"
    if _TWO_SCRIPTS.search(text):
        return text, "two_scripts"
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}.", ""


def _last_word(text: str) -> str:
    """Return the name of a prompt at the end of a text, or another word."""
    return re.split(r"[^\w/-]", text[-_LONGEST_NAME:])[-1]


def _only_final_notes(text: str) -> bool:
    notes = list(_NOTE.finditer(text))
    return bool(notes) and not re.search(r"\w", _NOTE.sub("", text[notes[0].start() :]))


def _spelled(text: str, table: Mapping[str, str]) -> str:
    """Return `text` with the words and phrases of `table` replaced, long ones first."""
    for wrong in sorted(table, key=len, reverse=True):
        pattern = rf"(?<![\w'-]){re.escape(wrong)}(?![\w-])"
        text = re.sub(pattern, functools.partial(_in_case, table[wrong]), text, flags=re.IGNORECASE)
    return text


def _in_case(right: str, found: re.Match[str]) -> str:
    return right[0].upper() + right[1:] if found[0][0].isupper() else right
