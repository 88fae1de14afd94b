"""The search for merge parameters, with a stand-in for the model."""

import pytest
from stand_ins import FakeS2TModel, write_audio_dump, write_model

from lors.data.datadir import Utterance, read_data_dir, write_data_dir
from lors.errors import UsageError
from lors.fileio import read_json, write_json
from lors.models.espnet_s2t.prompts import S2TOptions
from lors.recipe.expdir import ExpDir
from lors.recipe.grid import Grid
from lors.recipe.sweeps import read_sweeps
from lors.recipe.tune import tune
from lors.recipe.tuner import plan_of
from lors.tasks import Pair
from tests.refusal import refusal

PAIRS = [Pair("de", "asr"), Pair("es", "asr")]
POINTS = tuple({"scaling_coef": c} for c in (0.2, 1.0, 0.6, 2.0))
LORS = tuple(
    {
        **{
            "rank": rank,
            "density": 0.5,
            "order": "low_rank_first",
            "threshold": "matrix",
            "keep_norm": False,
        },
        "scaling_coef": c,
    }
    for rank in (1, 3)
    for c in (0.5, 0.9)
)
GRID = Grid({"average": ({"scaling_coef": 1.0},), "task_arithmetic": POINTS, "lors": LORS}, None)
OPTIONS = S2TOptions(batch_size=5, beam_size=8, maxlenratio=0.4)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    monkeypatch.setattr("lors.models.espnet_s2t.inference.S2TModel", FakeS2TModel)
    monkeypatch.setattr(FakeS2TModel, "calls", [])
    return FakeS2TModel.calls


@pytest.fixture
def dump(tmp_path):
    return write_audio_dump(tmp_path / "dump")


def make_expdir(root):
    """Write models: an expert knows 7 of 8 words of its language, the base model 1."""
    expdir = ExpDir(root)
    write_model(expdir.base, 0)
    for seed, name in enumerate(("de_asr", "es_asr", "de_st", "es_st"), 1):
        write_model(expdir.expert(Pair.parse(name)), seed, {name: 7})
    return expdir


@pytest.fixture
def expdir(tmp_path):
    return make_expdir(tmp_path / "exp")


def merges(calls):
    """Number of merges that inference ran with; models from a file do not count."""
    return sum(call[0] == "load_state" for call in calls)


# --- the plan


def test_plan_names_base_and_experts(expdir):
    plan = plan_of(expdir, PAIRS, "task_arithmetic", {"scaling_coef": 0.3})
    assert plan.base == str(expdir.root / "base" / "model.pth")
    experts = [expdir.root / "expert" / name / "model.pth" for name in ("de_asr", "es_asr")]
    assert plan.experts == tuple(map(str, experts))
    assert (plan.method, plan.params) == ("task_arithmetic", {"scaling_coef": 0.3})


# --- the search


