"""Sweeps: the settings of a merge method that were tried on the dev set, with their scores."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.errors import LorsError, shortened
from lors.fileio import read_json, write_json
from lors.recipe.expdir import ExpDir, tasks_of
from lors.score import SCORERS, Score
from lors.score.normalised import undefined_because
from lors.score.result import is_number
from lors.tasks import Pair

SCALING = "scaling_coef"
"""The parameter that every merge method has."""
SHOWN = 20
"""Number of problems that a message lists."""


@dataclass(frozen=True)
class Trial:
    """One setting and its result on dev.

    Attributes:
        params: name of a parameter of the method, or of an option of the plan -> value.
        objective: normalised performance on dev; higher is better. For a point that successive
            halving has left out, it is on the part of dev that the point has seen, relative to base
            and experts on all of dev: it can be compared within a round, not with other rounds.
            Where normalised performance is undefined, it is the average gain over the base model.
        scores: pair -> its scores.
    """

    params: Mapping[str, Any]
    objective: float
    scores: Mapping[Pair, Score]

    @property
    def evaluations(self) -> int:
        """Number of dev utterances that were evaluated, those of all pairs together."""
        return sum(score.sizes["utterances"] for score in self.scores.values())

    def to_json(self) -> dict[str, Any]:
        """Return the trial as an entry of a sweep file's grid."""
        return {
            "params": dict(self.params),
            "objective": self.objective,
            "scores": _scores_to_json(self.scores),
        }

    @classmethod
    def problems(cls, content: Any) -> list[str]:
        """List everything that makes `content` unusable as a trial."""
        if not isinstance(content, dict):
            return ["not a JSON object"]
        found = [
            f"no {key}" for key in ("params", "scores") if not isinstance(content.get(key), dict)
        ]
        if not is_number(content.get("objective")):
            found.append("the objective is not a number")
        if not found and not is_number(content["params"].get(SCALING, 1)):
            found.append(f"{SCALING} is not a number")
        if found:
            return found
        return _problems_of_scores(content["scores"])

    @classmethod
    def from_json(cls, content: Any) -> Trial:
        """Make a trial of an entry of a sweep file's grid.

        Raises:
            LorsError: the entry is malformed; all problems are listed.
        """
        if problems := cls.problems(content):
            raise LorsError("not a trial of merge parameters", got=problems)
        scores = _scores_from_json(content["scores"])
        return cls(content["params"], content["objective"], scores)


def _scores_to_json(scores: Mapping[Pair, Score]) -> dict[str, Any]:
    return {str(pair): score.to_json() for pair, score in scores.items()}


def _problems_of_scores(content: Mapping[str, Any]) -> list[str]:
    """List everything that makes `content` unusable as pair -> its scores."""
    found = []
    for name, score in content.items():
        try:
            wrong = SCORERS[Pair.parse(name).task].result.problems(score)
        except LorsError as error:
            wrong = [error.what]
        found += [f"scores of {name}: {problem}" for problem in wrong]
    return found


def _scores_from_json(content: Mapping[str, Any]) -> dict[Pair, Score]:
    pairs = {name: Pair.parse(name) for name in content}
    return {
        pair: SCORERS[pair.task].result.from_json(content[name]) for name, pair in pairs.items()
    }


@dataclass(frozen=True)
class Sweep:
    """All trials of one merge method and scope.

    Attributes:
        expdir: experiment directory.
        method: name of the merge method, or of a variant of it.
        scope: tasks whose experts are merged, e.g. ``asr_st``.
        grid: one trial for each setting.
        best: index of the chosen trial in `grid`.
        defaults: name of a parameter -> its default; None in a file from before they were stored.
        variant_of: the merge method of a variant; None if `method` is a merge method.
        base: dev scores of the base model; empty in a file from before they were stored.
        expert: the same, each pair scored with its own expert.
        without: for a search of a weight for each expert: the chosen setting without each of them,
            in the order of the pairs in its scores; else empty. These trials cannot be chosen.
    """

    expdir: str
    method: str
    scope: str
    grid: tuple[Trial, ...]
    best: int
    defaults: Mapping[str, Any] | None = None
    variant_of: str | None = None
    base: Mapping[Pair, Score] = dataclasses.field(default_factory=dict)
    expert: Mapping[Pair, Score] = dataclasses.field(default_factory=dict)
    without: tuple[Trial, ...] = ()

    @property
    def merge_method(self) -> str:
        """The merge method of all trials."""
        return self.variant_of or self.method

    @property
    def chosen(self) -> Trial:
        """The chosen trial."""
        return self.grid[self.best]

    @property
    def undefined(self) -> str:
        """Why normalised performance on dev is undefined; empty if it is defined, or not known."""
        return undefined_because(self.base, self.expert) if self.base else ""

    @property
    def finalists(self) -> list[Trial]:
        """The trials that have seen all of dev: all, unless successive halving left out some."""
        return [self.grid[index] for index in _finalists(self.grid)]

    @property
    def evaluations(self) -> int:
        """Number of dev utterances that were evaluated: the cost of the search."""
        return sum(trial.evaluations for trial in self.grid)

    @property
    def plain_evaluations(self) -> int:
        """The same if every point had seen all of dev."""
        return len(self.grid) * self.chosen.evaluations

    def to_json(self) -> dict[str, Any]:
        """Return the content of the sweep file."""
        content: dict[str, Any] = {"method": self.method}
        if self.variant_of is not None:
            content["variant_of"] = self.variant_of
        content["scope"] = self.scope
        if self.defaults is not None:
            content["defaults"] = dict(self.defaults)
        for name in ("base", "expert"):
            if scores := getattr(self, name):
                content[name] = _scores_to_json(scores)
        content |= {"grid": [trial.to_json() for trial in self.grid], "best": self.best}
        if self.without:
            content["without"] = [trial.to_json() for trial in self.without]
        return content


