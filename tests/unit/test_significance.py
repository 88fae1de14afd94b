"""Alignment, matched pairs, bootstrap and Holm's correction: by hand, and their properties."""

import random

import numpy as np
import pytest

from lors.score.significance import (
    align,
    holm,
    interval,
    matched_pairs,
    paired_difference,
    resampled_totals,
)
from lors.score.significance.matched_pairs import segment_errors


def said(words, rng, rate, vocabulary="abcdefgh"):
    """Words with errors: deletions, substitutions and insertions in equal shares."""
    heard = []
    for word in words:
        kind = rng.random() / rate
        if kind < 1 / 3:
            continue
        heard.append(rng.choice(vocabulary) if kind < 1 else word)
        if 1 / 3 < kind < 2 / 3:
            heard.append(word)
    return heard


def references(rng, number, most=12):
    return [rng.choices("abcdefgh", k=rng.randint(1, most)) for _ in range(number)]


def alignments(refs, hyps):
    return [align(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "steps"),
    [
        ("", "", ""),
        ("a b", "a b", "CC"),
        ("a b", "", "DD"),
        ("", "a b", "II"),
        ("a b c", "a x c", "CSC"),
        ("a b c", "a c", "CDC"),
        ("a c", "a b c", "CIC"),
        # Equal weight: pairs as near to the end as possible.
        ("d", "b b", "IS"),
        ("a c", "a c b d c a", "CIIICI"),
        # One substitution and a correct word (4) instead of four gaps (12).
        ("a b", "b c", "DCI"),
    ],
)
def test_alignment_by_hand(reference, hypothesis, steps):
    assert align(reference.split(), hypothesis.split()) == steps


def test_alignment_has_all_words_of_both_sides():
    rng = random.Random(3)
    for reference in references(rng, 200):
        hypothesis = rng.choices("abcdefgh", k=rng.randint(0, 12))
        steps = align(reference, hypothesis)
        assert len(steps) - steps.count("I") == len(reference)
        assert len(steps) - steps.count("D") == len(hypothesis)


@pytest.mark.parametrize(
    ("first", "second", "segments"),
    [
        ("CCC", "CCC", []),
        ("CSC", "CCC", [(1, 0)]),
        # One correct word between two errors, then two.
        ("SCS", "CCC", [(2, 0)]),
        ("SCCS", "CCCC", [(1, 0), (1, 0)]),
        ("SCCS", "CSCC", [(2, 1)]),
        ("SCCC", "CCCS", [(1, 0), (0, 1)]),
        # An insertion ends a row of correct words, and the word after it begins another.
        ("SCICS", "CCCC", [(3, 0)]),
        ("ICCS", "CCC", [(1, 0), (1, 0)]),
        ("ICS", "CC", [(2, 0)]),
        # After the last word, in the first or in the second system.
        ("CCI", "CC", [(1, 0)]),
        ("CC", "CCII", [(0, 2)]),
        ("SCCI", "SCC", [(1, 1), (1, 0)]),
        ("DD", "SSI", [(2, 3)]),
    ],
)
def test_segments_by_hand(first, second, segments):
    assert list(map(tuple, segment_errors([first], [second]))) == segments


def test_a_segment_ends_with_its_utterance():
    assert segment_errors(["CS", "SC"], ["CC", "CC"]).tolist() == [[1, 0], [1, 0]]


def test_references_of_different_lengths_are_refused():
    with pytest.raises(ValueError):
        segment_errors(["CC", "C"], ["C", "CC"])


def test_matched_pairs_by_hand():
    # differences 2, 1, -1, 0: mean 1/2, variance (9/4 + 1/4 + 9/4 + 1/4) / 3 = 5/3
    found = matched_pairs(["SS", "S", "C", "S"], ["CC", "C", "S", "D"])
    assert (found.segments, found.mean) == (4, 0.5)
    assert found.deviation == pytest.approx((5 / 3) ** 0.5)
    assert found.z == pytest.approx(0.5 / ((5 / 3) ** 0.5 / 2))
    assert found.p == pytest.approx(0.438578, abs=1e-6)


