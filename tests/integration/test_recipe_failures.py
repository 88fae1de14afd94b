"""Failing runs of the mini recipe: their messages, and the files that they leave."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.integration.recipe import (
    OPTIONS,
    Recipe,
    derive_config,
    file_times,
    same,
    stages_of,
    state,
    told_to_go_on,
)

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

# The programs that the recipe's scripts need besides Python; espeak-ng and apt are none of them.
TOOLS = "bash env dirname basename id grep sed cut tail head cat tr mkdir rm mv flock df awk date"
ONE_EXPERT = ["--langs", "de", "--tasks", "asr", *OPTIONS[2:]]


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """A recipe directory in which nothing has been made."""
    return Recipe(tmp_path / "mini_covost")


def made(recipe: Recipe) -> list[str]:
    """Return the products of a recipe that exist."""
    return [name for name in ("downloads", "data", "dump", "exp") if (recipe / name).exists()]


# --- before anything is made --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--stop-stag", "3"], ["--stop-stag", "--stop_stage"]),
        (["--skip_train", "maybe"], ["--skip_train", "true", "false", "'maybe'"]),
        (["--stage", "trian"], ["trian"]),
        (["--tasks", "asr mt"], ["tasks", "asr, st", "'mt'"]),
        (
            ["--baselines", "joint chain"],
            ["baselines", "joint, sequential, sequential_reversed", "'chain'"],
        ),
        (["--langs", "de tlh"], ["'tlh'"]),
        (["stray"], ["stray"]),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(recipe, options, facts):
    ended = recipe.run(*options)
    assert ended.status == 2, ended.stderr
    assert all(fact in ended.stderr for fact in facts) and "Traceback" not in ended.stderr
    assert made(recipe) == []


def test_unknown_names_come_with_the_valid_ones(recipe):
    assert "ca, de, es, fr, id, it, nl, pt, ru, sv-SE" in recipe.run("--langs", "tlh").stderr
    stages = recipe.run("--stage", "trian").stderr
    assert "data format base stats experts baselines tune merge inference score pack" in stages


def test_no_espeak_and_no_apt(recipe, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in TOOLS.split():
        (programs / tool).symlink_to(shutil.which(tool))
    ended = recipe.run(environment={"PATH": str(programs)})
    assert ended.status == 1, ended.stderr
    assert "apt-get install -y espeak-ng" in ended.stderr
    assert "stage 1 (data) failed" in ended.stderr and "command not found" not in ended.stderr
    assert made(recipe) == ["exp"] and [p.name for p in recipe.exp.iterdir()] == ["recipe.json"]


def test_directory_that_is_no_base_model(corpus, tmp_path):
    recipe = corpus[0].fork(tmp_path / "mini_covost")
    ended = recipe.run(*OPTIONS, "--base_model", "conf", "--stage", "base")
    assert ended.status == 1
    for name in ("conf/config.yaml", "conf/model.pth", "local/train_base.sh"):
        assert name in ended.stderr
    assert "stage 3 (base) failed" in ended.stderr and not (recipe.exp / "base").exists()


# --- training -----------------------------------------------------------------------------------


def test_failing_training_shows_its_log_and_how_to_go_on(reference, tmp_path):
    recipe = reference.recipe.fork(tmp_path / "mini_covost", "base", "stats")
    derive_config(recipe, "tiny_expert.yaml", "bad.yaml", optim="adamww")
    command = [*ONE_EXPERT, "--train_config", "conf/bad.yaml", "--stage", "experts"]
    ended = recipe.run(*command)
    assert ended.status == 1
    assert "invalid choice: 'adamww'" in ended.stderr or "adamww" in ended.stderr
    assert "exp/log/train_expert.1.log" in ended.stderr
    assert "exp/expert/de_asr/train.log" in ended.stderr
    code, stages = recipe.status()
    unit = stages["experts"]["de_asr"]
    assert code == 1 and (unit["state"], unit["status"]) == ("failed", 1)
    assert unit["log"] == "exp/log/train_expert.1.log" and "adamww" in unit["error"]
    assert "stage 5 (experts) failed" in ended.stderr
    assert told_to_go_on(ended.stderr) == ["cd", str(recipe.directory), "&&", "./run.sh", *command]
    assert not (recipe.exp / "expert/de_asr/model.pth").exists()
    assert stages_of(ended.stderr) == ["experts"]


@pytest.mark.parametrize("stage", ["stats", "experts"])
def test_other_configuration_in_the_same_expdir(reference, tmp_path, stage):
    parts = ("base", "stats", "expert")
    recipe = reference.recipe.fork(tmp_path / "mini_covost", *parts)
    derive_config(recipe, "tiny_expert.yaml", "other.yaml", optim_conf={"lr": 0.5})
    before = {part: file_times(recipe.exp / part) for part in parts}
    command = [*ONE_EXPERT, "--train_config", "conf/other.yaml", "--stage", stage]
    ended = recipe.run(*OPTIONS, *command, "--stop_stage", stage)
    assert ended.status == 1, ended.stderr
    assert "made with other settings" in ended.stderr
    assert "config.optim_conf.lr: 0.005 -> 0.5" in ended.stderr
    assert "use another --expdir" in ended.stderr
    for part, times in before.items():
        assert file_times(recipe.exp / part) == times, part


def test_full_disk_while_training_saves(reference, tmp_path):
    """No incomplete checkpoint may be left: neither in its place nor beside it."""
    recipe = reference.recipe.fork(tmp_path / "mini_covost", "base", "stats")
    size = (recipe.exp / "base/model.pth").stat().st_size
    command = [*ONE_EXPERT, "--stage", "experts", "--stop_stage", "experts"]
    ended = recipe.run(*command, limit=2 * size)
    assert ended.status == 1, ended.stderr
    assert "stage 5 (experts) failed" in ended.stderr
    expert = recipe.exp / "expert/de_asr"
    assert not (expert / "model.pth").exists()
    assert "File too large" in (expert / "train.log").read_text()
    assert not list(expert.glob("*.pth")) and not list(expert.glob(".*.tmp"))
    ended = recipe.run(*command)
    assert ended.status == 0, ended.stderr
    assert same(state(expert), state(reference.recipe.exp / "expert/de_asr"))


# --- merging ------------------------------------------------------------------------------------


def test_full_disk_while_merging(reference, tmp_path):
    recipe = reference.recipe.fork(tmp_path / "mini_covost", "base", "expert", "tune")
    size = (recipe.exp / "base/model.pth").stat().st_size
    command = [*OPTIONS, "--stage", "merge", "--stop_stage", "merge"]
    ended = recipe.run(*command, limit=size // 2)
    assert ended.status == 1, ended.stderr
    assert "the model could not be written" in ended.stderr and "File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    left = [path.name for path in (recipe.exp / "merged").rglob("*") if path.is_file()]
    assert left == [".done.started"]
    ended = recipe.run(*command)
    assert ended.status == 0, ended.stderr
    for model in (recipe.exp / "merged").iterdir():
        assert same(state(model), state(reference.recipe.exp / "merged" / model.name))


@pytest.mark.parametrize("stage", ["tune", "merge"])
def test_experts_of_another_shape(reference, tmp_path, stage):
    """Both stages that merge name every tensor that does not fit, and its experts."""
    parts = ("base", "expert", "tune") if stage == "merge" else ("base", "expert")
    recipe = reference.recipe.fork(tmp_path / "mini_covost", *parts)
    model = recipe.exp / "expert/es_asr/model.pth"
    weights = dict(state(model.parent))
    weights["ctc.ctc_lo.bias"] = torch.zeros(3)
    weights["one.too.many"] = torch.zeros(1)
    del weights["decoder.embed.0.weight"]
    model.unlink()  # a link to ESPnet's own file
    torch.save(weights, model)
    options = [*OPTIONS, "--tasks", "asr", "--stage", stage, "--stop_stage", stage]
    ended = recipe.run(*options)
    assert ended.status == 1, ended.stderr
    for name in ("ctc.ctc_lo.bias", "one.too.many", "decoder.embed.0.weight"):
        assert name in ended.stderr
    assert "expert/es_asr/model.pth" in ended.stderr
    assert not (recipe.exp / "merged").exists() or not list(recipe.exp.glob("merged/*/model.pth"))
