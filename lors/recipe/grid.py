"""``conf/tune.yaml``: the settings of each merge method that are tried on dev."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lors.config import read_yaml
from lors.errors import BRIEF, UsageError, unknown_name
from lors.fileio import path_component

MOST_POINTS = 10_000
"""Largest number of points of a method: each is a merge and an inference over the dev set."""


@dataclass(frozen=True)
class Grid:
    """The settings to try, by method.

    Attributes:
        points: method -> list of parameter settings, scaling_coef included.
        limit: number of dev utterances of each language that are used; None for all.
    """

    points: Mapping[str, tuple[dict[str, Any], ...]]
    limit: int | None


def read_grid(path: str | os.PathLike, methods: Sequence[str] | None = None) -> Grid:
    """Read ``conf/tune.yaml``.

    The grid of a method is a mapping from each parameter to the list of its values (all
    combinations are tried), or a list of such mappings. All methods with more than one point have
    the same number of points.

    Args:
        path: the file.
        methods: methods to keep; by default all methods of the file.

    Raises:
        UsageError: a malformed grid, more than `MOST_POINTS` points of a method, methods with
            different budgets, or a method without a grid.
    """
    content = read_yaml(path)
    limit = content.pop("utterances_per_language", None)
    if limit is not None and not (type(limit) is int and limit > 0):
        where = f"{path}: utterances_per_language"
        raise UsageError("not a number of utterances", where=where, expected="1 or more", got=limit)
    for method in content:
        path_component(method, path, UsageError)  # of tune/<method>.<scope>
    points = {method: _points(grid, f"{path}: {method}") for method, grid in content.items()}
    budgets = {method: len(of) for method, of in points.items() if len(of) > 1}
    if len(set(budgets.values())) > 1:
        raise UsageError(
            "merge methods must be tuned with the same budget, or they cannot be compared",
            where=path,
            expected="the same number of points for every method with more than one",
            got=[f"{method}: {number}" for method, number in budgets.items()],
        )
    for method in methods or ():
        if method not in points:
            raise unknown_name("merge method", method, points, where=path)
    return Grid({method: points[method] for method in methods or points}, limit)


def _points(grid: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Return all points of a method's grid."""
    parts = grid if isinstance(grid, list) else [grid]
    good = [isinstance(part, dict) and all(map(_is_list, part.values())) for part in parts]
    if not parts or not all(good):
        raise UsageError(
            "a grid maps each parameter to a list of values", where=where, got=BRIEF.repr(grid)
        )
    number = sum(math.prod(map(len, part.values())) for part in parts)
    if number > MOST_POINTS:
        raise UsageError(
            "too many points: every combination of the values is tried",
            where=where,
            expected=f"at most {MOST_POINTS}",
            got=number,
            hint="give fewer values, or a list of smaller grids",
        )
    return tuple(
        dict(zip(part, values, strict=True))
        for part in parts
        for values in itertools.product(*part.values())
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)
