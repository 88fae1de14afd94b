"""Scoring: pairing of utterances, percentages and counts, normalised performance, command line."""

import importlib.util
import json

import pytest

from lors.bin import score as score_main
from lors.errors import LorsError, UsageError
from lors.score import (
    match_utterances,
    normalised_performance,
    score_asr,
    score_st,
)
from lors.score.normalised import unhelpful_experts
from lors.tasks import task_called

ALL_EMPTY = {"a": "...", "b": ""}


def test_missing_and_extra_utterances_are_both_listed():
    with pytest.raises(LorsError) as caught:
        match_utterances({"a": "x", "b": "x", "c": "x"}, {"c": "x", "d": "x"})
    assert "2 without a hypothesis: a, b" in str(caught.value)
    assert "1 without a reference: d" in str(caught.value)


@pytest.mark.parametrize("score", [score_asr, score_st])
def test_scores_are_never_of_a_part_of_the_test_set(score):
    with pytest.raises(LorsError, match="1 without a hypothesis: b"):
        score({"a": "ja", "b": "nein"}, {"a": "ja"}, "de")
    with pytest.raises(LorsError, match="1 without a reference: b"):
        score({"a": "ja"}, {"a": "ja", "b": "nein"}, "de")
    with pytest.raises(LorsError, match="no references"):
        score({}, {}, "de")


def test_a_long_list_of_ids_is_cut_and_counted():
    refs = {f"utt{i:03d}": "x" for i in range(100)}
    with pytest.raises(LorsError, match=r"utt019, and 80 more"):
        match_utterances(refs, {})


def test_error_rate_is_over_the_whole_set_with_hypothesis_and_reference_normalised_alike():
    refs = {"a": "Der Hund, läuft schnell.", "b": "Ja!"}
    hyps = {"a": "der hund lauft", "b": "ja JA ja"}
    result = score_asr(refs, hyps, "de")
    assert result["wer"] == pytest.approx(100 * 4 / 5)  # not the mean of 50 % and 200 %
    # 22 + 2 characters: ä -> a, " schnell" deleted, " ja ja" inserted
    assert result["cer"] == pytest.approx(100 * (1 + 8 + 6) / 24)
    counts = ("substitutions", "deletions", "insertions", "ref_words", "utterances")
    assert [result[key] for key in counts] == [1, 1, 2, 5, 2]
    assert (result["normaliser"], result["unit"]) == ("whisper-basic", "word")
    assert result["jiwer_version"]


def test_empty_hypotheses_are_deletions():
    result = score_asr({"a": "ja nein", "b": "gut so"}, {"a": "", "b": "..."}, "de")
    assert (result["wer"], result["deletions"], result["empty_hyps"]) == (100.0, 4, 2)


def test_words_recognised_where_the_reference_is_empty_are_insertions():
    result = score_asr({"a": "ja nein", "b": "..."}, {"a": "ja nein", "b": "so so"}, "de")
    assert (result["wer"], result["insertions"]) == (100.0, 2)
    assert result["cer"] == pytest.approx(100 * 5 / 7)
    assert (result["empty_refs"], result["utterances"], result["ref_words"]) == (1, 2, 2)


@pytest.mark.parametrize("score", [score_asr, score_st])
def test_all_references_empty_is_an_error(score):
    refs = ALL_EMPTY if score is score_asr else {"a": "", "b": " "}
    with pytest.raises(LorsError, match="every reference"):
        score(refs, {"a": "x", "b": "x"}, "de")


def test_chinese_is_scored_by_character():
    result = score_asr({"a": "你好世界"}, {"a": "你 好世介。"}, "zh-CN")
    assert result["wer"] == result["cer"] == 25.0
    assert (result["unit"], result["ref_words"]) == ("character", 4)


def test_translation_is_scored_cased_and_raw():
    refs = {"a": "The cat sat on the mat .", "b": "It rains ."}
    assert score_st(refs, refs, "en")["bleu"] == pytest.approx(100)
    lower = {key: value.lower() for key, value in refs.items()}
    assert score_st(refs, lower, "en")["bleu"] < 90


def test_translation_result_has_both_signatures_and_counts():
    result = score_st(
        {"a": "Yes, sir.", "b": "", "c": "No."}, {"a": "Yes", "b": "x", "c": ""}, "en"
    )
    assert "tok:13a" in result["bleu_signature"] and "case:mixed" in result["bleu_signature"]
    assert result["chrf_signature"].startswith("nrefs:1") and 0 < result["chrf"] < 100
    assert [result[k] for k in ("utterances", "empty_refs", "empty_hyps")] == [3, 1, 1]


