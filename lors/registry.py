"""Named entries (merge methods, normalisers, ...) whose unknown names answer with near matches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from lors.errors import unknown_name

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """A table from names to entries.

    Args:
        kind: what an entry is, for the error message ("merge method").
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> Entry:
        """Enter `entry` under `name` and return it; a name can be taken only once (ValueError)."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        self._entries[name] = entry
        return entry

    def get(self, name: str, where: object = None) -> Entry:
        """The entry called `name`.

        Raises:
            UsageError: there is none; near matches and all the names are listed.
        """
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries, where)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)
