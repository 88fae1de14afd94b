"""The registered model families, and which one a configuration belongs to."""

import pytest
import yaml

from lors.errors import LorsError, UsageError
from lors.merge.policy import load_policy
from lors.models import FAMILIES, family_from, family_of
from lors.models.family import register
from lors.tasks import Pair
from tests.integration.tiny_whisper import DIMS
from tests.refusal import refusal

CONFIGS = {
    "espnet_s2t": {"token_list": ["<deu>", "<asr>"], "encoder": "transformer"},
    "whisper": {"whisper_conf": {"dims": DIMS}},
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
    family.check_pairs([Pair("de", "asr")])
    with pytest.raises(LorsError) as caught:
        family.check_pairs([Pair("de", "asr"), Pair("fr" if name == "espnet_s2t" else "ab", "st")])
    assert "a.yaml" in str(caught.value)
