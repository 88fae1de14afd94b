"""``conf/tune.yaml``: the settings of each merge method that are tried on dev."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lors.config import build, load_config, read_yaml
from lors.errors import BRIEF, UsageError, unknown_name
from lors.fileio import path_component
from lors.models.family import InferenceOptions
from lors.recipe.expdir import BASELINES
from lors.recipe.halving import Halving, room_for

Options = TypeVar("Options", bound=InferenceOptions)

MOST_POINTS = 10_000
"""Largest number of points of a method: each is a merge and an inference over the dev set."""
PLAN_OPTIONS = ("svc", "boost", "lines", "weights", "masks")
"""Options of a merge plan that a grid may set beside the parameters of the method."""
METHOD = "method"
"""Key of a grid that names the merge method of a variant."""
EACH_EXPERT = "each_expert"
"""Key of a grid with the number of further settings: a weight for each expert."""


@dataclass(frozen=True)
class Grid:
    """The settings to try, by method.

    Attributes:
        points: name of a method or variant -> list of settings: parameters of the method,
            scaling_coef included, and options of the plan (`PLAN_OPTIONS`).
        limit: number of dev utterances of each language that are used; None for all.
        variants: name of a variant -> its merge method.
        halving: the rule that leaves out points early; by default every point sees all of dev.
        each_expert: name -> number of further settings, with a weight for each expert
            (:mod:`lors.recipe.weights`).
        inference: options of inference on dev, in place of those of ``conf/inference_*.yaml``.
    """

    points: Mapping[str, tuple[dict[str, Any], ...]]
    limit: int | None
    variants: Mapping[str, str] = dataclasses.field(default_factory=dict)
    halving: Halving | None = None
    each_expert: Mapping[str, int] = dataclasses.field(default_factory=dict)
    inference: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def options_from(self, config: str | os.PathLike, cls: type[Options]) -> Options:
        """Return the options of inference on dev.

        Args:
            config: ``conf/inference_*.yaml``.
            cls: the options of the models' family.

        Raises:
            UsageError: options that the family does not have, or values that they cannot have.
        """
        if not self.inference:
            return load_config(cls, config)
        where = f"{config} with inference: {dict(self.inference)} of the grid"
        return build(cls, {**read_yaml(config), **self.inference}, where)

    def method(self, name: str) -> str:
        """Return the merge method of a name in `points`."""
        return self.variants.get(name, name)


def read_grid(path: str | os.PathLike, methods: Sequence[str] | None = None) -> Grid:
    """Read ``conf/tune.yaml``.

    The grid of a method is a mapping from each parameter to the list of its values (all
    combinations are tried), or a list of such mappings. Among the parameters may be the options
    `PLAN_OPTIONS` of a merge plan; the value null leaves an option out. The key of a grid is the
    name of a merge method. A grid with the entry ``method: lors`` is a variant of this method, and
    its key is any other name. The entry ``each_expert: 9`` adds nine settings that are found during
    the search (:mod:`lors.recipe.weights`). All methods and variants with more than one point have
    the same number of points, these included.

    Three keys are not grids: ``utterances_per_language``, the number of dev utterances (left out or
    null: all of them), ``halving`` (:class:`lors.recipe.halving.Halving`), and ``inference``,
    options that the search has in place of those of ``conf/inference_*.yaml``.

    Args:
        path: the file.
        methods: methods and variants to keep; by default all of the file.

    Raises:
        UsageError: a malformed grid, more than `MOST_POINTS` points of a method, methods with
            different budgets, no budget for the weights of `each_expert`, or a method without a
            grid.
    """
    content = read_yaml(path)
    limit, halving, inference = _taken_out(content, path)
    points, variants, each_expert = {}, {}, {}
    for name, grid in content.items():
        path_component(name, path, UsageError)  # of tune/<name>.<scope>
        where = f"{path}: {name}"
        if name in BASELINES:
            raise UsageError("this name is a row of the results already", where=where)
        parts = grid if isinstance(grid, list) else [grid]
        if isinstance(grid, dict) and EACH_EXPERT in grid:
            each_expert[name] = _further(grid[EACH_EXPERT], where)
            parts = [{key: value for key, value in grid.items() if key != EACH_EXPERT}]
        parts, method = _parts(parts, where)
        points[name] = _points(parts, where)
        if method is not None:
            variants[name] = method
    _check_budgets({name: len(of) + each_expert.get(name, 0) for name, of in points.items()}, path)
    for name in methods or ():
        if name not in points:
            raise unknown_name("merge method", name, points, where=path)
    kept = list(methods or points)
    for name in kept:
        if name in each_expert:
            _check_room(len(points[name]), each_expert[name], halving, f"{path}: {name}")
    return Grid(
        {name: points[name] for name in kept},
        limit,
        {name: variants[name] for name in kept if name in variants},
        halving,
        {name: each_expert[name] for name in kept if name in each_expert},
        inference,
    )


def _taken_out(
    content: dict[str, Any], path: str | os.PathLike
) -> tuple[int | None, Halving | None, dict[str, Any]]:
    """Remove the keys that are not grids, and return their values.

    Returns:
        The number of dev utterances, the rule of successive halving, the options of inference.
    """
    limit = content.pop("utterances_per_language", None)
    if limit is not None and not (type(limit) is int and limit > 0):
        where = f"{path}: utterances_per_language"
        raise UsageError("not a number of utterances", where=where, expected="1 or more", got=limit)
    halving = content.pop("halving", None)
    if halving is not None:
        halving = build(Halving, halving, f"{path}: halving")
    inference = content.pop("inference", {})
    if not isinstance(inference, dict):
        where = f"{path}: inference"
        raise UsageError("no options", where=where, expected="name: value ...", got=inference)
    return limit, halving, inference


def _further(number: Any, where: str) -> int:
    """Return the number of settings with a weight for each expert; UsageError if it is none."""
    if type(number) is not int or not 1 <= number <= MOST_POINTS:
        raise UsageError(
            "not a number of settings",
            where=f"{where}: {EACH_EXPERT}",
            expected=f"a whole number from 1 to {MOST_POINTS}",
            got=BRIEF.repr(number),
        )
    return number


def _check_room(points: int, further: int, halving: Halving | None, where: str) -> None:
    """Check that the search can try a weight for each expert after the grid."""
    if room_for(points, further, halving).most:
        return
    enough = next(n for n in itertools.count(further) if room_for(points, n, halving).most)
    raise UsageError(
        "with successive halving nothing of the budget is left for a weight for each expert",
        where=f"{where}: {EACH_EXPERT}",
        expected=f"{enough} or more after a grid of {points}",
        got=further,
        hint="give more settings, to all methods alike, or move some from the grid to "
        f"{EACH_EXPERT}; or leave halving out",
    )


def _check_budgets(numbers: Mapping[str, int], path: str | os.PathLike) -> None:
    budgets = {name: number for name, number in numbers.items() if number > 1}
    if len(set(budgets.values())) > 1:
        raise UsageError(
            "merge methods must be tuned with the same budget, or they cannot be compared",
            where=path,
            expected="the same number of points for every method with more than one",
            got=[f"{method}: {number}" for method, number in budgets.items()],
        )


def _parts(grid: list[Any], where: str) -> tuple[list[dict[str, list[Any]]], str | None]:
    """Return the mappings of a grid, and the merge method if it is a variant."""
    parts = grid
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise _malformed(grid, where)
    methods = [part.get(METHOD) for part in parts]
    parts = [{key: part[key] for key in part if key != METHOD} for part in parts]
    if not all(map(_is_list, (values for part in parts for values in part.values()))):
        raise _malformed(grid, where)
    if any(method != methods[0] or not isinstance(method, str | None) for method in methods):
        raise UsageError(
            "a variant has one merge method, named in each of its grids",
            where=where,
            got=", ".join(BRIEF.repr(method) for method in methods),
        )
    return parts, methods[0]


def _malformed(grid: Any, where: str) -> UsageError:
    return UsageError(
        "a grid maps each parameter to a list of values", where=where, got=BRIEF.repr(grid)
    )


def _points(parts: Sequence[dict[str, list[Any]]], where: str) -> tuple[dict[str, Any], ...]:
    """Return all points of a method's grid."""
    number = sum(math.prod(map(len, part.values())) for part in parts)
    if number > MOST_POINTS:
        raise UsageError(
            "too many points: every combination of the values is tried",
            where=where,
            expected=f"at most {MOST_POINTS}",
            got=number,
            hint="give fewer values, or a list of smaller grids",
        )
    return tuple(point for part in parts for point in _combinations(part))


def _combinations(part: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*part.values()):
        point = dict(zip(part, values, strict=True))
        yield {k: v for k, v in point.items() if not (k in PLAN_OPTIONS and v is None)}


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)
