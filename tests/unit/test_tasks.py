"""lors.tasks: the facts of recognition and translation, and pairs of a language and a task."""

import pytest

from lors.errors import UsageError
from lors.tasks import ASR, ST, TASKS, Pair, pairs_of, task_called
from tests.refusal import refusal


def test_recognition():
    assert ASR.reference_file == "text"
    assert ASR.text_language("de") == "de"
    assert ASR.reference("ein Haus", {"en": "a house"}) == "ein Haus"
    assert [(metric.name, metric.lower_is_better) for metric in ASR.metrics] == [
        ("WER", True),
        ("CER", True),
    ]
    assert ASR.metric.key == "wer"


def test_translation():
    assert ST.reference_file == "text.en"
    assert ST.text_language("de") == "en"
    assert ST.reference("ein Haus", {"en": "a house", "fr": "une maison"}) == "a house"
    assert ST.reference("ein Haus", {"fr": "une maison"}) is None
    assert [(metric.name, metric.lower_is_better) for metric in ST.metrics] == [
        ("BLEU", False),
        ("chrF", False),
    ]
    assert ST.metric.key == "bleu"


def test_tasks_by_name():
    assert list(TASKS) == ["asr", "st"]
    assert task_called("asr") is ASR and task_called("st") is ST
    with refusal("sts", "asr, st", kind=UsageError):
        task_called("sts")


@pytest.mark.parametrize(
    ("name", "pair", "task"),
    [("de_asr", Pair("de", "asr"), ASR), ("sv-SE_st", Pair("sv-SE", "st"), ST)],
)
def test_pairs_and_their_names(name, pair, task):
    assert Pair.parse(name) == pair
    assert str(pair) == name
    assert pair.speech_task is task


@pytest.mark.parametrize("name", ["", "de", "asr", "_asr", "de_", "de_tts", "de-asr", "de_ASR"])
def test_names_that_are_not_pairs(name):
    with refusal(name, "de_asr", kind=UsageError):
        Pair.parse(name)


def test_all_pairs_in_the_order_of_jobs():
    assert [str(pair) for pair in pairs_of(["de", "es"], ["asr", "st"])] == [
        "de_asr",
        "de_st",
        "es_asr",
        "es_st",
    ]
    assert pairs_of(["de"], []) == []
