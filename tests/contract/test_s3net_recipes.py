"""The contract of the recipes s3net1: files, options, printed commands and configurations."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lors.checkpoint.reader import Checkpoint
from lors.config import read_yaml
from lors.models.whisper.window import Window
from lors.recipe.grid import read_grid
from lors.recipe.units import SCRIPTS
from lors.subnet.find import pruned_matrices
from tests.integration.recipe import Recipe, run, stages_of
from tests.integration.tiny_wav2vec2 import PACKAGES, environment

ROOT = Path(__file__).parents[2]
RECIPES = {path.parent.name: path for path in sorted(ROOT.glob("egs/*/s3net1"))}
RECIPES.pop("TEMPLATE")
# Words of the commands of each stage.
STAGES = {
    "data": ["local/data.sh"],
    "format": ["lors.bin.format_audio", "--splits train dev test --tasks asr "],
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
    "score": ["lors.bin.score_expdir", "lors.bin.results", "--compare_to s3net_magnitude_30"],
    "pack": ["lors.bin.pack_subnets", "exp/s3net_magnitude_30", "exp/s3net_taylor_30"],
}

# Stages whose models a comparison is of, and that of the scores for masks.
TRAINED = ("experts", "baselines", "importance", "subnets")


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
    assert {"masked_magnitude", "masked_taylor"} <= set(read_grid(recipe / "conf/tune.yaml").points)


@pytest.mark.parametrize("name", RECIPES)
def test_all_systems_are_trained_on_equal_batches(name):
    """Experts, joint model, adapters and S3Net; else their comparison is one of the batches."""
    files = sorted((RECIPES[name] / "conf").glob("train_*.yaml"))
    configs = [read_yaml(file) for file in files]
    keys = ("batch_type", "batch_size", "fold_length", "batch_bins")
    # An experiment has one model family.
    groups = [[file for file in files if ("wav2vec2" in file.name) == own] for own in (False, True)]
    assert len(groups[0]) > 1 and len(groups[1]) == (2 if name == "mini_covost" else 0)
    for group in groups:
        batches = [{key: read_yaml(file).get(key) for key in keys} for file in group]
        assert all(of == batches[0] for of in batches)
        assert all(of["batch_type"] == "folded" and of["batch_bins"] is None for of in batches)
    adapters = [config for config in configs if config.get("use_adapter")]
    ours = {"mini_covost": "train_expert", "voice_prompts": "train_quick"}[name]
    plain = read_yaml(RECIPES[name] / f"conf/{ours}.yaml")
    lengths = ("num_iters_per_epoch", "max_epoch")
    assert adapters and all(lora[key] == plain[key] for lora in adapters for key in lengths)


@pytest.mark.parametrize(
    ("window", "seconds", "clips"),
    [
        *(("auto", 3.0, 8), ("auto", 3.1, 4), ("auto", 7.0, 4), ("auto", 7.1, 2), ("auto", 10, 2)),
        *((10.0, 1, 2), (10.0, 9, 2), (30.0, 1, 1)),
    ],
)
def test_sizes_of_batches_of_voice_prompts(window, seconds, clips):
    """Those that its README has, by the rule of ESPnet's folded batches."""
    config = read_yaml(RECIPES["voice_prompts"] / "conf/train_quick.yaml")
    samples = Window(window, 1500).samples(round(seconds * 16000))
    folds = samples // config["fold_length"][0]
    assert config["batch_size"] // (1 + folds) == clips


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
    configs = {stage: re.search(r"--config (\S+)", printed[stage])[1] for stage in TRAINED}
    assert len({*configs.values()}) == 1, configs
    assert sorted(recipe.directory.rglob("*")) == before


