"""The recipe of the voice prompts, on small packages and a tiny Whisper: all stages, no network."""

from __future__ import annotations

import pytest

from lors.config import read_yaml
from lors.data.datadir import read_text
from tests.integration.recipe import Ended, Recipe, derive_config, stages_of
from tests.integration.tiny_whisper import make_whisper
from tests.prompt_packages import small_prompts, spoken, write_packages

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

LANGS = ["en", "es", "fr"]
PAIRS = ["en_asr", "es_asr", "es_st", "fr_asr", "fr_st"]
OPTIONS = ["--langs", " ".join(LANGS), "--base_model", "tiny.pt", "--methods", "lors"]
OPTIONS += ["--inference_config", "conf/tiny_inference.yaml"]


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
    derive_config(
        recipe,
        "tune_quick.yaml",
        "tune_quick.yaml",
        task_arithmetic={"scaling_coef": [0.3, 0.6]},
        lors={"rank": [2], "density": [0.2], "scaling_coef": [0.3, 0.6]},
    )
    derive_config(recipe, "inference_whisper.yaml", "tiny_inference.yaml", max_tokens=8)
    ended = recipe.run(*OPTIONS, "--data_opts", f"--packages {packages}")
    assert ended.status == 0, ended.stderr
    return recipe, ended


def test_all_stages_ran(run):
    recipe, ended = run
    assert len(stages_of(ended.stderr)) == 11
    assert (recipe / "data/CREDITS").exists() and (recipe / "data/LICENSE").exists()
    assert read_yaml(recipe.exp / "base/config.yaml")["whisper_conf"]["window"] == "auto"


def test_english_is_not_translated_into_english(run):
    recipe, _ = run
    assert sorted(path.name for path in (recipe.exp / "expert").iterdir()) == PAIRS
    experts = read_yaml(recipe.exp / "merged/lors.asr_st/merge.yaml")["plan"]["experts"]
    assert sorted(path.split("/")[-2] for path in experts) == PAIRS
    scored = recipe.exp / "scores/test/lors.langs_tasks"
    assert sorted(path.stem for path in scored.glob("*_*.json")) == PAIRS


def test_every_clip_of_the_test_sets_has_a_hypothesis(run):
    recipe, _ = run
    for pair in PAIRS:
        lang = pair.split("_")[0]
        references = read_text(recipe / "dump" / lang / "test/text")
        assert len(references) >= 2
        for system in ("base", "expert", "joint", "lors.langs", "lors.langs_tasks"):
            hypotheses = read_text(recipe.exp / "inference/test" / system / pair)
            assert list(hypotheses) == list(references)


def test_a_second_run_makes_nothing_again(run):
    recipe, _ = run
    before = {path: path.stat().st_mtime_ns for path in recipe.exp.rglob("*.pth")}
    ended = recipe.run(*OPTIONS, "--stage", "base")
    assert ended.status == 0, ended.stderr
    assert before == {path: path.stat().st_mtime_ns for path in recipe.exp.rglob("*.pth")}
