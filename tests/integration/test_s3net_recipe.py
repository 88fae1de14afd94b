"""The mini recipe of S3Net at a small size, from the corpus to packed sub-networks."""

from __future__ import annotations

import shutil

import pytest
import torch

from lors.checkpoint.masks import Masks
from lors.checkpoint.reader import Checkpoint
from lors.config import read_yaml
from lors.fileio import read_json
from lors.recipe.units import SCRIPTS
from tests.integration.recipe import (
    LANGS,
    OPTIONS,
    Recipe,
    derive_config,
    file_times,
    same,
    stages_of,
    state,
)
from tests.integration.test_mini_recipe import tables
from tests.integration.tiny_s2t import make_base_of

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

SYSTEMS = ["s3net_magnitude_30", "s3net_taylor_30"]
METHODS = ["average", "masked_magnitude", "masked_taylor"]
CHANGES = {"--baselines": "joint", "--tune_config": "conf/tiny_tune.yaml"}


@pytest.fixture(scope="module")
def options() -> list[str]:
    """The options of the other recipe's tests, and those of this one."""
    given = dict(zip(OPTIONS[::2], OPTIONS[1::2], strict=True)) | CHANGES
    given |= {"--tasks": "asr", "--methods": " ".join(METHODS)}
    given |= {"--lora_config": "conf/tiny_lora.yaml"}
    return [word for option in given.items() for word in option]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, options):
    recipe = Recipe(tmp_path_factory.mktemp("s3net") / "mini_covost", system="s3net1")
    tiny = {"batch_size": 6, "num_workers": 0, "log_interval": 5, "optim_conf": {"lr": 0.005}}
    tiny |= {"num_iters_per_epoch": 15, "max_epoch": 3}
    tiny |= {"scheduler_conf": {"max_lr": 0.005, "total_steps": 45}}
    tiny["specaug_conf"] = {"apply_time_warp": False, "num_freq_mask": 1, "num_time_mask": 1}
    tiny["specaug_conf"] |= {"freq_mask_width_range": [0, 4], "time_mask_width_range": [0, 10]}
    for source in ("train_expert.yaml", "train_lora.yaml"):
        derive_config(recipe, source, f"tiny_{source.removeprefix('train_')}", **tiny)
    derive_config(
        recipe,
        "tune.yaml",
        "tiny_tune.yaml",
        utterances_per_language=4,
        lors={"rank": [2], "density": [0.2], "scaling_coef": [0.4, 0.7]},
        task_arithmetic={"scaling_coef": [0.3, 0.5]},
        **{
            f"masked_{kind}": {
                "method": "task_arithmetic",
                "masks": [f"{kind}_30"],
                "scaling_coef": [0.6, 1.0],
            }
            for kind in ("magnitude", "taylor")
        },
    )
    data = recipe.run(*options, "--stop_stage", "format")
    assert data.status == 0, data.stderr
    make_base_of(recipe)
    ended = recipe.run(*options)
    assert ended.status == 0, ended.stderr
    return recipe, ended


def test_every_stage_runs(finished):
    assert stages_of(finished[1].stderr) == list(SCRIPTS["s3net"])
    assert "Traceback" not in finished[1].stderr


@pytest.mark.parametrize("system", SYSTEMS)
def test_models_under_masks(finished, system):
    recipe, _ = finished
    masks, base = Masks(recipe.exp / system / "masks.safetensors"), state(recipe.exp / "base")
    assert masks.languages == LANGS and masks.settings["rate"] == 30
    assert masks.base == Checkpoint.open(recipe.exp / "base/model.pth").fingerprint()
    found = state(recipe.exp / system)
    for name in masks.shapes:
        nowhere = ~(masks.mask("de", name) | masks.mask("es", name))
        assert torch.equal(found[name][nowhere], base[name][nowhere])
    assert not same(found, base)


def test_the_two_criteria_give_different_masks(finished):
    recipe, _ = finished
    one, other = (Masks(recipe.exp / system / "masks.safetensors") for system in SYSTEMS)
    name = next(iter(one.shapes))
    assert not torch.equal(one.mask("de", name), other.mask("de", name))
    assert one.density("de") == pytest.approx(0.7, abs=0.01)


def test_results_have_a_row_for_every_system(finished):
    recipe, _ = finished
    report = tables((recipe.exp / "RESULTS.md").read_text(encoding="utf-8"))
    rows = report["Speech recognition: WER in % (lower is better)"]
    names = {row["system"] for row in rows}
    assert {"base", "expert", "joint", "lora", *SYSTEMS, *METHODS} == names
    [(overlap)] = [rows for title, rows in report.items() if title.startswith("Overlap of masks")]
    assert [row["languages"] for row in overlap] == ["de es", "at random"]
    content = read_json(recipe.exp / "overlap.json")
    found = content["masks"][SYSTEMS[0]]["jaccard"][0][1]
    assert overlap[0][SYSTEMS[0]] == f"{found:.2f}" and 0 < found < 1
    assert [loss["langs"] for loss in content["merging"]] == [LANGS]
    sizes = [row["system"] for row in report["Sizes of the systems"]]
    assert sizes == ["joint", *SYSTEMS, "lora", "expert"]
    page = (recipe.exp / "report.html").read_text(encoding="utf-8")
    assert '<section id="overlap">' in page and '<section id="sizes">' in page


