"""Comparison of systems: tables, JSON, and which systems can be compared."""

import json
import re
import shutil

import numpy as np
import pytest

from lors.bin import compare as compare_main
from lors.errors import UsageError
from lors.recipe.compare_systems import compare_systems, p_text
from lors.recipe.comparison import Resampled, pooled_score, read_outputs
from lors.recipe.score_tree import read_scores
from lors.recipe.significance import significance_of
from lors.score.significance import interval
from lors.tasks import ASR, ST, Pair, pairs_of
from tests.refusal import refusal
from tests.unit.score_trees import change, make_texts, put_score, references, spoilt

PAIRS = pairs_of(["de", "es"], ["asr", "st"])


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr("lors.recipe.comparison.SAMPLES", 500)


@pytest.fixture
def expdir(tmp_path):
    return make_texts(tmp_path / "exp")


def compared(expdirs, systems, tmp_path, **options):
    """Return the printed text, and metric -> its comparisons."""
    options = {"split": "test", "langs": None, "tasks": None, "seed": 12345, **options}
    out = tmp_path / "out.json"
    text = compare_systems(expdirs, systems, **options, out=out)
    content = json.loads(out.read_text())
    return text, {table["metric"]: table["comparisons"] for table in content["tables"]}


def outputs_of(expdir, *systems):
    files = {
        system: {pair: [expdir / "scores/test" / system / f"{pair}.json"] for pair in PAIRS}
        for system in systems
    }
    return read_outputs(files)[0]


def test_every_language_and_all_together_for_every_metric(expdir, tmp_path):
    systems = ["lors.langs", "base", "expert"]
    text, tables = compared([expdir], systems, tmp_path)
    assert list(tables) == ["WER", "BLEU", "chrF"]
    for metric, rows in tables.items():
        assert metric in text
        for row in rows:  # relative to the other system's score
            relative = 100 * (row["score"] / row["reference_score"] - 1)
            assert f"{row['difference']['value']:+.2f}  {relative:+.1f}" in re.sub(" +", "  ", text)
        task = "asr" if metric == "WER" else "st"
        groups = [[f"de_{task}"], [f"es_{task}"], [f"de_{task}", f"es_{task}"]]
        assert [row["pairs"] for row in rows] == [g for g in groups for _ in range(2)]
        assert [row["system"] for row in rows] == ["base", "expert"] * 3
        assert {row["reference"] for row in rows} == {"lors.langs"}
        assert [row["verdict"] for row in rows] == ["worse", "better"] * 3
        assert [row["utterances"] for row in rows] == [60, 60, 60, 60, 120, 120]
        for row in rows:
            difference = row["difference"]
            assert difference["value"] == pytest.approx(row["score"] - row["reference_score"])
            assert difference["low"] < difference["value"] < difference["high"]
            assert row["interval"][0] < row["score"] < row["interval"][1]
            assert (row["matched_pairs"] is not None) == (metric == "WER")
            own = row["matched_pairs"]["p"] if metric == "WER" else difference["p"]
            assert row["p"] == own <= row["corrected_p"] < 0.05


def test_pooled_score_is_that_of_all_words(expdir, tmp_path):
    _, tables = compared([expdir], ["lors.langs", "base"], tmp_path, tasks=["asr"])
    scores = [
        json.loads((expdir / f"scores/test/base/{lang}_asr.json").read_text())
        for lang in ("de", "es")
    ]
    words = sum(score["ref_words"] for score in scores)
    errors = sum(score["wer"] * score["ref_words"] for score in scores)
    assert tables["WER"][-1]["score"] == pytest.approx(errors / words)
    assert len(tables) == 1 and tables["WER"][0]["score"] == scores[0]["wer"]


def test_samples_of_pooled_languages_are_independent(expdir):
    outputs = outputs_of(expdir, "base")
    pairs = [pair for pair in PAIRS if pair.task == "asr"]
    resampled = Resampled(outputs, ASR.metric, pairs)
    single = [resampled.pooled("base", [pair]) for pair in pairs]
    pooled, averages = resampled.pooled("base", pairs), resampled.averages("base", pairs)
    assert abs(np.corrcoef(single[0], np.roll(single[1], 1))[0, 1]) < 0.05
    variances = [samples.var() for samples in (*single, averages)]
    assert variances[2] == pytest.approx((variances[0] + variances[1]) / 4, rel=0.05)
    score = pooled_score(outputs["base"], ASR.metric, pairs)
    low, high = interval(pooled)
    assert low < score < high and pooled.mean() == pytest.approx(score, abs=0.2)


