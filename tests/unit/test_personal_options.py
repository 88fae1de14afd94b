"""Options of pqm.sh: its lists of speakers and pairs, and what is told before the first stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lors.errors import UsageError
from lors.recipe.options import resolve
from lors.recipe.units import SCRIPTS
from tests.refusal import refusal

ROOT = Path(__file__).parents[2]
OPTIONS = {
    **{"stage": "1", "stop_stage": "10", "skip_train": "false", "dry_run": "false"},
    **{"submit": "false", "langs": "de en", "tasks": "asr st", "splits": "train dev test"},
    **{"num_speakers": "2", "test_speakers": "", "partition": "", "own_splits": "false"},
    **{"adapt_utterances": "60", "speaker_dev": "10", "least_test": "10", "seed": "1"},
    **{"dev_utterances": "1000", "datadir": "data", "dumpdir": "dump", "speakerdir": "speakers"},
    **{"expdir": "exp", "nj": "2", "ngpu": "0", "num_nodes": "1", "device": "cpu"},
    **{
        "model_family": "espnet_s2t",
        "base_model": "",
        "window": "30",
        "base_window": "",
        "st_language": "source",
    },
    **{"double": "false", "sat_config": "conf/train_sat.yaml", "inference_config": ""},
    **{"train_config": "conf/train_speaker.yaml", "data_opts": ""},
}


@pytest.fixture(autouse=True)
def recipe(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "egs/mini_covost/pqm1/conf", tmp_path / "conf")
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)


def lists(stages=SCRIPTS["pqm"], **options):
    found = resolve("pqm", {**OPTIONS, **options}, stages, "local")
    return {name: list(words) for name, words in found.items()}


def choose(speakers: str, pretraining: str) -> None:
    """Write the lists of stage speakers."""
    Path("speakers").mkdir(exist_ok=True)
    Path("speakers/speakers").write_text(speakers.replace(" ", "\n") + "\n")
    Path("speakers/pretraining").write_text(pretraining.replace(" ", "\n") + "\n")


def test_pairs_of_the_chosen_speakers():
    """English is not translated: neither its speakers nor its pre-training have such a pair."""
    assert lists()["personal"] == ["SPEAKERS_asr", "SPEAKERS_st"]
    assert lists()["others"] == ["de_asr", "de_st", "en_asr"]
    choose("de-x-anna en-x-bob", "de en")
    found = lists()
    assert found["speakers"] == ["de-x-anna", "en-x-bob"]
    assert found["personal"] == ["de-x-anna_asr", "de-x-anna_st", "en-x-bob_asr"]
    assert found["others"] == ["de_asr", "de_st", "en_asr"]
    choose("de-x-anna", "en")
    assert lists()["others"] == ["en_asr"]
    assert lists(dry_run="true")["speakers"] == ["SPEAKERS"]


def test_nothing_to_train_on():
    with refusal("--tasks", "en", kind=UsageError):
        lists(langs="en", tasks="st")
    choose("de-x-anna", "en")
    with refusal("--tasks", "en", "de-x-anna", kind=UsageError):
        lists(tasks="st")
    assert lists(tasks="st", stages=("data", "format", "speakers"))["others"] == []


def test_stages_after_the_choice_of_speakers_need_it():
    with refusal("speakers", "stage speakers"):
        lists(stages=("sat",))
    assert lists(stages=("sat",), dry_run="true")["speakers"] == ["SPEAKERS"]
    assert lists(stages=("data",))["speakers"] == ["SPEAKERS"]


def test_a_family_that_cannot_be_quantised():
    facts = ("--model_family", "wav2vec2", "espnet_s2t, whisper", "--tasks", "st")
    with refusal(*facts, kind=UsageError):
        lists(("quantise",), model_family="wav2vec2", base_model="x")
