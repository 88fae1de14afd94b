"""Reading the scores of experiment directories."""

import shutil

import pytest

from lors.errors import LorsError, UsageError
from lors.recipe.score_tree import read_scores, system_order
from lors.tasks import ASR, ST, Pair
from tests.refusal import refusal
from tests.unit.score_trees import change, make_scores, put


@pytest.fixture
def expdir(tmp_path):
    return make_scores(tmp_path / "exp" / "seed1")


def test_systems_are_ordered_whatever_methods_there_are():
    names = [
        "lors.langs_tasks", "ties.langs", "joint", "lors.langs", "average.langs_tasks",
        "another", "sequential_reversed", "sequential", "base", "average.langs", "expert",
        "ties.langs_tasks",
    ]  # fmt: skip
    assert sorted(names, key=system_order) == [
        "base", "expert", "joint", "sequential", "sequential_reversed", "another",
        "average.langs", "average.langs_tasks", "ties.langs", "ties.langs_tasks",
        "lors.langs", "lors.langs_tasks",
    ]  # fmt: skip


def test_values_and_averages_over_languages(tmp_path):
    table = read_scores([make_scores(tmp_path / str(shift), shift) for shift in (0, 2)])
    assert table.tasks == ["asr", "st"] and table.languages("asr") == ["de", "sv-SE"]
    assert table.values("lors.langs", Pair("sv-SE", "asr"), ASR.metric) == [30.0, 32.0]
    assert table.averages("lors.langs", "asr", ASR.metric) == [27.5, 29.5]
    assert table.values("joint", Pair("de", "st"), ST.metrics[1]) == [46.0, 46.0]


def test_normalised_performance_of_some_tasks(expdir):
    table = read_scores([expdir])
    assert table.normalised("lors.langs", ["asr"]) == [pytest.approx(0.75)]
    assert table.normalised("lors.langs", ["asr", "st"]) == [pytest.approx(0.75)]
    assert table.normalised("average.langs", ["st"]) == [pytest.approx(0.25)]


def test_missing_scores_are_named(expdir):
    gone = expdir / "scores/test/joint/sv-SE_st.json"
    gone.unlink()
    with pytest.raises(LorsError) as caught:
        read_scores([expdir])
    assert caught.value.got == [gone]


def test_chosen_systems_of_seeds_with_different_ones(expdir, tmp_path):
    other = make_scores(tmp_path / "other")
    shutil.rmtree(other / "scores/test/joint")
    with pytest.raises(LorsError):
        read_scores([expdir, other])
    table = read_scores([expdir, other], systems=["lors.langs", "base"])
    assert table.systems == ("base", "lors.langs")
    assert len(table.values("base", Pair("de", "st"), ST.metric)) == 2
    with pytest.raises(UsageError) as caught:
        read_scores([expdir, other], systems=["base", "lors.lang"])
    assert "lors.lang" in str(caught.value)


def test_a_system_without_any_file_is_left_out(expdir):
    shutil.rmtree(expdir / "scores/test/joint")
    (expdir / "scores/test/ties.langs").mkdir()
    table = read_scores([expdir])
    assert "joint" not in table.systems and "ties.langs" not in table.systems


def test_a_system_of_one_seed_only_is_an_error(expdir, tmp_path):
    other = make_scores(tmp_path / "seed2")
    shutil.rmtree(other / "scores/test/lors.langs")
    with pytest.raises(LorsError) as caught:
        read_scores([expdir, other])
    folder = other / "scores/test/lors.langs"
    names = ("de_asr", "de_st", "sv-SE_asr", "sv-SE_st")
    assert caught.value.got == [folder / f"{name}.json" for name in names]


def test_no_scores_at_all_and_a_directory_given_twice(expdir, tmp_path):
    with refusal(tmp_path / "nothing/scores/test"):
        read_scores([tmp_path / "nothing"])
    with refusal(expdir):
        read_scores([expdir, expdir / ".." / expdir.name])


@pytest.mark.parametrize("partial", [False, True])
def test_one_directory_without_scores_is_refused(expdir, tmp_path, partial):
    with pytest.raises(LorsError) as caught:
        read_scores([expdir, tmp_path / "seed22"], partial=partial)
    assert caught.value.where == str(tmp_path / "seed22/scores/test")


def test_systems_that_lack_the_same_scores_are_named_together(expdir, tmp_path):
    other = make_scores(tmp_path / "seed2")
    for system in ("joint", "lors.langs"):
        (other / f"scores/test/{system}/de_st.json").unlink()
    shutil.rmtree(other / "scores/test/average.langs")
    table = read_scores([expdir, other], partial=True)
    assert table.missing() == [
        f"{other} has no scores of joint, lors.langs for de_st.",
        f"{other} has no scores of average.langs.",
    ]
    assert table.is_complete("joint", "asr") and not table.is_complete("joint", "st")
    assert read_scores([expdir]).missing() == []


def test_chosen_tasks_of_systems_with_different_ones(expdir):
    for path in expdir.glob("scores/test/lors.langs/*_st.json"):
        path.unlink()
    table = read_scores([expdir], systems=["base", "lors.langs"], tasks=["asr"])
    assert [str(pair) for pair in table.pairs] == ["de_asr", "sv-SE_asr"]
    with refusal(expdir / "scores/test/lors.langs/de_st.json"):
        read_scores([expdir], systems=["base", "lors.langs"], tasks=["asr", "st"])


def test_malformed_score_files_are_all_named(expdir):
    folder = expdir / "scores/test"
    change(folder / "base/de_asr.json", wer=None)
    change(folder / "base/de_st.json", bleu_signature="", task="asr")
    put(folder / "joint/de_asr.json", [])
    with pytest.raises(LorsError) as caught:
        read_scores([expdir])
    wer, signature, task, not_an_object = caught.value.got
    assert f"{folder}/base/de_asr.json" in wer and "'wer'" in wer
    assert f"{folder}/base/de_st.json" in signature and "'bleu_signature'" in signature
    assert f"{folder}/base/de_st.json" in task and "'asr'" in task
    assert f"{folder}/joint/de_asr.json" in not_an_object


def test_a_file_with_another_name_is_refused(expdir):
    put(expdir / "scores/test/base/summary.json", {})
    with refusal("base/summary.json", "<lang>_<task>.json"):
        read_scores([expdir])


@pytest.mark.parametrize(
    "name, values",
    [
        ("lors.langs/de_asr.json", {"utterances": 159}),
        ("lors.langs/de_asr.json", {"ref_words": 999}),
        ("lors.langs/de_asr.json", {"normaliser": "none"}),
        ("joint/de_st.json", {"bleu_signature": "tok:intl"}),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(expdir, name, values):
    change(expdir / "scores/test" / name, **values)
    with refusal(expdir / "scores/test" / name, *values, *values.values()):
        read_scores([expdir])


def test_sizes_may_differ_between_experiments_but_settings_may_not(expdir, tmp_path):
    other = make_scores(tmp_path / "seed2")
    for path in other.glob("scores/test/*/de_asr.json"):
        change(path, utterances=80)
    assert read_scores([expdir, other]).pairs[0] == Pair("de", "asr")
    for path in other.glob("scores/test/*/de_asr.json"):
        change(path, jiwer_version="3")
    with refusal(other, "jiwer_version"):
        read_scores([expdir, other])
