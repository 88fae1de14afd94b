"""egs/TEMPLATE/lors1/setup.sh: a new recipe is complete, its links work, nothing is overwritten."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_links import find_links, problem_of
from test_recipes import STAGES

from lors.config import read_yaml
from lors.data.datadir import read_data_dir
from lors.recipe.units import SCRIPTS
from tests.integration.recipe import run
from tests.unit.kaldi_dirs import SPLITS, write_dir, write_dirs

ROOT = Path(__file__).parents[2]
SHARED = ("lors.sh", "path.sh", "cmd.sh", "utils")


def setup(checkout: Path, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [checkout / "egs/TEMPLATE/lors1/setup.sh", *map(str, words)],
        cwd=cwd or checkout,
        text=True,
        capture_output=True,
    )


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the shared parts, to make recipes in."""
    copy = tmp_path / "check out"
    recipes = ("covost2/lors1", "mini_covost/lors1", "mini_covost/pqm1")
    configs = [f"egs/{recipe}/conf" for recipe in recipes]
    for part in ("egs/TEMPLATE", *configs, "conf", "local", "utils", "lors"):
        shutil.copytree(
            ROOT / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    return copy


def check_files(recipe: Path) -> None:
    for script in ("run.sh", "db.sh", "local/data.sh", "local/prepare_manifest.sh", *SHARED[:3]):
        assert os.access(recipe / script, os.X_OK), script
    for name in SHARED:
        assert (recipe / name).is_symlink(), name
    own = {str(f.relative_to(recipe)) for f in recipe.rglob("*") if not f.is_symlink()}
    own -= {"local", "conf"}
    assert own == {"run.sh", "db.sh", "README.md", "local/data.sh"}
    configs = {file.name for file in (recipe / "conf").iterdir()}
    assert {"train_expert.yaml", "train_whisper_full.yaml", "tune.yaml"} <= configs
    assert {"inference_greedy.yaml", "inference_whisper.yaml"} <= configs
    assert not [name for name in configs if name.endswith(("_base.yaml", "tune_full.yaml"))]
    tune = read_yaml(recipe / "conf/tune.yaml")
    assert tune == read_yaml(ROOT / "egs/covost2/lors1/conf/tune.yaml")


@pytest.mark.parametrize("where", ["checkout", "egs", "elsewhere"])
def test_recipe_in_the_checkout(checkout, tmp_path, where):
    recipe = checkout / "egs/my_corpus/lors1"
    cwd = {"checkout": checkout, "egs": checkout / "egs", "elsewhere": tmp_path}[where]
    done = setup(checkout, os.path.relpath(recipe, cwd), cwd=cwd)
    assert done.returncode == 0, done.stderr
    check_files(recipe)
    links = [link for link in find_links(checkout) if link.is_relative_to(recipe)]
    assert len(links) > 10
    assert {problem_of(link, checkout) for link in links} == {None}
    assert (recipe / "README.md").read_text().startswith("# my_corpus\n")
    assert [file.name for file in recipe.parent.iterdir()] == ["lors1"], "nothing half made is left"
    shutil.move(checkout, tmp_path / "moved")
    moved = tmp_path / "moved/egs/my_corpus/lors1"
    assert all(link.exists() for link in moved.rglob("*") if link.is_symlink())


def test_recipe_elsewhere_runs(tmp_path):
    recipe = tmp_path / "else where/my_corpus/lors1"
    done = setup(ROOT, recipe)
    assert done.returncode == 0, done.stderr
    check_files(recipe)
    assert all(link.exists() for link in recipe.rglob("*") if link.is_symlink())
    shutil.move(recipe.parent, tmp_path / "moved")
    recipe = tmp_path / "moved/lors1"
    done = run(recipe, "--help")
    assert done.returncode == 0 and "[de es]" in done.stdout and "[small]" in done.stdout
    done = run(recipe, "--dry_run")
    assert done.returncode == 0, done.stdout
    for number, stage in enumerate(STAGES, 1):
        assert f"stage {number} ({stage})" in done.stdout
    assert "--base_model small" in done.stdout and "conf/train_whisper_full.yaml" in done.stdout


def test_a_recipe_of_data_directories(tmp_path):
    recipe = tmp_path / "my corpus/lors1"
    dirs = write_dirs(tmp_path / "du mp", clips=3)
    done = setup(ROOT, recipe, "--from", *dirs)
    assert done.returncode == 0, done.stderr
    check_files(recipe)
    lines = (recipe / "db.sh").read_text().splitlines()
    names = [f"    'de/{path.name.split('_')[0]}={path}'" for path in dirs]
    first = lines.index("export MANIFEST=(")
    assert lines[first + 1 : first + 6] == [*names, ")", "export LANGS=de"]
    original = (ROOT / "egs/TEMPLATE/lors1/skeleton/db.sh").read_text().splitlines()
    assert lines[-2:] == original[-2:] and lines[:first] == original[:first]
    done = run(recipe, "--stop_stage", "format")
    assert done.returncode == 0, done.stdout
    for path in dirs:
        made = read_data_dir(recipe / "dump/de" / path.name.split("_")[0])
        assert [u.text for u in made] == [u.split(" ", 1)[1] for u in
                                          (path / "text").read_text().splitlines()]  # fmt: skip
        assert all(u.translations["en"].startswith("Sentence ") for u in made)


def test_a_recipe_for_speakers(tmp_path):
    recipe, stages = tmp_path / "my corpus/pqm1", SCRIPTS["pqm"]
    (tmp_path / "raw").mkdir()
    dirs = [
        write_dir(tmp_path / f"raw/{split}_de", clips=clips, first=first, speakers=("anna", "bert"))
        for split, clips, first in (("train", 8, 0), ("dev", 4, 8), ("test", 4, 12))
    ]
    done = setup(ROOT, recipe, "--from", *dirs)
    assert done.returncode == 0, done.stderr
    assert all(link.exists() for link in recipe.rglob("*") if link.is_symlink())
    assert (recipe / "pqm.sh").is_symlink() and not (recipe / "lors.sh").exists()
    done = run(recipe, "--dry_run")
    assert done.returncode == 0, done.stdout
    for number, stage in enumerate(stages, 1):
        assert f"stage {number} ({stage})" in done.stdout
    assert done.stdout.count("--config conf/train_whisper_pqm.yaml") == 4
    own = ["--sat_config", "conf/train_sat.yaml", "--train_config", "conf/train_speaker.yaml"]
    few = ["--num_speakers", "1", "--adapt_utterances", "3", "--speaker_dev", "2"]
    few += ["--least_test", "3", "--model_family", "espnet_s2t", "--base_model", str(tmp_path)]
    done = run(recipe, *own, *few, "--stop_stage", "speakers")
    assert done.returncode == 0, done.stdout
    assert (recipe / "speakers/speakers").read_text() == "de-x-anna\n"
    sizes = {s: len(read_data_dir(recipe / f"speakers/de-x-anna/{s}")) for s in SPLITS}
    assert sizes == {"train": 3, "dev": 2, "test": 3}
    assert {u.speaker for u in read_data_dir(recipe / "speakers/de/train")} == {"bert"}


def test_columns_of_other_names(tmp_path):
    recipe = tmp_path / "my_corpus/lors1"
    assert setup(ROOT, recipe).returncode == 0
    (recipe / "downloads").mkdir()
    rows = ["audio\tlang\twho\tsentence\tsplit"]
    for number, split in enumerate(("train", "dev", "test")):
        noise = np.random.default_rng(number).normal(0, 0.1, 8000)
        soundfile.write(recipe / f"downloads/{split}.wav", noise, 16000)
        rows.append(f"{split}.wav\tde\tanna\tein Satz\t{split}")
    (recipe / "downloads/manifest.tsv").write_text("\n".join(rows) + "\n")
    options = ["--langs", "de", "--tasks", "asr", "--stop_stage", "data"]
    done = run(recipe, *options)
    assert done.returncode == 1 and "--rename text=sentence" in done.stdout
    done = run(recipe, *options, "--data_opts", "--rename text=sentence,speaker=who")
    assert done.returncode == 0, done.stdout
    (made,) = read_data_dir(recipe / "data/de/train")
    assert (made.text, made.speaker) == ("ein Satz", "anna")


@pytest.mark.parametrize(
    ("words", "status", "fact"),
    [
        (["--from"], 2, "--from"),
        (["from", "a"], 2, "--from"),
        (["--from", "none"], 1, "none"),
        (["--from", "raw/train_de", "raw/dev_de"], 1, "de/test"),
        (["--from", "raw/train_de", "de/train=raw/dev_de"], 2, "de/train"),
        (["--from", "raw/train_de", "raw/part"], 2, "raw/part: which language and split?"),
    ],
)
def test_data_directories_that_make_no_recipe(tmp_path, words, status, fact):
    write_dirs(tmp_path)
    shutil.copytree(tmp_path / "raw/train_de", tmp_path / "raw/part")
    done = setup(ROOT, "my_corpus/lors1", *words, cwd=tmp_path)
    assert done.returncode == status and fact in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_what_a_new_recipe_says_without_a_corpus(tmp_path):
    recipe = tmp_path / "my_corpus/lors1"
    setup(ROOT, recipe)
    done = run(recipe)
    assert done.returncode == 1 and "downloads/manifest.tsv" in done.stdout


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_what_is_there_already_is_refused(tmp_path, kind):
    target = tmp_path / "lors1"
    if kind == "directory":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    done = setup(ROOT, target)
    assert done.returncode == 1 and str(target) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lors1"]


@pytest.mark.parametrize("name", ["s3net1", "my_corpus/s3net2/"])
def test_there_is_no_template_for_sub_networks(tmp_path, name):
    done = setup(ROOT, name, cwd=tmp_path)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert all(fact in done.stderr for fact in (name, "lors1", "pqm1", "voice_prompts/s3net1"))


def test_another_number_is_of_the_same_kind(tmp_path):
    assert setup(ROOT, tmp_path / "my_corpus/pqm2").returncode == 0
    assert (tmp_path / "my_corpus/pqm2/pqm.sh").exists()
    assert setup(ROOT, tmp_path / "my_corpus/lors2").returncode == 0
    assert (tmp_path / "my_corpus/lors2/lors.sh").exists()


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--force"]])
def test_wrong_arguments(tmp_path, words):
    done = setup(ROOT, *words, cwd=tmp_path)
    assert done.returncode == 2 and "egs/my_corpus/lors1" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["", ".", "x/.", "x/..", "a\nb/lors1", "a\tb/lors1", os.fsdecode(b"a\xff/lors1")]
)
def test_name_that_is_no_directory_of_a_recipe(tmp_path, name):
    done = setup(ROOT, name, cwd=tmp_path)
    assert done.returncode == 2 and "egs/my_corpus/lors1" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help():
    done = setup(ROOT, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: ")
