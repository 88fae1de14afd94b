"""One model's tensors under the names of another kind of file, as data (lors/checkpoint/names)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lors.config import load_config
from lors.errors import LorsError, UsageError

NAMES_DIR = Path(__file__).parent / "names"
PLACEHOLDERS = {"s": "encoder|decoder", "n": r"\d+", "p": "weight|bias"}
Place = tuple[int, tuple[tuple[str, str], ...]]
"""Where a tensor stands in a table: the row, and what its placeholders are."""


@dataclass(frozen=True)
class NameTable:
    """A table of names: one column a family of files, one row a tensor or kind of tensor.

    Args:
        families: the titles of the columns.
        rows: in each a name or pattern for every family.
        tied: name -> the name of the tensor that it repeats.
    """

    families: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    tied: dict[str, str] = field(default_factory=dict)

    def places(self, names: Iterable[str], column: int) -> dict[str, Place]:
        """The place of each name that the family of this column knows."""
        patterns = [_pattern(row[column]) for row in self.rows]
        found = {}
        for name in names:
            for index, pattern in enumerate(patterns):
                match = pattern.fullmatch(name)
                if match:
                    found[name] = (index, tuple(sorted(match.groupdict().items())))
                    break
        return found

    def name_of(self, place: Place, column: int) -> str:
        """The name that a family has for a place."""
        row, placeholders = place
        return self.rows[row][column].format(**dict(placeholders))

    def best(self, names: list[str]) -> dict[str, Place]:
        """The places of the names in the family that knows most of them."""
        return max((self.places(names, i) for i in range(len(self.families))), key=len)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts, seen = [], set()
    for text, placeholder in re.findall(r"([^{]*)(?:\{(\w)\})?", template):
        parts.append(re.escape(text))
        if placeholder in seen:
            parts.append(f"(?P={placeholder})")
        elif placeholder:
            parts.append(f"(?P<{placeholder}>{PLACEHOLDERS[placeholder]})")
            seen.add(placeholder)
    return re.compile("".join(parts))


@cache
def tables() -> tuple[NameTable, ...]:
    """All tables of names."""
    return tuple(load_config(NameTable, path) for path in sorted(NAMES_DIR.glob("*.yaml")))


def translation(names: Iterable[str], other: Iterable[str]) -> dict[str, str]:
    """For each of `names` that has a counterpart among `other` under another name: that name.

    Empty when the two files name their tensors alike, or no table knows them.
    """
    names, other = list(names), list(other)
    if set(names) & set(other):
        return {}
    found: dict[str, str] = {}
    for table in tables():
        by_place = {place: name for name, place in table.best(other).items()}
        pairs = {
            name: by_place[place] for name, place in table.best(names).items() if place in by_place
        }
        found = max(found, pairs, key=len)
    return found


def families() -> list[str]:
    """All families that a table knows the names of."""
    return [family for table in tables() for family in table.families]


def names_in(family: str, names: Iterable[str]) -> dict[str, str]:
    """The names that a family of files has for the tensors of a model.

    Args:
        family: one of :func:`families`.
        names: of all tensors of a model, of any family.

    Raises:
        UsageError: there is no such family.
        LorsError: it has no names for some of the tensors; all are listed.
    """
    names = list(names)
    table = next((table for table in tables() if family in table.families), None)
    if table is None:
        raise UsageError("unknown family of names", expected=", ".join(families()), got=family)
    places, column = table.best(names), table.families.index(family)
    unknown = [name for name in names if name not in places]
    if unknown:
        raise LorsError(
            f"the names of {family} have none for some tensors of this model",
            expected=f"a model of {', '.join(table.families)}",
            got=", ".join(unknown),
        )
    return {name: table.name_of(place, column) for name, place in places.items()}


def tied_names(names: Iterable[str]) -> dict[str, str]:
    """Those of `names` that only repeat another of them, with that other name."""
    names = set(names)
    return {
        name: original
        for table in tables()
        for name, original in table.tied.items()
        if name in names and original in names
    }
