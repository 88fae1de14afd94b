"""The contract of the recipes s3net1: files, options, printed commands and configurations."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lors.config import read_yaml
from lors.recipe.grid import read_grid
from lors.recipe.units import SCRIPTS
from tests.integration.recipe import Recipe, run
from tests.integration.tiny_wav2vec2 import PACKAGES, environment

ROOT = Path(__file__).parents[2]
RECIPES = {path.parent.name: path for path in sorted(ROOT.glob("egs/*/s3net1"))}
RECIPES.pop("TEMPLATE")
# Words of the commands of each stage.
STAGES = {
    "data": ["local/data.sh"],
    "format": ["lors.bin.format_audio"],
    "base": ["lors.bin.import_base"],
    "stats": ["lors.bin.train --base", "--collect_stats"],
    "experts": ["utils/run.py", "JOB=1:2", "lors.bin.train --base", "conf/train_lora.yaml"],
    "baselines": ["utils/run.py", "lors.bin.train --base"],
    "importance": ["JOB=1:2", "lors.bin.importance", "--langs de es"],
    "masks": ["lors.bin.find_masks", "--criteria magnitude taylor --rates 30"],
    "subnets": ["JOB=1:2", "train_subnet", "--systems s3net_magnitude_30 s3net_taylor_30"],
    "tune": ["utils/run.py", "lors.bin.tune"],
    "merge": ["lors.bin.merge_tuned"],
    "inference": ["s3net_magnitude_30 s3net_taylor_30 average.langs", "lors.bin.inference"],
    "overlap": ["lors.bin.mask_overlap"],
    "score": ["lors.bin.score_expdir", "lors.bin.results"],
    "pack": ["lors.bin.pack_subnets", "exp/s3net_magnitude_30", "exp/s3net_taylor_30"],
}


def test_there_are_recipes():
    assert {"mini_covost", "voice_prompts"} <= set(RECIPES)
    assert tuple(STAGES) == SCRIPTS["s3net"]


@pytest.mark.parametrize("name", RECIPES)
def test_files_of_a_recipe(name):
    recipe = RECIPES[name]
    for script in ("run.sh", "local/data.sh", "s3net.sh", "path.sh", "cmd.sh"):
        assert os.access(recipe / script, os.X_OK), script
    assert (recipe / "README.md").read_text(encoding="utf-8").startswith("# ")
    for script in ("s3net.sh", "path.sh", "cmd.sh", "utils"):
        assert (recipe / script).is_symlink(), script
    assert read_yaml(recipe / "conf/train_s3net.yaml")["batch_type"] == "folded"
    assert {"masked_magnitude", "masked_taylor"} <= set(read_grid(recipe / "conf/tune.yaml").points)


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_prints_the_commands_of_every_stage(name, tmp_path):
    recipe = Recipe(tmp_path / name, name, "s3net1")
    before = sorted(recipe.directory.rglob("*"))
    done = run(recipe, "--dry_run", "true", "--langs", "de es", "--tasks", "asr")
    assert done.returncode == 0, done.stdout
    parts = re.split(r"^.* stage \d+ \((\w+)\): .*\n", done.stdout, flags=re.MULTILINE)
    printed = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(printed) == list(STAGES)
    for stage, words in STAGES.items():
        assert all(word in printed[stage] for word in words), (stage, printed[stage])
    assert sorted(recipe.directory.rglob("*")) == before


def test_help_has_every_stage_and_option(tmp_path):
    done = run(Recipe(tmp_path / "mini", "mini_covost", "s3net1"), "--help")
    assert done.returncode == 0
    own = ("criteria", "rates", "mask_scope", "mask_rounds", "pretrained")
    own += ("s3net_config", "lora_config")
    for option in (*own, "langs", "expdir"):
        assert re.search(rf"^ +--{option} +\S.*\[.*\]$", done.stdout, re.MULTILINE), option
    for number, stage in enumerate(STAGES, 1):
        assert re.search(rf"^ +{number} +{stage} +\S", done.stdout, re.MULTILINE), stage


@pytest.mark.skipif(not (PACKAGES / "transformers").is_dir(), reason="no transformers")
def test_dry_run_of_a_self_supervised_encoder(tmp_path, monkeypatch):
    """Pre-training, fine-tuning after it, fine-tuning without it."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    recipe = Recipe(tmp_path / "mini", "mini_covost", "s3net1")
    done = recipe.run("--dry_run", "--langs", "de es", program="run_xlsr.sh")
    assert done.status == 0, done.stderr
    first, second, third = done.stdout.split("local/data.sh")[1:]
    assert "lors.bin.inference" not in first
    assert first.count("conf/train_wav2vec2_pretrain.yaml") == 5 and "train_subnet" in first
    for part, number in ((first, 0), (second, 3), (third, 0)):
        assert part.count("--pretrained exp/xlsr_pretrain") == number
    assert "lors.bin.importance" not in second and "lors.bin.importance" in third
    assert second.count("--config conf/train_wav2vec2.yaml") == 4
    assert "--base_model ../lors1/exp/base_wav2vec2/base --langs de\\ es" in second


@pytest.mark.parametrize(
    ("option", "value", "fact"),
    [
        ("--rates", "30 5", "10 to 90"),
        ("--criteria", "magnitud", "magnitude"),
        ("--rates", "50", "taylor_30"),  # conf/tune.yaml merges with the masks of 30 %
    ],
)
def test_wrong_masks_are_told_before_any_stage(option, value, fact, tmp_path):
    recipe = Recipe(tmp_path / "mini", "mini_covost", "s3net1")
    done = run(recipe, option, value)
    assert done.returncode == 2, done.stdout
    assert fact in done.stdout and value.split()[-1] in done.stdout
    assert not recipe.exp.exists()
