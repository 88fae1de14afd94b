"""The grid of a search for another number of experts.

The best factor of a sum falls with the number of experts: a mean, whose factor hardly depends on
it, is a sum with the factor 1/N. So a grid that was laid out for five experts ends too early for
two.
"""

from __future__ import annotations

import os
from typing import Any

import yaml

from lors.config import Range, check_number, read_yaml
from lors.fileio import write_text
from lors.merge.methods import method_called
from lors.recipe.grid import read_grid
from lors.recipe.sweeps import SCALING
from lors.score.result import is_number

GROWTH = {"iso_c": 0.5, "iso_cts": 0.5}
"""Joint methods whose delta grows with the number N of experts -> the power of N.

Their matrices have the mean singular value of the sum, which grows as N for equal task vectors, and
as sqrt(N) for those in different directions; their other tensors are means. One factor is for both.
With a power between 0 and 1, a grid of several values reaches the best factor of either.
"""


def factor_for(method: str, tuned: int, number: int) -> float:
    """Return what scaling_coef is multiplied by if `number` experts are merged, not `tuned`.

    Raises:
        UsageError: no such merge method.
    """
    power = GROWTH.get(method, 1.0 if method_called(method).combines == "sum" else 0.0)
    return (tuned / number) ** power


def scale_grid(
    path: str | os.PathLike, tuned: int, number: int, out: str | os.PathLike | None = None
) -> dict[str, float]:
    """Write the grid for another number of experts.

    Every method keeps its number of points, and what is not scaling_coef. A scaling_coef is rounded
    to four digits.

    Args:
        path: the grid (:func:`lors.recipe.grid.read_grid`).
        tuned: number of experts that it was laid out for.
        number: number of experts that are merged.
        out: file to write; None for none.

    Returns:
        Name of a method or variant -> its factor.

    Raises:
        UsageError: a malformed grid, an unknown merge method, or a number below 1.
    """
    for value in (tuned, number):
        check_number(value, Range(1), "--experts")
    grid, content = read_grid(path), read_yaml(path)
    factors = {name: factor_for(grid.method(name), tuned, number) for name in grid.points}
    if out is not None:
        for name, factor in factors.items():
            content[name] = _scaled(content[name], factor)
        source = f"# {path}, made for {tuned} experts, with the factors of {number}.\n"
        write_text(out, source + yaml.safe_dump(content, sort_keys=False))
    return factors


def _scaled(grid: Any, factor: float) -> Any:
    """Return a grid with all numbers of its scaling_coef multiplied; the search refuses others."""
    if isinstance(grid, list):
        return [_scaled(part, factor) for part in grid]
    if SCALING not in grid:
        return grid
    values = [float(f"{v * factor:.4g}") if is_number(v) else v for v in grid[SCALING]]
    return {**grid, SCALING: values}
