"""The contract of all recipes: files, options, printed commands and configurations."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lors.config import build, load_config, read_yaml
from lors.merge.methods import METHODS
from lors.merge.run import MergePlan
from lors.models import FAMILIES
from lors.recipe import status
from lors.recipe.grid import METHOD, PLAN_OPTIONS, read_grid
from lors.recipe.run_record import read_run
from lors.recipe.units import SCRIPTS
from tests.integration.recipe import Recipe, run, told_to_go_on
from tests.integration.tiny_wav2vec2 import PACKAGES, environment

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "egs" / "TEMPLATE" / "lors1"
RECIPES = {path.parent.name: path for path in sorted(ROOT.glob("egs/*/lors1")) if path != TEMPLATE}
CONFIGS = {
    str(path.relative_to(ROOT)): path
    for folder in (ROOT, *RECIPES.values())
    for path in sorted(folder.glob("conf/*"))
}
# Words of the commands of each stage.
STAGES = {
    "data": ["local/data.sh"],
    "format": ["lors.bin.format_audio", "--splits train dev test --tasks asr st"],
    "base": ["lors.bin.import_base"],
    "stats": ["lors.bin.train --base", "--collect_stats"],
    "experts": ["utils/run.py", "JOB=1:6", "lors.bin.train --base", "--only JOB"],
    "baselines": ["utils/run.py", "lors.bin.train --base"],
    "tune": ["utils/run.py", "JOB=1:3", "lors.bin.tune"],
    "merge": ["lors.bin.merge_tuned"],
    "inference": ["utils/run.py", "lors.bin.inference", "--split test"],
    "score": ["lors.bin.score_expdir", "lors.bin.results"],
    "pack": ["lors.bin.pack --model exp/merged/lors+boost.asr_st", "packed/lors+boost.asr_st.zip"],
    "upload": [],
}
OPTIONS = """
stage stop_stage skip_train dry_run submit langs group groups tasks methods compare_to baselines
train_hours train_subset seed dev_utterances datadir dumpdir expdir nj ngpu num_nodes device
model_family base_model window base_window st_language
train_config inference_config tune_config data_opts
upload_repo upload_opts
"""
BASE_STAGES = ("data", "format", "tokens", "stats", "train")


def test_there_are_recipes_and_configurations():
    assert {"mini_covost", "voice_prompts", "covost2", "commonvoice"} <= set(RECIPES)
    assert {"train", "inference", "tune", "merge"} <= {kind_of(path) for path in CONFIGS.values()}


# --- files and options --------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_files_of_a_recipe(name):
    recipe = RECIPES[name]
    for script in ("run.sh", "local/data.sh", "lors.sh", "path.sh", "cmd.sh"):
        assert os.access(recipe / script, os.X_OK), script
    assert (recipe / "README.md").read_text(encoding="utf-8").startswith("# ")
    assert list((recipe / "conf").glob("*.yaml"))
    # Shared files exist once.
    for script in ("lors.sh", "path.sh", "cmd.sh", "utils"):
        assert (recipe / script).is_symlink(), script


@pytest.mark.parametrize("name", RECIPES)
def test_programs_keep_their_byte_code(name):
    environment = {"PATH": os.environ["PATH"], "LORS_PYTHON": sys.executable}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = ["bash", "-c", '. ./path.sh; "$python" -c "import sys; print(sys.flags)"']
    done = subprocess.run(
        command, cwd=RECIPES[name], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0 and "dont_write_bytecode=0" in done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_help_has_every_option_and_stage(name, tmp_path):
    recipe = Recipe(tmp_path / name, name)
    done = run(recipe, "--help")
    assert done.returncode == 0
    for option in OPTIONS.split():
        # Name, purpose and default.
        assert re.search(rf"^ +--{option} +\S.*\[.*\]$", done.stdout, re.MULTILINE), option
    for number, stage in enumerate(STAGES, 1):
        assert re.search(rf"^ +{number} +{stage} +\S", done.stdout, re.MULTILINE), stage


def test_help_is_complete():
    """`OPTIONS` has all options of lors.sh."""
    source = (TEMPLATE / "lors.sh").read_text(encoding="utf-8").split("parse_options.sh")[0]
    assert sorted(re.findall(r"^(\w+)=.* # ", source, re.MULTILINE)) == sorted(OPTIONS.split())


def test_status_knows_every_stage():
    assert tuple(STAGES) == status.STAGES


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_prints_the_commands_of_every_stage(name, tmp_path):
    recipe = Recipe(tmp_path / name, name)
    before = sorted(recipe.directory.rglob("*"))
    done = run(recipe, "--dry_run", "true", "--langs", "de es fr", "--tasks", "asr st")
    assert done.returncode == 0, done.stdout
    parts = re.split(r"^.* stage \d+ \((\w+)\): .*\n", done.stdout, flags=re.MULTILINE)
    printed = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(printed) == list(STAGES)
    for stage, words in STAGES.items():
        assert all(word in printed[stage] for word in words), (stage, printed[stage])
    assert sorted(recipe.directory.rglob("*")) == before


def test_dry_run_prints_the_uploads(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    words = ("--dry_run", "true", "--langs", "de es", "--stage", "upload", "--nj", "1")
    more = ("--upload_repo", "org/speech", "--upload_opts", "--private --license mit")
    done = run(recipe, *words, *more)
    assert done.returncode == 0, done.stdout
    calls = [shlex.split(line) for line in done.stdout.splitlines() if "lors.bin.upload" in line]
    made = {call[3]: call[4] for call in calls}
    scopes = ("asr_st", "asr", "st")
    assert made == {f"exp/packed/lors+boost.{s}.zip": f"org/speech-{s}" for s in scopes}
    for call in calls:
        assert call[-3:] == ["--private", "--license", "mit"] and "--merged" in call
        assert "--upload_repo org/speech" in call[call.index("--command") + 1]
    done = run(recipe, *words, *more, "--model_family", "whisper", "--base_model", "small")
    assert re.findall(r"export_whisper .* --out (\S+)", done.stdout) == [
        f"exp/packed/lors+boost.{scope}.hf" for scope in scopes
    ]


def test_an_old_export_is_made_again_before_an_upload(tmp_path):
    """A merge that was made again is newer; a card beside the old export is kept."""
    recipe = Recipe(tmp_path / "mini_covost")
    for number, scope in enumerate(("asr_st", "asr", "st")):
        name = f"lors+boost.{scope}"
        for file in (f"merged/{name}/model.pth", f"packed/{name}.hf/config.json"):
            (recipe.exp / file).parent.mkdir(parents=True)
            (recipe.exp / file).touch()
            os.utime(recipe.exp / file, (1000 + number, 1000 + number))
    # An upload has made the directory newer.
    card = recipe.exp / "packed/lors+boost.asr.hf/README.md"
    card.touch()
    os.utime(recipe.exp / "packed/lors+boost.asr_st.hf/config.json", (2000, 2000))
    os.utime(recipe.exp / "merged/lors+boost.st/model.pth", (900, 900))
    words = ["--dry_run", "--langs", "de es", "--stage", "upload", "--upload_repo", "org/speech"]
    done = run(recipe, *words, "--model_family", "whisper", "--base_model", "small")
    assert done.returncode == 0, done.stdout
    old = "exp/packed/lors+boost.asr.hf"
    calls = [line.split() for line in done.stdout.splitlines() if old in line]
    moves = [["mv", f"{old}/README.md", f"{old}.README.md"], ["rm", "-rf", old]]
    assert calls[:2] == moves and calls[2][2] == "lors.bin.export_whisper"
    assert calls[3][2] == "lors.bin.upload" and done.stdout.count("export_whisper") == 1


def on_slurm(recipe, *options):
    """Call a recipe with Slurm as the backend of its jobs."""
    environment = {**os.environ, "LORS_PYTHON": sys.executable, "LORS_CMD_BACKEND": "slurm"}
    return subprocess.run(
        [recipe / "run.sh", *options], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_prints_every_submission(name, tmp_path):
    recipe = Recipe(tmp_path / name, name)
    before = sorted(recipe.directory.rglob("*"))
    asked = ["--dry_run", "true", "--langs", "de es fr", "--ngpu", "2", "--num_nodes", "3"]
    done = on_slurm(recipe, *asked, "--device", "cuda", "--nj", "7")
    assert done.returncode == 0, done.stderr
    calls = re.findall(r"^utils/slurm.py .*\n +(sbatch .*)", done.stdout, re.MULTILINE)
    assert len(calls) == len(re.findall(r"^utils/slurm.py ", done.stdout, re.MULTILINE))
    of = {re.search(r"--job-name=(\S+)", call)[1]: call.split() for call in calls}
    assert {"data", "format", "import_base", "stats", "train_expert", "train_baseline"} <= set(of)
    assert {"tune", "merge", "inference"} <= set(of)
    pairs = len(re.search(r" experts: (.*)", done.stderr)[1].split())
    expert = {
        f"--array=1-{pairs}%7",
        "--cpus-per-task=8",  # four for each process, one process for each GPU
        "--mem=48G",
        "--gres=gpu:2",
        "--nodes=3",
        "--signal=B:USR1@120",
    }
    assert expert <= set(of["train_expert"])
    assert expert - {f"--array=1-{pairs}%7"} <= set(of["train_baseline"])
    assert {"--cpus-per-task=4", "--mem=24G"} <= set(of["stats"])
    assert {"--array=1-7%7", "--gres=gpu:1"} <= set(of["inference"])
    assert "--gres" not in " ".join(of["data"] + of["format"] + of["merge"])
    assert sorted(recipe.directory.rglob("*")) == before


def test_memory_of_a_training_is_a_number(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    cmd = recipe / "cmd.sh"
    text = cmd.read_text()
    cmd.unlink()  # a link to that of the template
    cmd.write_text(text.replace("train_mem=24", "train_mem=24G"))
    done = on_slurm(recipe, "--dry_run", "true", "--ngpu", "2")
    assert done.returncode == 2 and "train_mem in cmd.sh" in done.stderr and "24G" in done.stderr


def test_submit_needs_a_cluster(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    done = run(recipe, "--submit")
    assert done.returncode == 2
    assert "LORS_CMD_BACKEND=slurm ./run.sh --submit" in done.stdout


def test_dry_run_prints_the_submission_of_the_driver(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    done = on_slurm(recipe, "--dry_run", "true", "--submit", "true", "--expdir", "exp/my run")
    assert done.returncode == 0, done.stderr
    first = shlex.split(done.stdout.splitlines()[0])
    job = ["exp/my run/log/driver.log", "env", "LORS_SUBMITTED=true", "./run.sh"]
    job += ["--dry_run", "true", "--submit", "true", "--expdir", "exp/my run"]
    assert first[0] == "utils/slurm.py" and first[-len(job) :] == job


def test_unknown_backend_and_device(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    done = run(recipe, "--device", "cuda:1")
    assert done.returncode == 2
    assert all(fact in done.stdout for fact in ("device", "cpu, cuda", "cuda:1"))
    environment = {**os.environ, "LORS_PYTHON": sys.executable, "LORS_CMD_BACKEND": "pbs"}
    done = subprocess.run([recipe / "run.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert all(fact in done.stderr for fact in ("cmd.sh", "pbs", "slurm"))


@pytest.mark.parametrize(
    "baselines",
    ["joint", "sequential_reversed", "joint sequential sequential_reversed", "", None],
)
def test_dry_run_of_baselines(baselines, tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    option = [] if baselines is None else ["--baselines", baselines]
    done = run(recipe, "--dry_run", *option)
    assert done.returncode == 0, done.stdout
    asked = "joint" if baselines is None else baselines
    trained = [line for line in done.stdout.splitlines() if "log/train_baseline" in line]
    number = len(asked.split())
    assert len(trained) == (number > 0)
    for line in trained:
        assert f"--baselines {asked} --only JOB --out exp" in line and f"JOB=1:{number} " in line
    # Stage 4 checks the chain before any training.
    [stats] = [line for line in done.stdout.splitlines() if "--out exp/stats" in line]
    assert stats.rstrip().endswith(f"--baselines {asked}") == (number > 0)
    systems = f"--systems base expert {asked} average.langs".replace("  ", " ")
    assert done.stdout.count(systems) == 2  # inference and scores


def train_base(recipe: Recipe, *options: str, environment=None) -> subprocess.CompletedProcess:
    """Run ``local/train_base.sh`` of the mini recipe."""
    return subprocess.run(
        ["local/train_base.sh", *options],
        cwd=recipe.directory,
        env={**os.environ, "LORS_PYTHON": sys.executable, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_dry_run_of_training_a_base_model(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    before = sorted(recipe.directory.rglob("*"))
    done = train_base(recipe, "--dry_run", "--langs", "it ru", "--vocab_size", "60")
    assert done.returncode == 0, done.stderr
    assert tuple(re.findall(r"stage \d+ \((\w+)\): ", done.stderr)) == BASE_STAGES
    data, audio, tokens, stats, training = done.stdout.splitlines()
    assert "local/data.sh --pool true --out data/pool --langs it\\ ru" in data
    assert "--data data/pool --dump dump/pool --langs it ru --splits train dev" in audio
    assert "lors.bin.train_tokenizer --dump dump/pool --langs it ru" in tokens
    assert "--config conf/train_base.yaml --vocab_size 60 --out exp/base_run/base" in tokens
    for line in (stats, training):
        assert "--tokens exp/base_run/base --pairs it_asr it_st ru_asr ru_st" in line
    assert "--collect_stats --out exp/base_run/stats" in stats
    assert "--stats exp/base_run/stats" in training and "--out exp/base_run/base" in training
    assert sorted(recipe.directory.rglob("*")) == before


def test_dry_run_of_training_a_base_model_of_whisper(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    done = train_base(recipe, "--dry_run", "--model_family", "whisper")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--config conf/train_whisper_base.yaml") == 2
    assert "train_tokenizer" not in done.stdout and "--tokens" not in done.stdout


def test_help_of_training_a_base_model(tmp_path):
    done = train_base(Recipe(tmp_path / "mini_covost"), "--help")
    assert done.returncode == 0
    for option in ("langs", "vocab_size", "base_config", "expdir", "stage"):
        assert re.search(rf"^ +--{option} +\S.*\[.*\]$", done.stdout, re.MULTILINE), option
    for number, stage in enumerate(BASE_STAGES, 1):
        assert re.search(rf"^ +{number} +{stage} +\S", done.stdout, re.MULTILINE), stage


@pytest.mark.parametrize(
    ("option", "value", "fact"),
    [
        ("--vocab_size", "0", "--vocab_size: "),
        ("--base_config", "nope.yaml", "where: nope.yaml"),
        ("--langs", "", "--langs: "),
        ("--langs", "../../de", "--langs: '../../de'"),
        ("--stage", "experts", "stage: experts"),
        ("--model_family", "wisper", "--model_family: "),
        ("--expdir", "JOB/exp", "--expdir: 'JOB/exp'"),
        ("--datadir", "", "--datadir: ''"),
        ("--dumpdir", "data/pool", "--datadir and --dumpdir: "),
    ],
)
def test_wrong_value_is_told_before_a_base_model_is_trained(option, value, fact, tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    done = train_base(recipe, option, value)
    assert done.returncode == (1 if value == "nope.yaml" else 2), done.stderr
    assert fact in done.stderr
    assert not (recipe / "downloads").exists() and not (recipe / "exp").exists()


def test_base_model_is_submitted_like_a_recipe(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    done = train_base(recipe, "--submit")
    assert done.returncode == 2
    assert "LORS_CMD_BACKEND=slurm local/train_base.sh --submit" in done.stderr
    slurm = {"LORS_CMD_BACKEND": "slurm"}
    done = train_base(recipe, "--dry_run", "--submit", environment=slurm)
    assert done.returncode == 0, done.stderr
    driver = done.stdout.splitlines()[0]
    assert "exp/base_run/log/driver.log env LORS_SUBMITTED=true local/train_base.sh" in driver


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_with_whisper(name, tmp_path):
    recipe = Recipe(tmp_path / name, name)
    own = {"voice_prompts": "conf/train_quick.yaml"}
    whisper = ["--dry_run", "--model_family", "whisper", "--base_model", "small", "--window", "9"]
    done = run(recipe, *whisper)
    assert done.returncode == 0, done.stdout
    for words in (
        "--model_family whisper --base_model small --window 9",
        f"--config {own.get(name, 'conf/train_whisper_full.yaml')}",
        "--inference_config conf/inference_whisper.yaml",
    ):
        assert words in done.stdout


@pytest.mark.skipif(not (PACKAGES / "transformers").is_dir(), reason="no transformers")
@pytest.mark.parametrize("system", ["lors1", "s3net1"])
def test_dry_run_with_wav2vec2(system, tmp_path, monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    recipe = Recipe(tmp_path / "mini_covost", "mini_covost", system)
    asked = ["--dry_run", "--model_family", "wav2vec2", "--base_model", "xlsr", "--langs", "de es"]
    done = run(recipe, *asked, "--tasks", "asr")
    assert done.returncode == 0, done.stdout
    for words in (
        "--model_family wav2vec2 --base_model xlsr --langs de\\ es --dumpdir dump --out exp/base",
        "--config conf/train_wav2vec2.yaml",
        "--inference_config conf/inference_wav2vec2.yaml",
    ):
        assert words in done.stdout
    done = run(recipe, *asked, "--tasks", "asr st")
    assert done.returncode == 2 and "--tasks" in done.stdout and "'st'" in done.stdout
    if system == "lors1":
        done = train_base(recipe, "--dry_run", "--model_family", "wav2vec2", "--langs", "de es")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("--config conf/train_wav2vec2_base.yaml") == 2
        assert done.stdout.count("--pairs de_asr es_asr --dump") == 2


HIGH, LOW = "ca de es fr it", "id nl pt ru sv-SE"


@pytest.mark.parametrize(("name", "tasks"), [("covost2", "asr st"), ("commonvoice", "asr")])
def test_recipes_of_the_paper(name, tasks, tmp_path):
    """Whisper-small, five hours for each of five languages, two groups; options override them."""
    recipe = Recipe(tmp_path / name, name)
    for options, langs in (
        ([], HIGH),
        (["--group", "low"], LOW),
        (["--group=high"], HIGH),
        (["--langs", "de fr"], "de fr"),
    ):
        done = run(recipe, "--dry_run", *options, "--stop_stage", "experts")
        assert done.returncode == 0, done.stdout
        pairs = [f"{lang}_{task}" for lang in langs.split() for task in tasks.split()]
        for words in (
            f"--langs {langs} --splits train dev test --tasks {tasks} --nj 2 --train_hours 5",
            "--model_family whisper --base_model small",
            f"--pairs {' '.join(pairs)} --dump",
        ):
            assert words in done.stdout
    done = run(recipe, "--dry_run", "--stage", "baselines", "--stop_stage", "baselines")
    assert "JOB=1:2 " in done.stdout and "--baselines joint sequential --only JOB" in done.stdout
    done = run(recipe, "--dry_run", "--stop_stage", "format", "--train_subset", "lists")
    assert "--train_subset lists" in done.stdout and "--train_hours" not in done.stdout
    done = run(recipe, "--dry_run", "--group", "middle")
    assert done.returncode == 2
    assert all(fact in done.stdout for fact in ("--group", "middle", f"low: {LOW}"))


@pytest.mark.parametrize("name", ["covost2", "commonvoice"])
def test_corpora_that_are_not_there_are_told(name, tmp_path):
    recipe = Recipe(tmp_path / name, name)
    done = run(recipe, "--langs", "de")
    assert done.returncode == 1
    assert "downloads/" in done.stdout and "db.sh" in done.stdout
    again = told_to_go_on(done.stdout)
    assert again[:4] == ["cd", str(recipe.directory), "&&", "./run.sh"]
    assert again[-2:] == ["--langs", "de"]
    done = run(recipe, "--langs", "de", "--data_opts", "--min_jion 1")
    assert done.returncode == 2 and "--min_jion" in done.stdout


def test_environment_of_a_failed_run_is_kept(tmp_path):
    """The command to go on, and the record, have the variables that were set for the run."""
    recipe = Recipe(tmp_path / "covost2", "covost2")
    python = tmp_path / "my env" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    variables = {"LORS_PYTHON": str(python), "LORS_CMD_BACKEND": "local"}
    done = subprocess.run(
        [recipe / "run.sh", "--langs", "de"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    typed = f"LORS_PYTHON='{python}' LORS_CMD_BACKEND=local ./run.sh "
    assert f" cd '{recipe.directory}' && {typed}" in done.stderr
    assert read_run(recipe.exp).typed.startswith(typed)
    done = subprocess.run(
        [recipe / "run.sh", "--submit"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"LORS_PYTHON='{python}' LORS_CMD_BACKEND=slurm ./run.sh " in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "fact"),
    [
        ("--ngpu", "abc", "--ngpu: "),
        ("--nj", "0", "--nj: "),
        ("--num_nodes", "2", "--num_nodes: '2'"),
        ("--seed", "-1", "--seed: "),
        ("--dev_utterances", "0", "--dev_utterances: "),
        ("--train_hours", "five", "--train_hours: 'five'"),
        ("--train_hours", "nan", "--train_hours: 'nan'"),
        ("--train_hours", "fr=1 fr=2", "--train_hours: 'fr=1 fr=2'"),
        ("--methods", "lros", "'lros'"),
        ("--methods", "../lors", "--methods: '../lors'"),
        ("--base_model", "nowhere", "where: --base_model"),
        ("--train_config", "nope.yaml", "where: nope.yaml"),
        ("--inference_config", "nope.yaml", "where: nope.yaml"),
        ("--tune_config", "nope.yaml", "where: nope.yaml"),
        ("--langs", "", "--langs: "),
        ("--langs", "de de", "--langs: 'de'"),
        ("--expdir", "exp/my_JOB", "--expdir: 'exp/my_JOB'"),
        ("--expdir", "", "--expdir: ''"),
    ],
)
def test_wrong_value_is_told_before_the_first_stage(option, value, fact, tmp_path):
    recipe = Recipe(tmp_path / "mini", "mini_covost")
    done = run(recipe, option, value)
    assert done.returncode == (1 if value == "nope.yaml" else 2), done.stdout
    assert "stage" not in done.stdout
    assert fact in done.stdout


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--base_model", "smal"], ["--base_model", "smal", "small"]),
        (["--langs", "de xx", "--base_model", "small"], ["--langs", "'xx'"]),
        (["--window", "40", "--base_model", "small"], ["window", "40"]),
        (["--st_language", "english", "--base_model", "small"], ["st_language", "'english'"]),
        ([], ["--base_model"]),
    ],
)
def test_wrong_whisper_is_told_before_the_first_stage(options, facts, tmp_path):
    recipe = Recipe(tmp_path / "mini", "mini_covost")
    done = run(recipe, "--model_family", "whisper", *options)
    assert done.returncode == 2 and "stage" not in done.stdout
    assert all(fact in done.stdout for fact in facts)


def test_unknown_model_family(tmp_path):
    done = run(Recipe(tmp_path / "mini_covost"), "--dry_run", "--model_family", "wisper")
    assert done.returncode == 2
    assert all(fact in done.stdout for fact in ("wisper", "espnet_s2t", "whisper"))


def test_first_stage_after_the_last(tmp_path):
    done = run(Recipe(tmp_path / "mini_covost"), "--stage", "experts", "--stop_stage", "format")
    assert done.returncode == 2
    assert "--stage 5" in done.stdout and "--stop_stage 2" in done.stdout


@pytest.mark.parametrize("name", ["a b'c\"d%e$HOME", "a\nb", os.fsdecode(b"a\xffb")])
def test_recipe_in_a_directory_of_any_name(name, tmp_path):
    """Records and Kaldi's files hold one path a line, in UTF-8: other names are refused."""
    recipe = Recipe(tmp_path / name)
    before = sorted(recipe.directory.rglob("*"))
    done = on_slurm(recipe, "--dry_run")
    is_good = name.startswith("a b")
    assert done.returncode == (0 if is_good else 2), done.stderr
    if is_good:
        [first, *_] = re.findall(r"^ +(sbatch .*)", done.stdout, re.MULTILINE)
        assert f"--chdir={recipe.directory}" in shlex.split(first)
    assert "directory of the recipe" in done.stderr or is_good
    assert sorted(recipe.directory.rglob("*")) == before