def _finalists(grid: Sequence[Trial]) -> list[int]:
    """Return the indices of the trials that have seen all of dev."""
    seen = [trial.evaluations for trial in grid]
    most = max(seen)
    return [index for index, number in enumerate(seen) if number == most]


def chosen_index(grid: Sequence[Trial]) -> int:
    """Return the index of the first trial with the highest objective that has seen all of dev."""
    return max(_finalists(grid), key=lambda index: grid[index].objective)


def write_sweep(
    expdir: ExpDir,
    method: str,
    scope: str,
    grid: Sequence[Trial],
    variant_of: str | None = None,
    base: Mapping[Pair, Score] | None = None,
    expert: Mapping[Pair, Score] | None = None,
    without: Sequence[Trial] = (),
) -> Sweep:
    """Write the sweep file of these trials, with the choice of :func:`chosen_index`."""
    best = chosen_index(grid)
    defaults = default_params(variant_of or method)
    sweep = Sweep(
        *(str(expdir.root), method, scope, tuple(grid), best, defaults, variant_of),
        *(base or {}, expert or {}, tuple(without)),
    )
    write_json(expdir.sweep(method, scope), sweep.to_json())
    return sweep


def read_sweep(expdir: ExpDir, method: str, scope: str) -> Sweep:
    """Read the sweep file of a method and scope.

    Raises:
        LorsError: the file is missing or malformed.
    """
    path = expdir.sweep(method, scope)
    content = read_json(path)
    if problems := _malformed(path, content):
        raise LorsError(
            "not a sweep of merge parameters",
            where=path,
            got=shortened(problems, SHOWN),
            hint=f"remove {path.parent} and run stage tune again",
        )
    return _sweep(str(expdir.root), content)


def read_sweeps(expdirs: Sequence[str | os.PathLike]) -> list[Sweep]:
    """Read all sweeps of several experiment directories.

    Returns:
        The sweeps, sorted by method with lors last, then by scope, then in the order of `expdirs`.

    Raises:
        LorsError: a sweep file is malformed, or its chosen setting is not one with the highest
            objective (all such files are listed).
    """
    sweeps, problems = [], []
    for expdir in map(str, expdirs):
        for path in sorted(Path(expdir).glob("tune/*/sweep.json")):
            content = read_json(path)
            wrong = _malformed(path, content)
            if not wrong:
                sweeps.append(_sweep(expdir, content))
                wrong = _wrong_choice(sweeps[-1])
            problems += [f"{path}: {problem}" for problem in wrong]
    if problems:
        raise LorsError(
            "sweeps of merge parameters that cannot be reported",
            got=shortened(problems, SHOWN),
            hint="remove the directories of these files and run stage tune again",
        )
    return sorted(sweeps, key=_order)


def _sweep(expdir: str, content: Mapping[str, Any]) -> Sweep:
    grid = tuple(map(Trial.from_json, content["grid"]))
    return Sweep(
        *(expdir, content["method"], content["scope"], grid, content["best"]),
        defaults=content.get("defaults"),
        variant_of=content.get("variant_of"),
        base=_scores_from_json(content.get("base", {})),
        expert=_scores_from_json(content.get("expert", {})),
        without=tuple(map(Trial.from_json, content.get("without", []))),
    )