def test_less_data_of_a_language(tmp_path):
    """``--train_hours``: all stages read the same, smaller data."""
    recipe = Recipe(tmp_path / "mini", "mini_covost", "s3net1")
    done = run(recipe, "--dry_run", "--train_hours", "fr=0.05", "--dumpdir", "dump/low")
    assert done.returncode == 0, done.stdout
    commands = [line for line in done.stdout.splitlines() if "lors.bin." in line]
    [formats] = [line for line in commands if "lors.bin.format_audio" in line]
    assert "--dump dump/low" in formats and "--train_hours fr=0.05" in formats
    readers = [line for line in commands if "--dump " in line]
    assert all("--dump dump/low " in line for line in readers)
    programs = ("train ", "importance", "train_subnet", "tune", "inference", "mask_overlap")
    for program in programs:
        assert any(f"lors.bin.{program}" in line for line in readers), program
    wrong = run(recipe, "--dry_run", "--train_hours", "it=0.05")
    assert wrong.returncode == 2 and "it" in wrong.stdout


@pytest.mark.parametrize(("ngpu", "asked"), [("0", "0"), ("1", "1"), ("4", "1")])
def test_scores_of_a_language_ask_for_the_gpu_that_they_use(ngpu, asked, tmp_path):
    recipe = Recipe(tmp_path / "mini", "mini_covost", "s3net1")
    done = run(
        recipe, "--dry_run", "--ngpu", ngpu, "--stage", "baselines", "--stop_stage", "subnets"
    )
    assert done.returncode == 0, done.stdout
    commands = {
        name: next(line for line in done.stdout.splitlines() if f"log/{name}.JOB.log" in line)
        for name in ("train_baseline", "importance", "train_subnet")
    }
    found = {name: re.search(r" --gpu (\S+) ", line)[1] for name, line in commands.items()}
    assert found == {"train_baseline": ngpu, "importance": asked, "train_subnet": ngpu}


def test_experts_that_no_stage_reads_are_not_trained(tmp_path):
    recipe = Recipe(tmp_path / "mini", "mini_covost", "s3net1")
    asked = ("--dry_run", "--criteria", "taylor", "--methods", "average", "--stage", "experts")
    asked += ("--stop_stage",)
    done = run(recipe, *asked, "subnets")
    assert done.returncode == 0, done.stdout
    assert "log/train_expert" not in done.stdout and "log/train_lora" not in done.stdout
    assert "0 experts: no stage" in done.stdout
    assert "--pairs de_asr es_asr fr_asr" in done.stdout and "log/train_subnet" in done.stdout
    done = run(recipe, *asked, "tune")
    assert done.returncode == 0, done.stdout
    assert "log/train_expert" in done.stdout and "log/train_lora" in done.stdout


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        *((["--nj", "2"], ("2", "1")), (["--nj", "5", "--criteria", "taylor"], ("5", "5"))),
        (["--nj", "5", "--baselines", "joint sequential"], ("2", "2")),
        (["--nj", "1"], ("1", "1")),
    ],
)
def test_models_of_all_pairs_divide_the_cores(options, threads, tmp_path):
    recipe = Recipe(tmp_path / "mini", "mini_covost", "s3net1")
    asked = ("--dry_run", "--stage", "baselines", "--stop_stage", "subnets")
    done = run(recipe, *asked, *options)
    assert done.returncode == 0, done.stdout
    found = tuple(
        re.search(rf"--num_threads (\d+) .*log/{name}\.JOB\.log", done.stdout)[1]
        for name in ("train_baseline", "train_subnet")
    )
    assert found == threads


def test_help_has_every_stage_and_option(tmp_path):
    done = run(Recipe(tmp_path / "mini", "mini_covost", "s3net1"), "--help")
    assert done.returncode == 0
    own = ("criteria", "rates", "mask_scope", "mask_rounds", "pretrained")
    own += ("s3net_config", "lora_config")
    for option in (*own, "langs", "expdir"):
        assert re.search(rf"^ +--{option} +\S.*\[.*\]$", done.stdout, re.MULTILINE), option
    for number, stage in enumerate(STAGES, 1):
        assert re.search(rf"^ +{number} +{stage} +\S", done.stdout, re.MULTILINE), stage


# Whisper-base, width 512, 6 + 6 layers: attention, cross-attention and MLP.
OF_WHISPER = [(512, 512)] * 4 * 18 + [(512, 2048)] * 2 * 12


