from pathlib import Path

import pytest

from lors.errors import UsageError
from lors.recipe.expdir import ExpDir
from lors.tasks import Pair


def test_pair_to_name_and_back():
    assert Pair.parse("de_asr") == Pair("de", "asr")
    assert str(Pair.parse("sv-SE_st")) == "sv-SE_st"
    assert Pair.parse("zh_TW_asr") == Pair("zh_TW", "asr")


@pytest.mark.parametrize("name", ["", "de", "de_", "_asr", "de_mt", "asr_de", "de-asr", "de_ASR"])
def test_what_is_not_a_pair(name):
    with pytest.raises(UsageError, match=r"e\.g\. de_asr") as caught:
        Pair.parse(name)
    assert caught.value.got == name and caught.value.exit_code == 2


def test_places():
    expdir, pair = ExpDir("exp"), Pair("de", "st")
    assert expdir.base == Path("exp/base") and expdir.joint == Path("exp/joint")
    assert expdir.sequential == Path("exp/sequential")
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
    with pytest.raises(UsageError, match="unknown system") as caught:
        ExpDir("exp").model(system, Pair("de", "st"), ["st"])
    assert caught.value.got == system
