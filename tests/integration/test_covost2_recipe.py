"""The covost2 recipe, unchanged, on a small corpus in the official layout and a tiny Whisper."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
import yaml

from lors.data.datadir import read_data_dir, validate_data_dir
from lors.fileio import read_json
from tests.integration.recipe import ROOT, Ended, Recipe, derive_config, stages_of
from tests.integration.tiny_whisper import make_whisper

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

LANGS = ["de", "es"]
OPTIONS = ["--langs", " ".join(LANGS), "--tasks", "asr", "--methods", "average lors"]
OPTIONS += ["--base_model", "tiny.pt", "--window", "4", "--train_hours", "0.006"]
OPTIONS += ["--train_config", "conf/train_whisper_tiny.yaml"]
OPTIONS += ["--inference_config", "conf/inference_whisper_tiny.yaml"]
OPTIONS += ["--tune_config", "conf/tune_tiny.yaml"]
STAGES = ["data", "format", "base", "stats", "experts", "baselines"]
STAGES += ["tune", "merge", "inference", "score", "pack", "upload"]


@dataclass(frozen=True)
class Run:
    recipe: Recipe
    ended: Ended


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """The corpus lies where db.sh says; only the sizes of training and search are options."""
    recipe = Recipe(tmp_path_factory.mktemp("covost2") / "recipe", "covost2")
    make = [sys.executable, "-m", "lors.bin.make_espeak_corpus", "--out", "downloads"]
    make += ["--langs", *LANGS, "--condition", "domain"]
    make += ["--num_train", "16", "--num_dev", "4", "--num_test", "4"]
    subprocess.run(make, cwd=recipe.directory, env={"PYTHONPATH": str(ROOT)}, check=True)
    make_whisper(recipe / "tiny.pt", scale=4.0)
    derive_config(
        recipe,
        "train_whisper_full.yaml",
        "train_whisper_tiny.yaml",
        use_amp=False,
        batch_size=4,
        num_workers=0,
        log_interval=10,
        num_iters_per_epoch=10,
        max_epoch=2,
        optim_conf={"lr": 0.005},
        scheduler_conf={"max_lr": 0.005, "total_steps": 20},
    )
    derive_config(recipe, "inference_whisper.yaml", "inference_whisper_tiny.yaml", max_tokens=12)
    tune = {
        "utterances_per_language": 3,
        "average": {"scaling_coef": [1.0]},
        "lors": {"rank": [2], "density": [0.2], "scaling_coef": [0.5]},
    }
    (recipe / "conf/tune_tiny.yaml").write_text(yaml.safe_dump(tune))
    ended = recipe.run(*OPTIONS)
    assert ended.status == 0, ended.stderr
    return Run(recipe, ended)


def test_all_stages(run):
    assert stages_of(run.ended.stderr) == STAGES
    for name in ("base", "expert", "joint", "sequential", "average", "lors"):
        assert any(line.startswith(name) for line in run.ended.stdout.splitlines()), name


@pytest.mark.parametrize("lang", LANGS)
def test_data(run, lang):
    for folder in ("data", "dump"):
        for split in ("train", "dev", "test"):
            path = run.recipe / folder / lang / split
            assert validate_data_dir(path, check_audio=True) == []
            assert (path / "text.en").exists() and (path / "utt2lang").exists()
            assert (path / "spk2gender").exists()
    train = read_data_dir(run.recipe / "dump" / lang / "train")
    seconds = sum(utt.duration for utt in train)
    assert 0.006 * 3600 <= seconds < 0.006 * 3600 + 4 and len(train) < 16
    listed = (run.recipe / f"dump/subset/{lang}_train.txt").read_text().splitlines()
    assert len(listed) == len(train)
    report = read_json(run.recipe / "dump" / lang / "report.json")
    assert report["splits"]["train"]["dropped"] == {"not_in_subset": 16 - len(train)}
    assert report["overlap_with_train"]["test"]["speakers"] == 0


def test_every_test_utterance_is_scored(run):
    for system in ("base", "expert", "joint", "sequential", "average.langs", "lors.langs"):
        for lang in LANGS:
            score = read_json(run.recipe.exp / "scores/test" / system / f"{lang}_asr.json")
            assert score["utterances"] == 4
    assert (run.recipe.exp / "packed/lors.asr.zip").exists()
    assert "lors" in (run.recipe.exp / "RESULTS.md").read_text()


def test_rerun_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.recipe.exp.rglob("*.pth")}
    ended = run.recipe.run(*OPTIONS, "--stop_stage", "merge")
    assert ended.status == 0, ended.stderr
    assert before == {path: path.stat().st_mtime_ns for path in run.recipe.exp.rglob("*.pth")}
