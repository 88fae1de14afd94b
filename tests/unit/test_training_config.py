"""ESPnet's options for a training."""

from pathlib import Path

import pytest
from stand_ins import BASE_CONFIG, write_base

from lors.config import read_yaml
from lors.errors import UsageError
from lors.recipe.training_config import (
    check_kept_models,
    check_schedule,
    fine_tuning_config,
    from_scratch_config,
    stats_config,
    training_config,
)
from lors.tasks import Pair
from tests.refusal import refusal

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("bias_type", ["all", "lora_only"])
def test_biases_of_adapters(base, bias_type):
    """ESPnet takes the option, and neither trains nor saves the biases."""
    config = {**CONFIG, "use_adapter": True, "adapter_conf": {"bias_type": bias_type}}
    with refusal("adapter_conf.bias_type", bias_type, kind=UsageError):
        fine_tuning_config(base, config, PAIRS)
    for others in ({"use_adapter": False}, {"adapter_conf": {"bias_type": "none"}}):
        fine_tuning_config(base, {**config, **others}, PAIRS)


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


SCHEDULE = {"scheduler": "onecyclelr", "scheduler_conf": {"total_steps": 200}}


@pytest.mark.parametrize(
    "config",
    [
        {**CONFIG, **SCHEDULE},
        {**CONFIG, **SCHEDULE, "accum_grad": 2, "num_iters_per_epoch": 100},
        {**CONFIG, **SCHEDULE, "scheduler": "warmuplr"},
        {**CONFIG, "scheduler": "onecyclelr"},
        {**SCHEDULE, "max_epoch": 3},
    ],
)
def test_schedule_that_is_as_long_as_the_training(config):
    check_schedule(config, "train.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        {"max_epoch": 3},
        {"accum_grad": 2},
        # An epoch of 67 batches has 33 steps, and one of the joint model of three pairs has 100.
        {"accum_grad": 2, "num_iters_per_epoch": 67, "max_epoch": 6},
    ],
)
def test_schedule_that_is_shorter_or_longer_than_the_training(changes):
    config = {**CONFIG, **SCHEDULE, **changes}
    facts = ["train.yaml", "total_steps: 200", *(f"{k}: {v}" for k, v in changes.items())]
    with refusal(*facts, kind=UsageError):
        check_schedule(config, "train.yaml")


def test_schedules_of_the_recipes():
    files = [*ROOT.glob("conf/train_*.yaml"), *ROOT.glob("egs/*/*/conf/train_*.yaml")]
    assert len(files) > 20
    for file in files:
        check_schedule(read_yaml(file), file)


@pytest.mark.parametrize("kept", [5, [1, 5]])
def test_average_of_epochs_is_refused(kept):
    with refusal("keep_nbest_models of train.yaml", kept, kind=UsageError):
        check_kept_models({"keep_nbest_models": kept}, "train.yaml")
    for fine in ({"keep_nbest_models": 1}, {"keep_nbest_models": [1]}, {}):
        check_kept_models(fine, "train.yaml")