def test_mean_over_runs_of_the_same_system(expdir, tmp_path):
    other = make_texts(tmp_path / "other", "other")
    pair = Pair("de", "st")
    files = [d / f"scores/test/base/{pair}.json" for d in (expdir, other)]
    outputs, _ = read_outputs(
        {"base": {pair: files}, "0": {pair: files[:1]}, "1": {pair: files[1:]}}
    )
    resampled = Resampled(outputs, ST.metric, [pair])
    one, two = (resampled.pooled(name, [pair]) for name in "01")
    assert resampled.pooled("base", [pair]) == pytest.approx((one + two) / 2)
    scores = [pooled_score(outputs[name], ST.metric, [pair]) for name in ("base", "0", "1")]
    assert scores[0] == pytest.approx((scores[1] + scores[2]) / 2)


def test_two_experiments(expdir, tmp_path, capsys):
    other = make_texts(tmp_path / "other", "other")
    shutil.copytree(other / "scores/test/base", other / "scores/test/only")
    arguments = ["--expdir", str(expdir), str(other), "--systems", "lors.langs", "only"]
    assert compare_main.main([*arguments, "--tasks", "asr", "--langs", "es"]) == 0
    captured = capsys.readouterr()
    assert str(expdir) in captured.err and "only" in captured.err
    for name in ("lors.langs", "only"):
        assert f"{other}:{name}" in captured.out
    assert f"{expdir}:only" not in captured.out


def test_an_experiment_with_itself_under_another_name(expdir, tmp_path):
    shutil.copytree(expdir, tmp_path / "copy")
    _, tables = compared([expdir, tmp_path / "copy"], ["base"], tmp_path)
    for rows in tables.values():
        for row in rows:
            difference = row["difference"]
            assert (difference["value"], difference["low"], difference["high"]) == (0, 0, 0)
            assert (row["p"], difference["p"], row["corrected_p"], row["verdict"]) == (1, 1, 1, "~")


def test_corrected_p_depends_on_the_number_of_comparisons(tmp_path):
    rates = {"a": 0.2, "b": 0.22, "c": 0.24, "d": 0.27}
    expdir = make_texts(tmp_path / "exp", rates=rates)
    options = {"langs": ["de"], "tasks": ["asr"]}
    _, one = compared([expdir], ["a", "d"], tmp_path, **options)
    _, three = compared([expdir], ["a", "b", "c", "d"], tmp_path, **options)
    (row,) = one["WER"]
    assert row["p"] == row["corrected_p"]
    assert three["WER"][2]["system"] == "d" and three["WER"][2]["p"] == row["p"]
    p_values = sorted((r["p"], r["corrected_p"]) for r in three["WER"])
    assert p_values[0][1] == pytest.approx(min(1, 3 * p_values[0][0]))


def test_pooled_languages_are_one_comparison(expdir, tmp_path, capsys):
    _, tables = compared([expdir], ["lors.langs", "base"], tmp_path)
    _, pooled = compared([expdir], ["lors.langs", "base"], tmp_path, pooled=True)
    for metric, (row,) in pooled.items():
        assert row["corrected_p"] == row["p"] == tables[metric][-1]["p"]
        assert row["pairs"] == tables[metric][-1]["pairs"] and len(row["pairs"]) == 2
    arguments = ["--expdir", str(expdir), "--systems", "lors.langs", "base", "--pooled"]
    assert compare_main.main([*arguments, "--tasks", "asr"]) == 0
    assert len(re.findall(r"^ *all +base", capsys.readouterr().out, re.MULTILINE)) == 1
    assert compare_main.main([*arguments, "--tasks", "asr", "--langs", "es"]) == 0
    assert len(re.findall(r"^ *es +base", capsys.readouterr().out, re.MULTILINE)) == 1


