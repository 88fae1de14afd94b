"""Scoring: pairing of utterances, percentages and counts, normalised performance, command line."""

import importlib.util
import json

import pytest

from lors.bin import score as score_main
from lors.errors import LorsError, UsageError, pip_install
from lors.score import (
    SCORERS,
    ErrorRates,
    TranslationScores,
    match_utterances,
    normalised_performance,
    score_asr,
    score_pair,
    score_st,
)
from lors.score.normalised import (
    UndefinedPerformanceError,
    undefined_because,
    unhelpful_experts,
)
from lors.tasks import TASKS, Pair, task_called
from tests.refusal import refusal
from tests.unit.score_trees import error_rates, translation_scores

# --- pairing


def test_missing_and_extra_utterances_are_both_listed():
    with refusal("2 without a hypothesis: a, b", "1 without a reference: d"):
        match_utterances({"a": "x", "b": "x", "c": "x"}, {"c": "x", "d": "x"})


@pytest.mark.parametrize("score", [score_asr, score_st])
def test_no_score_of_a_part_of_the_test_set(score):
    with refusal("1 without a hypothesis: b"):
        score({"a": "ja", "b": "nein"}, {"a": "ja"}, "de")
    with refusal("1 without a reference: b"):
        score({"a": "ja"}, {"a": "ja", "b": "nein"}, "de")
    with refusal():
        score({}, {}, "de")


def test_a_long_list_of_ids_is_cut_and_counted():
    refs = {f"utt{i:03d}": "x" for i in range(100)}
    with refusal("utt019, and 80 more"):
        match_utterances(refs, {})


@pytest.mark.parametrize("invisible", ["\ufeff", "\u200b", "\u202a"])
def test_invisible_characters_of_ids_are_shown(invisible):
    with refusal(repr(f"{invisible}a"), "1 without a hypothesis: a"):
        match_utterances({"a": "x"}, {f"{invisible}a": "x"})


# --- recognition


def test_error_rate_is_over_the_whole_set_with_hypothesis_and_reference_normalised_alike():
    refs = {"a": "Der Hund, läuft schnell.", "b": "Ja!"}
    hyps = {"a": "der hund lauft", "b": "ja JA ja"}
    result = score_asr(refs, hyps, "de")
    assert result.wer == pytest.approx(100 * 4 / 5)  # not the mean of 50 % and 200 %
    # 22 + 2 characters: ä -> a, " schnell" deleted, " ja ja" inserted
    assert result.cer == pytest.approx(100 * (1 + 8 + 6) / 24)
    assert (result.substitutions, result.deletions, result.insertions) == (1, 1, 2)
    assert (result.ref_words, result.utterances) == (5, 2)
    assert (result.normaliser, result.unit) == ("lors-basic", "word")
    assert result.jiwer_version


def test_empty_hypotheses_are_deletions():
    result = score_asr({"a": "ja nein", "b": "gut so"}, {"a": "", "b": "..."}, "de")
    assert (result.wer, result.deletions, result.empty_hyps) == (100.0, 4, 2)


def test_words_recognised_where_the_reference_is_empty_are_insertions():
    result = score_asr({"a": "ja nein", "b": "..."}, {"a": "ja nein", "b": "so so"}, "de")
    assert (result.wer, result.insertions) == (100.0, 2)
    assert result.cer == pytest.approx(100 * 5 / 7)
    assert (result.empty_refs, result.utterances, result.ref_words) == (1, 2, 2)


@pytest.mark.parametrize(
    ("score", "refs"), [(score_asr, {"a": "...", "b": ""}), (score_st, {"a": "", "b": " "})]
)
def test_all_references_empty_is_an_error(score, refs):
    with refusal("2 references"):
        score(refs, {"a": "x", "b": "x"}, "de")


def test_chinese_is_scored_by_character():
    result = score_asr({"a": "你好世界"}, {"a": "你 好世介。"}, "zh-CN")
    assert result.wer == result.cer == 25.0
    assert (result.unit, result.ref_words) == ("character", 4)


FOUR_WORDS = [
    ("ta", "நான் பள்ளிக்கு சென்றேன் நேற்று", "நான் பள்ளிக்கு சென்றான் நேற்று"),
    ("hi", "मैं कल घर गया", "मैं कल घर गयी"),
    ("tr", "İyi ışık ılık IŞIK", "iyi ışık ilik ışık"),
    ("ar", "كَتَبَ الوَلَدُ الدَّرْسَ اليَوْمَ", "كَتَبَ الوَلَدُ الدَّرْسُ اليَوْمَ"),
    ("yo", "Ẹ̀kọ́ dára púpọ̀ gan", "ẹ́kọ́ dára púpọ̀ gan"),
    ("fa", "او می\u200cرود به خانه", "او میرود به خانم"),
]