def test_chinese_target_has_its_own_tokenizer():
    assert "tok:zh" in score_st({"a": "你好世界"}, {"a": "你好世界"}, "zh-CN")["bleu_signature"]


def test_japanese_target_uses_mecab_or_says_what_to_install():
    if importlib.util.find_spec("MeCab"):
        assert "tok:ja-mecab" in score_st({"a": "はい"}, {"a": "はい"}, "ja")["bleu_signature"]
    else:
        with pytest.raises(LorsError, match=r"pip install 'sacrebleu\[ja\]'"):
            score_st({"a": "はい"}, {"a": "はい"}, "ja")


BASE = {"de_asr": {"wer": 40.0}, "sv-SE_st": {"bleu": 10.0}}
EXPERT = {"de_asr": {"wer": 20.0}, "sv-SE_st": {"bleu": 30.0}}


def test_normalised_performance_by_hand():
    merged = {"de_asr": {"wer": 25.0}, "sv-SE_st": {"bleu": 15.0}}
    assert normalised_performance(merged, BASE, EXPERT) == pytest.approx((0.75 + 0.25) / 2)
    assert normalised_performance({"de_asr": {"wer": 50.0}}, BASE, EXPERT) == -0.5
    assert normalised_performance(BASE, BASE, EXPERT) == 0.0
    assert normalised_performance(EXPERT, BASE, EXPERT) == 1.0


def test_undefined_pairs_are_all_named():
    merged = {"de_asr": {"wer": 1.0}, "fr_asr": {"wer": 1.0}, "it_st": {"chrf": 1.0}}
    base = {"de_asr": {"wer": 5.0}, "it_st": {"bleu": 1.0}}
    expert = {"de_asr": {"wer": 5.0}, "fr_asr": {"wer": 2.0}, "it_st": {"bleu": 2.0}}
    with pytest.raises(LorsError) as caught:
        normalised_performance(merged, base, expert)
    for problem in (
        "de_asr: expert and base both have wer 5.0",
        "fr_asr: no 'wer' of the base model",
        "it_st: no 'bleu' of the merged model",
    ):
        assert problem in str(caught.value)
    with pytest.raises(LorsError, match="no language-task pair"):
        normalised_performance({}, base, expert)


def test_unhelpful_experts_are_found_in_both_directions():
    base = {"a_asr": {"wer": 10.0}, "b_asr": {"wer": 10.0}, "a_st": {"bleu": 5.0}}
    expert = {"a_asr": {"wer": 11.0}, "b_asr": {"wer": 9.0}, "a_st": {"bleu": 4.0}}
    assert unhelpful_experts(base, expert) == ["a_asr", "a_st"]


def test_metrics_and_their_direction():
    assert task_called("asr").metric.lower_is_better
    assert not task_called("st").metric.lower_is_better
    with pytest.raises(UsageError, match="did you mean asr"):
        task_called("asrr")
    with pytest.raises(UsageError, match="not a language-task pair"):
        normalised_performance({"de": {"wer": 1.0}}, {}, {})


@pytest.fixture
def files(tmp_path):
    (tmp_path / "ref").write_text("a Guten Tag, Welt!\nb Ja .\n", encoding="utf-8")
    (tmp_path / "hyp").write_text("b\na guten tag weld\n", encoding="utf-8")
    return tmp_path


def run(folder, task, lang):
    arguments = ["--task", task, "--lang", lang, "--out", str(folder / "x" / "score.json")]
    for name in ("ref", "hyp"):
        arguments += [f"--{name}", str(folder / name)]
    return score_main.main(arguments)


def test_command_writes_percentages_with_full_precision(files, capsys):
    (files / "ref").write_text("a Guten Tag, Welt!\nb Ja so und noch .\n", encoding="utf-8")
    assert run(files, "asr", "de") == 0
    result = json.loads((files / "x" / "score.json").read_text(encoding="utf-8"))
    assert (result["task"], result["lang"], result["utterances"]) == ("asr", "de", 2)
    assert result["wer"] == 100 * 5 / 7
    assert capsys.readouterr().out.startswith("WER 71.43 ")


def test_command_scores_translation(files, capsys):
    assert run(files, "st", "en") == 0
    result = json.loads((files / "x" / "score.json").read_text(encoding="utf-8"))
    assert result["bleu_signature"] and result["empty_hyps"] == 1
    assert capsys.readouterr().out.startswith("BLEU ")


def test_command_writes_nothing_if_an_utterance_is_missing(files, capsys):
    (files / "hyp").write_text("a x\nzz x\n", encoding="utf-8")
    assert run(files, "asr", "de") == 1
    message = capsys.readouterr().err
    assert "without a hypothesis: b" in message and "without a reference: zz" in message
    assert not (files / "x").exists()