def _order(sweep: Sweep) -> tuple:
    return (sweep.method == "lors", sweep.method, len(tasks_of(sweep.scope)), sweep.scope)


def _malformed(path: Path, content: Any) -> list[str]:
    """List everything that makes `content` unusable as the sweep file at `path`."""
    if not isinstance(content, dict) or not content.keys() >= {"method", "scope", "grid", "best"}:
        return ["needs the keys method, scope, grid and best"]
    problems = []
    if path.parent.name != f"{content['method']}.{content['scope']}":
        problems.append(f"is of method '{content['method']}' and scope '{content['scope']}'")
    if not isinstance(content.get("defaults"), dict | None):
        problems.append("the defaults are not a JSON object")
    if not isinstance(content.get("variant_of"), str | None):
        problems.append("variant_of is not the name of a merge method")
    for name in ("base", "expert"):
        scores = content.get(name, {})
        if isinstance(scores, dict):
            problems += [f"{name}: {problem}" for problem in _problems_of_scores(scores)]
        else:
            problems.append(f"{name} is not a JSON object")
    grid, best = content["grid"], content["best"]
    if not isinstance(grid, list) or not grid:
        return [*problems, "the grid is empty"]
    for index, entry in enumerate(grid):
        problems += [f"grid entry {index}: {problem}" for problem in Trial.problems(entry)]
    if not problems:
        problems += _problems_of_without(content.get("without", []), grid[0]["scores"])
    if type(best) is not int or not 0 <= best < len(grid):
        problems.append(f"best is {best!r}, not an index into a grid of {len(grid)}")
    return problems


def _problems_of_without(content: Any, scores: Mapping[str, Any]) -> list[str]:
    """List everything that makes `content` unusable as the trials without each expert.

    Args:
        scores: those of a trial of the grid: there is one expert for each pair.
    """
    if not isinstance(content, list) or len(content) not in (0, len(scores)):
        return [f"without is not a list of {len(scores)} trials"]
    problems = []
    for index, entry in enumerate(content):
        wrong = Trial.problems(entry)
        if not wrong and entry["scores"].keys() != scores.keys():
            wrong = ["other pairs than in the grid"]
        problems += [f"without, entry {index}: {problem}" for problem in wrong]
    return problems


def _wrong_choice(sweep: Sweep) -> list[str]:
    chosen = f"best is entry {sweep.best} with objective {sweep.chosen.objective}"
    if sweep.chosen not in sweep.finalists:
        return [f"{chosen}, which has not seen all of dev"]
    highest = max(trial.objective for trial in sweep.finalists)
    return [] if sweep.chosen.objective == highest else [f"{chosen}, but the highest is {highest}"]


def _is_comparable(trial: Trial, scores: Mapping[Pair, Score]) -> bool:
    pairs = trial.scores.keys() & scores.keys()
    return all(trial.scores[pair].settings == scores[pair].settings for pair in pairs)


def incomparable_sweeps(sweeps: Iterable[Sweep], scores: Mapping[Pair, Score]) -> list[Sweep]:
    """Return the sweeps whose choice was made with other settings of the scorer than `scores`."""
    return [sweep for sweep in sweeps if not _is_comparable(sweep.chosen, scores)]


@functools.cache
def default_params(method: str) -> dict[str, Any]:
    """Return the defaults of a merge method's parameters other than scaling_coef."""
    from lors.merge.methods import METHODS  # imports torch, which a reader does not need

    return METHODS[method].defaults if method in METHODS else {}


def scopes_in(sweeps: Sequence[Sweep]) -> list[str]:
    """Return the scopes of some sweeps, those of one task first."""
    return sorted({sweep.scope for sweep in sweeps}, key=lambda s: (len(tasks_of(s)), s))


def varied_params(sweeps: Sequence[Sweep]) -> tuple[str, ...]:
    """Return the parameters other than scaling_coef that do not have one value in all trials.

    Args:
        sweeps: sweeps of one method. A parameter that a trial does not have counts as a value.
    """
    trials = [trial.params for sweep in sweeps for trial in sweep.grid]
    names = dict.fromkeys(name for params in trials for name in params)
    values = {name: {selected_params(params, [name]) for params in trials} for name in names}
    return tuple(name for name in names if len(values[name]) > 1 and name != SCALING)


def selected_params(params: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return some parameters as text, in the order of `names`; empty if there are none."""
    present = {name: params[name] for name in names if name in params}
    return format_params(present) if present else ""


def format_params(params: Mapping[str, Any]) -> str:
    """Return ``rank=7 density=0.2``; ``none`` for a method without parameters."""
    return " ".join(f"{name}={_short(value)}" for name, value in params.items()) or "none"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
