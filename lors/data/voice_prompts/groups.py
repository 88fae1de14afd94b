"""Splits of the prompts: the same for a prompt, and for a text, in all languages.

Prompts of one name say the same in each language, and some texts belong to several names
(``second``, ``digits/h-2``). Names that share a text in some language are one group, and a group
lies in one split as a whole.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

TEST_SHARE, DEV_SHARE = 0.28, 0.11
"""Expected shares of the groups; the rest is train."""


class Groups:
    """The groups of a corpus.

    Args:
        texts: name, language and cleaned text of each prompt; a prompt without a text is a group
            of its own with those of its name.
    """

    def __init__(self, texts: Iterable[tuple[str, str, str]]):
        self._parents: dict[str, str] = {}
        first: dict[tuple[str, str], str] = {}
        for name, lang, text in texts:
            self._join(first.setdefault((lang, bare_words(text)), name), name)

    def of(self, name: str) -> str:
        """Return the group of a prompt: the first of its names, case-folded."""
        name = name.casefold()
        while (parent := self._parents.get(name, name)) != name:
            name = parent
        return name

    def split_of(self, name: str) -> str:
        """Return ``train``, ``dev`` or ``test``, by SHA-256 of the group's name."""
        digest = hashlib.sha256(self.of(name).encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        if place < TEST_SHARE:
            return "test"
        return "dev" if place < TEST_SHARE + DEV_SHARE else "train"

    def sizes(self) -> Counter[str]:
        """Return group -> number of its names, for the prompts with a text."""
        return Counter(self.of(name) for name in self._parents)

    def _join(self, one: str, other: str) -> None:
        first, second = sorted((self.of(one), self.of(other)))
        self._parents[first] = self._parents[second] = first


def bare_words(text: str) -> str:
    """Return the letters and figures of a text, in lower case, without accents."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"\w+", "".join(c for c in letters if not unicodedata.combining(c))))
