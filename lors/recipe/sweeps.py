"""Sweeps of merge parameters on the dev set, read and checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.errors import LorsError
from lors.fileio import read_json
from lors.recipe.score_tree import is_number


@dataclass(frozen=True)
class Sweep:
    """The settings of one merge method that were tried on the dev set.

    Attributes:
        expdir: the experiment directory it belongs to.
        method: name of the merge method.
        scope: tasks merged, joined by ``_``: ``asr``, ``st`` or ``asr_st``.
        grid: one entry for each setting: ``params`` (name -> value), ``objective`` (normalised
            performance on dev, higher is better) and ``scores`` (pair -> scores).
        best: index into `grid` of the setting chosen.
    """

    expdir: str
    method: str
    scope: str
    grid: tuple[dict[str, Any], ...]
    best: int

    @property
    def chosen(self) -> dict[str, Any]:
        """The entry of `grid` that was chosen."""
        return self.grid[self.best]


def format_params(params: dict[str, Any]) -> str:
    """``rank=7 density=0.2``; ``none`` for a method without parameters."""
    return " ".join(f"{name}={_short(value)}" for name, value in params.items()) or "none"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_sweeps(expdirs: Sequence[str | os.PathLike]) -> list[Sweep]:
    """All sweeps of `expdirs`, by method with lors last, then scope, then expdir.

    Raises:
        LorsError: a sweep file is malformed, or the setting it calls best is not the one with
            the highest objective (all such files named).
    """
    sweeps, problems = [], []
    for expdir in map(str, expdirs):
        for path in sorted(Path(expdir).glob("tune/*/sweep.json")):
            content = read_json(path)
            wrong = _malformed(path, content)
            problems += [f"{path}: {problem}" for problem in wrong]
            if not wrong:
                grid = tuple(content["grid"])
                sweeps.append(
                    Sweep(expdir, content["method"], content["scope"], grid, content["best"])
                )
    if problems:
        raise LorsError("not a sweep of merge parameters", got="\n    " + "\n    ".join(problems))
    return sorted(sweeps, key=lambda s: (s.method == "lors", s.method, s.scope.count("_"), s.scope))


def _malformed(path: Path, content: Any) -> list[str]:
    if not isinstance(content, dict) or not content.keys() >= {"method", "scope", "grid", "best"}:
        return ["needs the keys method, scope, grid and best"]
    problems = []
    if path.parent.name != f"{content['method']}.{content['scope']}":
        problems.append(f"is of method '{content['method']}' and scope '{content['scope']}'")
    grid, best = content["grid"], content["best"]
    if not isinstance(grid, list) or not grid:
        return [*problems, "the grid is empty"]
    bad = [
        i
        for i, entry in enumerate(grid)
        if not isinstance(entry, dict)
        or not isinstance(entry.get("params"), dict)
        or not is_number(entry.get("objective"))
    ]
    if bad:
        return [*problems, f"grid entries without params and a number as objective: {bad}"]
    highest = max(entry["objective"] for entry in grid)
    if type(best) is not int or not 0 <= best < len(grid):
        problems.append(f"best is {best!r}, not an index into a grid of {len(grid)}")
    elif grid[best]["objective"] != highest:
        problems.append(
            f"best is entry {best} with objective {grid[best]['objective']}, "
            f"but the highest is {highest}"
        )
    return problems