def test_packed_subnetworks(finished):
    recipe, _ = finished
    packed = recipe.exp / "packed" / SYSTEMS[0]
    masks = Masks(recipe.exp / SYSTEMS[0] / "masks.safetensors")
    whole = Checkpoint.open(recipe.exp / SYSTEMS[0] / "model.pth")
    for lang in LANGS:
        opened = Checkpoint.open(packed / lang / "subnetwork.safetensors")
        expected = masks.restricted(whole, lang)
        assert all(torch.equal(opened.tensor(name), value) for name, value in expected.items())
    sizes = read_json(packed / "sizes.json")
    assert set(sizes["files"]) == {*LANGS, "all"}


def test_status_and_a_second_run(finished, options):
    recipe, _ = finished
    code, stages = recipe.status()
    assert code == 0 and list(stages) == list(SCRIPTS["s3net"])
    assert list(stages["importance"]) == LANGS and list(stages["subnets"]) == SYSTEMS
    assert all((recipe / unit["log"]).is_file() for unit in stages["subnets"].values())
    kept = ("expert", "importance", "masks", *SYSTEMS, "tune", "merged", "inference", "packed")
    before = {part: file_times(recipe.exp / part) for part in kept}
    ended = recipe.run(*options)
    assert ended.status == 0, ended.stderr
    assert {part: file_times(recipe.exp / part) for part in kept} == before


def test_other_masks_are_refused_in_the_same_directory(finished, options):
    recipe, _ = finished
    ended = recipe.run(*options, "--mask_scope", "global", "--stage", "masks")
    assert ended.status == 1
    assert "magnitude_30" in ended.stderr and "global" in ended.stderr


def test_masks_are_found_twice(finished, options, tmp_path):
    """``--mask_rounds 2`` through the recipe, in a copy of the finished run: only what is new."""
    first_run, _ = finished
    shutil.copytree(first_run.directory, tmp_path / "mini_covost", symlinks=True)
    recipe, system, kind = Recipe(tmp_path / "mini_covost"), "s3net_taylor_50", "masks/taylor_50"
    shared = ("base", "stats", "expert", "joint", "importance", "tune/average.asr")
    before = {part: file_times(recipe.exp / part) for part in shared}
    ended = recipe.run(
        *options, "--mask_rounds", "2", "--criteria", "taylor", "--rates", "50",
        "--methods", "average", "--lora_config", "",
        "--stage", "base",  # the audio stays where it is
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    assert {part: file_times(recipe.exp / part) for part in shared} == before
    half = recipe.exp / "half" / system
    places = (recipe.exp / kind, half / kind, recipe.exp / system)
    first, second, used = (Masks(place / "masks.safetensors") for place in places)
    assert used.path.read_bytes() == second.path.read_bytes()
    assert first.settings == second.settings and second.settings["rate"] == 50
    models = [recipe.exp / "base", half / "base", recipe.exp / system]
    fingerprints = [Checkpoint.open(model / "model.pth").fingerprint() for model in models]
    assert [first.base, second.base] == fingerprints[:2] and len(set(fingerprints)) == 3
    base, middle, final = (state(model) for model in models)
    back = changed = 0
    for name in used.shapes:
        for masks, start, end in ((first, base, middle), (second, middle, final)):
            nowhere = ~(masks.mask("de", name) | masks.mask("es", name))
            assert torch.equal(end[name][nowhere], start[name][nowhere]), name
        back += int((second.mask("de", name) & ~first.mask("de", name)).sum())
        nowhere_first = ~(first.mask("de", name) | first.mask("es", name))
        changed += int((final[name] != base[name])[nowhere_first].sum())
    assert back and changed  # entries that the first masks left out are trained
    epochs = [read_yaml(model / "train.yaml")["max_epoch"] for model in models[1:]]
    assert epochs == [1, 2]
    report = tables((recipe.exp / "RESULTS.md").read_text(encoding="utf-8"))
    rows = report["Speech recognition: WER in % (lower is better)"]
    earlier = {"base", "expert", "joint", "lora", *SYSTEMS, *METHODS}
    assert {row["system"] for row in rows} == {*earlier, system}
    # Overlap and sizes are of all systems of the experiment, too.
    assert set(read_json(recipe.exp / "overlap.json")["masks"]) == {*SYSTEMS, system}
    sizes = [row["system"] for row in report["Sizes of the systems"]]
    assert sizes == ["joint", *sorted([*SYSTEMS, system]), "lora", "expert"]
    whole = Checkpoint.open(models[-1] / "model.pth")
    packed = Checkpoint.open(recipe.exp / f"packed/{system}/de/subnetwork.safetensors")
    expected = second.restricted(whole, "de")
    assert all(torch.equal(packed.tensor(name), value) for name, value in expected.items())
    seeds = [read_yaml(model / "train.yaml")["seed"] for model in models[1:]]
    assert seeds[1] == seeds[0] + 10_000
    assert f"(--mask_rounds 2): {system}." in (recipe.exp / "RESULTS.md").read_text(
        encoding="utf-8"
    ).replace("\\", "")
    code, stages = recipe.status()
    steps = [f"half/{system}", *(f"half/{system}/importance/{lang}" for lang in LANGS)]
    assert code == 0 and list(stages["subnets"]) == [*steps, system]
