"""Tests of significance against outside oracles: NIST's sctk, sacreBLEU and scipy."""

import os
import random
import re
import shutil
import subprocess

import numpy as np
import pytest
import scipy.stats
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from lors.score.significance import (
    SEED,
    align,
    holm,
    interval,
    matched_pairs,
    paired_difference,
    resampled_totals,
)
from lors.score.st import translated_utterances
from lors.tasks import ST

WORDS = [f"w{number}" for number in range(12)]
SCTK = os.pathsep.join([os.environ.get("PATH", ""), "/usr/lib/sctk/bin"])
"""Debian keeps the programs of sctk outside PATH."""


def program(name):
    path = shutil.which(name, path=SCTK)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install sctk)")
    return path


def said(words, rng, rate):
    """Words with deletions, substitutions and insertions, also after the last one."""
    heard = []
    for word in words:
        kind = rng.random() / rate
        if kind < 1 / 3:
            continue
        if kind < 2 / 3:
            heard.append(rng.choice(WORDS))
            continue
        heard += [rng.choice(WORDS), word] if kind < 1 else [word]
    while rng.random() < rate:
        heard.append(rng.choice(WORDS))
    return heard


def systems(seed, number=300, rate=0.15):
    rng = random.Random(seed)
    refs = [rng.choices(WORDS, k=rng.randint(1, 14)) for _ in range(number)]
    return refs, *([said(ref, rng, rate) for ref in refs] for _ in range(2))


def trn(path, texts):
    """Write a file of sclite, 50 sentences a speaker."""
    lines = (f"{' '.join(t)} (s{i // 50:03d}_u{i:05d})\n" for i, t in enumerate(texts))
    path.write_text("".join(lines))
    return path


def sclite(folder, refs, hyps, title):
    """The alignments of sclite as it hands them to sc_stats."""
    files = trn(folder / "ref", refs), "trn", "-h", trn(folder / title, hyps), "trn", title
    command = [program("sclite"), "-s", "-i", "spu_id", "-o", "sgml", "stdout", "-r", *files]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_alignments_are_those_of_sclite(tmp_path):
    rng = random.Random(1)
    refs, hyps = ([rng.choices("abcd", k=rng.randint(1, 9)) for _ in range(2000)] for _ in "rh")
    paths = re.findall(r"<PATH id=.*?>\n(.*?)\n</PATH>", sclite(tmp_path, refs, hyps, "a"), re.S)
    expected = ["".join(step[0] for step in path.split(":")) for path in paths]
    assert [align(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)] == expected


@pytest.mark.parametrize("seed", range(6))
def test_matched_pairs_are_those_of_sc_stats(tmp_path, seed):
    refs, first, second = systems(seed)
    if seed < 3:  # a last word that all have right, so that no insertion comes after it
        refs, first, second = (
            [[*words, "end"] for words in side] for side in (refs, first, second)
        )
    one, two = ([align(*pair) for pair in zip(refs, hyps, strict=True)] for hyps in (first, second))
    # sc_stats overlooks insertions at the end of the second system alone.
    kept = [i for i in range(len(refs)) if not two[i].endswith("I") or one[i].endswith("I")]
    refs, first, second, one, two = (
        [of[i] for i in kept] for of in (refs, first, second, one, two)
    )

    sgml = sclite(tmp_path, refs, first, "a") + sclite(tmp_path, refs, second, "b")
    command = [program("sc_stats"), "-p", "-t", "mapsswe", "-v", "-n", "out", "-O", tmp_path]
    subprocess.run(command, input=sgml, text=True, check=True, cwd=tmp_path, capture_output=True)
    report = (tmp_path / "out.stats.mapsswe").read_text(encoding="latin-1")
    (line,) = re.findall("MTCH_PR_RESULTS.*", report)
    found = matched_pairs(one, two)
    assert f"(# segs: {found.segments})" in line
    assert f"(mean: {found.mean:.3f})" in line
    assert f"(std dev: {found.deviation:.3f})" in line
    assert f"(Z Stat: {found.z:.3f})" in line
    assert f"(Stat Diff: {'Yes' if found.p < 0.05 else 'No'})" in line


def test_p_of_matched_pairs_is_that_of_scipys_normal_distribution():
    refs, first, second = systems(9)
    found = matched_pairs(
        *([align(*p) for p in zip(refs, h, strict=True)] for h in (first, second))
    )
    assert found.p == pytest.approx(2 * scipy.stats.norm.sf(abs(found.z)), rel=1e-12)


def test_interval_is_that_of_scipys_bootstrap():
    rng = np.random.default_rng(2)
    words = rng.integers(1, 20, 400)
    errors = rng.binomial(words, 0.2)

    def rate(errors, words, axis):
        return 100 * errors.sum(axis=axis) / words.sum(axis=axis)

    expected = scipy.stats.bootstrap(
        (errors, words), rate, paired=True, method="percentile", n_resamples=10_000, rng=1
    ).confidence_interval
    totals = resampled_totals(np.column_stack([errors, words]), 10_000)
    assert interval(100 * totals[:, 0] / totals[:, 1]) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("metric, oracle", [*zip(ST.metrics, (BLEU, CHRF), strict=True)])
@pytest.mark.parametrize("rate", [0.12, 0.15, 0.4])
def test_bootstrap_of_translations_is_that_of_sacrebleu(monkeypatch, metric, oracle, rate):
    monkeypatch.setenv("SACREBLEU_SEED", str(SEED))
    refs, first, _ = systems(4, 120)
    _, second, _ = systems(4, 120, rate)
    refs, first, second = ([" ".join(words) for words in side] for side in (refs, first, second))
    test = PairedTest(
        [("first", first), ("second", second)], {"m": oracle()}, [refs], "bs", n_samples=1000
    )
    _, results = test()
    (expected,) = (results[key][1] for key in results if key != "System")

    ids = [f"u{i:03d}" for i in range(len(refs))]
    scores, samples = [], []
    for hyps in (second, first):
        sides = (dict(zip(ids, side, strict=True)) for side in (refs, hyps))
        utterances = translated_utterances(*sides, "en")
        scores.append(utterances.score(metric))
        counts = utterances.counts[:, utterances.columns[metric.key]]
        samples.append(utterances.scores(metric, resampled_totals(counts, 1000)))
    assert scores[0] == pytest.approx(expected.score, abs=1e-9)
    assert samples[0].mean() == pytest.approx(expected.mean, abs=1e-3)
    found = paired_difference(*scores, *samples)
    if rate == 0.15:  # equal systems, for which sacreBLEU has 1 / (samples + 1)
        assert (found.p, found.sacrebleu_p, expected.p_value) == (1, 1, 1 / 1001)
    else:
        assert found.sacrebleu_p == pytest.approx(expected.p_value, abs=1e-12)


def test_holm_is_that_of_the_manual_of_r():
    # p.adjust(c(.01, .02, .03, .04, .05), "holm")
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
