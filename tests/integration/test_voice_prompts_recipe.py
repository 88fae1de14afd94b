"""The recipe of the voice prompts on small packages and a tiny Whisper, to the trained models."""

from __future__ import annotations

import pytest

from lors.config import read_yaml
from tests.integration.recipe import Ended, Recipe, derive_config, stages_of
from tests.integration.tiny_whisper import make_whisper
from tests.prompt_packages import small_prompts, spoken, write_packages

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

LANGS = ["en", "es"]
PAIRS = ["en_asr", "es_asr", "es_st"]
OPTIONS = ["--langs", " ".join(LANGS), "--base_model", "tiny.pt", "--stop_stage", "baselines"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Recipe, Ended]:
    recipe = Recipe(tmp_path_factory.mktemp("prompts") / "voice_prompts", "voice_prompts")
    packages = write_packages(recipe / "downloads/voice_prompts", small_prompts(), spoken)
    make_whisper(recipe / "tiny.pt", seed=1, scale=3)
    derive_config(
        recipe,
        "train_quick.yaml",
        "train_quick.yaml",
        num_iters_per_epoch=2,
        max_epoch=2,
        scheduler_conf={"max_lr": 0.001, "total_steps": 4},
    )
    ended = recipe.run(*OPTIONS, "--data_opts", f"--packages {packages}")
    assert ended.status == 0, ended.stderr
    return recipe, ended


def test_stages_and_credits(run):
    recipe, ended = run
    assert stages_of(ended.stderr) == ["data", "format", "base", "stats", "experts", "baselines"]
    assert (recipe / "data/CREDITS").exists() and (recipe / "data/LICENSE").exists()
    assert read_yaml(recipe.exp / "base/config.yaml")["whisper_conf"]["window"] == "auto"


def test_english_is_not_translated_into_english(run):
    recipe, _ = run
    assert sorted(path.name for path in (recipe.exp / "expert").iterdir()) == PAIRS
    assert not (recipe / "data/en/train/text.en").exists()
    for pair in [*(f"expert/{pair}" for pair in PAIRS), "joint"]:
        assert (recipe.exp / pair / "model.pth").exists()


def test_a_second_run_makes_nothing_again(run):
    recipe, _ = run
    before = {path: path.stat().st_mtime_ns for path in recipe.exp.rglob("*.pth")}
    ended = recipe.run(*OPTIONS, "--stage", "base")
    assert ended.status == 0, ended.stderr
    assert before == {path: path.stat().st_mtime_ns for path in recipe.exp.rglob("*.pth")}
