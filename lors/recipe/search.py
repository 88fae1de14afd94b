"""The search over the points of one grid: rounds of merges, inference and scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.merge import Decompositions
from lors.recipe.cost import INFERENCE, MERGING, Cost
from lors.recipe.halving import ROUNDING, Halving, room_for, rounds_of, trials_by_rounds
from lors.recipe.points import Point, Points
from lors.recipe.sweeps import Trial, chosen_index
from lors.recipe.tuner import Tuner
from lors.recipe.weights import WEIGHTS, coordinate_search, weights_in
from lors.tasks import Pair


class Search:
    """The search over the points of one method.

    It continues from the files that an earlier run has left.

    Args:
        tuner: the models and the dev sets.
        method: name of the merge method.
        points: the settings to try.
        sweep: path of the sweep file, for the files beside it.
        halving: the rule that leaves out points early; by default there is none.
        each_expert: number of further points with a weight for each expert
            (:mod:`lors.recipe.weights`), or with `halving` the cost of so many.

    Attributes:
        points: the settings, with those that the search has added.
        room: the room for weights in the budget.
        trials: index of a point -> its latest trial.
        cost: what the search has cost so far.
    """

    def __init__(
        self,
        tuner: Tuner,
        method: str,
        points: Sequence[Mapping[str, Any]],
        sweep: Path,
        halving: Halving | None = None,
        each_expert: int = 0,
    ):
        self.tuner, self.method, self.points = tuner, method, list(points)
        self.rounds = rounds_of(len(points), halving)
        self.room = room_for(len(points), each_expert, halving)
        self.files = Points(sweep, tuner.utterances)
        # The files after those of the points are of merges without one of the experts.
        self.files_of_points = len(points) + self.room.most
        without = len(tuner.pairs) if each_expert else 0
        self.known = self.files.read(self.files_of_points + without)
        self.cost = Cost.read(sweep.parent) or Cost(sweep.parent)
        self.trials: dict[int, Trial] = {}
        tuner.remember(self.known.values())

    def run(self, cache: Decompositions | None = None) -> Iterator[int]:
        """Yield the index of each point in each round, when it has its trial.

        Args:
            cache: directory of kept decompositions.
        """

        def try_point(index: int, share: float) -> Trial:
            return self._try(index, self.points[index], share, cache)

        for index, trial in trials_by_rounds(self.rounds, try_point):
            self.trials[index] = trial
            yield index
        yield from self._try_weights(cache)

    def _try_weights(self, cache: Decompositions | None) -> Iterator[int]:
        """Add points with a weight for each expert, and yield the index of each."""
        best, left = self._chosen(), self.room.evaluations
        setting, first = self.points[best], self.room.first
        start = weights_in(setting, len(self.tuner.pairs))
        search = coordinate_search(start, self.trials[best].objective)
        weights: list[float] | None = next(search)
        while weights is not None and left >= 1 - ROUNDING:
            index = len(self.points)
            self.points.append({**setting, WEIGHTS: weights})
            trial = self._try(index, self.points[index], first, cache)
            # The best point has seen all clips: this takes no inference.
            goal = self._try(best, self.points[best], first, cache)
            left -= first
            if first < 1 and trial.objective > goal.objective:
                trial = self._try(index, self.points[index], 1.0, cache)
                left -= 1 - first
            self.trials[index] = trial
            yield index
            is_whole = trial.evaluations == self.trials[best].evaluations
            if is_whole and trial.objective > self.trials[best].objective:
                best = index
            try:
                weights = search.send(trial.objective if is_whole else -math.inf)
            except StopIteration:  # nothing is left to try
                weights = None

    def without_each(self, cache: Decompositions | None = None) -> list[Trial]:
        """Return a trial of the chosen setting without each expert, in the order of the pairs."""
        setting = self.points[self._chosen()]
        weights = weights_in(setting, len(self.tuner.pairs))
        trials = []
        for place in range(len(weights)):
            others = [0.0 if n == place else weight for n, weight in enumerate(weights)]
            left = {**setting, WEIGHTS: others}
            trials.append(self._try(self.files_of_points + place, left, 1.0, cache))
        return trials

    def _chosen(self) -> int:
        return chosen_index([self.trials[index] for index in range(len(self.points))])

    def _try(
        self, index: int, setting: Mapping[str, Any], share: float, cache: Decompositions | None
    ) -> Trial:
        """Return the trial of a setting on a share of the clips; `index` is that of its file."""
        wanted = self.tuner.clips(share)
        point = self.known.get(index)
        if point is None or point.missing(wanted):
            point = self.known[index] = self._decode(index, setting, wanted, cache)
        return self.tuner.trial(setting, point.hypotheses, wanted)

    def _decode(
        self,
        index: int,
        setting: Mapping[str, Any],
        wanted: Mapping[Pair, Sequence[str]],
        cache: Decompositions | None,
    ) -> Point:
        """Merge a setting and decode the clips that no point with the same model has seen."""
        with self.cost.measured(MERGING):
            point = self.tuner.merge(self.method, setting, cache)
        with self.cost.measured(INFERENCE):
            self.cost.decoded += self.tuner.decode(point, wanted)
        self.cost.write()
        self.files.write(index, point)
        return point
