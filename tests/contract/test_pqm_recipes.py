"""The contract of the recipes pqm1: files, options, printed commands and configurations."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from lors.checkpoint.expert import open_model
from lors.config import load_config, read_yaml
from lors.data.conversion import encode_flac
from lors.data.datadir import read_data_dir
from lors.data.speaker_split import read_partition
from lors.models import FAMILIES
from lors.recipe.units import SCRIPTS
from lors.tasks import SPLITS
from tests.integration.recipe import Recipe, run
from tests.prompt_packages import small_prompts, write_packages, write_read_russian
from tests.unit.test_speaker_split import write

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "egs/TEMPLATE/pqm1"
RECIPES = {path.parent.name: path for path in sorted(ROOT.glob("egs/*/pqm1")) if path != TEMPLATE}
# Words of the commands of each stage.
STAGES = {
    "data": ["local/data.sh"],
    "format": ["lors.bin.format_audio"],
    "speakers": ["lors.bin.split_speakers", "--out speakers"],
    "base": ["lors.bin.import_base"],
    "quantise": ["lors.bin.quantise --model exp/base --out exp/quantised"],
    "stats": ["lors.bin.train --base exp/quantised", "--collect_stats"],
    "sat": ["lors.bin.train --base exp/quantised", "--out exp/quantised_sat"],
    "adapt": ["--adapter exp/quantised_sat", "--only JOB", "--out exp/quantised_speaker"],
    "inference": ["lors.bin.share_adapters", "lors.bin.inference", "full_sat_speaker"],
    "score": ["lors.bin.score_expdir", "lors.bin.results", "--compare_to base"],
}


def test_there_are_recipes():
    assert {"mini_covost", "voice_prompts", "librispeech"} <= set(RECIPES)
    assert tuple(STAGES) == SCRIPTS["pqm"]


@pytest.mark.parametrize("name", RECIPES)
def test_files_of_a_recipe(name):
    recipe = RECIPES[name]
    for script in ("run.sh", "local/data.sh", "pqm.sh", "path.sh", "cmd.sh"):
        assert os.access(recipe / script, os.X_OK), script
    for script in ("pqm.sh", "path.sh", "cmd.sh", "utils"):
        assert (recipe / script).is_symlink(), script
    readme = (recipe / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# ")
    for source in ("paper", "authors' files", "Ours"):
        assert source in readme, source


@pytest.mark.parametrize("name", RECIPES)
def test_help_has_every_option_and_stage(name, tmp_path):
    done = run(Recipe(tmp_path / name, name, "pqm1"), "--help")
    assert done.returncode == 0
    source = (TEMPLATE / "pqm.sh").read_text(encoding="utf-8").split("parse_options.sh")[0]
    options = re.findall(r"^(\w+)=.* # ", source, re.MULTILINE)
    assert {"num_speakers", "partition", "double", "sat_config"} <= set(options)
    for option in options:
        assert re.search(rf"^ +--{option} +\S.*\[.*\]$", done.stdout, re.MULTILINE), option
    for number, stage in enumerate(STAGES, 1):
        assert re.search(rf"^ +{number} +{stage} +\S", done.stdout, re.MULTILINE), stage


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_prints_the_commands_of_every_stage(name, tmp_path):
    recipe = Recipe(tmp_path / name, name, "pqm1")
    before = sorted(recipe.directory.rglob("*"))
    done = run(recipe, "--dry_run", "true", "--seed", "7")
    assert done.returncode == 0, done.stdout
    parts = re.split(r"^.* stage \d+ \((\w+)\): .*\n", done.stdout, flags=re.MULTILINE)
    printed = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(printed) == list(STAGES)
    for stage, words in STAGES.items():
        assert all(word in printed[stage] for word in words), (stage, printed[stage])
    assert "--seed 7" in printed["sat"] and printed["adapt"].count("--seed 7") == 2
    # From the adapter of all speakers, and from nothing.
    assert printed["adapt"].count("--adapter") == 1
    assert sorted(recipe.directory.rglob("*")) == before


def test_english_speech_is_not_translated(tmp_path):
    recipe = Recipe(tmp_path / "voice_prompts", "voice_prompts", "pqm1")
    words = ["--langs", "en es", "--tasks", "asr st", "--stage", "stats", "--stop_stage", "sat"]
    done = run(recipe, "--dry_run", *words)
    assert done.returncode == 0, done.stdout
    assert "--pairs en_asr es_asr es_st SPEAKERS_asr SPEAKERS_st" in done.stdout
    assert "--pairs en_asr es_asr es_st --dump" in done.stdout


def test_stage_speakers_and_other_speakers_in_the_same_place(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost", "mini_covost", "pqm1")
    write(recipe / "dump", {"de": {"anna": (24, 0, 0), "bert": (9, 0, 0)}})
    options = ["--langs", "de", "--num_speakers", "1", "--stage", "speakers"]
    for adapt, status in (("8", 0), ("9", 1)):
        wanted = ["--adapt_utterances", adapt, "--least_test", "2", "--stop_stage", "speakers"]
        done = run(recipe, *options, *wanted)
        assert done.returncode == status, done.stdout
    assert (recipe / "speakers/speakers").read_text() == "de-x-anna\n"
    assert "--speakerdir" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--num_speakers", "3"], "--adapt 60 --dev 10 --least_test 10 --number 3"),
        (["--test_speakers", "a b", "--own_splits"], "--own_splits --speakers a b"),
        (["--partition", "conf/list.yaml", "--least_test", "1"], "--partition conf/list.yaml"),
        (
            ["--partition", "conf/list.yaml", "--test_speakers", "a"],
            "--partition conf/list.yaml --speakers a",
        ),
        ([], "--least_test 10 --number 2"),
    ],
)
def test_choice_of_speakers(options, words, tmp_path):
    recipe = Recipe(tmp_path / "mini_covost", "mini_covost", "pqm1")
    (recipe / "conf/list.yaml").write_text("a: [a-1, a-2]\n")
    done = run(recipe, "--dry_run", *options, "--stage", "speakers", "--stop_stage", "speakers")
    assert done.returncode == 0 and words in done.stdout


@pytest.mark.parametrize(
    ("option", "value", "fact"),
    [
        ("--num_speakers", "0", "--num_speakers: "),
        ("--adapt_utterances", "few", "--adapt_utterances: "),
        ("--double", "twice", "--double: "),
        ("--partition", "nope.yaml", "where: nope.yaml"),
        ("--sat_config", "nope.yaml", "where: nope.yaml"),
        ("--speakerdir", "", "--speakerdir: ''"),
        ("--train_config", "nope.yaml", "where: nope.yaml"),
        ("--tasks", "asr tts", "--tasks[1]: "),
        ("--methods", "lors", "option --methods"),
    ],
)
def test_wrong_value_is_told_before_the_first_stage(option, value, fact, tmp_path):
    recipe = Recipe(tmp_path / "mini_covost", "mini_covost", "pqm1")
    done = run(recipe, option, value)
    assert done.returncode == (1 if value == "nope.yaml" else 2), done.stdout
    assert fact in done.stdout
    assert not (recipe / "downloads").exists() and not (recipe / "exp").exists()


@pytest.mark.parametrize(
    ("name", "options", "facts"),
    [
        ("librispeech", ["--num_speakers", "3"], ("--num_speakers", "--partition")),
        ("librispeech", ["--test_speakers", "84"], ("84", "115", "--partition")),
        ("librispeech", ["--own_splits"], ("--own_splits", "--partition")),
        ("librispeech", ["--speaker_dev", "5"], ("--speaker_dev", "--partition")),
        ("voice_prompts", ["--adapt_utterances", "5"], ("--adapt_utterances", "--own_splits")),
        ("voice_prompts", ["--num_speakers", "1"], ("--num_speakers", "--test_speakers")),
    ],
)
def test_what_the_recipe_names_is_not_chosen_by_number(name, options, facts, tmp_path):
    recipe = Recipe(tmp_path / name, name, "pqm1")
    done = run(recipe, *options)
    assert done.returncode == 2 and all(fact in done.stdout for fact in facts), done.stdout
    assert not (recipe / "data").exists()


def test_some_of_the_ten_speakers_of_librispeech(tmp_path):
    recipe = Recipe(tmp_path / "librispeech", "librispeech", "pqm1")
    done = run(recipe, "--dry_run", "--test_speakers", "115 829")
    assert done.returncode == 0, done.stdout
    assert "--partition conf/speakers.yaml --speakers 115 829" in done.stdout


PREPARE = """\
#!/bin/sh
# The packages of this test in place of the pinned ones.
exec "{script}" --packages "{packages}" --archive http://127.0.0.1:9/debian "$@"
"""


@pytest.fixture
def prompts(tmp_path):
    """The recipe voice_prompts with small packages of its prompts and of the Russian sentences."""
    recipe = Recipe(tmp_path / "voice_prompts", "voice_prompts", "pqm1")
    folder = tmp_path / "lors1/downloads/voice_prompts"
    write_packages(folder, small_prompts())
    sound = encode_flac(np.full(8000, 0.1, np.float32))
    names = [f"ru_{number:04}" for number in range(1, 41)]
    lines = [f'( {name} "Сл+ово номер {name[-2:]}." )' for name in names]
    packages = write_read_russian(folder, lines, dict.fromkeys(names, sound))
    script = recipe / "local/prepare_voice_prompts.sh"
    text = PREPARE.format(script=script.resolve(), packages=packages)
    script.unlink()
    script.write_text(text)
    script.chmod(0o755)
    return recipe


def test_the_second_russian_speaker_is_beside_that_of_the_prompts(prompts):
    words = ["--langs", "fr ru", "--test_speakers", "fr-June ru-nsh", "--least_test", "1"]
    done = run(prompts, *words, "--stop_stage", "speakers")
    assert done.returncode == 0, done.stdout
    for split in SPLITS:
        found = {lang: read_data_dir(prompts / f"data/{lang}/{split}") for lang in ("fr", "ru")}
        assert {u.speaker for u in found["fr"]} == {"fr-June"}
        assert {u.speaker for u in found["ru"]} == {"ru-IvrvoiceRU", "ru-nsh"}
        read = [u for u in found["ru"] if u.speaker == "ru-nsh"]
        own = read_data_dir(prompts / f"speakers/ru-x-nsh/{split}")
        assert [u.id for u in own] == [u.id for u in read]
    codes = (prompts / "speakers/speakers").read_text().split()
    assert codes == ["fr-x-June", "ru-x-nsh"]
    others = read_data_dir(prompts / "speakers/ru/train")
    assert {u.speaker for u in others} == {"ru-IvrvoiceRU"}
    only = ["--stop_stage", "data", "--datadir", "only"]
    done = run(prompts, "--langs", "ru", *only, "--data_opts", "--second_russian false")
    assert done.returncode == 0, done.stdout
    assert {u.speaker for u in read_data_dir(prompts / "only/ru/train")} == {"ru-IvrvoiceRU"}


def test_translation_of_the_voice_prompts(prompts):
    """The read sentences have none: told before the base model; the command of the README works."""
    both = ["--tasks", "asr st", "--least_test", "1", "--stop_stage", "quantise"]
    done = run(prompts, "--langs", "fr ru", "--test_speakers", "fr-June", *both)
    assert done.returncode == 1, done.stdout
    facts = ("ru-nsh", "ru-IvrvoiceRU", "text.en", "--tasks asr", "--second_russian false")
    assert all(fact in done.stdout for fact in facts), done.stdout
    assert "fr-June (" not in done.stdout and not (prompts / "speakers").exists()
    assert not (prompts / "exp/base").exists()
    page = (prompts / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    [command] = [line for line in page.splitlines() if '--tasks "asr st"' in line]
    words = shlex.split(command, comments=True)[1:]
    done = run(prompts, *words, "--least_test", "1", "--stop_stage", "speakers")
    assert done.returncode == 0, done.stdout
    codes = (prompts / "speakers_st/speakers").read_text().split()
    assert codes == ["fr-x-June", "it-x-Carlo"]
    others = read_data_dir(prompts / "speakers_st/ru/train")
    assert {u.speaker for u in others} == {"ru-IvrvoiceRU"} and others[0].translations["en"]


def test_adapters_of_another_kind_for_all_speakers(tmp_path):
    recipe = Recipe(tmp_path / "voice_prompts", "voice_prompts", "pqm1")
    linear = "conf/train_whisper_pqm_linear.yaml"
    done = run(recipe, "--sat_config", linear)
    assert done.returncode == 2, done.stdout
    assert all(fact in done.stdout for fact in (linear, "target_modules", "mlp.0"))
    both = ["--sat_config", linear, "--train_config", linear]
    assert run(recipe, "--dry_run", *both).returncode == 0
    assert not recipe.exp.exists()


def test_double_quantisation(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost", "mini_covost", "pqm1")
    for options, there in (([], False), (["--double", "true"], True)):
        done = run(recipe, "--dry_run", *options, "--stage", "quantise", "--stop_stage", "quantise")
        [command] = [line for line in done.stdout.splitlines() if "lors.bin.quantise" in line]
        assert ("--double" in command) == there


@pytest.mark.parametrize("name", RECIPES)
def test_configurations_of_adapters(name):
    """Rank, alpha and dropout of PQM's authors; only adapters are saved, and nothing else."""
    for path in (RECIPES[name] / "conf").glob("train_*.yaml"):
        config = read_yaml(path)
        conf = config["adapter_conf"]
        assert (conf["rank"], conf["alpha"], conf["dropout_rate"]) == (4, 64, 0.2), path
        assert config["use_adapter"] and config["save_strategy"] == "adapter_only"
        assert "freeze_param" not in config and "specaug" not in config


