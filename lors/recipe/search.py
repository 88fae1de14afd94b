"""The search over the points of one grid: rounds of merges, inference and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.merge import Decompositions
from lors.recipe.cost import INFERENCE, MERGING, Cost
from lors.recipe.halving import Halving, rounds_of, trials_by_rounds
from lors.recipe.points import Point, Points
from lors.recipe.sweeps import Trial
from lors.recipe.tuner import Tuner
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

    Attributes:
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
    ):
        self.tuner, self.method, self.points = tuner, method, points
        self.rounds = rounds_of(len(points), halving)
        self.files = Points(sweep, tuner.utterances)
        self.known = self.files.read(len(points))
        self.cost = Cost.read(sweep.parent) or Cost(sweep.parent)
        self.trials: dict[int, Trial] = {}
        tuner.remember(self.known.values())

    def run(self, cache: Decompositions | None = None) -> Iterator[int]:
        """Yield the index of each point in each round, when it has its trial.

        Args:
            cache: directory of kept decompositions.
        """

        def try_point(index: int, share: float) -> Trial:
            return self._try(index, share, cache)

        for index, trial in trials_by_rounds(self.rounds, try_point):
            self.trials[index] = trial
            yield index

    def _try(self, index: int, share: float, cache: Decompositions | None) -> Trial:
        """Return the trial of a point on a share of the clips."""
        wanted = self.tuner.clips(share)
        point = self.known.get(index)
        if point is None or point.missing(wanted):
            point = self.known[index] = self._decode(index, wanted, cache)
        return self.tuner.trial(self.points[index], point.hypotheses, wanted)

    def _decode(
        self, index: int, wanted: Mapping[Pair, Sequence[str]], cache: Decompositions | None
    ) -> Point:
        """Merge a point and decode the clips that no point with the same model has seen."""
        with self.cost.measured(MERGING):
            point = self.tuner.merge(self.method, self.points[index], cache)
        with self.cost.measured(INFERENCE):
            self.cost.decoded += self.tuner.decode(point, wanted)
        self.cost.write()
        self.files.write(index, point)
        return point
