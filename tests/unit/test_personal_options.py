"""Options of pqm.sh: its lists of speakers and pairs, and what is told before the first stage."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from lors.bin.split_speakers import main as split_speakers
from lors.config import read_yaml
from lors.data.speaker_split import PRETRAINING_FILE, SpeakerRule
from lors.done_marker import DoneMarker
from lors.errors import UsageError
from lors.recipe.options import resolve
from lors.recipe.units import SCRIPTS
from lors.tasks import SPEAKERS_FILE
from tests.refusal import refusal
from tests.unit.test_speaker_split import write

ROOT = Path(__file__).parents[2]
NAMES = ("anna", "bert", "carl")
OPTIONS = {
    **{"stage": "1", "stop_stage": "10", "skip_train": "false", "dry_run": "false"},
    **{"submit": "false", "langs": "de en", "tasks": "asr st", "splits": "train dev test"},
    **{"num_speakers": "", "test_speakers": "", "partition": "", "own_splits": "false"},
    **{"adapt_utterances": "", "speaker_dev": "", "least_test": "10", "seed": "1"},
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


def choose(speakers: str, pretraining: str, langs: str = "de en", **rule) -> None:
    """Write the lists of stage speakers, and its marker."""
    Path("speakers").mkdir(exist_ok=True)
    for name, codes in ((SPEAKERS_FILE, speakers), (PRETRAINING_FILE, pretraining)):
        (Path("speakers") / name).write_text(codes.replace(" ", "\n") + "\n")
    data = {f"{lang}/train/{file}": "0" for lang in langs.split() for file in ("text", "wav.scp")}
    rule = dataclasses.asdict(SpeakerRule(number=2, **rule))
    DoneMarker("speakers/.done", {"data": data, "rule": rule}).mark()


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


def test_another_choice_than_that_of_stage_speakers():
    """Refused in every stage that would work with the old choice, and before stage data."""
    choose("de-x-anna en-x-bob", "de en")
    others = {
        ("langs", "de"): "langs: ['de', 'en'] -> ['de']",
        ("test_speakers", "carl"): "rule.speakers: [] -> ['carl']",
        ("num_speakers", "1"): "rule.number: 2 -> 1",
        ("own_splits", "true"): "rule.own_splits: False -> True",
        ("adapt_utterances", "6"): "rule.adapt: 60 -> 6",
        ("speaker_dev", "5"): "rule.dev: 10 -> 5",
        ("least_test", "4"): "rule.least_test: 10 -> 4",
    }
    for stages in (("sat",), ("score",), SCRIPTS["pqm"]):
        for (name, value), difference in others.items():
            with refusal("--speakerdir", difference):
                lists(stages, **{name: value})
        assert lists(stages)["speakers"] == ["de-x-anna", "en-x-bob"]
    for stages in (("data",), ("format", "base", "quantise")):
        assert lists(stages, langs="de")["speakers"] == ["de-x-anna", "en-x-bob"]
    assert lists(("sat",), langs="de", dry_run="true")["speakers"] == ["SPEAKERS"]


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({}, ["de-x-anna", "de-x-bert"]),
        ({"num_speakers": "1"}, ["de-x-anna"]),
        ({"test_speakers": "carl"}, ["de-x-carl"]),
        ({"partition": "list.yaml"}, ["de-x-anna", "de-x-bert"]),
        ({"partition": "list.yaml", "test_speakers": "bert"}, ["de-x-bert"]),
        ({"test_speakers": "anna", "own_splits": "true"}, ["de-x-anna"]),
    ],
)
def test_the_words_for_stage_speakers_make_the_choice_that_is_checked(options, codes):
    write(Path("dump"), {"de": {name: (9 - place, 1, 2) for place, name in enumerate(NAMES)}})
    ends = {name: [f"{name}-train02", f"{name}-train03"] for name in NAMES[:2]}
    Path("list.yaml").write_text(yaml.safe_dump(ends))
    given = {"langs": "de", "least_test": "1"} | options
    if not {"partition", "own_splits"} & {*options}:
        given |= {"adapt_utterances": "3", "speaker_dev": "2"}
    words = lists(("speakers",), **given)["speaker_options"]
    assert split_speakers(["--data", "dump", "--langs", "de", "--out", "speakers", *words]) == 0
    assert lists(("sat",), **given)["speakers"] == codes


def test_two_ways_to_choose_or_to_split():
    Path("list.yaml").write_text("anna: [a-1, a-2]\n")
    for names in ({"test_speakers": "anna"}, {"partition": "list.yaml"}):
        for stages in (("speakers",), ("sat",)):
            with refusal("--num_speakers", 3, kind=UsageError):
                lists(stages, num_speakers="3", dry_run="true", **names)
    with refusal("--partition", "--own_splits", kind=UsageError):
        lists(partition="list.yaml", own_splits="true")
    with refusal("--partition", "bert", "anna", kind=UsageError):
        lists(partition="list.yaml", test_speakers="bert")


def test_numbers_of_utterances_beside_another_way_to_split_them():
    Path("list.yaml").write_text("anna: [a-1, a-2]\n")
    for other in ({"own_splits": "true"}, {"partition": "list.yaml"}):
        for option in ("adapt_utterances", "speaker_dev"):
            facts = (f"--{option}", "7", "--own_splits false", '--partition ""')
            with refusal(*facts, kind=UsageError):
                lists(("speakers",), **other, **{option: "7"}, dry_run="true")
        assert "--adapt" not in lists(("speakers",), **other)["speaker_options"]


@pytest.mark.parametrize(
    ("key", "value"), [("rank", 8), ("alpha", 32), ("target_modules", ["w_1"])]
)
def test_adapters_that_cannot_be_trained_on(key, value):
    """Told before the training of the adapter that a speaker's training begins with."""
    config = read_yaml("conf/train_sat.yaml")
    config["adapter_conf"][key] = value
    Path("conf/other.yaml").write_text(yaml.safe_dump(config))
    for option in ("sat_config", "train_config"):
        with refusal("conf/other.yaml", key, value, f"--{option}", kind=UsageError):
            lists(**{option: "conf/other.yaml"})
        assert lists(("sat",), **{option: "conf/other.yaml"}, dry_run="true")
    lists(sat_config="conf/other.yaml", train_config="conf/other.yaml")
    config["adapter_conf"] = read_yaml("conf/train_sat.yaml")["adapter_conf"] | {
        "dropout_rate": 0.5
    }
    config["adapter_conf"]["target_modules"].reverse()
    Path("conf/other.yaml").write_text(yaml.safe_dump(config))
    lists(sat_config="conf/other.yaml")