def test_pooled_words_and_characters_are_pointed_out(tmp_path):
    pairs = [Pair("de", "asr"), Pair("zh-CN", "asr")]
    for system in ("a", "b"):
        for pair in pairs:
            refs = references(pair)
            put_score(tmp_path, system, pair, refs, spoilt(refs, 0.3, system))
    text, _ = compared([tmp_path], ["a", "b"], tmp_path)
    assert "Caution: WER of all languages pooled adds up characters (zh-CN) and words (de)" in text
    assert "adds up" not in compared([tmp_path], ["a", "b"], tmp_path, langs=["zh-CN"])[0]
    table = read_scores([tmp_path])
    assert "characters (zh-CN)" in significance_of(table, "a").note(table, "asr")


def test_json_says_how_the_numbers_were_made(expdir, tmp_path):
    compared([expdir], ["lors.langs", "base"], tmp_path, seed=7)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["reference"] == "lors.langs" and content["split"] == "test"
    asr, st = content["test_sets"]["de_asr"], content["test_sets"]["de_st"]
    assert asr["normaliser"] == "lors-basic" and asr["utterances"] == 60
    assert "tok:13a" in st["bleu_signature"] and len(st["references_digest"]) == 16
    for table in content["tables"]:
        assert "seed:7" in table["signature"] and "holm" in table["signature"]
        assert ("mapsswe" in table["signature"]) == (table["metric"] == "WER")


def test_missing_utterances_are_listed(expdir, tmp_path):
    pair = Pair("de", "asr")
    refs = references(pair)
    kept = {key: text for key, text in refs.items() if key not in ("utt003", "utt007")}
    other = make_texts(tmp_path / "other", "other")
    path = put_score(other, "base", pair, kept, spoilt(kept, 0.3, "x"))
    with refusal(path, "utt003", "utt007"):
        compared([expdir, other], ["base"], tmp_path, tasks=["asr"])
    with refusal(path, "utt003", "utt007"):
        compared([other], ["lors.langs", "base"], tmp_path)


def test_other_references_are_listed(expdir, tmp_path):
    pair = Pair("de", "st")
    refs = {**references(pair), "utt005": "another text"}
    path = put_score(expdir, "base", pair, refs, spoilt(refs, 0.3, "x"))
    with refusal(path, "1 utterances with another reference", "utt005"):
        compared([expdir], ["lors.langs", "base"], tmp_path)


def test_other_settings_are_named(expdir, tmp_path):
    path = expdir / "scores/test/base/de_asr.json"
    change(path, normaliser="whisper-basic")
    with refusal(path, "whisper-basic", "lors-basic"):
        compared([expdir], ["lors.langs", "base"], tmp_path)


def test_utterances_of_another_score_are_named(expdir, tmp_path):
    path = expdir / "scores/test/base/de_asr.json"
    change(path, wer=1.0)
    with refusal(path.with_suffix(".utterances.tsv")):
        compared([expdir], ["lors.langs", "base"], tmp_path)


def test_missing_files_are_named(expdir, tmp_path):
    utterances = expdir / "scores/test/base/de_asr.utterances.tsv"
    utterances.unlink()
    with refusal(utterances, "score_expdir"):
        compared([expdir], ["lors.langs", "base"], tmp_path)
    score = expdir / "scores/test/base/es_asr.json"
    score.unlink()
    with refusal(score):
        compared([expdir], ["lors.langs", "base"], tmp_path)


@pytest.mark.parametrize(
    "systems, options, facts",
    [
        (["lors.lang", "base"], {}, ["lors.lang'", "did you mean lors.langs"]),
        (["base", "expertt"], {}, ["expertt", "did you mean expert"]),
        (["base"], {}, ["base", "two systems"]),
        (["base", "expert"], {"langs": ["dee"]}, ["dee", "did you mean de"]),
        (["base", "expert"], {"seed": -1}, ["-1"]),
    ],
)
def test_wrong_options_are_refused(expdir, tmp_path, systems, options, facts):
    with refusal(*facts, kind=UsageError):
        compared([expdir], systems, tmp_path, **options)


def test_wrong_names_are_refused_together(expdir, capsys):
    arguments = ["--expdir", str(expdir), "", "--systems", "base", "../x", "--langs", "de", "de"]
    assert compare_main.main(arguments) == 2
    message = capsys.readouterr().err
    assert all(fact in message for fact in ("empty path", "'../x'", "'de'"))


