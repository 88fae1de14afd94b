"""S3Net on a tiny self-supervised encoder, by run_xlsr.sh: its three experiments and their end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

from lors.checkpoint.masks import Masks
from lors.config import read_yaml
from lors.fileio import read_json
from lors.models import FAMILIES
from lors.models.wav2vec2.vocabulary import SPACE, SPECIAL
from lors.recipe.units import SCRIPTS
from tests.integration.recipe import LANGS, Recipe, file_times, same, stages_of, state
from tests.integration.test_mini_recipe import tables
from tests.integration.tiny_wav2vec2 import PACKAGES, environment, make_wav2vec2

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.slow,
    pytest.mark.skipif(not (PACKAGES / "transformers").is_dir(), reason="no transformers"),
]

SYSTEM = "s3net_taylor_30"
DATA = ["--langs", " ".join(LANGS), "--data_opts", "--num_train 12 --num_dev 6 --num_test 6"]
OPTIONS = [*DATA, "--base_model", "tiny"]
OPTIONS += ["--methods", "average masked_taylor"]
PRETRAIN, CTC = "conf/train_wav2vec2_pretrain.yaml", "conf/train_wav2vec2.yaml"
NAMES = ("xlsr_pretrain", "xlsr_adapted", "xlsr")
"""The experiments of run_xlsr.sh, in their order."""


def make_small(recipe: Recipe, name: str) -> None:
    """Replace a configuration of the copied recipe, a link, by a smaller one."""
    config = read_yaml(recipe / name)
    config |= {"batch_size": 6, "num_workers": 0, "num_iters_per_epoch": 4, "max_epoch": 2}
    config["scheduler_conf"] |= {"total_steps": 8, "max_lr": 0.01}
    if config["model_conf"]["objective"] == "contrastive":
        config["model_conf"]["config"] = {"mask_time_prob": 0.3, "mask_time_length": 3}
    (recipe / name).unlink()
    (recipe / name).write_text(yaml.safe_dump(config))


def make_base(recipe: Recipe) -> None:
    """Write the base model ``tiny``: it hears more words than were said.

    Its word error rate is above 100 %. That of a model of a few steps, which hears nothing, is
    100 %: if both were equal, normalised performance would be undefined.
    """
    make_wav2vec2(recipe / "published", mask_time_prob=0.05)
    options = {"langs": " ".join(LANGS), "dumpdir": str(recipe / "dump")}
    FAMILIES["wav2vec2"].import_base(str(recipe / "published"), recipe / "tiny", options)
    weights = state(recipe / "tiny")
    weights["lm_head.weight"][SPECIAL.index(SPACE)] *= 4
    torch.save(weights, recipe / "tiny/model.pth")


def run(recipe: Recipe):
    return recipe.run(*OPTIONS, program="run_xlsr.sh", environment=environment())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe = Recipe(tmp_path_factory.mktemp("xlsr") / "mini_covost", system="s3net1")
    data = recipe.run(*DATA, "--stop_stage", "format")
    assert data.status == 0, data.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
        make_base(recipe)
    for name in (PRETRAIN, CTC):
        make_small(recipe, name)
    done = run(recipe)
    assert done.status == 0, done.stderr
    return recipe, done


def init_of(directory: Path) -> list[str]:
    return read_yaml(directory / "train.yaml")["init_param"]


def outside(masks: Masks, name: str) -> torch.Tensor:
    return ~(masks.mask("de", name) | masks.mask("es", name))


def test_every_stage_of_the_three_experiments(finished):
    recipe, done = finished
    every = list(SCRIPTS["s3net"])
    assert stages_of(done.stderr) == [*every[: every.index("subnets") + 1], *every, *every]
    assert "Traceback" not in done.stderr
    for part in ("expert", "inference"):  # masks by Taylor scores need no experts
        assert not (recipe.exp / "xlsr_pretrain" / part).exists()
        assert (recipe.exp / "xlsr" / part).exists()
    for name in NAMES[1:]:
        code, stages = recipe.status(f"exp/{name}")
        assert code == 0 and list(stages["subnets"]) == [SYSTEM]


def test_pre_training_is_the_start_of_the_fine_tuning(finished):
    recipe, _ = finished
    pre, exp, _ = (recipe.exp / name for name in NAMES)
    assert same(state(exp / "base"), state(pre / "base"))
    assert init_of(exp / "joint") == ["exp/xlsr_pretrain/joint/model.pth"]
    assert init_of(exp / SYSTEM) == [f"exp/xlsr_pretrain/{SYSTEM}/model.pth"]
    assert init_of(exp / "expert/de_asr") == ["exp/xlsr_adapted/base/model.pth"]
    for system in ("joint", SYSTEM):
        objectives = [
            read_yaml(directory / system / "train.yaml")["model_conf"]["objective"]
            for directory in (pre, exp)
        ]
        assert objectives == ["contrastive", "ctc"]
        for directory, choice in ((pre, "error"), (exp, "cer")):
            best = directory / system / f"valid.{choice}.best.pth"
            assert (directory / system / "model.pth").resolve() == best.resolve()
    base, adapted, tuned = (state(d) for d in (pre / "base", pre / SYSTEM, exp / SYSTEM))
    masks = Masks(exp / SYSTEM / "masks.safetensors")
    assert masks.path.read_bytes() == (pre / SYSTEM / "masks.safetensors").read_bytes()
    for name in masks.shapes:
        nowhere = outside(masks, name)
        assert torch.equal(adapted[name][nowhere], base[name][nowhere])
        assert torch.equal(tuned[name][nowhere], base[name][nowhere])
    name = "wav2vec2.encoder.layers.0.attention.q_proj.weight"
    assert not torch.equal(adapted[name], base[name]) and not same(adapted, tuned)
    # Only CTC trains its layer, and only the pre-training trains the quantizer.
    assert torch.equal(adapted["lm_head.weight"], base["lm_head.weight"])
    assert torch.equal(tuned["quantizer.codevectors"], adapted["quantizer.codevectors"])


def test_fine_tuning_without_further_pre_training(finished):
    """From the base model alone, under masks by the loss of the fine-tuning."""
    recipe, _ = finished
    pre, _, plain = (recipe.exp / name for name in NAMES)
    base, tuned = state(plain / "base"), state(plain / SYSTEM)
    assert same(base, state(pre / "base")) and same(base, state(recipe / "tiny"))
    for system in ("joint", SYSTEM):
        assert init_of(plain / system) == ["exp/xlsr/base/model.pth"]
    for directory in (plain / SYSTEM, plain / "importance/de"):
        assert read_yaml(directory / "train.yaml")["model_conf"]["objective"] == "ctc"
    masks, others = (Masks(d / SYSTEM / "masks.safetensors") for d in (plain, pre))
    assert masks.base == others.base
    differ = 0
    for name in masks.shapes:
        nowhere = outside(masks, name)
        assert torch.equal(tuned[name][nowhere], base[name][nowhere])
        differ += int((masks.mask("de", name) != others.mask("de", name)).sum())
    assert differ
    assert torch.equal(tuned["quantizer.codevectors"], base["quantizer.codevectors"])


@pytest.mark.parametrize("name", NAMES[1:])
def test_results(finished, name):
    recipe, _ = finished
    exp = recipe.exp / name
    report = tables((exp / "RESULTS.md").read_text(encoding="utf-8"))
    rows = report["Speech recognition: WER in % (lower is better)"]
    systems = {"base", "expert", "joint", SYSTEM, "average", "masked_taylor"}
    assert {row["system"] for row in rows} == systems
    assert read_json(exp / "overlap.json")["masks"][SYSTEM]["languages"] == LANGS


def test_a_second_run_trains_nothing(finished):
    recipe, _ = finished
    kept = ("base", "expert", "joint", SYSTEM, "tune", "merged", "inference", "packed")

    def times() -> dict[str, dict[str, int]]:
        return {f"{n}/{part}": file_times(recipe.exp / n / part) for n in NAMES for part in kept}

    before = times()
    assert before[f"xlsr/{SYSTEM}"] and before["xlsr_adapted/packed"]
    done = run(recipe)
    assert done.status == 0, done.stderr
    assert times() == before
