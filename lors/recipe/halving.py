"""Successive halving: points of a grid that are worse on a part of dev are left out early.

The rule is that of Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", AISTATS 2016 (arXiv 1502.07943), with dev utterances as the resource:
all points are tried on the share `first` of the clips of each language; the best of them, the share
`keep`, go on with 1 / `keep` times as many clips; and so on, until the remaining points have seen
all clips. Only these can be chosen. The number of points and of clips of a round depends on nothing
else, so all methods with the same number of points have the same budget.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from lors.config import Range
from lors.tasks import Pair

if TYPE_CHECKING:
    from lors.recipe.sweeps import Trial

ROUNDING = 1e-9
"""Numbers of points and clips are rounded up; this keeps rounding errors out of them."""


@dataclass(frozen=True)
class Halving:
    """The rule of a search.

    Attributes:
        first: share of the dev clips of each language in the first round.
        keep: share of the points that goes on to the next round.
    """

    first: Annotated[float, Range(0.01, 1)]
    keep: Annotated[float, Range(0.1, 0.9)]


@dataclass(frozen=True)
class Round:
    """A round of a search.

    Attributes:
        points: number of points in it.
        share: share of the clips of each language that they have seen at its end.
    """

    points: int
    share: float


def rounds_of(points: int, halving: Halving | None) -> list[Round]:
    """Return the rounds of a search over a number of points; the last one has all clips.

    Without `halving`, and for a single point, there is one round.
    """
    if halving is None or points == 1:
        return [Round(points, 1.0)]
    rounds = [Round(points, halving.first)]
    while rounds[-1].share < 1 - ROUNDING:
        last = rounds[-1]
        points = max(1, math.ceil(last.points * halving.keep - ROUNDING))
        rounds.append(Round(points, min(1.0, last.share / halving.keep)))
    return [*rounds[:-1], Round(rounds[-1].points, 1.0)]


def full_evaluations(points: int, halving: Halving | None) -> float:
    """Return the cost of a search over a grid, in evaluations of one point on all of dev."""
    cost, seen = 0.0, 0.0
    for step in rounds_of(points, halving):
        cost += step.points * (step.share - seen)
        seen = step.share
    return cost


@dataclass(frozen=True)
class Room:
    """The room for further points (:mod:`lors.recipe.weights`) in the budget of a search.

    Attributes:
        evaluations: the cost that they may have, in evaluations of one point on all of dev.
        first: share of the clips on which they are compared with the best ones before they see the
            others; 1 without successive halving.
    """

    evaluations: float
    first: float

    @property
    def most(self) -> int:
        """The largest number of points that can be tried: all but the last fail early."""
        if self.evaluations < 1 - ROUNDING:
            return 0
        return math.floor((self.evaluations - 1) / self.first + ROUNDING) + 1


def room_for(points: int, further: int, halving: Halving | None) -> Room:
    """Return the room after a grid: both cost no more than ``points + further`` points."""
    whole = full_evaluations(points + further, halving)
    return Room(whole - full_evaluations(points, halving), halving.first if halving else 1.0)


def clip_order(ids: Iterable[str], last: Collection[str] = ()) -> list[str]:
    """Return utterance ids in the order in which rounds take them, by a hash of the id.

    Args:
        ids: the utterances.
        last: those that come after all others: a round with these alone would have no score.
    """
    return sorted(ids, key=lambda name: (name in last, hashlib.sha256(name.encode()).digest()))


def first_clips(
    utterances: Mapping[Pair, Sequence[str]], share: float
) -> dict[Pair, Sequence[str]]:
    """Return pair -> this share of its utterances, rounded up, 1 or more."""
    return {
        pair: ids[: max(1, math.ceil(share * len(ids) - ROUNDING))]
        for pair, ids in utterances.items()
    }


def trials_by_rounds(
    rounds: Sequence[Round], try_point: Callable[[int, float], Trial]
) -> Iterator[tuple[int, Trial]]:
    """Try points round by round; yield the index of each point in each round, and its trial.

    Args:
        rounds: the rounds.
        try_point: function of the index of a point and of a share of the clips.
    """
    trials: dict[int, Trial] = {}
    alive = list(range(rounds[0].points))
    for step in rounds:
        if len(alive) > step.points:
            alive = survivors({index: trials[index].objective for index in alive}, step.points)
        for index in alive:
            trials[index] = try_point(index, step.share)
            yield index, trials[index]


def survivors(objectives: Mapping[int, float], number: int) -> list[int]:
    """Return the points with the highest objectives, in their order; of equal ones the first."""
    return sorted(sorted(objectives, key=lambda index: (-objectives[index], index))[:number])