@pytest.mark.parametrize("name", RECIPES)
def test_stages_can_be_left_out(name, tmp_path):
    recipe = Recipe(tmp_path / name, name)
    done = run(recipe, "--dry_run", "--skip_train", "--stage", "format", "--stop_stage", "8")
    assert re.findall(r"stage \d+ \((\w+)\): ", done.stdout) == ["format", "tune", "merge"]


# --- configurations -----------------------------------------------------------------------------


def kind_of(path: Path) -> str:
    return path.stem.partition("_")[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_opens_with_how_it_is_used(name):
    lines = CONFIGS[name].read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.lower())
    for word in ("prerequisite", "launch", "override"):
        assert any(re.match(rf"# {word}\b.*", line) for line in comment), word


def family_of(name: str) -> str:
    return next((f for f in ("whisper", "wav2vec2") if f"_{f}" in name), "espnet_s2t")


@pytest.mark.parametrize("name", [n for n, p in CONFIGS.items() if kind_of(p) == "inference"])
def test_inference_configuration_loads(name):
    options = load_config(FAMILIES[family_of(name)].inference_options, CONFIGS[name])
    assert options.batch_size >= 1 and options.greedy().beam_size == 1


@pytest.mark.parametrize("name", [n for n, p in CONFIGS.items() if kind_of(p) == "merge"])
def test_merge_configuration_makes_a_plan(name):
    values = read_yaml(CONFIGS[name])
    plan = build(MergePlan, {"base": "base.pth", "experts": ["a.pth", "b.pth"], **values}, name)
    # merge_default is the one that the README recommends, of any method.
    assert CONFIGS[name].stem in (f"merge_{plan.method}", "merge_default")
    assert set(values["params"]) == set(plan.params), "every parameter is spelt out"