@pytest.mark.parametrize(
    ("key", "value"), [("use_adapter", False), ("adapter", "houlsby"), ("save_strategy", None)]
)
def test_a_training_that_leaves_no_adapter_alone(key, value):
    config = read_yaml("conf/train_sat.yaml") | {key: value}
    if value is None:
        del config[key]  # ESPnet's default saves all
    Path("conf/other.yaml").write_text(yaml.safe_dump(config))
    shown = f"{key}: {value or 'all'}" if key == "save_strategy" else f"{key}: {value}"
    for option, stage in (
        ("sat_config", "sat"),
        ("sat_config", "stats"),
        ("train_config", "adapt"),
    ):
        for stages in ((stage,), SCRIPTS["pqm"]):
            with refusal(f"--{option} conf/other.yaml", shown, kind=UsageError):
                lists(stages, **{option: "conf/other.yaml"}, dry_run="true")
        lists(("data", "quantise"), **{option: "conf/other.yaml"}, dry_run="true")


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"freeze_param": ["encoder"]}, ("freeze_param: ['encoder']", "target_modules")),
        ({"adapter_conf": {"bias_type": "all"}}, ("bias_type: all",)),
    ],
)
def test_options_of_adapters_without_effect(change, facts):
    config = read_yaml("conf/train_sat.yaml")
    adapter = config["adapter_conf"] | change.get("adapter_conf", {})
    Path("conf/other.yaml").write_text(
        yaml.safe_dump({**config, **change, "adapter_conf": adapter})
    )
    with refusal("conf/other.yaml", *facts, kind=UsageError):
        lists(("sat",), sat_config="conf/other.yaml", dry_run="true")


def test_stages_after_the_choice_of_speakers_need_it():
    with refusal("speakers", "stage speakers"):
        lists(stages=("sat",))
    assert lists(stages=("sat",), dry_run="true")["speakers"] == ["SPEAKERS"]
    assert lists(stages=("data",))["speakers"] == ["SPEAKERS"]


def test_a_family_that_cannot_be_quantised():
    facts = ("--model_family", "wav2vec2", "espnet_s2t, whisper", "--tasks", "st")
    with refusal(*facts, kind=UsageError):
        lists(("quantise",), model_family="wav2vec2", base_model="x")
