"""Successive halving: rounds, order of the clips, choice of the points that go on."""

import itertools
import random

import pytest

from lors.recipe.halving import (
    Halving,
    Round,
    clip_order,
    first_clips,
    rounds_of,
    survivors,
    trials_by_rounds,
)
from lors.recipe.sweeps import Trial
from lors.tasks import Pair


def test_rounds_end_with_all_clips():
    assert rounds_of(16, Halving(0.25, 0.5)) == [Round(16, 0.25), Round(8, 0.5), Round(4, 1.0)]
    assert rounds_of(12, Halving(0.1, 1 / 3)) == [
        *(Round(12, 0.1), Round(4, pytest.approx(0.3)), Round(2, pytest.approx(0.9))),
        Round(1, 1.0),
    ]
    assert rounds_of(5, Halving(0.25, 0.5))[1].points == 3  # rounded up
    for points in (16, 1):
        assert rounds_of(points, None) == [Round(points, 1.0)]
    assert rounds_of(1, Halving(0.25, 0.5)) == [Round(1, 1.0)]
    assert rounds_of(7, Halving(1.0, 0.5)) == [Round(7, 1.0)]


@pytest.mark.parametrize("keep", [0.1, 0.3, 1 / 3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("first", [0.01, 0.1, 1 / 9, 0.25, 1.0])
def test_every_rule_ends(first, keep):
    rounds = rounds_of(50, Halving(first, keep))
    assert rounds[0] == Round(50, first) and rounds[-1].share == 1
    for before, after in itertools.pairwise(rounds):
        assert 1 <= after.points <= before.points and after.share > before.share
        # The rounding of floats adds no round of a few clips.
        assert after.share == pytest.approx(min(1, before.share / keep))


def test_numbers_of_clips():
    pairs = {Pair(lang, "asr"): [str(k) for k in range(n)] for lang, n in (("de", 5), ("es", 48))}
    number = lambda share: [len(ids) for ids in first_clips(pairs, share).values()]  # noqa: E731
    assert [number(share) for share in (0.01, 0.25, 0.1 * 3 * 2, 1.0)] == [
        *([1, 1], [2, 12], [3, 29], [5, 48]),
    ]
    assert first_clips(pairs, 0.25)[Pair("de", "asr")] == ["0", "1"]


def test_clips_are_ordered_by_a_hash():
    ids = [f"utt{number:03d}" for number in range(100)]
    order = clip_order(ids)
    assert sorted(order) == ids and order != ids
    assert clip_order(random.Random(1).sample(ids, 100)) == order
    # Other clips do not change the order of the others.
    assert clip_order(ids[10:]) == [name for name in order if name in ids[10:]]


def test_the_best_go_on_and_of_equal_ones_the_first():
    assert survivors({0: 0.1, 1: 0.5, 2: 0.5, 3: 0.9, 4: 0.5}, 3) == [1, 2, 3]
    assert survivors({4: 0.5, 2: 0.5, 0: 0.1}, 1) == [2]


def test_trials_by_rounds():
    objectives = {0.25: [4, 3, 2, 1, 0], 0.5: [0, 1, 2], 1.0: [9, 0, 1]}
    calls = []

    def try_point(index, share):
        calls.append((index, share))
        return Trial({}, objectives[share][index], {})

    found = list(trials_by_rounds(rounds_of(5, Halving(0.25, 0.5)), try_point))
    expected = [(k, 0.25) for k in range(5)] + [(k, 0.5) for k in range(3)] + [(1, 1.0), (2, 1.0)]
    assert calls == expected
    assert [(index, trial.objective) for index, trial in found] == [
        (index, objectives[share][index]) for index, share in expected
    ]
