"""S3Net on a tiny self-supervised encoder: pre-training under masks, then CTC under them."""

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
from tests.integration.recipe import LANGS, Recipe, file_times, same, stages_of, state
from tests.integration.test_mini_recipe import tables
from tests.integration.tiny_wav2vec2 import PACKAGES, environment, make_wav2vec2

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.slow,
    pytest.mark.skipif(not (PACKAGES / "transformers").is_dir(), reason="no transformers"),
]

SYSTEM = "s3net_taylor_30"
OPTIONS = ["--model_family", "wav2vec2", "--base_model", "tiny", "--langs", " ".join(LANGS)]
OPTIONS += ["--data_opts", "--num_train 12 --num_dev 6 --num_test 6"]
OPTIONS += ["--criteria", "taylor", "--methods", "average masked_taylor", "--lora_config", ""]
PRETRAIN, CTC = "conf/train_wav2vec2_pretrain.yaml", "conf/train_wav2vec2.yaml"


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


def run(recipe: Recipe, *options: str):
    return recipe.run(*OPTIONS, *options, environment=environment())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe = Recipe(tmp_path_factory.mktemp("xlsr") / "mini_covost", system="s3net1")
    done = run(recipe, "--stop_stage", "format")
    assert done.status == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
        make_base(recipe)
    for name in (PRETRAIN, CTC):
        make_small(recipe, name)
    # Without the experts, which only the other criterion needs.
    pretraining = ["--train_config", PRETRAIN, "--s3net_config", PRETRAIN, "--expdir", "exp/pre"]
    for stages in (["--stop_stage", "stats"], ["--stage", "baselines", "--stop_stage", "subnets"]):
        done = run(recipe, *pretraining, *stages)
        assert done.status == 0, done.stderr
    fine = ["--s3net_config", CTC, "--pretrained", "exp/pre", "--base_model", "", "--expdir", "exp"]
    done = run(recipe, *fine)
    assert done.status == 0, done.stderr
    return recipe, done, fine


def init_of(directory: Path) -> list[str]:
    return read_yaml(directory / "train.yaml")["init_param"]


def test_pre_training_is_the_start_of_the_fine_tuning(finished):
    recipe, done, _ = finished
    assert "Traceback" not in done.stderr and stages_of(done.stderr)[-1] == "pack"
    exp, pre = recipe.exp, recipe.exp / "pre"
    assert same(state(exp / "base"), state(pre / "base"))
    assert init_of(exp / "joint") == ["exp/pre/joint/model.pth"]
    assert init_of(exp / SYSTEM) == [f"exp/pre/{SYSTEM}/model.pth"]
    assert init_of(exp / "expert/de_asr") == ["exp/base/model.pth"]
    assert read_yaml(pre / "joint/train.yaml")["model_conf"]["objective"] == "contrastive"
    base, adapted, tuned = (state(d) for d in (pre / "base", pre / SYSTEM, exp / SYSTEM))
    masks = Masks(exp / SYSTEM / "masks.safetensors")
    assert masks.path.read_bytes() == (pre / SYSTEM / "masks.safetensors").read_bytes()
    for name in masks.shapes:
        nowhere = ~(masks.mask("de", name) | masks.mask("es", name))
        assert torch.equal(adapted[name][nowhere], base[name][nowhere])
        assert torch.equal(tuned[name][nowhere], base[name][nowhere])
    name = "wav2vec2.encoder.layers.0.attention.q_proj.weight"
    assert not torch.equal(adapted[name], base[name]) and not same(adapted, tuned)
    # Only CTC trains its layer, and only the pre-training trains the quantizer.
    assert torch.equal(adapted["lm_head.weight"], base["lm_head.weight"])
    assert torch.equal(tuned["quantizer.codevectors"], adapted["quantizer.codevectors"])


def test_results_and_status(finished):
    recipe, _, fine = finished
    report = tables((recipe.exp / "RESULTS.md").read_text(encoding="utf-8"))
    rows = report["Speech recognition: WER in % (lower is better)"]
    systems = {"base", "expert", "joint", SYSTEM, "average", "masked_taylor"}
    assert {row["system"] for row in rows} == systems
    assert read_json(recipe.exp / "overlap.json")["masks"][SYSTEM]["languages"] == LANGS
    code, stages = recipe.status()
    assert code == 0 and list(stages["subnets"]) == [SYSTEM]
    kept = ("base", "expert", "joint", SYSTEM, "tune", "merged", "inference", "packed")
    before = {part: file_times(recipe.exp / part) for part in kept}
    done = run(recipe, *fine)
    assert done.status == 0, done.stderr
    assert {part: file_times(recipe.exp / part) for part in kept} == before
