"""Naming schemes: the names that OpenAI, Hugging Face and ESPnet give to the tensors of one model.

The tables of names are data, in lors/checkpoint/names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lors.config import load_config
from lors.errors import LorsError, UsageError, shortened

NAMES_DIR = Path(__file__).parent / "names"
PLACEHOLDERS = {"s": "encoder|decoder", "n": r"\d+", "p": "weight|bias"}
TensorId = tuple[int, tuple[tuple[str, str], ...]]
"""A tensor of a model, independent of the scheme: the line in the table, and its placeholders."""


@dataclass(frozen=True)
class NameTable:
    """The names of one kind of model in several naming schemes.

    Args:
        schemes: the naming schemes.
        tensors: one line for each kind of tensor, with its name pattern in every scheme.
        tied: name of a tensor that repeats another one -> name of that other tensor.
    """

    schemes: tuple[str, ...]
    tensors: tuple[tuple[str, ...], ...]
    tied: dict[str, str] = field(default_factory=dict)

    def identify(self, names: Iterable[str]) -> dict[str, TensorId]:
        """Return the tensor of each name, in the scheme that has the most of these names.

        Names that this scheme does not have are left out.
        """
        names = list(names)
        return max((self._identify(names, scheme) for scheme in self.schemes), key=len)

    def _identify(self, names: list[str], scheme: str) -> dict[str, TensorId]:
        column = self.schemes.index(scheme)
        patterns = [_pattern(line[column]) for line in self.tensors]
        found = {}
        for name in names:
            for index, pattern in enumerate(patterns):
                match = pattern.fullmatch(name)
                if match:
                    found[name] = (index, tuple(sorted(match.groupdict().items())))
                    break
        return found

    def name_of(self, tensor: TensorId, scheme: str) -> str:
        """Return the name of a tensor in a scheme."""
        index, placeholders = tensor
        return self.tensors[index][self.schemes.index(scheme)].format(**dict(placeholders))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Return the regular expression for a name with placeholders such as ``{n}``."""
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
    """Return all tables of names."""
    return tuple(load_config(NameTable, path) for path in sorted(NAMES_DIR.glob("*.yaml")))


def schemes() -> list[str]:
    """Return all naming schemes."""
    return [scheme for table in tables() for scheme in table.schemes]


def counterparts(names: Iterable[str], other: Iterable[str]) -> dict[str, str]:
    """Match the names of two models in different naming schemes.

    Returns:
        Each of `names` that has a counterpart -> the name of the same tensor among `other`. Empty
        if the two share a name, so that their schemes are equal, or if no table has the names.
    """
    names, other = list(names), list(other)
    if set(names) & set(other):
        return {}
    found: dict[str, str] = {}
    for table in tables():
        name_of = {tensor: name for name, tensor in table.identify(other).items()}
        pairs = {
            name: name_of[tensor]
            for name, tensor in table.identify(names).items()
            if tensor in name_of
        }
        found = max(found, pairs, key=len)
    return found


def names_in(scheme: str, names: Iterable[str]) -> dict[str, str]:
    """Return the names of a model's tensors in a naming scheme.

    Args:
        scheme: one of :func:`schemes`.
        names: the names of all tensors of a model, in any scheme.

    Returns:
        Each of `names` -> the name of the same tensor in `scheme`.

    Raises:
        UsageError: the scheme does not exist.
        LorsError: the scheme has no name for some of the tensors.
    """
    names = list(names)
    table = next((table for table in tables() if scheme in table.schemes), None)
    if table is None:
        raise UsageError("unknown naming scheme", expected=", ".join(schemes()), got=scheme)
    tensors = table.identify(names)
    unknown = [name for name in names if name not in tensors]
    if unknown:
        raise LorsError(
            f"the naming scheme {scheme} has no name for some tensors of this model",
            expected=f"a model with the names of {', '.join(table.schemes)}",
            got=shortened(unknown),
        )
    return {name: table.name_of(tensor, scheme) for name, tensor in tensors.items()}


def ties() -> dict[str, str]:
    """Return the names of all tensors that only repeat another tensor -> the name of the other."""
    return {name: original for table in tables() for name, original in table.tied.items()}


def tied_names(names: Iterable[str]) -> dict[str, str]:
    """Return :func:`ties` for those tensors of which `names` has both names."""
    names = set(names)
    return {n: original for n, original in ties().items() if n in names and original in names}