def test_wrong_experiments_are_refused(expdir, tmp_path):
    for expdirs in ([expdir, expdir], [expdir, tmp_path / "b", tmp_path / "c"]):
        with refusal(expdir, kind=UsageError):
            compared(expdirs, ["base", "expert"], tmp_path)
    with refusal(tmp_path / "none"):
        compared([expdir, tmp_path / "none"], ["base", "expert"], tmp_path)


def test_result_is_the_same_every_time(expdir, tmp_path):
    first, _ = compared([expdir], ["lors.langs", "base"], tmp_path)
    second, _ = compared([expdir], ["lors.langs", "base"], tmp_path)
    assert first == second
    other, _ = compared([expdir], ["lors.langs", "base"], tmp_path, seed=1)
    assert other != first


@pytest.mark.parametrize("number, rows", [(20, 3), (40, 2), (200, 0)])
def test_small_test_sets_are_pointed_out(tmp_path, number, rows):
    for system, rate in (("a", 0.5), ("b", 0.4)):
        for pair in pairs_of(["de", "es"], ["st"]):
            refs = references(pair, number)
            put_score(tmp_path, system, pair, refs, spoilt(refs, rate, system))
    text, _ = compared([tmp_path], ["a", "b"], tmp_path)
    assert text.count(f"in {rows} of 3 rows") == (2 if rows else 0)
    assert ("Caution" in text) == (rows > 0)


def test_few_segments_are_pointed_out(expdir, tmp_path):
    pair = Pair("de", "asr")
    refs = references(pair)
    put_score(expdir, "base", pair, refs, {**refs, "utt001": "wrong"})
    put_score(expdir, "expert", pair, refs, refs)
    options = {"tasks": ["asr"], "langs": ["de"]}
    text, tables = compared([expdir], ["base", "expert"], tmp_path, **options)
    assert tables["WER"][0]["matched_pairs"]["segments"] == 1 and "Caution" in text


@pytest.mark.parametrize("number, verdict", [(1, "~"), (2, "~"), (5, "~"), (40, "worse")])
def test_few_utterances_show_no_difference(tmp_path, number, verdict):
    """Every utterance is right in one system, and wrong in the other."""
    for pair in pairs_of(["de"], ["asr", "st"]):
        refs = {
            name: f"one two three four {text}" for name, text in references(pair, number).items()
        }
        put_score(tmp_path, "a", pair, refs, refs)
        put_score(tmp_path, "b", pair, refs, {name: "" for name in refs})
    _, tables = compared([tmp_path], ["a", "b"], tmp_path)
    assert {row["verdict"] for rows in tables.values() for row in rows} == {verdict}


def test_segments_with_the_same_difference_are_compared_by_the_bootstrap(tmp_path):
    pair = Pair("de", "asr")
    refs = {f"utt{k:02d}": "one" for k in range(60)}
    put_score(tmp_path, "a", pair, refs, refs)
    put_score(tmp_path, "b", pair, refs, {name: "two" for name in refs})
    text, tables = compared([tmp_path], ["a", "b"], tmp_path)
    (row,) = tables["WER"]
    assert row["matched_pairs"]["p"] == 1 and row["p"] == row["difference"]["p"] < 0.05
    assert row["verdict"] == "worse" and "undefined" in text


@pytest.mark.parametrize("text", ["", "right", "five words that are wrong"])
def test_the_same_hypotheses_in_all_systems(tmp_path, text):
    for pair in PAIRS:
        refs = {name: "right" for name in references(pair)}
        for system in ("a", "b"):
            put_score(tmp_path, system, pair, refs, dict.fromkeys(refs, text))
    _, tables = compared([tmp_path], ["a", "b"], tmp_path)
    rows = [row for of_metric in tables.values() for row in of_metric]
    assert {(row["p"], row["corrected_p"], row["verdict"]) for row in rows} == {(1, 1, "~")}
    assert {row["difference"]["value"] for row in rows} == {0}


def test_p_text():
    assert [p_text(p) for p in (0.0004, 0.001, 0.05, 1)] == ["<0.001", "0.001", "0.050", "1.000"]
