"""Options of the recipe scripts: what is refused, and the lists that the scripts read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lors.bin import check_recipe
from lors.errors import LorsError, UsageError
from lors.models.wav2vec2.family import Wav2Vec2
from lors.recipe.expdir import searches_of
from lors.recipe.option_text import group_languages
from lors.recipe.options import resolve
from tests.refusal import refusal

ROOT = Path(__file__).parents[2]
STAGES = ("data", "format", "base", "stats", "experts", "baselines")
STAGES += ("tune", "merge", "inference", "score", "pack", "upload")
COMPARISON = {  # of lors.sh and s3net.sh
    **{"stage": "1", "stop_stage": "12", "dry_run": "false", "submit": "false"},
    **{"skip_train": "false", "langs": "de es", "group": "", "groups": "", "tasks": "asr st"},
    **{"methods": "average lors", "compare_to": "", "baselines": "joint"},
    **{"train_hours": "", "train_subset": ""},
    **{"seed": "1", "dev_utterances": "1000", "datadir": "data", "dumpdir": "dump"},
    **{"expdir": "exp", "nj": "2", "ngpu": "0", "num_nodes": "1", "device": "cpu"},
    **{
        "model_family": "espnet_s2t",
        "base_model": "",
        "window": "30",
        "base_window": "",
        "st_language": "source",
    },
    **{"train_config": "", "inference_config": "", "tune_config": "conf/tune.yaml"},
    "data_opts": "",
}
LORS = {**COMPARISON, "upload_repo": "", "upload_opts": ""}
BASE = {
    **{"stage": "1", "stop_stage": "5", "dry_run": "false", "submit": "false", "langs": "de es"},
    **{"model_family": "espnet_s2t", "vocab_size": "500", "base_config": "", "seed": "1"},
    **{"dev_utterances": "1000", "data_opts": "", "datadir": "data/pool", "dumpdir": "dump/pool"},
    **{"expdir": "exp/base_run", "nj": "2", "ngpu": "0", "num_nodes": "1"},
}


@pytest.fixture(autouse=True)
def recipe(tmp_path, monkeypatch):
    """A recipe directory with the configurations of the mini recipe, and a model."""
    shutil.copytree(ROOT / "egs/mini_covost/lors1/conf", tmp_path / "conf")
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lists(stages=STAGES, cmd_backend="local", **options):
    found = resolve("lors", {**LORS, **options}, stages, cmd_backend)
    return {name: list(words) for name, words in found.items()}


def test_lists_of_lors():
    assert lists(data_opts="--num_dev  6") == {
        "base_model": ["base"],
        "train_config": ["conf/train_expert.yaml"],
        "inference_config": ["conf/inference_greedy.yaml"],
        "langs": ["de", "es"],
        "tasks": ["asr", "st"],
        "methods": ["average", "lors"],
        "baselines": ["joint"],
        "data_opts": ["--num_dev", "6"],
        "import_options": [],
        "training_clips": [],
        "report_options": [],
        "upload_opts": [],
        "pairs": ["de_asr", "de_st", "es_asr", "es_st"],
        "scopes": ["asr_st", "asr", "st"],
        "searches": ["asr_st", "asr", "st"],
        "systems": [
            *("base", "expert", "joint", "average.langs", "lors.langs"),
            *("average.langs_tasks", "lors.langs_tasks"),
        ],
        "packed": ["lors.asr_st", "lors.asr", "lors.st"],
    }


def test_the_models_that_are_packed_are_those_of_one_method():
    boosted = ["lors+boost.asr_st", "lors+boost.asr", "lors+boost.st"]
    assert lists(methods="average lors+boost lors")["packed"] == boosted
    assert lists(methods="lors average", tasks="asr")["packed"] == ["lors.asr"]


def test_jobs_of_the_search():
    assert lists(nj="6")["searches"] == ["asr_st", "asr_st", "asr", "asr", "st", "st"]
    for nj, jobs in (("1", 1), ("2", 2), ("40", 2)):  # two methods
        assert lists(nj=nj, tasks="asr")["searches"] == ["asr"] * jobs
    methods = ["a", "b", "c"]
    assert searches_of(["asr"], methods) == [("asr", methods)]
    assert searches_of(["asr"], methods, 2) == [("asr", ["a", "c"]), ("asr", ["b"])]
    by_scope = {scope: [] for scope in ("asr_st", "asr", "st")}
    for scope, own in searches_of(["st", "asr"], methods, 7):
        by_scope[scope] += own
    assert all(sorted(own) == methods for own in by_scope.values())


def test_a_task_without_a_language():
    """It is refused before the training, not by the search after it."""
    facts = ("--langs 'en'", "--tasks 'asr st'", "--tasks asr")
    with refusal(*facts, kind=UsageError):
        lists(langs="en")
    with refusal("--langs 'en'", "--tasks 'st'", kind=UsageError):
        lists(langs="en", tasks="st")
    assert lists(langs="en", tasks="asr")["pairs"] == ["en_asr"]
    assert lists(langs="en es")["pairs"] == ["en_asr", "es_asr", "es_st"]
    assert lists(STAGES[:2], langs="en")["pairs"] == ["en_asr"]  # only the data


def test_places_of_uploads():
    assert lists(upload_repo="org/x", upload_opts="--private")["upload_opts"] == ["--private"]
    with refusal("org/x@main", kind=UsageError):
        lists(upload_repo="org/x@main")
    lists(STAGES[:-1], upload_repo="org/x@main")


def test_an_upload_without_the_models_that_it_takes():
    given = {"methods": "average task_arithmetic", "upload_repo": "org/x"}
    for stages in (STAGES, ["upload"]):
        facts = (
            "--upload_repo",
            "--methods",
            "average task_arithmetic",
            "lors upload ... --merged",
        )
        with refusal(*facts, kind=UsageError):
            lists(stages, **given)
    assert lists(STAGES[:-1], **given)["packed"] == []
    assert lists(**{**given, "upload_repo": ""})["packed"] == []


def test_a_family_that_no_other_program_loads_is_not_uploaded(monkeypatch):
    monkeypatch.setattr(Wav2Vec2, "check_options", lambda options: None)
    given = {"model_family": "wav2vec2", "base_model": "xlsr", "tasks": "asr"}
    with refusal("--upload_repo", "wav2vec2", "espnet_s2t or whisper", kind=UsageError):
        lists(**given, upload_repo="org/x")
    assert lists(**given)["packed"] == ["lors.asr"]
    lists(STAGES[:-1], **given, upload_repo="org/x")


def test_base_models_of_the_hub():
    for family in ("espnet_s2t", "whisper"):
        given = {"model_family": family, "base_model": "org/model@v1/de"}
        assert lists(**given)["base_model"] == ["org/model@v1/de"]


def test_lists_of_one_task_without_lors():
    found = lists(tasks="st", methods="average", baselines="")
    assert (found["scopes"], found["packed"], found["baselines"]) == (["st"], [], [])
    assert found["systems"] == ["base", "expert", "average.langs"]


def test_window_of_the_base_model():
    found = lists(model_family="whisper", base_model="tiny", window="auto", base_window="10")
    expected = ["--window", "auto", "--st_language", "source", "--base_window", "10"]
    assert found["import_options"] == expected


def test_lists_of_whisper():
    found = lists(model_family="whisper", base_model="tiny", window="4", train_hours="0.006")
    assert found["import_options"] == ["--window", "4", "--st_language", "source"]
    assert found["training_clips"] == ["--train_hours", "0.006"]
    assert found["train_config"] == ["conf/train_whisper_full.yaml"]
    assert "base_model" not in lists(stages=["score"], model_family="whisper")


def test_given_values_come_before_defaults(recipe):
    (recipe / "conf/my train.yaml").write_text("max_epoch: 1\n")
    found = lists(train_config="conf/my train.yaml", train_subset="my lists", train_hours="5")
    assert found["train_config"] == ["conf/my train.yaml"]
    assert found["training_clips"] == ["--train_subset", "my lists"]


def test_lists_of_training_a_base_model():
    assert {k: list(v) for k, v in resolve("train_base", BASE, ["train"], "local").items()} == {
        "langs": ["de", "es"],
        "data_opts": [],
        "base_config": ["conf/train_base.yaml"],
        "pairs": ["de_asr", "de_st", "es_asr", "es_st"],
    }


def test_group():
    groups = "high: ca de ; low: id"
    assert lists(group="high", groups=groups)["langs"] == ["ca", "de"]
    assert group_languages("low", groups) == ["id"]
    with refusal("--group", "middle", "high: ca de", "low: id", kind=UsageError):
        group_languages("middle", groups)
    with refusal("--groups", "middle", kind=UsageError):
        group_languages("middle", "")


@pytest.mark.parametrize(
    ("groups", "fact"),
    [
        ("high: de; high: fr", "'high'"),
        ("high: de; low", "'low'"),
        ("high: de; low:", "'low'"),
        ("high: de; : fr", "''"),
        ("high: de de", "'de'"),
        ("high: ../de", "'../de'"),
    ],
)
def test_malformed_groups(groups, fact):
    with refusal("--groups", fact, kind=UsageError):
        group_languages("high", groups)


def test_all_wrong_values_are_named_at_once():
    wrong = {"nj": "0", "seed": "-1", "tasks": "asr mt", "device": "tpu"}
    wrong |= {"baselines": "chain", "train_hours": "five", "model_family": "wisper"}
    with refusal(*wrong, "'mt'", "'tpu'", "'chain'", "'five'", "'wisper'", kind=UsageError):
        lists(**wrong)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"langs": " "}, ["--langs"]),
        ({"tasks": ""}, ["--tasks"]),
        ({"expdir": "exp/my_JOB"}, ["exp/my_JOB"]),
        ({"num_nodes": "2"}, ["--num_nodes", "2", "cmd.sh"]),
        ({"base_model": "nowhere"}, ["--base_model", "nowhere"]),
        ({"model_family": "whisper"}, ["--base_model"]),
        ({"model_family": "whisper", "base_model": "smal"}, ["--base_model", "small"]),
        ({"model_family": "whisper", "base_model": "tiny", "langs": "xx"}, ["--langs", "xx"]),
        ({"model_family": "whisper", "base_model": "tiny", "window": "40"}, ["window", "40"]),
        ({"methods": "lros"}, ["lros", "lors", "conf/tune.yaml"]),
        ({"methods": ""}, ["--methods", "--stop_stage"]),
        ({"methods": "", "tune_config": "nope.yaml"}, ["--methods", "nope.yaml"]),
        ({"data_opts": "a\tb", "expdir": "c\nd"}, ["--data_opts", "--expdir"]),
        ({"colour": "red"}, ["colour"]),
        ({"train_hours": "5 fr=1"}, ["--train_hours", "fr", "de, es"]),
        ({"train_hours": "es=5 es=1"}, ["--train_hours", "es=5 es=1"]),
    ],
)
def test_usage_errors(options, facts, recipe):
    before = sorted(recipe.rglob("*"))
    with refusal(*facts, kind=UsageError):
        lists(**options)
    assert sorted(recipe.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "value", "fact"),
    [
        *((name, "", "''") for name in ("expdir", "datadir", "dumpdir")),
        *((name, " ", "' '") for name in ("expdir", "datadir", "dumpdir")),
        ("expdir", "-rf", "./-rf"),
        ("expdir", "seed=2", "./seed=2"),
        ("expdir", os.fsdecode(b"exp\xff"), "UTF-8"),
        ("expdir", "./data/../dump/", "--dumpdir"),
        ("langs", "de fr de", "'de'"),
        ("langs", "../../de", "'../../de'"),
        ("langs", "..", "'..'"),
        ("langs", "de /es", "'/es'"),
        ("langs", "-rf", "'-rf'"),
        ("langs", "de_asr", "'de_asr'"),
        ("langs", "JOB", "'JOB'"),
        ("langs", "x" * 300, "240 bytes"),
        ("langs", "de\x01", "control character"),
        ("tasks", "asr asr", "'asr'"),
        ("methods", "lors lors", "'lors'"),
        ("methods", "../lors", "'../lors'"),
        ("methods", "-lors", "'-lors'"),
        ("baselines", "joint joint", "'joint'"),
        ("tune_config", "conf/JOB.yaml", "conf/JOB.yaml"),
        *(("train_hours", value, f"'{value}'") for value in ("nan", "inf", "1:30", "0x10")),
        ("train_hours", "1e999", "'1e999'"),
        *(("train_hours", value, value) for value in ("-1", "0", "1e-09", "=", "de=", "es=x")),
        *(("dev_utterances", value, value) for value in ("0", "-1", "1.5", "1e+300", "9" * 30)),
        *(("nj", value, value) for value in ("1001", "٣", "1_0", " 2", "+2", "1000000.0")),
        ("nj", "9" * 5000, "'999"),
        ("ngpu", "1001", "1001"),
        ("seed", "4294967296", "4294967296"),
        ("skip_train", "yes", "'yes'"),
    ],
)
def test_value_that_is_refused_at_any_stage(option, value, fact, recipe):
    before = sorted(recipe.rglob("*"))
    with refusal(f"--{option}", fact, kind=UsageError):
        lists([], **{option: value})
    assert sorted(recipe.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("nj", "007"), ("train_hours", ".5"), ("train_hours", "1e2"), ("expdir", "./seed=2")),
        *(("train_hours", "5 es=0.5"), ("train_hours", "es=0.5")),
        *(("expdir", "a b/é"), ("langs", "zh_TW sv-SE nan-tw"), ("expdir", "/tmp/JOBS")),
    ],
)
def test_value_that_is_accepted(option, value):
    assert lists(["data"], **{option: value})


def test_all_wrong_names_are_told_at_once():
    wrong = {"langs": "../de es es", "expdir": "", "methods": "a/b", "train_hours": "nan"}
    wrong |= {"datadir": "-x", "num_nodes": "2", "tasks": ""}
    with refusal(*(f"--{name}: " for name in wrong), "'es'", kind=UsageError):
        lists(**wrong)


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"a\xffb")])
def test_directory_of_the_recipe_that_no_record_can_hold(recipe, monkeypatch, name):
    (recipe / name).mkdir()
    monkeypatch.chdir(recipe / name)
    with refusal("directory of the recipe", kind=UsageError):
        lists([])


def test_backslash_on_slurm(recipe, monkeypatch):
    assert lists([], expdir="a\\b")
    with refusal("--expdir", "backslash", kind=UsageError):
        lists([], "slurm", expdir="a\\b")
    (recipe / "a\\b").mkdir()
    monkeypatch.chdir(recipe / "a\\b")
    with refusal("directory of the recipe", "backslash", kind=UsageError):
        lists([], "slurm")


def test_many_wrong_names_are_counted():
    langs = " ".join(f"../{number}" for number in range(20_000))
    with refusal("../0", "20000 wrong", "and 19980 more", kind=UsageError):
        lists(langs=langs)


def test_several_nodes_on_a_cluster():
    assert lists(cmd_backend="slurm", num_nodes="2")


def test_options_of_inference_on_dev_are_those_of_the_family(recipe):
    grid = (recipe / "conf/tune.yaml").read_text(encoding="utf-8")
    (recipe / "fast.yaml").write_text(grid + "inference: {dtype: fast}\n", encoding="utf-8")
    with refusal("dtype", "conf/inference_greedy.yaml", kind=UsageError):
        lists(tune_config="fast.yaml")
    whisper = {"model_family": "whisper", "base_model": "base"}
    assert lists(tune_config="fast.yaml", **whisper)["tasks"] == ["asr", "st"]


@pytest.mark.parametrize(
    ("option", "needed_by"),
    [
        ("train_config", {"stats", "experts", "baselines"}),
        ("tune_config", {"tune"}),
        ("inference_config", {"tune", "inference"}),
    ],
)
def test_configuration_is_read_for_the_stages_that_need_it(option, needed_by):
    for stage in STAGES:
        if stage in needed_by:
            with refusal("nope.yaml", kind=LorsError):
                lists([stage], **{option: "nope.yaml"})
        else:
            assert lists([stage], **{option: "nope.yaml"})


def test_base_model_is_looked_for_by_its_stage_alone():
    assert lists(["data"], base_model="nowhere") and lists([], base_model="nowhere")


def test_command_line(capsys):
    words = ["lors", "--program", "./run.sh", "--cmd_backend", "local", "--stages", "data"]
    options = [f"{name}={value}" for name, value in {**LORS, "data_opts": "--min_join=0.9"}.items()]
    assert check_recipe.main([*words, "--options", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "pairs\tde_asr\tde_st\tes_asr\tes_st" in lines
    assert "data_opts\t--min_join=0.9" in lines and "import_options" in lines
    assert check_recipe.main([*words, "--options", *options, "nj=0"]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("./run.sh: ") and "nj" in error
    assert check_recipe.main([*words, "--options", "nj", "expdir=exp"]) == 2
    assert "nj" in capsys.readouterr().err


def test_check_imports_neither_torch_nor_espnet():
    heavy = "{'torch', 'espnet2', 'whisper', 'numpy'}"
    code = f"import sys, lors.bin.check_recipe; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_system_that_others_are_compared_with():
    assert lists()["report_options"] == []
    for system in ("lors", "average.langs", "joint"):
        assert lists(compare_to=system)["report_options"] == ["--compare_to", system]
    with refusal("--compare_to", "avrage", "did you mean average", kind=UsageError):
        lists(compare_to="avrage")
    assert lists(["data"], compare_to="avrage")  # not its stage
