"""ESPnet's options for a training."""

import pytest
from stand_ins import BASE_CONFIG, write_base

from lors.recipe.training_config import (
    fine_tuning_config,
    from_scratch_config,
    stats_config,
    training_config,
)
from lors.tasks import Pair
from tests.refusal import refusal

PAIRS = [Pair("de", "asr"), Pair("es", "st")]
CONFIG = {"num_iters_per_epoch": 50, "max_epoch": 4, "batch_type": "unsorted"}


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


def test_fine_tuning_takes_the_model_from_its_base(base):
    config = fine_tuning_config(base, {"max_epoch": 4, "optim": "adamw"}, PAIRS)
    assert config == {
        **{k: BASE_CONFIG[k] for k in ("token_list", "token_type", "bpemodel", "normalize")},
        **{k: BASE_CONFIG[k] for k in ("normalize_conf", "encoder", "encoder_conf", "model_conf")},
        "max_epoch": 4,
        "optim": "adamw",
        "init_param": [str(base / "model.pth")],
    }


def test_fine_tuning_cannot_change_the_model(base):
    clash = {"max_epoch": 4, "encoder": "conformer", "token_list": ["b"]}
    with refusal("encoder", "token_list", base / "config.yaml"):
        fine_tuning_config(base, clash, PAIRS)


@pytest.mark.parametrize("key", ["init_param", "quantised_base"])
def test_fine_tuning_cannot_begin_with_another_model(base, key):
    with refusal(key, base):
        fine_tuning_config(base, {**CONFIG, key: ["other/model.pth"]}, PAIRS)
    fine_tuning_config(base, {**CONFIG, key: []}, PAIRS)  # as in ESPnet's own config.yaml


def test_fine_tuning_in_a_language_that_the_base_does_not_know(base):
    pairs = [*PAIRS, Pair("sv-SE", "asr"), Pair("fr", "st")]
    with refusal("<fra>", "<swe>", "de es", "local/train_base.sh", base / "config.yaml"):
        fine_tuning_config(base, CONFIG, pairs)


def test_fine_tuning_without_a_base(tmp_path):
    with refusal(tmp_path / "config.yaml"):
        fine_tuning_config(tmp_path, CONFIG, PAIRS)


def test_from_scratch_config():
    given = {"max_epoch": 4, "encoder": "transformer"}
    config = from_scratch_config("exp/base", given)
    names = {"bpemodel": "exp/base/bpe.model", "token_list": "exp/base/tokens.txt"}
    assert config == {**given, "token_type": "bpe", **names}
    config = from_scratch_config("exp/base", {"normalize": "global_mvn"})
    assert config["normalize_conf"] == {"stats_file": "exp/base/feats_stats.npz"}
    assert given == {"max_epoch": 4, "encoder": "transformer"}


def test_statistics_of_features_are_those_of_speech():
    conf = {"speech_length": 4.0, "fs": 16000}
    given = from_scratch_config("exp/base", {"normalize": "global_mvn", "preprocessor_conf": conf})
    config = stats_config(given)
    assert config["normalize"] is None and "normalize_conf" not in config
    assert config["preprocessor_conf"] == {"speech_length": 1.0, "fs": 16000}
    assert given["normalize_conf"] and conf["speech_length"] == 4.0


def test_a_base_model_keeps_its_statistics(base):
    given = fine_tuning_config(base, CONFIG, PAIRS)
    config = stats_config(given)
    assert config["normalize_conf"] == BASE_CONFIG["normalize_conf"]
    assert config["model_conf"] == {"ctc_weight": 0.3, "extract_feats_in_collect_stats": False}
    assert "init_param" in given and "init_param" not in config


def test_budget_counts_per_pair():
    schedule = {"max_lr": 0.001, "total_steps": 200}
    config = training_config({**CONFIG, "scheduler_conf": schedule}, pairs=3, seed=7)
    assert (config["num_iters_per_epoch"], config["seed"]) == (150, 7)
    assert config["scheduler_conf"] == {"max_lr": 0.001, "total_steps": 600}
    assert (CONFIG["num_iters_per_epoch"], schedule["total_steps"]) == (50, 200)


def test_budget_of_whole_epochs_is_left_alone():
    config = training_config({"max_epoch": 4, "scheduler_conf": None}, pairs=3, seed=1)
    assert config == {"max_epoch": 4, "scheduler_conf": None, "seed": 1}