@pytest.mark.parametrize(
    ("name", "file", "matrices", "adapters"),
    [
        # The matrices of its base model; tasks asr.
        ("mini_covost", "train_lora.yaml", None, 1),
        ("voice_prompts", "train_lora.yaml", OF_WHISPER, 2),  # tasks asr st
        ("voice_prompts", "train_lora_asr.yaml", OF_WHISPER, 1),
    ],
)
def test_adapters_of_a_language_have_the_bytes_of_its_mask(name, file, matrices, adapters):
    config = read_yaml(RECIPES[name] / "conf" / file)
    if matrices is None:
        base = Checkpoint.open(RECIPES[name] / "base/model.pth")
        matrices = [base.shape(matrix) for matrix in pruned_matrices(base)]
    rank = config["adapter_conf"]["rank"]
    numbers = sum(rank * (rows + columns) for rows, columns in matrices)
    mask = sum(rows * columns for rows, columns in matrices) / 8
    assert 0.85 < 4 * adapters * numbers / mask < 1.05
    shown = f"{4 * numbers / 1e6:.1f} MB" if numbers > 1e5 else f"{4 * numbers / 1e3:.0f} kB"
    assert shown in (RECIPES[name] / "conf" / file).read_text()
    assert shown in (RECIPES[name] / "README.md").read_text()


def test_adapters_of_one_task_differ_from_those_of_two_in_their_size_alone():
    of_two, of_one = (
        read_yaml(RECIPES["voice_prompts"] / f"conf/train_lora{end}.yaml") for end in ("", "_asr")
    )
    sizes = [config.pop("adapter_conf") for config in (of_two, of_one)]
    assert of_two == of_one
    assert sizes[1] == {**sizes[0], "rank": 10, "alpha": 20}
    assert all(size["alpha"] == 2 * size["rank"] for size in sizes)


# --- a self-supervised encoder ------------------------------------------------------------------

needs_transformers = pytest.mark.skipif(
    not (PACKAGES / "transformers").is_dir(), reason="no transformers"
)


@pytest.fixture
def xlsr(tmp_path):
    """Call run_xlsr.sh; return how it ended."""
    recipe = Recipe(tmp_path / "mini", "mini_covost", "s3net1")
    return lambda *words: recipe.run(*words, program="run_xlsr.sh", environment=environment())


@needs_transformers
def test_dry_run_of_a_self_supervised_encoder(xlsr):
    """Pre-training, fine-tuning after it, fine-tuning without it."""
    done = xlsr("--dry_run", "--langs", "de es")
    assert done.status == 0, done.stderr
    first, second, third = done.stdout.split("local/data.sh")[1:]
    assert "--config conf/train_lora.yaml" not in done.stdout
    assert "lors.bin.inference" not in first
    assert first.count("conf/train_wav2vec2_pretrain.yaml") == 4 and "train_subnet" in first
    experts = ["log/train_expert" in part for part in (first, second, third)]
    assert experts == [False, True, True]
    for part in (first, second, third):
        assert "lors.bin.find_masks" in part and "--criteria taylor --rates" in part
    assert all("--methods average --grid" in part for part in (second, third))
    for part, number in ((first, 0), (second, 3), (third, 0)):
        assert part.count("--pretrained exp/xlsr_pretrain") == number
    assert "lors.bin.importance" not in second and "lors.bin.importance" in third
    assert second.count("--config conf/train_wav2vec2.yaml") == 4
    # All have the vocabulary of the first, also with less data.
    assert "--base_model ../lors1/exp/base_wav2vec2/base --langs de\\ es" in first
    for part in (second, third):
        assert "--base_model exp/xlsr_pretrain/base --langs de\\ es" in part
    assert [re.findall(r"--out (\S+)/stats ", part) for part in (first, second, third)] == [
        *(["exp/xlsr_pretrain"], ["exp/xlsr_adapted"], ["exp/xlsr"]),
    ]


