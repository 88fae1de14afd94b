"""The mini recipe with a tiny Whisper: the same stages, from a file of OpenAI to packed models."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import pytest
import torch
import whisper
import yaml

from lors.data.datadir import read_text
from lors.fileio import read_json
from tests.integration.recipe import (
    LANGS,
    ROOT,
    Ended,
    Recipe,
    derive_config,
    same,
    stages_of,
    state,
    write_configs,
)
from tests.integration.tiny_whisper import DIMS

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

TASKS = ["asr", "st"]
PAIRS = [f"{lang}_{task}" for lang in LANGS for task in TASKS]
FAMILY = ["--model_family", "whisper", "--langs", " ".join(LANGS)]
FAMILY += ["--data_opts", "--num_train 16 --num_dev 12 --num_test 6 --num_pool 24"]
TUNING = ["--tune_config", "conf/tiny_tune.yaml"]
INFERENCE = ["--inference_config", "conf/tiny_inference.yaml"]
OPTIONS = [*FAMILY, *TUNING, *INFERENCE, "--base_model", "tiny.pt", "--window", "4"]
STAGES = ["base", "stats", "experts", "baselines", "tune", "merge", "inference", "score", "pack"]
STAGES += ["upload"]


@dataclass(frozen=True)
class WhisperRun:
    """A new base model, exported to a file of OpenAI, and the run that starts from this file."""

    recipe: Recipe
    base: Ended
    full: Ended


def set_training(recipe: Recipe, source: str, target: str, steps: int, lr: float) -> None:
    """Write a configuration for that many steps of each language-task pair."""
    epochs = 2
    derive_config(
        recipe,
        source,
        target,
        batch_size=8,
        num_workers=0,
        log_interval=10,
        num_iters_per_epoch=steps // epochs,
        max_epoch=epochs,
        optim_conf={"lr": lr},
        scheduler_conf={"max_lr": lr, "total_steps": steps},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> WhisperRun:
    recipe = Recipe(tmp_path_factory.mktemp("whisper") / "mini_covost")
    write_configs(recipe)
    set_training(recipe, "train_whisper_base.yaml", "tiny_base.yaml", 40, 0.005)
    dims = {**DIMS, "n_audio_state": 64, "n_text_state": 64}
    derive_config(
        recipe,
        "tiny_base.yaml",
        "tiny_base.yaml",
        specaug=None,
        specaug_conf={},
        whisper_conf={"dims": dims, "window": 4.0},
    )
    set_training(recipe, "train_whisper_full.yaml", "train_whisper_full.yaml", 40, 0.005)
    # On very few sentences, base and expert could have the same score by chance.
    derive_config(recipe, "tiny_tune.yaml", "tiny_tune.yaml", utterances_per_language=12)
    derive_config(recipe, "inference_whisper.yaml", "tiny_inference.yaml", max_tokens=16)
    base = recipe.run(
        *FAMILY,
        *("--base_config", "conf/tiny_base.yaml", "--expdir", "exp/own"),
        program="local/train_base.sh",
    )
    assert base.status == 0, base.stderr
    command = [sys.executable, "-m", "lors.bin.export_whisper"]
    command += ["--model", "exp/own/base/model.pth", "--out", "tiny.pt"]
    subprocess.run(command, cwd=recipe.directory, env={"PYTHONPATH": str(ROOT)}, check=True)
    full = recipe.run(*OPTIONS)
    assert full.status == 0, full.stderr
    return WhisperRun(recipe, base, full)


def test_base_has_learnt_something(run):
    """By chance 1 of 51865 tokens is right; this model knows more than a few frequent words."""
    log = (run.recipe / "exp/own/base/train.log").read_text()
    epochs = re.findall(r"\[train\] .*?acc=([\d.]+).*?\[valid\] loss=\S+, acc=([\d.]+)", log)
    on_train, on_dev = map(float, epochs[-1])
    assert on_train > 0.25 and on_dev > 0.2


def test_official_form(run):
    """openai-whisper loads the file from which the recipe starts."""
    model = whisper.load_model(str(run.recipe / "tiny.pt"))
    trained, base = state(run.recipe / "exp/own/base"), state(run.recipe.exp / "base")
    assert same(model.state_dict(), base) and same(
        dict(sorted(trained.items())), dict(sorted(base.items()))
    )
    assert model.dims.n_text_head == DIMS["n_text_head"] and model.is_multilingual


def test_the_very_same_stages(run):
    assert stages_of(run.full.stderr)[-len(STAGES) :] == STAGES
    for name in ("base", "expert", "joint", "average", "task_arithmetic", "lors", "lors+boost"):
        assert any(line.startswith(name) for line in run.full.stdout.splitlines()), name


def test_every_system_answers_every_test_utterance(run):
    scores = {}
    for system in ("base", "expert", "joint", "lors.langs", "lors.langs_tasks"):
        for pair in PAIRS:
            lang = pair.rpartition("_")[0]
            said = read_text(run.recipe.exp / "inference/test" / system / pair)
            assert list(said) == list(read_text(run.recipe / f"dump/{lang}/test/text"))
            scores[system, pair] = read_json(
                run.recipe.exp / "scores/test" / system / f"{pair}.json"
            )
    # The purpose of fine-tuning: the expert knows its language better than the base model.
    better = [
        scores["expert", pair]["wer"] < scores["base", pair]["wer"]
        for pair in PAIRS
        if pair.endswith("asr")
    ]
    assert any(better)


def test_merged_model_is_a_whisper(run):
    merged = run.recipe.exp / "merged" / "lors.asr_st"
    base = state(run.recipe.exp / "base")
    assert list(state(merged)) == list(base) and not same(state(merged), base)
    assert torch.equal(
        state(merged)["encoder.positional_embedding"], base["encoder.positional_embedding"]
    )
    config = yaml.safe_load((merged / "config.yaml").read_text())
    assert config["whisper_conf"]["window"] == 4.0


def test_packed_model_loads_into_the_task(run, tmp_path):
    from lors.models.whisper.task import WhisperTask

    packed = run.recipe.exp / "packed" / "lors+boost.asr_st.zip"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    meta = yaml.safe_load((tmp_path / "meta.yaml").read_text())
    model, _ = WhisperTask.build_model_from_file(
        tmp_path / meta["yaml_files"]["s2t_train_config"],
        tmp_path / meta["files"]["s2t_model_file"],
        "cpu",
    )
    assert same(model.state_dict(), state(run.recipe.exp / "merged" / "lors+boost.asr_st"))


def test_rerun_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.recipe.exp.rglob("*.pth")}
    ended = run.recipe.run(*OPTIONS, "--stage", "base", "--stop_stage", "inference")
    assert ended.status == 0, ended.stderr
    assert before == {path: path.stat().st_mtime_ns for path in run.recipe.exp.rglob("*.pth")}


def test_wrong_base_is_told_before_any_training(run):
    for options, message in (
        (["--window", "2"], "in a window of 2 s"),
        (["--langs", "de ab"], "ab"),
    ):
        stages = ["--stage", "base", "--stop_stage", "baselines"]
        ended = run.recipe.run(*OPTIONS, *options, "--expdir", "exp/wrong", *stages)
        assert ended.status != 0 and message in ended.stderr
        assert not (run.recipe / "exp/wrong/expert").exists()