def test_modes_of_the_authors():
    """Six files that differ in the layers with adapters, and nothing else."""
    attention = ["query", "key", "value", "out"]
    blocks = [f"encoder.blocks.{number}.attn" for number in range(32)]  # those of Whisper-large
    layers = {
        "": attention,
        "_conv_alone": ["conv1", "conv2"],
        "_conv": [*attention, "conv1", "conv2"],
        "_encoder": [f"{block}.{name}" for block in blocks for name in attention],
        "_linear": [*attention, "mlp.0", "mlp.2"],
        "_linear_conv": [*attention, "mlp.0", "mlp.2", "conv1", "conv2"],
    }
    files = {mode: f"train_whisper_pqm{mode}.yaml" for mode in layers}
    assert {path.name for path in (ROOT / "conf").glob("train_whisper_pqm*")} == {*files.values()}
    configs = {mode: read_yaml(ROOT / "conf" / file) for mode, file in files.items()}
    found = {mode: conf["adapter_conf"].pop("target_modules") for mode, conf in configs.items()}
    assert found == layers and all(conf == configs[""] for conf in configs.values())
    assert configs[""]["grad_clip"] >= 1e9  # ESPnet would clip at 5
    for recipe in ("voice_prompts", "librispeech"):
        for file in files.values():
            path = RECIPES[recipe] / "conf" / file
            assert path.is_symlink() and path.resolve() == ROOT / "conf" / file