@needs_transformers
@pytest.mark.parametrize("expdir", [["--expdir", "exp/seed2"], ["--expdir=exp/seed2"]])
def test_options_for_all_three_runs_and_experiments_of_another_name(xlsr, expdir):
    done = xlsr("--dry_run", "--langs", "de", *expdir, "--seed", "2", "--base_model", "own")
    assert done.status == 0, done.stderr
    first, second, third = done.stdout.split("local/data.sh")[1:]
    assert "--base_model own" in first and "exp/xlsr" not in done.stdout
    assert all("--seed 2" in part and "--seed 1" not in part for part in (first, second, third))
    assert "--pretrained exp/seed2_pretrain" in second and "--out exp/seed2_adapted/" in second
    assert "--base_model exp/seed2_pretrain/base" in third and "--out exp/seed2/" in third


@needs_transformers
def test_configurations_of_pre_training_and_fine_tuning(xlsr):
    """Each in its own calls, here exchanged; options of the user replace the defaults."""
    pretrain, finetune = "conf/train_wav2vec2.yaml", "conf/train_wav2vec2_pretrain.yaml"
    options = ["--pretrain_config", pretrain, f"--finetune-config={finetune}"]
    options += ["--criteria", "magnitude", "--methods", "average lors"]
    done = xlsr("--dry_run", "--langs", "de", *options, "--baselines", "sequential joint")
    assert done.status == 0, done.stderr
    first, *others = done.stdout.split("local/data.sh")[1:]
    configs = [set(re.findall(r"--config (\S+)", part)) for part in (first, *others)]
    assert configs == [{pretrain}, {finetune}, {finetune}]
    assert "log/train_expert" in first and "--criteria magnitude --rates" in first
    assert all("--methods average lors --grid" in part for part in others)
    assert all("--baselines sequential joint" in part for part in (first, *others))


@needs_transformers
def test_sub_networks_alone_after_the_pre_training(xlsr):
    done = xlsr("--dry_run", "--langs", "de", "--baselines=")
    assert done.status == 0, done.stderr
    assert "train_baseline" not in done.stdout and done.stdout.count("train_subnet.JOB") == 3


@pytest.mark.parametrize(
    "words",
    [
        *(["--stop_stage", "base"], ["--train_config=conf/x.yaml"], ["--pretrained", "x"]),
        *(["--s3net-config", "x"], ["--lora_config", "x"], ["--model_family", "whisper"]),
        *(["--submit"], ["--expdir"], ["--expdir="], ["--stage", "tune"], ["--stage=1"]),
        *(["--baselines", "sequential"], ["--baselines=sequential_reversed"], ["--baselines"]),
        *(["--pretrain_config", "--langs"], ["--finetune_config="]),
    ],
)
def test_options_that_the_three_runs_set_are_refused(xlsr, words):
    done = xlsr("--dry_run", "--seed", "2", *words)
    assert (done.status, done.stdout) == (2, "")
    assert words[0].partition("=")[0] in done.stderr


@needs_transformers
@pytest.mark.parametrize(
    ("options", "fact", "status"),
    [
        # Wrong in the second and third call only: the first has no stage tune, inference or score.
        (["--rates", "50", "--methods", "masked_taylor"], "taylor_30", 2),
        (["--compare_to", "nobody"], "nobody", 2),
        (["--inference_config", "conf/none.yaml"], "conf/none.yaml", 1),
        (["--finetune_config", "conf/none.yaml"], "conf/none.yaml", 2),
    ],
)
def test_slips_in_options_of_a_later_run_are_told_before_the_first(xlsr, options, fact, status):
    done = xlsr("--langs", "de es", *options)
    assert done.status == status, done.stderr
    assert fact in done.stderr and done.stdout == ""
    assert stages_of(done.stderr) == []


def test_help_of_the_three_runs(xlsr):
    for word in ("--help", "-h"):
        done = xlsr(word)
        assert done.status == 0 and "--expdir exp/xlsr" in done.stdout
        assert "--pretrain_config conf/" in done.stdout and "--finetune_config conf/" in done.stdout
        assert done.stdout.count("--s3net_config") == 1 and "shellcheck" not in done.stdout


# --- wrong options ------------------------------------------------------------------------------


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
