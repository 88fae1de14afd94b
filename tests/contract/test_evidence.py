"""The commands of evidence.sh: their options, and that every model is there when it is read."""

from __future__ import annotations

import argparse
import copy
import csv
import functools
import importlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lors.bin.evaluate import read_models
from lors.config import read_yaml
from lors.merge import MergePlan, run_merge
from lors.merge.methods import METHODS as MERGE_METHODS
from lors.recipe.expdir import ONE_FOR_ALL, ORDERS, packed_merges, scopes_of
from lors.recipe.grid import read_grid
from lors.recipe.scaled_grid import scale_grid
from lors.recipe.significance import significance_file
from lors.tasks import pairs_of
from tests.blocks import ROOT
from tests.integration.recipe import Recipe, run
from tests.unit.merge_models import model

METHODS = ("task_arithmetic", "lors")
WEIGHTS = (1.0, 0.5, 1.5, 2.0, 0.25)
"""Weights of a merge of five languages with searched weights."""
LOG = "[host] {} (trainer:811) INFO: message\n"
RECORDER = """#!{python}
# Stands for Python and for run.sh: records its words, and makes the files that are read later.
import json, os, sys, time
from pathlib import Path

def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

def finish(path, text=""):
    if not path.exists():
        write(path, text)

def run_recipe(options):
    exp, tasks = Path(options["--expdir"]), options.get("--tasks", "asr st").split()
    finish(Path(options.get("--dumpdir", "dump"), ".made"))
    last = options.get("--stop_stage", "upload")
    if "--stage" not in options and last not in ("data", "format"):
        for name in ["base", "joint"] + ["expert/" + lang + "_asr" for lang in LANGS]:
            finish(exp / name / "model.pth")
            finish(exp / name / "run.sh", "export OMP_NUM_THREADS=2 MKL_NUM_THREADS=2\\n")
            for log, text in LOGS.items():
                finish(exp / name / log, text)
    for method in options["--methods"].split() if last not in ("format", "tune") else ():
        for task in tasks:
            merged = exp / "merged" / (method + "." + task)
            finish(merged / "model.pth")
            finish(merged / "merge.yaml", RECORDS[method.endswith("_weights")])

def check(paths):
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        sys.exit("not there: " + " ".join(missing))

def values(option):
    after = words[words.index(option) + 1:] if option in words else []
    return after[:next((i for i, w in enumerate(after) if w.startswith("--")), len(after))]

LANGS, LOGS, RECORDS = {langs!r}, {logs!r}, {records!r}
words = sys.argv[1:]
programs = ["lors.bin.merge", "lors.bin.evaluate", "lors.bin.results", "lors.bin.report"]
programs += ["lors.bin.score_expdir", "lors.bin.replay_halving", "lors.bin.interference"]
name = os.path.basename(sys.argv[0])
if name != "run.sh" and (words[:1] != ["-m"] or words[1] not in programs):
    os.execv({python!r}, [{python!r}, *words])
with open({record!r}, "a") as file:
    print(json.dumps([name, *words] if name == "run.sh" else words[1:]), file=file)
if name == "run.sh" and "--expdir" in words:
    run_recipe(dict(zip(words[::2], words[1::2])))
elif words[1] == "lors.bin.merge":
    check(values("--config") + values("--experts") + values("--onto"))
    time.sleep(0.1)
    print("merging is done", file=sys.stderr)
    write(Path(values("--out")[0]))
elif words[1] == "lors.bin.evaluate":
    places = [word.split("=", 1)[1] for word in values("--models")]
    every = [place.replace("{{lang}}", lang) for place in places for lang in values("--langs")]
    check([place + "/model.pth" for place in every])
    check([folder + "/.made" for folder in values("--dump")])
"""