@pytest.mark.parametrize(
    ("name", "shapes", "whole"),
    [
        ("mini_covost", None, 0),
        # Whisper-base: width 512; attention of 6 + 6 layers, and cross-attention of 6.
        ("voice_prompts", [(512, 512)] * 4 * 18, 72.6e6),
    ],
)
def test_share_of_an_adapter_that_the_pages_have(name, shapes, whole):
    conf = read_yaml(RECIPES[name] / "conf/train_speaker.yaml")["adapter_conf"]
    if shapes is None:
        base = open_model(RECIPES[name] / "base/model.pth")
        ends = tuple(f"{module}.weight" for module in conf["target_modules"])
        shapes, whole = [base.shape(n) for n in base.names() if n.endswith(ends)], base.numel()
    numbers = sum(conf["rank"] * (rows + columns) for rows, columns in shapes)
    share = f"{100 * numbers / whole:.1f} %"
    assert f"{numbers:,}" in (RECIPES[name] / "README.md").read_text(encoding="utf-8")
    for page in ("mini_covost", "voice_prompts"):
        assert share in (RECIPES[page] / "README.md").read_text(encoding="utf-8"), share


def test_speakers_of_librispeech():
    conf = RECIPES["librispeech"] / "conf"
    partition = read_partition(conf / "speakers.yaml")
    speakers = {"115", "210", "2368", "3389", "3615", "479", "492", "525", "6553", "829"}
    assert set(partition) == speakers
    for speaker, ends in partition.items():
        assert all(end.startswith(f"{speaker}-") for end in ends) and ends[0] < ends[1]
    options = load_config(
        FAMILIES["whisper"].inference_options, conf / "inference_whisper_pqm.yaml"
    )
    assert options.beam_size == 3 and options.dtype == "float32"