@pytest.mark.parametrize("name", [n for n, p in CONFIGS.items() if kind_of(p) == "tune"])
def test_tuning_configuration_loads(name):
    grid = read_grid(CONFIGS[name])
    assert grid.variants.keys().isdisjoint(METHODS)
    for name, points in grid.points.items():
        for point in points:
            options = {key: point[key] for key in PLAN_OPTIONS if key in point}
            params = {key: value for key, value in point.items() if key not in options}
            MergePlan("base.pth", ("a.pth", "b.pth"), grid.method(name), params, **options)


def test_keys_of_grids_are_no_parameters_of_methods():
    for method in METHODS.values():
        assert {*PLAN_OPTIONS, METHOD}.isdisjoint(method.defaults), method.name


@pytest.fixture(scope="module")
def training_options() -> dict[str, dict[str, argparse.Action]]:
    """Family -> the options of its training program."""
    from espnet2.tasks.s2t import S2TTask

    from lors.models.whisper.task import WhisperTask

    tasks = {"espnet_s2t": S2TTask, "whisper": WhisperTask}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
        if importlib.util.find_spec("transformers"):
            from lors.models.wav2vec2.task import Wav2Vec2Task

            tasks["wav2vec2"] = Wav2Vec2Task
    return {
        family: {action.dest: action for action in task.get_parser()._actions}
        for family, task in tasks.items()
    }