@functools.cache
def record_of(weights: tuple[float, ...]) -> str:
    """Return ``merge.yaml`` of a merge of small models with these weights."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{number}.pth" for number in range(1 + len(weights))]
        for number, file in enumerate(files):
            torch.save(model(number), file)
        params = {"rank": 2, "density": 0.1}
        out = Path(folder, "merged/model.pth")
        run_merge(MergePlan(files[0], tuple(files[1:]), "lors", params, weights=weights), out)
        return out.with_name("merge.yaml").read_text(encoding="utf-8")


def options_of(words: Sequence[str]) -> dict[str, str]:
    """Return option -> value of words in pairs."""
    return dict(zip(words[::2], words[1::2], strict=True))


class Commands:
    """The commands of a run of evidence.sh, none of which was carried out.

    Args:
        folder: where the recipe is copied to.
        options: those of evidence.sh. Without the part `seeds` there are models of two seeds.
    """

    def __init__(self, folder: Path, *options: str):
        self.recipe = Recipe(folder / "voice_prompts", "voice_prompts")
        self.record, self.python, self.options = folder / "commands", folder / "python", options
        recorder = RECORDER.format(
            python=sys.executable,
            record=str(self.record),
            langs=["en", "es", "fr", "it", "ru"],
            logs={
                "train.1.log": f"start\n{LOG.format('2026-11-29 23:59:30,500')}",
                "train.log": LOG.format("2026-11-30 08:00:00,000")
                + LOG.format("2026-11-30 08:01:40,999"),
            },
            records=[record_of((1.0,) * len(WEIGHTS)), record_of(WEIGHTS)],
        )
        for path in (self.python, self.recipe / "run.sh"):
            path.unlink(missing_ok=True)
            path.write_text(recorder)
            path.chmod(0o755)
        for seed, name in itertools.product(("seed1", "seed2"), ("base", "expert", "stats")):
            (self.recipe.exp / seed / name).mkdir(parents=True)
        given = options_of(options)
        if "seeds" not in given.get("--parts", "seeds"):
            methods = given.get("--leading", "task_arithmetic tsv_m lors")
            for seed in ("seed1", "seed2"):
                words = ["--expdir", f"exp/{seed}", "--methods", methods]
                subprocess.run([self.recipe / "run.sh", *words], cwd=self.recipe / ".", check=True)
        self.again()

    def again(self) -> Commands:
        """Run evidence.sh; the commands are then those of this run only."""
        self.record.unlink(missing_ok=True)
        environment = {"LORS_PYTHON": str(self.python)}
        done = self.recipe.run(*self.options, program="evidence.sh", environment=environment)
        assert done.status == 0, done.stderr
        self.stderr = done.stderr
        commands = list(map(json.loads, self.record.read_text().splitlines()))
        self.runs = [words for program, *words in commands if program == "run.sh"]
        self.programs = [(name, words) for name, *words in commands if name != "run.sh"]
        return self

    def parsed(self, program: str) -> list[argparse.Namespace]:
        """Return the options of all calls of a program."""
        parser = importlib.import_module(program).get_parser()
        return [parser.parse_args(words) for name, words in self.programs if name == program]

    def merged(self) -> list[str]:
        """Return the names of the merges that were made."""
        return [Path(merge.out).parent.name for merge in self.parsed("lors.bin.merge")]


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Commands:
    options = ["--leading", " ".join(METHODS), "--seeds", "1 2"]
    return Commands(tmp_path_factory.mktemp("evidence"), *options)


def test_the_recipe_takes_the_options(commands, tmp_path):
    recipe = Recipe(tmp_path / "voice_prompts", "voice_prompts")
    shutil.copytree(commands.recipe.exp / "curves", recipe.exp / "curves")
    assert len(commands.runs) == 2 + 3 + 1 + 1 + 3 + 1 + 2 + 2
    for words in commands.runs:
        done = run(recipe, *words, "--dry_run", "true")
        assert done.returncode == 0, (words, done.stdout[-2000:])


def test_every_model_is_made_before_it_is_read(commands):
    """The recorder refuses a merge and an evaluation of a model that no command has made."""
    merges = commands.parsed("lors.bin.merge")
    assert len(merges) == 2 * (5 + 2)  # five left out, one added, one taken away
    for merge in merges:
        assert len(merge.weights) == len(merge.experts)
    assert len(commands.parsed("lors.bin.evaluate")) == 5
    assert commands.stderr.count("merging is done") == len(merges)


def test_reports_are_of_all_seeds(commands):
    first, *others = commands.parsed("lors.bin.results")
    assert list(map(str, first.expdirs)) == ["exp/seed1", "exp/seed2"]
    runs = [of for of in map(options_of, commands.runs) if of["--expdir"].startswith("exp/seed")]
    assert {of["--baselines"] for of in runs} == {" ".join(ONE_FOR_ALL)}
    assert first.systems[:5] == ["base", "expert", *ONE_FOR_ALL]
    assert "lors.langs_tasks" in first.systems
    assert [report.sweeps_only for report in others] == [False] * (5 + len(METHODS)) + [True] * 4
    page, *of_parts = commands.parsed("lors.bin.report")
    assert list(map(str, page.expdirs)) == ["exp/seed1", "exp/seed2"]
    assert page.systems == first.systems
    assert Path(page.significance) == significance_file(first.out)
    assert len(of_parts) == 5
    assert [report.compare_to for report in others[:-4]] == ["base"] * 5 + [*METHODS]
    for part, report in zip(of_parts, others, strict=False):
        assert part.expdirs == report.expdirs and part.systems == report.systems
        assert Path(part.significance) == significance_file(report.out)
    written = [name for name, _ in commands.programs]
    assert written.index("lors.bin.results") < written.index("lors.bin.report")


def test_reports_have_the_models_that_were_evaluated(commands):
    """An earlier call with other methods leaves scores that are no rows of these reports."""
    reports = [report for report in commands.parsed("lors.bin.results") if not report.sweeps_only]
    evaluations = commands.parsed("lors.bin.evaluate")
    for evaluation, report in zip(evaluations, reports[1:], strict=False):
        assert report.expdirs == [evaluation.out]
        assert report.systems == list(read_models(evaluation.models))


def test_an_expert_of_something_else_is_no_end_of_normalised_performance(commands):
    """Only the names base and expert are ends (`ScoreTable.can_normalise`)."""
    evaluations = commands.parsed("lors.bin.evaluate")
    names = {Path(of.out).name: [*read_models(of.models)] for of in evaluations}
    experts = {
        name: [model for model in models if "expert" in model] for name, models in names.items()
    }
    assert experts == {
        "recognition_models_translate": ["recognition_expert"],
        "translation_models_recognise": [],
        "read_russian": ["prompt_expert"],
        "language_left_out": ["expert"],
        "extend": ["expert"],
    }


def test_the_download_comes_first(tmp_path):
    commands = Commands(tmp_path, "--parts", "reach", "--leading", "lors")
    complete, prepare = map(options_of, commands.runs)
    assert complete["--stop_stage"] == "merge" and "read_russian" in prepare["--data_opts"]
    words = [json.loads(line) for line in commands.record.read_text().splitlines()]
    assert [name for name, *_ in words][:3] == ["run.sh", "run.sh", "lors.bin.evaluate"]


@pytest.mark.parametrize("parts", ["reach extend", "curves"])
def test_models_of_the_first_seed_are_finished_or_refused(tmp_path, parts):
    """The done markers compare them with the configurations; once is enough."""
    commands = Commands(tmp_path, "--parts", parts, "--leading", "lors", "--baselines", "joint")
    of_first = [of for of in map(options_of, commands.runs) if of["--expdir"] == "exp/seed1"]
    assert of_first == [options_of(commands.runs[0])]
    assert of_first == [
        {
            **{"--nj": "2", "--train_config": "conf/train_quick.yaml", "--seed": "1"},
            **{"--tune_config": "conf/tune_full.yaml", "--compare_to": "lors"},
            **{"--methods": "lors", "--expdir": "exp/seed1", "--baselines": "joint"},
            **{"--stage": "experts", "--stop_stage": "merge"},
        }
    ]
    recipe = Recipe(tmp_path / "recipe", "voice_prompts")
    done = run(recipe, *commands.runs[0], "--dry_run", "true")
    assert done.returncode == 0, done.stdout[-2000:]


def test_every_method_is_searched_and_scored(tmp_path):
    commands = Commands(tmp_path, "--parts", "seeds", "--seeds", "1", "--methods", "ties tsv_m")
    of = [words for words in commands.runs if words[words.index("--methods") + 1] == "ties tsv_m"]
    assert [words[words.index("--tasks") + 1] for words in of] == ["asr", "st"]
    assert {words[words.index("--stop_stage") + 1] for words in of} == {"inference"}
    (scoring,) = commands.parsed("lors.bin.score_expdir")
    assert scoring.systems == ["ties.langs", "tsv_m.langs"] and scoring.tasks == ["asr", "st"]


def test_the_quick_experiment_is_one_run(tmp_path):
    commands = Commands(tmp_path, "--experiment", "quick")
    (words,) = commands.runs
    assert "conf/tune_quick.yaml" in words
    assert words[words.index("--methods") + 1] == "average task_arithmetic lors lors+boost"
    assert words[words.index("--baselines") + 1] == "joint sequential"


def test_rows_are_compared_with_one_of_them(tmp_path):
    """The reports have comparisons whichever methods lead."""
    options = ("--parts", "seeds reach", "--seeds", "1", "--leading", "tsv_m lors_paper")
    options += ("--baselines", "joint")
    commands = Commands(tmp_path, *options, "--methods", "tsv_m lors_paper")
    of_seed = [of for of in map(options_of, commands.runs) if of["--expdir"] == "exp/seed1"]
    assert of_seed and {of["--compare_to"] for of in of_seed} == {"lors_paper"}
    whole, *parts = commands.parsed("lors.bin.results")
    assert whole.compare_to == "lors_paper" and whole.systems[:3] == ["base", "expert", "joint"]
    assert not any("sequential" in system for system in whole.systems)
    assert [report.compare_to for report in parts] == ["lors_paper"] * len(parts)


def test_interference_and_halving_are_reported(commands):
    (measured,) = commands.parsed("lors.bin.interference")
    assert measured.expdir == "exp/seed1" and measured.tasks == ["asr"]
    assert measured.langs == ["en", "es", "fr", "it", "ru"]
    (replay,) = commands.parsed("lors.bin.replay_halving")
    assert list(map(str, replay.expdirs)) == ["exp/curves/settings"]
    grid = read_grid(ROOT / "egs/voice_prompts/lors1/conf/tune_curves.yaml")
    assert grid.halving is None  # a search with halving cannot be replayed


def test_times_of_the_parts(commands):
    rows = (commands.recipe.exp / "parts.tsv").read_text().splitlines()
    assert [row.split("\t")[1] for row in rows] == ["seeds", "reach", "extend", "curves"]
    assert all(row.split("\t")[2].isdigit() for row in rows)


def test_curves_of_the_learning_rate(commands):
    """The experts of a curve differ from those of the seeds by their learning rate alone."""
    published = read_yaml(commands.recipe / "conf/train_quick.yaml")
    for rate in ("0.000005", "0.00002"):
        config = read_yaml(commands.recipe.exp / f"curves/train_{rate}.yaml")
        assert (
            config["optim_conf"].pop("lr") == config["scheduler_conf"].pop("max_lr") == float(rate)
        )
        expected = copy.deepcopy(published)
        del expected["optim_conf"]["lr"], expected["scheduler_conf"]["max_lr"]
        assert config == expected


def test_curves_are_of_the_first_seed(tmp_path):
    """Their experts are compared with those of that seed."""
    options = ("--parts", "curves", "--seeds", "2 3", "--leading", "tsv_m")
    commands = Commands(tmp_path, *options)
    assert {words[words.index("--seed") + 1] for words in commands.runs} == {"2"}
    assert len(commands.runs) == 1 + 3 + 1 + 2 + 2
    expert = commands.recipe.exp / "curves/2_languages/expert"
    assert expert.resolve() == (commands.recipe.exp / "seed2/expert").resolve()


def test_searches_of_the_curves_are_reported(commands):
    """The settings, whose run ends with the search, and three curves, each in its order."""
    settings, *together = [r for r in commands.parsed("lors.bin.results") if r.sweeps_only]
    assert list(map(str, settings.expdirs)) == ["exp/curves/settings"]
    runs = {options_of(words).get("--expdir", "") for words in commands.runs}
    curves = {expdir for expdir in runs if "/curves/" in expdir} - {"exp/curves/settings"}
    assert len(curves) == 3 + 2 + 2
    for report, names, label in zip(
        together,
        (
            ["2_languages", "3_languages", "4_languages", "seed1"],
            ["0.05_hours", "0.1_hours", "seed1"],
            ["rate_0.000005", "seed1", "rate_0.00002"],
        ),
        ("languages", "hours", "learning rate"),
        strict=True,
    ):
        assert [Path(expdir).name for expdir in report.expdirs] == names
        curves -= set(map(str, report.expdirs))
        assert label in report.x_label and "seed1" in report.x_label
        assert report.systems == ["task_arithmetic.langs", "lors.langs"]
        assert report.tasks == settings.tasks == ["asr"]
    assert not curves and len({report.out for report in together}) == 3
    assert len({report.plots for report in together}) == 3


def test_a_language_is_added_to_a_merge_that_was_tuned_without_it(tmp_path):
    """Nothing but the models of the first seed is there before."""
    commands = Commands(tmp_path, "--parts", "extend", "--leading", "tsv_m lors")
    _, options = map(options_of, commands.runs)
    assert options["--langs"] == "en es fr it" and options["--methods"] == "tsv_m lors"
    assert options["--stage"] == "tune" and options["--stop_stage"] == "merge"
    assert options["--expdir"] == "exp/curves/4_languages"
    added, removed = commands.parsed("lors.bin.merge")[2:]
    four, five = "exp/curves/4_languages/merged/lors.asr", "exp/seed1/merged/lors.asr"
    for merge, start, expert, weight in ((added, four, "ru", 1), (removed, five, "it", -1)):
        assert merge.config == f"{start}/merge.yaml" and merge.onto == f"{start}/model.pth"
        assert merge.experts == [f"exp/seed1/expert/{expert}_asr/model.pth"]
        assert merge.weights == [weight]
    methods = [(f"{name}.added_ru", f"{name}.removed_it") for name in ("tsv_m", "lors")]
    assert commands.merged() == [*methods[0], *methods[1]]
    (evaluation,) = commands.parsed("lors.bin.evaluate")
    assert len(evaluation.models) == 3 + 2 * 4 and f"lors_before_ru={four}" in evaluation.models
    every, *compared = commands.parsed("lors.bin.results")
    assert set(every.systems) == {*read_models(evaluation.models)}
    for options, method in zip(compared, ("tsv_m", "lors"), strict=True):
        changed = [f"{method}_{name}" for name in ("before_ru", "added_ru", "removed_it")]
        assert options.compare_to == method and options.family == changed
        assert options.systems == ["base", "expert", "joint", method, *changed]


@pytest.mark.parametrize(("method", "factor"), [("tsv_m", 1.0), ("lors_boost", 0.8)])
def test_other_merges_than_sums_are_made_again(tmp_path, method, factor):
    """With the settings for four languages and the factor for five, and the other way round."""
    name = method.replace("_boost", "+boost")
    commands = Commands(tmp_path, "--parts", "extend", "--leading", name)
    added, removed = commands.parsed("lors.bin.merge")
    merged = f"merged/{name}.asr/merge.yaml"
    assert added.config == f"exp/curves/4_languages/{merged}"
    assert removed.config == f"exp/seed1/{merged}"
    assert added.onto is None and removed.onto is None
    experts = [f"exp/seed1/expert/{lang}_asr/model.pth" for lang in ("en", "es", "fr", "it", "ru")]
    assert added.experts == experts and added.weights == pytest.approx([factor] * 5)
    del experts[3]
    assert removed.experts == experts and removed.weights == pytest.approx([1 / factor] * 4)


def test_fewer_languages_have_grids_of_their_own(commands):
    """The best factor of a sum falls with the number of experts, that of a mean does not."""
    runs = [of for of in map(options_of, commands.runs) if "_languages" in of["--expdir"]]
    grids = {(of["--langs"].count(" ") + 1, of["--tune_config"]) for of in runs}
    assert len(runs) == 4 and len(grids) == 3  # four languages in two parts
    for number, file in grids:
        expected = commands.recipe / f"{number}.yaml"
        scale_grid(ROOT / "egs/voice_prompts/lors1/conf/tune_full.yaml", 5, number, expected)
        grid = read_grid(commands.recipe / file)
        assert grid == read_grid(expected)
        assert grid.points["task_arithmetic"][0]["scaling_coef"] == pytest.approx(
            *(0.5 / number, 1e-3)  # rounded
        )
        assert grid.points["tsv_m"][0]["scaling_coef"] == 0.6


def test_costs_of_added_languages(tmp_path):
    commands = Commands(tmp_path, "--parts", "extend", "--leading", "lors iso_c")
    with (commands.recipe.exp / "extend/cost.tsv").open(encoding="utf-8") as file:
        rows = {row["work"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert list(rows) == [
        *("training expert/ru_asr", "training joint, 5 pairs"),
        *("merging lors.added_ru", "merging iso_c.added_ru"),
        *("merging lors.removed_it", "merging iso_c.removed_it"),
    ]
    assert [row["merged_experts"] for row in rows.values()] == ["n/a", "n/a", "1", "5", "1", "4"]
    # one line in the first log, 100 seconds in the second one, two threads
    for name in ("training expert/ru_asr", "training joint, 5 pairs"):
        assert (rows[name]["wall_s"], rows[name]["cpu_s"]) == ("100", "200")
    for name in ("merging lors.added_ru", "merging lors.removed_it"):
        assert 0.1 <= float(rows[name]["wall_s"]) < 60 and float(rows[name]["cpu_s"]) >= 0
    for log in (commands.recipe.exp / "seed1/joint").glob("train*.log"):
        log.unlink()
    (commands.recipe.exp / "seed1/expert/ru_st").mkdir()
    commands.again()
    costs = (commands.recipe.exp / "extend/cost.tsv").read_text()
    assert "training joint, 6 pairs\tn/a\tn/a\tn/a\n" in costs


def test_weights_of_the_experts_are_kept(tmp_path):
    """Sums of four experts have 5/4 of the weights, so that the whole keeps its factor."""
    leading = ("--leading", "lors lors_weights tsv_m iso_c")
    commands = Commands(tmp_path, "--parts", "reach extend", *leading)
    weights = {Path(m.out).parent.name: m.weights for m in commands.parsed("lors.bin.merge")}
    assert weights["lors.without_es"] == [1.25] * 4
    assert weights["lors_weights.without_en"] == [0.625, 1.875, 2.5, 0.3125]
    assert weights["lors_weights.without_fr"] == [1.25, 0.625, 2.5, 0.3125]
    assert weights["lors_weights.without_ru"] == [1.25, 0.625, 1.875, 2.5]
    assert weights["lors_weights.removed_it"] == [-2.0]
    assert weights["tsv_m.without_es"] == [1.0] * 4
    assert weights["iso_c.without_es"] == pytest.approx([1.25**0.5] * 4, rel=1e-5)


def test_merges_are_made_again_if_their_models_are_newer(tmp_path):
    commands = Commands(tmp_path, "--parts", "reach extend", "--leading", " ".join(METHODS))
    exp = commands.recipe.exp
    assert len(commands.merged()) == 2 * (5 + 2)
    assert commands.again().merged() == []

    def made_after(change) -> set[str]:
        change()
        return set(commands.again().merged())

    languages = ("en", "es", "fr", "it", "ru")
    without = {f"lors.without_{lang}" for lang in languages}
    record = exp / "seed1/merged/lors.asr/merge.yaml"
    assert made_after(lambda: os.utime(record)) == without | {"lors.removed_it"}
    expert = exp / "seed1/expert/es_asr/model.pth"
    others = {f"{m}.without_{lang}" for m in METHODS for lang in languages if lang != "es"}
    assert made_after(lambda: os.utime(expert)) == others
    # A kill between the model and its record leaves a model, which is not taken for finished.
    finished = exp / "reach/models/lors.without_fr/seconds"
    assert finished.with_name("model.pth").exists()
    assert made_after(finished.unlink) == {"lors.without_fr"}
    other = finished.with_name("options")
    assert made_after(lambda: other.write_text("--weights 1")) == {"lors.without_fr"}


def test_numbers_of_models_in_the_help(tmp_path):
    """Trainings, saved merges and zip files of all parts."""
    commands = Commands(tmp_path)
    trained: set[tuple[str, ...]] = set()
    merged: set[tuple[str, ...]] = set()
    packed: set[tuple[str, ...]] = set()
    for of in map(options_of, commands.runs):
        expdir, tasks = of["--expdir"], of.get("--tasks", "asr st").split()
        langs = of.get("--langs", "en es fr it ru").split()
        last = of.get("--stop_stage", "upload")
        if last in ("format", "tune"):
            continue
        methods, scopes = of["--methods"].split(), scopes_of(tasks)
        merged |= {(expdir, method, scope) for method in methods for scope in scopes}
        if last == "upload" and of.get("--stage") != "score":
            packed |= {(expdir, name) for name in packed_merges(tasks, methods)}
        if "--stage" not in of:
            pairs = list(map(str, pairs_of(langs, tasks)))
            steps = {name: [f"{name}/{pair}" for pair in pairs] for name in ORDERS}
            given = {"joint": ["joint"], **steps}
            baselines = [name for each in of["--baselines"].split() for name in given[each]]
            trained |= {(expdir, name) for name in pairs + baselines}
    merges = len(merged) + len(commands.merged())
    text = commands.recipe.run("--help", program="evidence.sh").stdout
    numbers = (f"{len(trained)} trainings", f"{merges} merges", f"{len(packed)} zip files")
    assert all(number in " ".join(text.split()) for number in numbers), numbers


def test_merges_that_can_be_extended():
    """The list in evidence.sh is that of the sums in the full search."""
    text = (ROOT / "egs/voice_prompts/lors1/evidence.sh").read_text(encoding="utf-8")
    listed = re.search(r"^sums=\((.*?)\)", text, re.MULTILINE | re.DOTALL)[1].split()
    grid = read_grid(ROOT / "egs/voice_prompts/lors1/conf/tune_full.yaml")
    changed = {"svc", "boost", "masks"}
    sums = [
        name
        for name, points in grid.points.items()
        if MERGE_METHODS[grid.method(name)].is_sum
        and not MERGE_METHODS[grid.method(name)].draws
        and not any(changed & point.keys() for point in points)
    ]
    assert sorted(listed) == sorted(sums)


def test_without_models_of_the_first_seed(tmp_path):
    recipe = Recipe(tmp_path / "voice_prompts", "voice_prompts")
    done = recipe.run("--parts", "extend", program="evidence.sh")
    assert done.status == 1 and re.search(r"exp/seed1.*part seeds", done.stderr, re.DOTALL)
    assert not recipe.exp.exists()


def test_help_names_the_training_configuration(commands):
    done = commands.recipe.run("--help", program="evidence.sh")
    used = {options_of(words).get("--train_config", "") for words in commands.runs}
    published = {config for config in used if config.startswith("conf/")}
    assert published == {"conf/train_quick.yaml"}
    assert published | {"conf/train_full.yaml"} <= set(
        re.findall(r"conf/train_\w+\.yaml", done.stdout)
    )


def test_an_unknown_part(tmp_path):
    recipe = Recipe(tmp_path / "voice_prompts", "voice_prompts")
    done = recipe.run("--parts", "seeds curve", program="evidence.sh")
    assert done.status == 2 and re.search(r"--parts.*curve", done.stderr)
