"""Dev hypotheses of base model and experts, which the searches of an experiment share."""

import dataclasses

import pytest
from stand_ins import FakeS2TModel, use_fake_models, write_audio_dump, write_model

from lors.data.datadir import read_data_dir, write_data_dir
from lors.fileio import read_json
from lors.models.espnet_s2t.prompts import S2TOptions
from lors.recipe.expdir import ExpDir
from lors.recipe.grid import Grid
from lors.recipe.tune import tune
from lors.tasks import Pair

PAIRS = [Pair("de", "asr"), Pair("es", "asr")]
BOTH_TASKS = [*PAIRS, Pair("de", "st"), Pair("es", "st")]
OPTIONS = S2TOptions(batch_size=5, beam_size=8, maxlenratio=0.4)


@pytest.fixture
def calls(monkeypatch):
    return use_fake_models(monkeypatch)


@pytest.fixture
def dump(tmp_path):
    return write_audio_dump(tmp_path / "dump")


@pytest.fixture
def expdir(tmp_path, calls):
    expdir = ExpDir(tmp_path / "exp")
    write_model(expdir.base, 0)
    for seed, pair in enumerate(BOTH_TASKS, 1):
        write_model(expdir.expert(pair), seed, {str(pair): 7})
    return expdir


def search(expdir, dump, name="average", pairs=PAIRS, limit=None, options=OPTIONS):
    """Search a method with one setting; return its sweep and how many times models decoded."""
    FakeS2TModel.calls.clear()
    tune(expdir, pairs, dump, Grid({name: ({"scaling_coef": 1.0},)}, limit), options)
    decoded = sum(call[0] == "greedy" for call in FakeS2TModel.calls)
    scope = "asr" if pairs == PAIRS else "asr_st"
    return read_json(expdir.sweep(name, scope)), decoded


def test_decoded_once_for_all_searches(expdir, dump):
    first, decoded = search(expdir, dump)
    assert decoded == 2 + 2 + 2  # base, experts and the merge, in two languages
    second, decoded = search(expdir, dump, "task_arithmetic")
    assert decoded == 2
    assert (first["base"], first["expert"]) == (second["base"], second["expert"])
    assert [*second["expert"]] == ["de_asr", "es_asr"]
    both, decoded = search(expdir, dump, pairs=BOTH_TASKS)
    assert decoded == 2 + 2 + 4  # base and experts in the other task, the merge in both
    assert {**both["base"], **first["base"]} == both["base"]
    assert {**both["expert"], **first["expert"]} == both["expert"]


def change_base(expdir, dump):
    write_model(expdir.base, 9, {"de_asr": 2, "es_asr": 2})
    return {}, 2


def change_expert(expdir, dump):
    write_model(expdir.expert(PAIRS[0]), 9, {"de_asr": 4})
    return {}, 1


def change_references(expdir, dump):
    clips = read_data_dir(dump / "de/dev")
    write_data_dir(dump / "de/dev", [dataclasses.replace(c, text="other words") for c in clips])
    return {}, 2


def change_options(expdir, dump):
    return {"options": dataclasses.replace(OPTIONS, maxlenratio=0.2)}, 4


def change_limit(expdir, dump):
    return {"limit": 2}, 4


def damage(content):
    def change(expdir, dump):
        (path,) = (expdir.root / "tune/ends").glob("base.de_asr.json")
        path.write_text(content(path.read_text()))
        return {}, 1

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_base,
        change_expert,
        change_references,
        change_options,
        change_limit,
        damage(lambda text: text[:-5]),
        damage(lambda text: "[1]"),
        damage(lambda text: text.replace('"hypotheses": {', '"hypotheses": {"strange": "a", ')),
    ],
)
def test_decoded_again_after_a_change(expdir, dump, tmp_path, change):
    search(expdir, dump)
    options, again = change(expdir, dump)
    changed, decoded = search(expdir, dump, "task_arithmetic", **options)
    assert decoded == again + 2
    fresh = ExpDir(tmp_path / "fresh")
    fresh.root.mkdir()
    for name in ("base", "expert"):
        (fresh.root / name).symlink_to(expdir.root / name)
    expected, _ = search(fresh, dump, "task_arithmetic", **options)
    assert changed == expected
    assert search(expdir, dump, "ties", **options)[1] == 2