def test_sweep_is_written_and_its_best_point_known(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    sweep = read_json(expdir.sweep("task_arithmetic", "asr"))
    assert (sweep["method"], sweep["scope"]) == ("task_arithmetic", "asr")
    assert tuple(point["params"] for point in sweep["grid"]) == POINTS
    # 1 + 6 c words of 8 are right in each language; at c = 2 wrong words follow after them.
    wers = [point["scores"]["de_asr"]["wer"] for point in sweep["grid"]]
    assert wers == pytest.approx([100 * n / 8 for n in (6, 1, 3, 5)])
    objectives = [point["objective"] for point in sweep["grid"]]
    assert objectives == pytest.approx([(87.5 - wer) / 75 for wer in wers])
    assert sweep["best"] == 1
    assert [read_json(expdir.sweep(m, "asr"))["best"] for m in ("average", "lors")] == [0, 1]
    of_lors = read_json(expdir.sweep("lors", "asr"))["grid"]
    assert tuple(point["params"] for point in of_lors) == LORS
    assert {path.name for path in expdir.sweep("lors", "asr").parent.iterdir()} == {
        "sweep.json",
        ".done",
    }


def test_sweeps_are_what_the_report_reads(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    assert len(read_sweeps([expdir.root])) == 3


def test_search_is_greedy_on_the_first_utterances(expdir, dump, calls):
    tune(expdir, PAIRS, dump, Grid({"average": ({},)}, 2), OPTIONS, device="cuda:3")
    inferences = [call for call in calls if call[0] not in ("load", "load_state")]
    assert set(inferences) == {("greedy", 2, 5, 0.4)}
    # base and merge in both languages, each expert in its own
    assert len(inferences) == 2 + 2 + 2
    assert [call[2] for call in calls if call[0] == "load"] == ["cuda:3"] * 3
    sweep = read_json(expdir.sweep("average", "asr"))
    assert sweep["grid"][0]["scores"]["de_asr"]["utterances"] == 2


def test_merge_over_languages_and_tasks(expdir, dump):
    pairs = [*PAIRS, Pair("de", "st"), Pair("es", "st")]
    tune(expdir, pairs, dump, Grid({"task_arithmetic": POINTS}, None), OPTIONS)
    sweep = read_json(expdir.sweep("task_arithmetic", "asr_st"))
    assert set(sweep["grid"][0]["scores"]) == {str(pair) for pair in pairs}
    # In each of the four pairs the merge has the same 7 words right as the expert.
    assert sweep["grid"][1]["objective"] == pytest.approx(1) and sweep["best"] == 1


@pytest.mark.parametrize("after", [1, 3, 6, 8])
def test_interrupted_search_ends_with_the_same_files(expdir, dump, tmp_path, calls, after):
    whole = make_expdir(tmp_path / "whole")
    tune(whole, PAIRS, dump, GRID, OPTIONS)
    calls.clear()

    class Interrupted(FakeS2TModel):
        def load_state(self, state):
            if merges(self.calls) == after:
                raise KeyboardInterrupt
            super().load_state(state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lors.models.espnet_s2t.inference.S2TModel", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(expdir, PAIRS, dump, GRID, OPTIONS)
    assert merges(calls) == after
    calls.clear()
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    assert merges(calls) == 9 - after  # no merge is tried twice
    for method in GRID.points:
        first, second = (e.sweep(method, "asr").read_bytes() for e in (whole, expdir))
        assert first == second
    assert not list(expdir.root.rglob("partial.json"))


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ({"params": {}}, "list"),
        ([1], "trial 0"),
        ([{"params": {}, "objective": 1, "scores": {"de_mt": 1}}], "de_mt"),
        ([{"params": {}, "objective": 1, "scores": {}}] * 5, "5 trials"),
    ],
)
def test_damaged_trials_of_an_unfinished_search(expdir, dump, content, fact):
    path = expdir.sweep("task_arithmetic", "asr").with_name("partial.json")
    write_json(path, content)
    with refusal(path, fact, "remove this file"):
        tune(expdir, PAIRS, dump, Grid({"task_arithmetic": POINTS}, None), OPTIONS)


def test_finished_search_does_nothing(expdir, dump, calls):
    without_lors = {method: of for method, of in GRID.points.items() if method != "lors"}
    tune(expdir, PAIRS, dump, Grid(without_lors, None), OPTIONS)
    calls.clear()
    tune(expdir, PAIRS, dump, Grid(without_lors, None), OPTIONS)
    assert calls == []
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    assert merges(calls) == len(LORS)  # the method that was added, alone


def other_points(expdir, dump):
    return Grid({"task_arithmetic": (*POINTS[:3], {"scaling_coef": 1.5})}, None)


def other_limit(expdir, dump):
    return Grid({"task_arithmetic": POINTS}, 2)


def other_model(expdir, dump):
    write_model(expdir.expert(PAIRS[0]), 9, {"de_asr": 5})
    return Grid({"task_arithmetic": POINTS}, None)


def other_data(expdir, dump):
    directory = dump / "de" / "dev"
    rows = [Utterance(**{**vars(u), "duration": 9.0}) for u in read_data_dir(directory)]
    write_data_dir(directory, rows)
    return Grid({"task_arithmetic": POINTS}, None)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (other_points, "points: "),
        (other_limit, "limit: None -> 2"),
        (other_model, "expert/de_asr"),
        (other_data, "data.de.utt2dur: "),
    ],
)
def test_search_with_other_settings_is_refused(expdir, dump, calls, change, shown):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    before = expdir.sweep("task_arithmetic", "asr").read_bytes()
    grid = change(expdir, dump)
    calls.clear()
    with refusal(expdir.sweep("task_arithmetic", "asr").parent, shown):
        tune(expdir, PAIRS, dump, grid, OPTIONS)
    assert calls == []
    assert expdir.sweep("task_arithmetic", "asr").read_bytes() == before


@pytest.mark.parametrize(
    ("method", "params", "facts"),
    [
        ("losr", {}, ["losr", "did you mean lors"]),
        ("lors", {"rnak": 3}, ["rnak", "did you mean rank"]),
    ],
)
def test_wrong_grid_is_found_before_any_work(expdir, dump, calls, method, params, facts):
    grid = Grid({**GRID.points, method: (params,)}, None)
    with refusal(*facts, kind=UsageError):
        tune(expdir, PAIRS, dump, grid, OPTIONS)
    assert calls == [] and not (expdir.root / "tune").exists()
    tune(expdir, PAIRS, dump, GRID, OPTIONS)  # the mended grid is not refused


def test_all_missing_models_are_named(expdir, dump):
    (expdir.base / "model.pth").unlink()
    (expdir.expert(PAIRS[1]) / "model.pth").unlink()
    with refusal() as caught:
        tune(expdir, PAIRS, dump, GRID, OPTIONS)
    missing = [expdir.base / "model.pth", expdir.expert(PAIRS[1]) / "model.pth"]
    assert caught.value.got == missing


def test_all_missing_data_are_named(expdir, tmp_path):
    with refusal() as caught:
        tune(expdir, PAIRS, tmp_path / "nothing", GRID, OPTIONS)
    assert caught.value.got == [tmp_path / "nothing" / lang / "dev" for lang in ("de", "es")]


def test_data_without_what_is_scored(expdir, dump):
    directory = dump / "de" / "dev"
    rows = [Utterance(**{**vars(u), "text": None}) for u in read_data_dir(directory)]
    write_data_dir(directory, rows)
    with refusal():
        tune(expdir, PAIRS, dump, GRID, OPTIONS)
    assert not list(expdir.root.glob("tune/*/sweep.json"))
