"""The commands of evidence.sh: their options, and that every model is there when it is read."""

from __future__ import annotations

import argparse
import copy
import importlib
import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from lors.config import read_yaml
from lors.recipe.significance import significance_file
from tests.integration.recipe import Recipe, run

METHODS = ("task_arithmetic", "lors")
RECORDER = """#!{python}
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
programs = ["lors.bin.merge", "lors.bin.evaluate", "lors.bin.results", "lors.bin.report"]
programs += ["lors.bin.score_expdir"]
name = os.path.basename(sys.argv[0])
if name != "run.sh" and (words[:1] != ["-m"] or words[1] not in programs):
    os.execv({python!r}, [{python!r}, *words])
with open({record!r}, "a") as file:
    print(json.dumps([name, *words] if name == "run.sh" else words[1:]), file=file)
if "--out" in words and words[1] == "lors.bin.merge":
    out = Path(words[words.index("--out") + 1])
    out.parent.mkdir(parents=True)
    out.touch()
"""


class Commands:
    """The commands of a run of evidence.sh, none of which was carried out."""

    def __init__(self, folder, *options: str):
        self.recipe = Recipe(folder / "voice_prompts", "voice_prompts")
        record = folder / "commands"
        recorder = RECORDER.format(python=sys.executable, record=str(record))
        for path in (folder / "python", self.recipe / "run.sh"):
            path.unlink(missing_ok=True)
            path.write_text(recorder)
            path.chmod(0o755)
        for seed, name in itertools.product(("seed1", "seed2"), ("base", "expert", "stats")):
            (self.recipe.exp / seed / name).mkdir(parents=True)
        done = self.recipe.run(
            *options, program="evidence.sh", environment={"LORS_PYTHON": str(folder / "python")}
        )
        assert done.status == 0, done.stderr
        commands = list(map(json.loads, record.read_text().splitlines()))
        self.runs = [words for program, *words in commands if program == "run.sh"]
        self.programs = [(name, words) for name, *words in commands if name != "run.sh"]

    def parsed(self, program: str) -> list[argparse.Namespace]:
        """Return the options of all calls of a program."""
        parser = importlib.import_module(program).get_parser()
        return [parser.parse_args(words) for name, words in self.programs if name == program]


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Commands:
    options = ["--leading", " ".join(METHODS), "--seeds", "1 2"]
    return Commands(tmp_path_factory.mktemp("evidence"), *options)


def test_the_recipe_takes_the_options(commands, tmp_path):
    recipe = Recipe(tmp_path / "voice_prompts", "voice_prompts")
    shutil.copytree(commands.recipe.exp / "curves", recipe.exp / "curves")
    assert len(commands.runs) == 2 + 3 + 1 + 3 + 1 + 2 + 2
    for words in commands.runs:
        done = run(recipe, *words, "--dry_run", "true")
        assert done.returncode == 0, (words, done.stdout[-2000:])


def test_every_model_is_made_before_it_is_read(commands):
    trained = {f"expert/{lang}_asr" for lang in ("en", "es", "fr", "it", "ru")}
    trained |= {"base", "joint", *(f"merged/{m}.{task}" for m in METHODS for task in ("asr", "st"))}
    made = {f"exp/seed1/{name}" for name in trained}
    merges = commands.parsed("lors.bin.merge")
    assert len(merges) == 2 * (5 + 2)  # five left out, one added, one taken away
    for merge in merges:
        read = [*(merge.experts or []), *([merge.onto] if merge.onto else [])]
        read = [str(path).removesuffix("/model.pth") for path in read]
        assert set(read) <= made, merge.out
        assert len(merge.weights) == len(merge.experts)
        made.add(str(merge.out).removesuffix("/model.pth"))
    evaluations = commands.parsed("lors.bin.evaluate")
    assert len(evaluations) == 5
    for evaluation in evaluations:
        for model in evaluation.models:
            place = model.split("=", 1)[1]
            langs = evaluation.langs if "{lang}" in place else [""]
            assert {place.replace("{lang}", lang) for lang in langs} <= made, model


def test_reports_are_of_all_seeds(commands):
    first, *others = commands.parsed("lors.bin.results")
    assert list(map(str, first.expdirs)) == ["exp/seed1", "exp/seed2"]
    assert "lors.langs_tasks" in first.systems and len(others) == 5
    (page,) = commands.parsed("lors.bin.report")
    assert list(map(str, page.expdirs)) == ["exp/seed1", "exp/seed2"]
    assert page.systems == first.systems
    assert Path(page.significance) == significance_file(first.out)
    written = [name for name, _ in commands.programs]
    assert written.index("lors.bin.results") < written.index("lors.bin.report")


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
    assert words[words.index("--methods") + 1] == "average task_arithmetic lors"


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
    assert len(commands.runs) == 3 + 1 + 2 + 2
    expert = commands.recipe.exp / "curves/2_languages/expert"
    assert expert.resolve() == (commands.recipe.exp / "seed2/expert").resolve()


def test_merges_of_the_leading_methods_are_changed(tmp_path):
    commands = Commands(tmp_path, "--parts", "extend", "--leading", "tsv_m lors")
    merges = commands.parsed("lors.bin.merge")
    made = [str(merge.out).split("/")[-2] for merge in merges]
    assert made == ["lors.added_ru", "lors.removed_it"]
    (evaluation,) = commands.parsed("lors.bin.evaluate")
    assert len(evaluation.models) == 3 + 4


def test_no_leading_method_can_be_changed(tmp_path):
    recipe = Recipe(tmp_path / "voice_prompts", "voice_prompts")
    done = recipe.run("--leading", "tsv_m actmat", program="evidence.sh")
    assert done.status == 2 and re.search(r"--leading tsv_m actmat.*lors", done.stderr, re.DOTALL)
    assert not recipe.exp.exists()


def test_an_unknown_part(tmp_path):
    recipe = Recipe(tmp_path / "voice_prompts", "voice_prompts")
    done = recipe.run("--parts", "seeds curve", program="evidence.sh")
    assert done.status == 2 and re.search(r"--parts.*curve", done.stderr)
