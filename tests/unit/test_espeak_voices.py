"""Acoustic conditions and speakers."""

import dataclasses

import pytest
import yaml

from lors.config import read_yaml
from lors.data.espeak import voices
from lors.errors import UsageError
from tests.refusal import refusal


@pytest.fixture
def edited(tmp_path):
    """Return a function that writes a copy of the conditions file with other values."""

    def edit(**parts):
        data = read_yaml(voices.CONDITIONS_FILE)
        for name, values in parts.items():
            data[name].update(values)
        path = tmp_path / "conditions.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        return path

    return edit


def test_language_comes_before_all_before_defaults(edited):
    path = edited(
        defaults={"pitch": [30, 70]},
        domain={"all": {"pitch": [1, 2], "snr_db": [3, 4]}, "de": {"snr_db": [5, 6]}},
        pool={"de": {"snr_db": [7, 8]}},
    )
    german = voices.load_condition("domain", "de", path)
    assert (german.pitch, german.snr_db) == ((1, 2), (5, 6))
    german = voices.load_condition("pool", "de", path)
    assert (german.pitch, german.snr_db) == ((30, 70), (7, 8))


def test_holdout_can_be_overridden():
    assert voices.load_condition("domain", "de", vocab_holdout=0.3).vocab_holdout == 0.3


def test_unknown_names():
    with refusal("'pol'", "pool", kind=UsageError):
        voices.load_condition("pol", "de")
    with refusal("'xx'", kind=UsageError):
        voices.load_condition("pool", "xx")


def test_unknown_key_names_the_near_one(edited):
    with refusal("'snr'", "snr_db", kind=UsageError):
        voices.load_condition("domain", "de", edited(domain={"de": {"snr": [1, 2]}}))


def test_all_wrong_values_at_once(edited):
    wrong = {
        "pitch": [50, 20],
        "rate_wpm": "fast",
        "noise_colour": ["mauve"],
        "variants": [],
        "speakers": {"train": 0, "dev": 1, "test": 1},
    }
    with refusal("conditions.yaml", "language de") as refused:
        voices.load_condition("domain", "de", edited(domain={"de": wrong}))
    assert {problem.split(":")[0] for problem in refused.value.got} == wrong.keys()


def test_missing_default(edited, tmp_path):
    data = read_yaml(edited())
    del data["defaults"]["pitch"]
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with refusal(path, "pitch"):
        voices.load_condition("pool", "de", path)


def test_speakers_are_different_people_within_the_ranges():
    condition = voices.load_condition("domain", "fr")
    speakers = voices.draw_speakers(condition, 40, 0, "train")
    assert len({speaker.client_id for speaker in speakers}) == 40
    assert {speaker.voice.split("+")[1] for speaker in speakers} == set(condition.variants)
    assert {speaker.voice.split("+")[0] for speaker in speakers} == set(condition.voices)
    for speaker in speakers:
        assert len(speaker.client_id) == 128 and set(speaker.client_id) <= set("0123456789abcdef")
        for name in ("pitch", "rate_wpm", "level_dbfs", "rt60_s", "drr_db"):
            low, high = getattr(condition, name)
            assert low <= getattr(speaker, name) <= high
    sounds = {dataclasses.astuple(speaker)[3:] for speaker in speakers}
    assert len(sounds) == 40


def test_speakers_depend_on_the_seed_only():
    condition = voices.load_condition("pool", "de")
    five = voices.draw_speakers(condition, 5, 0, "train")
    assert voices.draw_speakers(condition, 9, 0, "train")[:5] == five
    assert not set(voices.draw_speakers(condition, 5, 0, "dev")) & set(five)
