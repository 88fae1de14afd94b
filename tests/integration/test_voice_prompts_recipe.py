"""The whole recipe of the voice prompts, on small packages and with a tiny Whisper."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load

from lors.bin import interference
from lors.config import read_yaml
from lors.fileio import read_json
from lors.recipe.score_tree import read_scores
from lors.tasks import ASR, Pair
from tests.integration.recipe import Ended, Recipe, derive_config, stages_of, state
from tests.integration.tiny_whisper import make_whisper
from tests.prompt_packages import small_prompts, spoken, write_packages

pytestmark = pytest.mark.espnet

LANGS = ["en", "es"]
PAIRS = ["en_asr", "es_asr", "es_st"]
OPTIONS = ["--langs", " ".join(LANGS), "--base_model", "tiny.pt"]
OPTIONS += ["--inference_config", "conf/short.yaml"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Recipe, Ended]:
    recipe = Recipe(tmp_path_factory.mktemp("prompts") / "voice_prompts", "voice_prompts")
    packages = write_packages(recipe / "downloads/voice_prompts", small_prompts(), spoken)
    make_whisper(recipe / "tiny.pt", seed=1)
    derive_config(recipe, "inference_whisper.yaml", "short.yaml", max_tokens=12)
    derive_config(
        recipe,
        "train_quick.yaml",
        "train_quick.yaml",
        num_iters_per_epoch=20,
        max_epoch=2,
        scheduler_conf={"max_lr": 0.005, "total_steps": 40},
    )
    data = ["--data_opts", f"--packages {packages}"]
    ended = recipe.run(*OPTIONS, *data, "--stop_stage", "baselines")
    assert ended.status == 0, ended.stderr
    return recipe, ended


@pytest.fixture(scope="module")
def results(run) -> tuple[Recipe, Ended]:
    """The other stages for recognition: so little training gives no translation a BLEU above 0."""
    recipe, _ = run
    ended = recipe.run(*OPTIONS, "--tasks", "asr", "--stage", "tune")
    assert ended.status == 0, ended.stderr
    return recipe, ended


def test_stages_and_credits(run):
    recipe, ended = run
    assert stages_of(ended.stderr) == ["data", "format", "base", "stats", "experts", "baselines"]
    rows = [line.split("\t") for line in (recipe.exp / "stages.tsv").read_text().splitlines()]
    first = rows[:6]  # later stages add theirs
    assert [(name, seconds) for _, name, seconds, *_ in first] == re.findall(
        r"stage (\d+ \(\w+\)) took (\d+) s", ended.stderr
    )
    assert all(cores.isdigit() and processor for _, _, _, cores, processor, _ in first)
    assert all(row[-1].startswith("./run.sh --") for row in first)
    assert (recipe / "data/CREDITS").exists() and (recipe / "data/LICENSE").exists()
    assert read_yaml(recipe.exp / "base/config.yaml")["whisper_conf"]["window"] == "auto"
    assert read_yaml(recipe.exp / "base/inference.yaml") == {"window": 10}


def test_english_is_not_translated_into_english(run):
    recipe, _ = run
    assert sorted(path.name for path in (recipe.exp / "expert").iterdir()) == PAIRS
    assert not (recipe / "data/en/train/text.en").exists()
    for pair in [*(f"expert/{pair}" for pair in PAIRS), "joint", "sequential"]:
        assert (recipe.exp / pair / "model.pth").exists()


def test_a_second_run_makes_nothing_again(run):
    recipe, _ = run
    before = {path: path.stat().st_mtime_ns for path in recipe.exp.rglob("*.pth")}
    ended = recipe.run(*OPTIONS, "--stage", "base", "--stop_stage", "baselines")
    assert ended.status == 0, ended.stderr
    assert before == {path: path.stat().st_mtime_ns for path in recipe.exp.rglob("*.pth")}


def test_results(results):
    recipe, ended = results
    assert stages_of(ended.stderr) == ["tune", "merge", "inference", "score", "pack", "upload"]
    text = (recipe.exp / "RESULTS.md").read_text(encoding="utf-8").replace("\\", "")
    merges = ("lors | languages", "lors+boost | languages")
    for row in ("base | -", "expert | -", "joint | -", "sequential | -", *merges):
        assert f"| {row} |" in text
    assert (recipe.exp / "report.html").exists() and (recipe.exp / "plots/sweep.png").exists()


def test_interference(results, tmp_path):
    recipe, _ = results
    words = ["--expdir", str(recipe.exp), "--dump", str(recipe / "dump"), "--langs", *LANGS]
    words += ["--tasks", "asr", "--inference_config", str(recipe / "conf/short.yaml")]
    assert interference.main([*words, "--rank", "2", "--out", str(tmp_path / "table.md")]) == 0
    (two,) = read_json(recipe.exp / "interference.json")["pairs"]
    assert two["langs"] == LANGS and -1 <= two["cosine"] <= 1 and two["inflation"] > 0
    assert "| en es | asr |" in (tmp_path / "table.md").read_text()


def test_upload(results, hub, tmp_path):
    """Stage upload: the merged Whisper in the form of Hugging Face, with the scores of the run."""
    recipe, _ = results
    options = [*OPTIONS, "--tasks", "asr", "--stage", "upload", "--upload_repo", "org/prompts"]
    options += ["--upload_opts", "--license cc-by-sa-3.0"]
    exported = recipe.exp / "packed/lors+boost.asr.hf"
    times = []
    for _ in range(2):  # the second call exports nothing again
        ended = recipe.run(*options, environment=hub.environment(tmp_path / "home"))
        assert ended.status == 0, ended.stderr
        times.append((exported / "model.safetensors").stat().st_mtime_ns)
    assert times[0] == times[1]
    assert [*hub.repos] == ["org/prompts-asr"]

    files = hub.repos["org/prompts-asr"].files
    model = load(files["model.safetensors"])
    merged = state(recipe.exp / "merged/lors+boost.asr")["encoder.blocks.0.attn.query.weight"]
    assert torch.equal(model["model.encoder.layers.0.self_attn.q_proj.weight"], merged)
    card = files["README.md"].decode()
    assert "license: cc-by-sa-3.0\n" in card and "--upload_repo org/prompts" in card
    scores = read_scores([recipe.exp], systems=["base", "lors+boost.langs"])
    for system, row in (("base", "base"), ("lors+boost.langs", "this model")):
        wers = [scores.values(system, pair, ASR.metric)[0] for pair in map(Pair.parse, PAIRS[:2])]
        cells = "".join(rf" {value:.1f} \([^|]*\) +\|" for value in wers)
        assert re.search(rf"\| {row} +\|{cells}", card.replace("\\", "")), card