@pytest.mark.parametrize(("lang", "ref", "hyp"), FOUR_WORDS)
def test_one_wrong_word_of_four(lang, ref, hyp):
    result = score_asr({"a": ref}, {"a": hyp}, lang)
    assert (result.wer, result.ref_words, result.substitutions) == (25.0, 4, 1)
    assert score_asr({"a": ref}, {"a": ref}, lang).wer == 0


@pytest.mark.parametrize("lang", ["th", "lo", "my"])
def test_languages_without_spaces_are_scored_by_character(lang):
    refs = {"th": "น้ำดี", "lo": "ນ້ຳດີ", "my": "မြန်မာ"}[lang]
    result = score_asr({"a": refs}, {"a": refs[:-1]}, lang)
    assert (result.unit, result.ref_words, result.deletions) == ("character", len(refs), 1)
    assert result.wer == result.cer == pytest.approx(100 / len(refs))


def test_whisper_normaliser_for_comparison():
    _, ref, hyp = FOUR_WORDS[0]
    result = score_asr({"a": ref}, {"a": hyp}, "ta", "whisper")
    assert result.wer == 0
    assert result.normaliser == "whisper-basic"
    assert result.normaliser_version.startswith("openai-whisper ")


# --- translation


def test_translation_is_scored_cased_and_raw():
    refs = {"a": "The cat sat on the mat .", "b": "It rains ."}
    assert score_st(refs, refs, "en").bleu == pytest.approx(100)
    lower = {key: value.lower() for key, value in refs.items()}
    assert score_st(refs, lower, "en").bleu < 90


def test_translation_result_has_both_signatures_and_counts():
    result = score_st(
        {"a": "Yes, sir.", "b": "", "c": "No."}, {"a": "Yes", "b": "x", "c": ""}, "en"
    )
    assert "tok:13a" in result.bleu_signature and "case:mixed" in result.bleu_signature
    assert result.chrf_signature.startswith("nrefs:1") and 0 < result.chrf < 100
    assert (result.utterances, result.empty_refs, result.empty_hyps) == (3, 1, 1)


def test_chinese_target_has_its_own_tokenizer():
    assert "tok:zh" in score_st({"a": "你好世界"}, {"a": "你好世界"}, "zh-CN").bleu_signature


def test_target_without_spaces_is_split_into_characters():
    result = score_st({"a": "ฉันไปโรงเรียนเมื่อวานนี้"}, {"a": "ฉันไปโรงเรียนเมื่อวาน"}, "th")
    assert "tok:char" in result.bleu_signature and result.bleu > 50


def test_japanese_target_uses_mecab_or_says_what_to_install():
    if importlib.util.find_spec("MeCab"):
        assert "tok:ja-mecab" in score_st({"a": "はい"}, {"a": "はい"}, "ja").bleu_signature
    else:
        with refusal("'ja'", "ja-mecab", pip_install("'sacrebleu[ja]'")):
            score_st({"a": "はい"}, {"a": "はい"}, "ja")


# --- typed results

ASR_KEYS = (
    "wer cer substitutions deletions insertions ref_words unit utterances empty_refs empty_hyps "
    "normaliser normaliser_version jiwer_version sentence_errors"
)
ST_KEYS = (
    "bleu chrf bleu_signature chrf_signature utterances empty_refs empty_hyps sacrebleu_version"
)
KEYS = {"asr": ASR_KEYS.split(), "st": ST_KEYS.split()}
EXAMPLES = {"asr": error_rates(12.5), "st": translation_scores(30.25)}


@pytest.mark.parametrize("task", TASKS)
def test_score_to_json_and_back(task):
    content = EXAMPLES[task].to_json()
    assert list(content) == KEYS[task]
    read = SCORERS[task].result.from_json({"task": task, "lang": "de", **content})
    assert read == EXAMPLES[task]


@pytest.mark.parametrize("task", TASKS)
def test_a_score_has_the_metrics_of_its_task(task):
    score = EXAMPLES[task]
    assert score.task is TASKS[task]
    content = score.to_json()
    assert [score.value(m) for m in TASKS[task].metrics] == [
        content[m.key] for m in TASKS[task].metrics
    ]


def test_settings_and_sizes_of_a_score():
    rates, scores = EXAMPLES["asr"], EXAMPLES["st"]
    assert rates.sizes == {"ref_words": 1000, "utterances": 160, "empty_refs": 0}
    assert rates.settings == {
        "unit": "word",
        "normaliser": "lors-basic",
        "normaliser_version": "lors 1",
        "jiwer_version": "4.0.0",
    }
    assert scores.sizes == {"utterances": 160, "empty_refs": 1}
    assert scores.settings == {
        "bleu_signature": "nrefs:1|case:mixed|tok:13a",
        "chrf_signature": "nrefs:1|nc:6",
    }


