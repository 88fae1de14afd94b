"""Hypotheses of the points of a search, kept beside its sweep: no clip is decoded twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.errors import BRIEF, LorsError, shortened
from lors.fileio import read_json, write_json
from lors.recipe.sweeps import Trial
from lors.score import Score, normalised_performance, score_pair
from lors.score.normalised import UndefinedPerformanceError, average_gain
from lors.tasks import Pair

Hypotheses = dict[Pair, dict[str, str]]
"""Pair -> utterance id -> text."""


@dataclass(frozen=True)
class Point:
    """A point of a grid: the digest of its model, and hypotheses.

    Attributes:
        model: digest of the merged values.
        hypotheses: of the clips that the point has seen so far.
    """

    model: str
    hypotheses: Hypotheses = dataclasses.field(default_factory=dict)

    def missing(self, wanted: Mapping[Pair, Collection[str]]) -> dict[Pair, list[str]]:
        """Return the wanted utterances that have no hypothesis, for each pair that has some."""
        found = {
            pair: [name for name in ids if name not in self.hypotheses.get(pair, {})]
            for pair, ids in wanted.items()
        }
        return {pair: ids for pair, ids in found.items() if ids}


def trial_of(
    setting: Mapping[str, Any],
    hypotheses: Mapping[Pair, Mapping[str, str]],
    wanted: Mapping[Pair, Collection[str]],
    references: Mapping[Pair, Mapping[str, str]],
    base: Mapping[Pair, Score],
    expert: Mapping[Pair, Score],
) -> Trial:
    """Score the hypotheses of a setting on the wanted utterances.

    Args:
        setting: the setting.
        hypotheses: at least those of the wanted utterances.
        wanted: pair -> utterance ids.
        references: pair -> utterance id -> text, at least of the wanted utterances.
        base: scores of the base model on all utterances: so the objective is defined on any part of
            them, and on all of them it is normalised performance; or the average gain over the base
            model, where that is undefined.
        expert: the same, each pair scored with its own expert.
    """
    scores = {}
    for pair, ids in wanted.items():
        refs = {name: references[pair][name] for name in ids if name in references[pair]}
        scores[pair] = score_pair(pair, refs, {name: hypotheses[pair][name] for name in ids})
    try:
        objective = normalised_performance(scores, base, expert)
    except UndefinedPerformanceError:
        objective = average_gain(scores, base)
    return Trial(setting, objective, scores)


class Points:
    """The files ``points/<index>.json`` beside a sweep.

    Args:
        sweep: path of the sweep file.
        utterances: pair -> ids of all utterances that a point can have seen.
    """

    def __init__(self, sweep: Path, utterances: Mapping[Pair, Collection[str]]):
        self.directory = self.directory_of(sweep)
        self.utterances = {pair: frozenset(ids) for pair, ids in utterances.items()}

    @staticmethod
    def directory_of(sweep: Path) -> Path:
        """Return the directory of the files of a sweep."""
        return sweep.with_name("points")

    def path(self, index: int) -> Path:
        """Return the file of the point with this index in the grid."""
        return self.directory / f"{index:04d}.json"

    def read(self, number: int) -> dict[int, Point]:
        """Return the kept ones among `number` points.

        Raises:
            LorsError: files are malformed; all are listed.
        """
        found, problems = {}, []
        for index in range(number):
            path = self.path(index)
            if not path.exists():
                continue
            content = read_json(path)
            if problem := self._problem(content):
                problems.append(f"{path}: {problem}")
            else:
                hypotheses = content["hypotheses"].items()
                found[index] = Point(
                    content["model"], {Pair.parse(pair): dict(of) for pair, of in hypotheses}
                )
        if problems:
            raise LorsError(
                "not the hypotheses of a search",
                where=self.directory,
                got=shortened(problems),
                hint="remove these files: their points are then tried again",
            )
        return found

    def write(self, index: int, point: Point) -> None:
        """Write the file of a point."""
        hypotheses = {str(pair): of for pair, of in point.hypotheses.items()}
        write_json(self.path(index), {"model": point.model, "hypotheses": hypotheses})

    def _problem(self, content: Any) -> str:
        """Return why this cannot be the content of a file; empty if it can."""
        if not isinstance(content, dict) or not isinstance(content.get("model"), str):
            return "not a JSON object with the digest of a model"
        by_pair, known = content.get("hypotheses"), {str(pair): pair for pair in self.utterances}
        if not isinstance(by_pair, dict):
            return "no hypotheses"
        for name, of in by_pair.items():
            if name not in known:
                return f"hypotheses of {BRIEF.repr(name)}, which is not searched"
            if not isinstance(of, dict) or not all(isinstance(text, str) for text in of.values()):
                return f"{name}: not texts by utterance id"
            if strange := of.keys() - self.utterances[known[name]]:
                return f"{name}: utterances that are not in dev: {', '.join(shortened(strange))}"
        return ""
