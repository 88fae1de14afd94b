"""The layout of an experiment directory, and the order of its work."""

import itertools
from pathlib import Path

import pytest

from lors.errors import UsageError
from lors.recipe.expdir import (
    ExpDir,
    order_of,
    scope_of,
    scopes_of,
    sequential_steps,
    split_system,
    tasks_of,
)
from lors.tasks import Pair
from tests.refusal import refusal


def test_pair_to_name_and_back():
    assert Pair.parse("de_asr") == Pair("de", "asr")
    assert str(Pair.parse("sv-SE_st")) == "sv-SE_st"
    assert Pair.parse("zh_TW_asr") == Pair("zh_TW", "asr")


@pytest.mark.parametrize("name", ["", "de", "de_", "_asr", "de_mt", "asr_de", "de-asr", "de_ASR"])
def test_what_is_not_a_pair(name):
    with refusal("de_asr", "de_st", kind=UsageError) as caught:
        Pair.parse(name)
    assert caught.value.got == name


def test_places():
    expdir, pair = ExpDir("exp"), Pair("de", "st")
    assert expdir.base == Path("exp/base") and expdir.joint == Path("exp/joint")
    assert expdir.expert(pair) == Path("exp/expert/de_st")
    assert expdir.merged("lors", "asr_st") == Path("exp/merged/lors.asr_st")
    assert expdir.sweep("lors", "st") == Path("exp/tune/lors.st/sweep.json")
    assert expdir.hypothesis("test", "base", pair) == Path("exp/inference/test/base/de_st")
    assert expdir.score("dev", "lors.langs", pair) == Path("exp/scores/dev/lors.langs/de_st.json")


@pytest.mark.parametrize(
    ("system", "place"),
    [
        ("base", "base"),
        ("joint", "joint"),
        ("sequential", "sequential"),
        ("sequential_reversed", "sequential_reversed"),
        ("expert", "expert/de_st"),
        ("lors.langs", "merged/lors.st"),
        ("lors.langs_tasks", "merged/lors.asr_st"),
        ("task_arithmetic.langs", "merged/task_arithmetic.st"),
        ("my.method.langs_tasks", "merged/my.method.asr_st"),
    ],
)
@pytest.mark.parametrize("tasks", [("asr", "st"), ("st", "asr")])
def test_model_of_each_system(system, place, tasks):
    assert ExpDir("exp").model(system, Pair("de", "st"), tasks) == Path("exp") / place


def test_merge_over_tasks_of_a_single_task():
    model = ExpDir("exp").model("lors.langs_tasks", Pair("de", "asr"), ["asr"])
    assert model == Path("exp/merged/lors.asr")


@pytest.mark.parametrize(
    "system", ["experts", "01_de_st", "lors", "lors.asr", ".langs", "lors.langs.x", ""]
)
def test_unknown_system(system):
    with refusal("expert", "<method>.langs_tasks", kind=UsageError) as caught:
        ExpDir("exp").model(system, Pair("de", "st"), ["st"])
    assert caught.value.got == system


def test_method_of_a_system_and_what_it_is_merged_over():
    assert split_system("base") == ("base", "")
    assert split_system("task_arithmetic.langs") == ("task_arithmetic", "langs")
    assert split_system("my.method.langs_tasks") == ("my.method", "langs_tasks")


@pytest.mark.parametrize(
    ("baseline", "steps"),
    [
        ("sequential", ["01_de_asr", "02_de_st", "03_es_asr"]),
        ("sequential_reversed", ["01_es_asr", "02_de_st", "03_de_asr"]),
    ],
)
def test_steps_of_the_sequential_baselines(baseline, steps):
    pairs = tuple(map(Pair.parse, ("de_asr", "de_st", "es_asr")))
    assert sequential_steps(order_of(baseline, pairs)) == steps


def test_scopes_are_in_one_order_for_all_jobs():
    """Each job of an array makes the list for itself: it must not depend on hashes."""
    for tasks in itertools.permutations(["asr", "st"]):
        assert scopes_of(tasks) == ["asr_st", "asr", "st"]
    assert scopes_of(["st"]) == scopes_of(["st", "st"]) == ["st"]


def test_scope_of_tasks_and_back():
    assert scope_of(["st", "asr", "st"]) == "asr_st" and tasks_of("asr_st") == ["asr", "st"]
    assert scope_of(["st"]) == "st" and tasks_of("st") == ["st"]