def test_description_names_all_settings_and_characters():
    for score in EXAMPLES.values():
        for name, value in score.settings.items():
            assert name == "unit" or value in score.description
    assert "characters" in error_rates(1.0, unit="character").description


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"wer": None}, ["'wer'"]),
        ({"cer": float("nan")}, ["'cer'"]),
        ({"wer": True}, ["'wer'"]),
        ({"utterances": 1.5}, ["'utterances'"]),
        ({"insertions": 10**400, "sentence_errors": -(10**19)}, ["'insertions'", "'sentence_e"]),
        ({"utterances": 0, "ref_words": -1}, ["'ref_words'", "'utterances'"]),
        ({"normaliser": "", "unit": None}, ["'normaliser'", "'unit'"]),
        ({"task": "st"}, ["'st'"]),
    ],
)
def test_malformed_score_is_refused_with_all_problems(changes, facts):
    content = {**EXAMPLES["asr"].to_json(), **changes}
    assert len(ErrorRates.problems(content)) == len(facts)
    with refusal(*facts):
        ErrorRates.from_json(content)


def test_score_without_its_values_is_refused():
    with refusal(*(f"'{key}'" for key in KEYS["st"])):
        TranslationScores.from_json({})
    with refusal():
        TranslationScores.from_json([])


def test_scorer_of_each_task():
    assert list(SCORERS) == list(TASKS)
    refs = {"a": "Yes, it does."}
    asr = score_pair(Pair("de", "asr"), refs, refs)
    assert (type(asr), asr.wer, asr.normaliser) == (ErrorRates, 0, "lors-basic")
    st = score_pair(Pair("zh-CN", "st"), refs, refs)
    assert type(st) is TranslationScores and "tok:13a" in st.bleu_signature
    for scorer in SCORERS.values():
        assert "unknown" not in str(scorer.settings())
    whispers = score_pair(Pair("de", "asr"), refs, refs, "whisper")
    assert whispers.normaliser == "whisper-basic"
    assert SCORERS["asr"].settings() != SCORERS["asr"].settings("whisper")
    assert SCORERS["st"].settings() == SCORERS["st"].settings("whisper")
    assert score_pair(Pair("zh-CN", "st"), refs, refs, "whisper") == st


def test_score_file_from_before_the_normaliser_of_lors():
    content = EXAMPLES["asr"].to_json()
    del content["normaliser_version"]
    content |= {"normaliser": "whisper-basic", "openai_whisper_version": "20250625"}
    assert ErrorRates.problems(content) == []
    assert ErrorRates.from_json(content).normaliser_version == "openai-whisper 20250625"


# --- normalised performance

DE, SV = Pair("de", "asr"), Pair("sv-SE", "st")
BASE = {DE: error_rates(40.0), SV: translation_scores(10.0)}
EXPERT = {DE: error_rates(20.0), SV: translation_scores(30.0)}


def test_normalised_performance_is_the_share_of_the_average_gain():
    fr, it = Pair("fr", "asr"), Pair("it", "asr")
    base = {**BASE, fr: error_rates(10.0), it: error_rates(4.0)}
    expert = {**EXPERT, fr: error_rates(4.0), it: error_rates(4.0)}  # gains: 20, 6 and 0
    merged = {DE: error_rates(30.0), fr: error_rates(7.0), it: error_rates(4.0)}
    assert normalised_performance(merged, base, expert) == pytest.approx(13 / 26)
    merged[SV] = translation_scores(25.0)
    assert normalised_performance(merged, base, expert) == pytest.approx((3 * 13 / 26 + 0.75) / 4)


def test_normalised_performance_by_hand():
    merged = {DE: error_rates(25.0), SV: translation_scores(15.0)}
    assert normalised_performance(merged, BASE, EXPERT) == pytest.approx((0.75 + 0.25) / 2)
    assert normalised_performance({DE: error_rates(50.0)}, BASE, EXPERT) == -0.5
    assert normalised_performance(BASE, BASE, EXPERT) == 0.0
    assert normalised_performance(EXPERT, BASE, EXPERT) == 1.0


def test_missing_scores_are_all_named():
    fr, it = Pair("fr", "asr"), Pair("it", "st")
    merged = {DE: error_rates(1.0), fr: error_rates(1.0), it: translation_scores(1.0)}
    base = {DE: error_rates(5.0), it: translation_scores(1.0)}
    expert = {DE: error_rates(4.0), fr: error_rates(2.0)}
    with pytest.raises(LorsError) as caught:
        normalised_performance(merged, base, expert)
    fr_asr, it_st = caught.value.got
    assert "fr_asr" in fr_asr and "base" in fr_asr
    assert "it_st" in it_st and "expert" in it_st
    with refusal():
        normalised_performance({}, base, expert)