@pytest.mark.espnet
@pytest.mark.parametrize("name", [n for n, p in CONFIGS.items() if kind_of(p) == "train"])
def test_training_configuration_has_only_options_of_espnet(name, training_options):
    if family_of(name) not in training_options:
        pytest.skip("transformers is not installed")
    config = read_yaml(CONFIGS[name])
    options = training_options[family_of(name)]
    assert set(config) <= set(options)
    for key, value in config.items():
        choices = options[key].choices
        assert choices is None or value in choices, (key, value)


@pytest.mark.parametrize("name", [n for n in CONFIGS if "train_wav2vec2" in n])
def test_epochs_and_momentum_of_wav2vec2(name):
    """A collapsed codebook has a small contrastive loss; the schedule leaves given betas alone."""
    import torch

    config = read_yaml(CONFIGS[name])
    choice = {"contrastive": "error", "ctc": "cer"}[config["model_conf"]["objective"]]
    assert config["best_model_criterion"] == [["valid", choice, "min"]]
    betas = config["optim_conf"].get("betas")
    if betas is None:
        return
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], **config["optim_conf"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, **config["scheduler_conf"])
    for _ in range(3):
        assert list(optimizer.param_groups[0]["betas"]) == betas
        optimizer.step()
        schedule.step()


def test_every_configuration_is_of_a_known_kind():
    """One of the tests above checks each kind."""
    kinds = {"train", "inference", "tune", "merge", "slurm"}
    assert {kind_of(path) for path in CONFIGS.values()} <= kinds


@pytest.mark.parametrize(
    "recipe", sorted(f"{p.parent.name}/{p.name}" for p in ROOT.glob("egs/*/*1"))
)
def test_stages_before_the_launch_of_a_training_or_an_inference(recipe):
    """The header of a configuration counts the stages of each recipe that has it, by links too."""
    [stages] = [
        SCRIPTS[name] for name in ("lors", "s3net", "pqm") if Path(recipe).name.startswith(name)
    ]
    for path in (ROOT / "egs" / recipe).glob("conf/*.yaml"):
        header = path.read_text(encoding="utf-8").partition("# override:")[0]
        before = re.search(r"^# prerequisite: .*\bstages 1-(\d+)", header, re.MULTILINE)
        first = re.search(r"^# launch: .* --stage (\w+)", header, re.MULTILINE)
        if before and first and path.name.startswith(("train", "inference")):
            assert stages[int(before[1])] == first[1], path
