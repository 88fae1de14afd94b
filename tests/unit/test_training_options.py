"""Options of ESPnet for a training, checked before any model is read."""

from pathlib import Path

import pytest
import yaml

from lors.errors import UsageError
from lors.recipe.training_options import read_training_options
from tests.refusal import refusal

ROOT = Path(__file__).parents[2]
SCHEDULE = {"scheduler": "onecyclelr", "scheduler_conf": {"total_steps": 200}}
CONFIG = {"max_epoch": 4, "num_iters_per_epoch": 50}


@pytest.fixture
def read(tmp_path):
    """Read options from a file train.yaml."""

    def read(config):
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
        return read_training_options(tmp_path / "train.yaml")

    return read


@pytest.mark.parametrize(
    "config",
    [
        {**CONFIG, **SCHEDULE},
        {**CONFIG, **SCHEDULE, "accum_grad": 2, "num_iters_per_epoch": 100},
        {**CONFIG, **SCHEDULE, "scheduler": "warmuplr"},
        {**CONFIG, "scheduler": "onecyclelr"},
        {**SCHEDULE, "max_epoch": 3},
        {"keep_nbest_models": 1},
        {"keep_nbest_models": [1]},
        {"grad_clip": float("inf")},
        {"adapter_conf": {"bias_type": "all"}},
        {"use_adapter": True, "adapter_conf": {"bias_type": "none"}},
        {"use_adapter": True, "adapter_conf": {"rank": 4}},
    ],
)
def test_fine_options(read, config):
    assert read(config) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"max_epoch": 3},
        {"accum_grad": 2},
        # An epoch of 67 batches has 33 steps, and one of the joint model of three pairs has 100.
        {"accum_grad": 2, "num_iters_per_epoch": 67, "max_epoch": 6},
    ],
)
def test_schedule_that_is_shorter_or_longer_than_the_training(read, changes):
    facts = ["train.yaml", "total_steps: 200", *(f"{k}: {v}" for k, v in changes.items())]
    with refusal(*facts, kind=UsageError):
        read({**CONFIG, **SCHEDULE, **changes})


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        ({"keep_nbest_models": 5}, ("keep_nbest_models of", 5)),
        ({"keep_nbest_models": [1, 5]}, ("keep_nbest_models of", [1, 5])),
        ({"optim_conf": {"lr": float("nan")}}, ("optim_conf.lr",)),
        ({"use_adapter": True, "adapter_conf": {"bias_type": "all"}}, ("bias_type: all",)),
        ({"use_adapter": True, "adapter_conf": {"bias_type": "lora_only"}}, ("lora_only",)),
    ],
)
def test_options_that_are_refused(read, config, facts):
    with refusal("train.yaml", *facts, kind=UsageError):
        read(config)


def test_options_of_the_recipes():
    files = [*ROOT.glob("conf/train_*.yaml"), *ROOT.glob("egs/*/*/conf/train_*.yaml")]
    assert len(files) > 20
    for file in files:
        assert read_training_options(file)