def test_without_a_gain_it_is_undefined():
    fr = Pair("fr", "asr")
    base = {DE: error_rates(5.0), fr: error_rates(10.0)}
    expert = {DE: error_rates(6.0), fr: error_rates(9.0)}
    with refusal(*base, 7.5, kind=UndefinedPerformanceError):
        normalised_performance(base, base, expert)


def test_rounding_errors_are_no_gain():
    fr, it = Pair("fr", "asr"), Pair("it", "asr")
    base = {DE: error_rates(0.1), fr: error_rates(0.2), it: error_rates(0.6)}
    expert = {DE: error_rates(0.3), fr: error_rates(0.3), it: error_rates(0.3)}
    expert[it] = error_rates(0.1 + 0.2)
    with refusal(*base, kind=UndefinedPerformanceError):
        normalised_performance(base, base, expert)


def test_a_share_of_a_loss_is_undefined():
    """The worst model would have the largest share."""
    expert = {DE: error_rates(60.0), SV: translation_scores(30.0)}
    with refusal(DE, 60, 40, kind=UndefinedPerformanceError):
        normalised_performance(BASE, BASE, expert)
    expert = {DE: error_rates(20.0), SV: translation_scores(5.0)}
    with refusal(SV, 5, 10, kind=UndefinedPerformanceError):
        normalised_performance(BASE, BASE, expert)
    assert all(str(pair) in undefined_because(BASE, BASE) for pair in BASE)
    assert undefined_because(BASE, EXPERT) == ""


def test_unhelpful_experts_are_found_in_both_directions():
    pairs = [Pair("a", "asr"), Pair("b", "asr"), Pair("a", "st")]
    base = dict(zip(pairs, (error_rates(10), error_rates(10), translation_scores(5)), strict=True))
    expert = dict(zip(pairs, (error_rates(11), error_rates(9), translation_scores(4)), strict=True))
    assert unhelpful_experts(base, expert) == [Pair("a", "asr"), Pair("a", "st")]


def test_metrics_and_their_direction():
    assert task_called("asr").metric.lower_is_better
    assert not task_called("st").metric.lower_is_better
    with refusal("asrr", "did you mean asr", kind=UsageError):
        task_called("asrr")


# --- the command


@pytest.fixture
def files(tmp_path):
    (tmp_path / "ref").write_text("a Guten Tag, Welt!\nb Ja .\n", encoding="utf-8")
    (tmp_path / "hyp").write_text("b\na guten tag weld\n", encoding="utf-8")
    return tmp_path


def run(folder, task, lang, *options):
    arguments = ["--task", task, "--lang", lang, "--out", str(folder / "x" / "score.json")]
    arguments += options
    for name in ("ref", "hyp"):
        arguments += [f"--{name}", str(folder / name)]
    return score_main.main(arguments)


def test_command_writes_percentages_with_full_precision(files, capsys):
    (files / "ref").write_text("a Guten Tag, Welt!\nb Ja so und noch .\n", encoding="utf-8")
    assert run(files, "asr", "de") == 0
    result = json.loads((files / "x" / "score.json").read_text(encoding="utf-8"))
    assert list(result) == ["task", "lang", "ref", "hyp", *KEYS["asr"]]
    assert (result["task"], result["lang"], result["utterances"]) == ("asr", "de", 2)
    assert (result["ref"], result["hyp"]) == (str(files / "ref"), str(files / "hyp"))
    assert result["wer"] == 100 * 5 / 7
    assert capsys.readouterr().out.startswith("WER 71.43 ")


def test_command_with_the_normaliser_of_whisper(files):
    for options, name in (((), "lors-basic"), (("--normaliser", "whisper"), "whisper-basic")):
        assert run(files, "asr", "de", *options) == 0
        result = json.loads((files / "x" / "score.json").read_text(encoding="utf-8"))
        assert result["normaliser"] == name


def test_translation_has_no_normaliser(files, capsys):
    assert run(files, "st", "en", "--normaliser", "whisper") == 2
    assert "--normaliser" in capsys.readouterr().err
    assert not (files / "x").exists()


def test_command_scores_translation(files, capsys):
    assert run(files, "st", "en") == 0
    result = json.loads((files / "x" / "score.json").read_text(encoding="utf-8"))
    assert result["bleu_signature"] and result["empty_hyps"] == 1
    assert capsys.readouterr().out.startswith("BLEU ")


def test_command_writes_nothing_if_an_utterance_is_missing(files, capsys):
    (files / "hyp").write_text("a x\nzz x\n", encoding="utf-8")
    assert run(files, "asr", "de") == 1
    message = capsys.readouterr().err
    assert "hypothesis: b" in message and "reference: zz" in message
    assert not (files / "x").exists()
