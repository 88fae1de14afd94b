"""The registered model families, and which one a configuration belongs to."""

import pytest
import yaml

from lors.data.datadir import Utterance
from lors.errors import LorsError, UsageError
from lors.merge.policy import load_policy
from lors.models import FAMILIES, family_from, family_of
from lors.models.family import register
from lors.models.wav2vec2.conf import Wav2Vec2Conf
from lors.models.wav2vec2.vocabulary import decode, encode, frames_needed, spelt, vocabulary_of
from lors.tasks import TASKS, Pair
from tests.integration.tiny_whisper import DIMS
from tests.refusal import refusal

CONFIGS = {
    "espnet_s2t": {"token_list": ["<deu>", "<asr>"], "encoder": "transformer"},
    "whisper": {"whisper_conf": {"dims": DIMS}},
    "wav2vec2": {"wav2vec2_conf": {"config": {}, "tokens": ["<pad>", "<unk>", "|", "a"]}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_family_of_a_model_directory(name, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIGS[name]))
    assert type(family_of(tmp_path)) is FAMILIES[name]


def test_configuration_of_no_family_and_of_two():
    for config in ({"max_epoch": 3}, CONFIGS["espnet_s2t"] | CONFIGS["whisper"]):
        with refusal("a.yaml", *CONFIGS, kind=LorsError):
            family_from(config, "a.yaml")


def test_a_name_is_registered_once():
    again = type("Again", (FAMILIES["whisper"],), {})
    with pytest.raises(ValueError, match="whisper"):
        register(again)
    assert register(FAMILIES["whisper"]) is FAMILIES["whisper"] is not again


@pytest.mark.parametrize("name", CONFIGS)
def test_class_data(name):
    family = FAMILIES[name]
    assert load_policy(family.policy)
    configs = {"base_config", "train_config", "inference_config"}
    assert set(family.defaults) == {"base_model", *configs}
    assert all(family.defaults[option] for option in configs)


# --- options of a recipe


def test_base_model_of_espnet_s2t_is_a_directory(tmp_path):
    check = FAMILIES["espnet_s2t"].check_options
    check({"langs": "de"})
    check({"langs": "de", "base_model": str(tmp_path)})
    with refusal("--base_model", "nowhere", kind=UsageError):
        check({"langs": "de", "base_model": "nowhere"})


@pytest.mark.parametrize(
    ("option", "value", "fact"),
    [
        ("window", "31", "31"),
        ("window", "0", "0"),
        ("window", "ten", "ten"),
        ("st_language", "english", "english"),
        ("langs", "de ab", "'ab'"),
        ("langs", "xy de ab", "'xy', 'ab'"),
        ("base_model", "smal", "small"),
        ("base_model", "", ""),
    ],
)
def test_options_that_whisper_refuses(option, value, fact):
    check = FAMILIES["whisper"].check_options
    options = {"window": "10", "st_language": "target", "langs": "de zh-HK"}
    check({**options, "base_model": "small"})
    check(options)
    with refusal(f"--{option}", fact, kind=UsageError):
        check({**options, option: value})


# --- models


@pytest.mark.parametrize(("key", "value"), [("window", 31.0), ("window", 0.0), ("x", 1)])
def test_wrong_whisper_conf(key, value):
    with refusal("a.yaml", key, kind=UsageError):
        family_from({"whisper_conf": {"dims": DIMS, key: value}}, "a.yaml")


@pytest.mark.parametrize("name", CONFIGS)
def test_pairs_that_a_model_has_a_prompt_for(name):
    family = family_from(CONFIGS[name], "a.yaml")
    assert set(family.tasks) <= set(TASKS)
    family.check_pairs([Pair("de", "asr")])
    with pytest.raises(LorsError) as caught:
        family.check_pairs([Pair("de", "asr"), Pair("fr" if name == "espnet_s2t" else "ab", "st")])
    assert "a.yaml" in str(caught.value)


# --- wav2vec 2.0


def test_characters_of_a_vocabulary():
    tokens = vocabulary_of(["ab b", "ñ"])
    assert tokens == ("<pad>", "<unk>", "|", "a", "b", "ñ")
    assert encode("b añx", tokens) == [4, 2, 3, 5, 1]
    # Repetitions are one character, unless a blank lies between them.
    assert decode([0, 4, 4, 0, 4, 2, 2, 0, 3, 1, 0, 2], tokens) == "bb a"
    assert decode([], tokens) == ""
    assert frames_needed("aab") == 4 and frames_needed("") == 0
    assert spelt("Größe, JA!", "de-x-anna") == "größe ja"
    assert " " not in spelt("你好 世界", "zh-CN")


def test_frames_of_a_waveform():
    conf = Wav2Vec2Conf({})
    assert conf.shortest == 400  # 25 ms, as of all published models
    assert [conf.frames(samples) for samples in (399, 400, 719, 720, 16000)] == [0, 1, 1, 2, 49]
    assert not conf.pads and Wav2Vec2Conf({"feat_extract_norm": "layer"}).pads
    own = Wav2Vec2Conf({"conv_kernel": [4, 2], "conv_stride": [2, 1]})
    assert own.shortest == 6 and own.frames(6) == 1


@pytest.mark.parametrize(
    ("objective", "text", "duration", "fact"),
    [
        *(("ctc", "abc", 0.1, None), ("ctc", "abcd", 0.1, None), ("ctc", "aabb", 0.1, "6 needed")),
        *(("ctc", "", 9.0, "transcript"), ("ctc", "a", None, None)),
        *(("contrastive", "", 0.1, "11 needed"), ("contrastive", "", 0.5, None)),
    ],
)
def test_utterances_that_wav2vec2_cannot_be_trained_on(objective, text, duration, fact):
    config = {**CONFIGS["wav2vec2"], "model_conf": {"objective": objective}}
    utterance = Utterance("u", "u.wav", "s", "de", text, {}, duration)
    reason = family_from(config, "a.yaml").why_unusable(utterance, {"text": text})
    assert (reason is None) if fact is None else fact in reason


def test_options_that_wav2vec2_refuses(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    check = FAMILIES["wav2vec2"].check_options
    check({"langs": "de", "base_model": "facebook/wav2vec2-xls-r-300m"})
    with refusal("--base_model", "train_base.sh", kind=UsageError):
        check({"base_model": ""})
    with refusal("--dumpdir", kind=UsageError):
        FAMILIES["wav2vec2"].import_base("published", "out", {"langs": "de"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refusal("transformers", "wav2vec2"):
        check({"langs": "de"})


def test_what_a_wav2vec2_model_lacks():
    for tokens, pair, fact in (([], "asr", "tokens"), (["<pad>"], "st", "de_st")):
        config = {"wav2vec2_conf": {"config": {}, "tokens": tokens}}
        with refusal("a.yaml", fact):
            family_from(config, "a.yaml").check_pairs([Pair("de", pair)])