@pytest.mark.parametrize("first", [[], ["CC"], ["SS"], ["SC", "CS"]])
def test_matched_pairs_without_variance(first):
    found = matched_pairs(first, ["C" * len(steps) for steps in first])
    assert (found.deviation, found.z, found.p) == (0, 0, 1)


@pytest.fixture
def systems():
    rng = random.Random(5)
    refs = references(rng, 300)
    return refs, [said(ref, rng, 0.3) for ref in refs], [said(ref, rng, 0.2) for ref in refs]


def counts_of(steps):
    """Words and errors of each utterance."""
    return np.array([[len(s) - s.count("I"), len(s) - s.count("C")] for s in steps])


def bootstrap(first, second, samples=2000, seed=1):
    """The paired bootstrap of two systems' error rates."""
    counts = np.hstack([counts_of(first), counts_of(second)])

    def rates(totals):
        return 100 * totals[..., 1] / totals[..., 0], 100 * totals[..., 3] / totals[..., 2]

    return paired_difference(
        *map(float, rates(counts.sum(axis=0))), *rates(resampled_totals(counts, samples, seed))
    )


def test_equal_systems_do_not_differ(systems):
    refs, hyps, _ = systems
    steps = alignments(refs, hyps)
    test, difference = matched_pairs(steps, steps), bootstrap(steps, steps)
    assert (test.mean, test.z, test.p) == (0, 0, 1)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert (difference.p, difference.sacrebleu_p) == (1, 1)


def test_a_system_with_every_second_word_wrong_is_worse(systems):
    refs, _, _ = systems
    bad = alignments(refs, [["x" if i % 2 else w for i, w in enumerate(ref)] for ref in refs])
    good = alignments(refs, refs)
    assert matched_pairs(bad, good).p < 0.001 and matched_pairs(bad, good).mean > 0
    assert bootstrap(bad, good).p < 0.002 and bootstrap(bad, good).low > 0


def test_systems_in_the_other_order_mirror_the_result(systems):
    refs, *both = systems
    first, second = (alignments(refs, hyps) for hyps in both)
    here, there = matched_pairs(first, second), matched_pairs(second, first)
    assert (here.segments, here.mean, here.z) == (there.segments, -there.mean, -there.z)
    assert here.p == there.p < 0.05
    here, there = bootstrap(first, second), bootstrap(second, first)
    assert (here.value, here.p, here.sacrebleu_p) == (-there.value, there.p, there.sacrebleu_p)
    assert (here.low, here.high) == pytest.approx((-there.high, -there.low), abs=1e-9)


def test_under_the_null_hypothesis_few_tests_find_a_difference():
    """Two systems of the same kind: p < .05 in about 5 % of the tests."""
    rng, found = random.Random(11), []
    for _ in range(200):
        refs = references(rng, 80)
        first, second = (alignments(refs, [said(ref, rng, 0.3) for ref in refs]) for _ in range(2))
        found.append((matched_pairs(first, second).p, bootstrap(first, second, 400).p))
    false = (np.array(found) < 0.05).mean(axis=0)
    assert ((false > 0.01) & (false < 0.10)).all(), false


def test_samples_are_the_same_for_a_seed_and_for_any_block(monkeypatch):
    counts = np.arange(30).reshape(15, 2)
    whole = resampled_totals(counts, 50, 7)
    monkeypatch.setattr("lors.score.significance.bootstrap._DRAWS", 31)
    assert np.array_equal(resampled_totals(counts, 50, 7), whole)
    assert not np.array_equal(resampled_totals(counts, 50, 8), whole)
    assert (whole >= 0).all() and whole.shape == (50, 2)


def test_interval_is_the_middle_of_the_samples():
    assert interval(np.arange(1001)) == (25, 975)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),
        ([0.5, 0.6, 0.7], [1, 1, 1]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected)
