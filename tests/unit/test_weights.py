"""The search of a weight for each expert: alone, and as a part of the search on dev."""

import contextlib
import dataclasses

import pytest
from stand_ins import FakeS2TModel, use_fake_models, write_audio_dump, write_model

from lors.errors import LorsError, UsageError
from lors.fileio import read_json, write_json
from lors.models.espnet_s2t.prompts import S2TOptions
from lors.page.sweep_charts import sweep_panels
from lors.plots.sweep import sweep_figure
from lors.recipe.expdir import ExpDir
from lors.recipe.grid import Grid, read_grid
from lors.recipe.halving import Halving, full_evaluations, room_for
from lors.recipe.merge_tuned import merge_tuned
from lors.recipe.replay import replay_all
from lors.recipe.report import render_text
from lors.recipe.sweeps import read_sweep, read_sweeps
from lors.recipe.tune import tune
from lors.recipe.weights import contribution_sections, coordinate_search
from lors.tasks import Pair
from tests.refusal import refusal

PAIRS = [Pair("de", "asr"), Pair("es", "asr")]
NAME = "ta_weights"
COEFS = (0.2, 0.5)
GRID = Grid(
    {NAME: tuple({"scaling_coef": c} for c in COEFS)},
    None,
    {NAME: "task_arithmetic"},
    each_expert={NAME: 6},
)
OPTIONS = S2TOptions(batch_size=5, maxlenratio=0.4)


def searched(objective, start, number):
    """Return the weights that a search tries."""
    search, tried = coordinate_search(start, objective(start)), []
    tried.append(next(search))
    while len(tried) < number:
        tried.append(search.send(objective(tried[-1])))
    return tried


def test_it_finds_the_maximum_of_a_concave_function():
    goal = (0.3, 1.7, 1.0)

    def objective(weights):
        return -sum((w - g) ** 2 for w, g in zip(weights, goal, strict=True))

    best = max(searched(objective, [1.0] * 3, 60), key=objective)
    assert all(abs(w - g) < 0.07 for w, g in zip(best, goal, strict=True))


def test_the_first_weights_are_one_step_away_and_none_come_twice():
    tried = searched(lambda _: 0.0, [1.0, 1.0], 40)
    assert tried[:5] == [[1.5, 1.0], [0.5, 1.0], [1.0, 1.5], [1.0, 0.5], [1.25, 1.0]]
    assert len({tuple(weights) for weights in tried}) == 40
    assert min(min(weights) for weights in tried) >= 0


@pytest.mark.parametrize("start", [[0.0], [1.0, 0.3], [1000.0, 1e-3]])
def test_the_search_ends_where_all_weights_are_equally_good(start):
    search, tried = coordinate_search(start, 0.0), 1
    next(search)
    with contextlib.suppress(StopIteration):
        while tried < 1000:
            search.send(0.0)
            tried += 1
    assert tried < 1000


def test_a_budget_beyond_the_smallest_step(expdir, dump, monkeypatch):
    monkeypatch.setattr("lors.recipe.weights.SMALLEST_STEP", 0.5)
    tune(expdir, PAIRS, dump, dataclasses.replace(GRID, each_expert={NAME: 30}), OPTIONS)
    sweep = read_sweep(expdir, NAME, "asr")
    assert len(COEFS) < len(sweep.grid) < 32 and len(sweep.without) == 2


def test_weights_do_not_become_negative():
    tried = searched(lambda weights: -weights[0], [0.75], 30)
    assert min(weights[0] for weights in tried) >= 0 and min(tried) == [0.0]


@pytest.mark.parametrize("halving", [None, Halving(0.25, 0.5), Halving(0.1, 0.3)])
@pytest.mark.parametrize(("points", "more"), [(1, 11), (3, 9), (6, 6), (10, 2)])
def test_the_room_is_that_of_a_grid(points, more, halving):
    room = room_for(points, more, halving)
    whole = full_evaluations(points, halving) + room.evaluations
    assert whole == pytest.approx(full_evaluations(points + more, halving))
    if halving is None:
        assert room.most == more
    elif room.most:  # all but the last fail early
        cost = (room.most - 1) * halving.first + 1
        assert cost <= room.evaluations + 1e-6 < cost + halving.first


# --- the grid ------------------------------------------------------------------------------------


def grid_of(tmp_path, text):
    (tmp_path / "tune.yaml").write_text(text)
    return read_grid(tmp_path / "tune.yaml")


def test_further_settings_count_in_the_budget(tmp_path):
    text = "a: {method: lors, scaling_coef: [1, 2], each_expert: 3}\nties: {scaling_coef: %s}\n"
    grid = grid_of(tmp_path, text % "[1, 2, 3, 4, 5]")
    assert grid.each_expert == {"a": 3} and grid.variants == {"a": "lors"}
    assert grid.points["a"] == ({"scaling_coef": 1}, {"scaling_coef": 2})
    with refusal("a: 5", "ties: 2", kind=UsageError):
        grid_of(tmp_path, text % "[1, 2]")


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "true", "[3]", "x", "10001"])
def test_wrong_numbers_of_further_settings(tmp_path, number):
    with refusal("tune.yaml: lors: each_expert", kind=UsageError):
        grid_of(tmp_path, f"lors: {{scaling_coef: [1], each_expert: {number}}}\n")


def test_a_budget_without_room_for_further_settings(tmp_path):
    """With halving one setting of four costs less than an evaluation on all of dev."""
    text = "a: {method: lors, scaling_coef: [1, 2, 3], each_expert: %d}\nties: {rank: [1]}\n"
    halving = "halving: {first: 0.25, keep: 0.5}\n"
    with refusal("tune.yaml: a: each_expert", "2 or more", "grid of 3", kind=UsageError):
        grid_of(tmp_path, halving + text % 1)
    assert grid_of(tmp_path, halving + text % 2).each_expert == {"a": 2}
    assert grid_of(tmp_path, text % 1).each_expert == {"a": 1}
    (tmp_path / "tune.yaml").write_text(halving + text % 1)
    assert read_grid(tmp_path / "tune.yaml", ["ties"]).each_expert == {}


# --- the search ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    return use_fake_models(monkeypatch)


@pytest.fixture
def dump(tmp_path):
    return write_audio_dump(tmp_path / "dump")


def make_expdir(root):
    expdir = ExpDir(root)
    write_model(expdir.base, 0)
    for seed, (name, words) in enumerate({"de_asr": 7, "es_asr": 4}.items(), 1):
        write_model(expdir.expert(Pair.parse(name)), seed, {name: words})
    return expdir


@pytest.fixture
def expdir(tmp_path):
    return make_expdir(tmp_path / "exp")


def test_the_weights_follow_the_common_settings(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    sweep = read_sweep(expdir, NAME, "asr")
    assert len(sweep.grid) == 8 and sweep.variant_of == "task_arithmetic"
    common, own = sweep.grid[:2], sweep.grid[2:]
    assert [trial.params for trial in common] == [{"scaling_coef": c} for c in COEFS]
    best = max(common, key=lambda trial: trial.objective).params["scaling_coef"]
    assert {trial.params["scaling_coef"] for trial in own} == {best}
    assert own[0].params["weights"] == [1.5, 1.0]
    assert sweep.chosen.objective == max(trial.objective for trial in sweep.grid)
    assert sweep.chosen.objective > common[1].objective and "weights" in sweep.chosen.params


def test_the_merged_model_has_the_weights(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    merge_tuned(expdir, [NAME], ["de", "es"], ["asr"])
    record = (expdir.merged(NAME, "asr") / "merge.yaml").read_text()
    chosen = read_sweep(expdir, NAME, "asr").chosen.params["weights"]
    assert "weights:\n" + "".join(f"  - {weight}\n" for weight in chosen) in record


def test_the_contribution_of_each_expert(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    sweep = read_sweep(expdir, NAME, "asr")
    chosen = sweep.chosen.params["weights"]
    assert [trial.params["weights"] for trial in sweep.without] == [
        [0.0, chosen[1]],
        [chosen[0], 0.0],
    ]
    [section] = contribution_sections(read_sweeps([expdir.root]))
    assert [row[3] for row in section.rows] == ["de_asr", "es_asr"]
    gains = {str(p): sweep.base[p].wer - sweep.expert[p].wer for p in sweep.base}
    for row, trial, weight in zip(section.rows, sweep.without, chosen, strict=True):
        assert row[4] == f"{weight:g}"
        own, others, whole = (float(cell) for cell in row[6:])
        assert whole == pytest.approx(sweep.chosen.objective - trial.objective, abs=1e-3)
        both = sum(gains.values())
        mine = gains[row[3]]
        assert whole == pytest.approx((mine * own + (both - mine) * others) / both, abs=1e-3)
        assert own > others  # the stand-in's experts know only their own language
    assert "es_asr" in render_text([section], "", "")


def test_figures_of_a_search_of_weights(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    sweeps = read_sweeps([expdir.root])
    [panel] = sweep_panels(sweeps)
    assert panel.title == NAME
    assert sweep_figure(sweeps).axes


def test_searches_without_weights_have_no_contributions(expdir, dump):
    tune(expdir, PAIRS, dump, dataclasses.replace(GRID, each_expert={}), OPTIONS)
    assert contribution_sections(read_sweeps([expdir.root])) == []


def test_an_interrupted_search_ends_with_the_same_file(expdir, dump, tmp_path, calls, monkeypatch):
    whole = make_expdir(tmp_path / "whole")
    tune(whole, PAIRS, dump, GRID, OPTIONS)
    merges = sum(call[0] == "load_state" for call in calls)
    for after in (1, 5, 7, 9):
        calls.clear()
        again = make_expdir(tmp_path / f"after{after}")
        load = FakeS2TModel.load_state

        def stop(self, state, load=load, after=after):
            if sum(call[0] == "load_state" for call in FakeS2TModel.calls) >= after:
                raise KeyboardInterrupt
            load(self, state)

        with monkeypatch.context() as patch:
            patch.setattr(FakeS2TModel, "load_state", stop)
            with pytest.raises(KeyboardInterrupt):
                tune(again, PAIRS, dump, GRID, OPTIONS)
        calls.clear()
        tune(again, PAIRS, dump, GRID, OPTIONS)
        assert sum(call[0] == "load_state" for call in calls) < merges
        first, second = (e.sweep(NAME, "asr").read_bytes() for e in (whole, again))
        assert first == second


def test_with_halving_worse_weights_see_few_clips(expdir, tmp_path):
    dump = write_audio_dump(tmp_path / "larger", utterances=8)
    # At 1.0 a higher weight of one expert helps once, of the other one several times.
    points = {NAME: tuple({"scaling_coef": c} for c in (0.2, 1.0))}
    halving, more = Halving(0.25, 0.5), {NAME: 10}
    grid = dataclasses.replace(GRID, points=points, halving=halving, each_expert=more)
    tune(expdir, PAIRS, dump, grid, OPTIONS)
    sweep = read_sweep(expdir, NAME, "asr")
    weighted = sweep.grid[2:]
    seen = {trial.evaluations for trial in weighted}
    assert seen == {4, 16} and len(weighted) > room_for(2, 10, grid.halving).evaluations
    plain = Grid({"task_arithmetic": tuple({"scaling_coef": c / 20} for c in range(12))}, None)
    tune(expdir, PAIRS, dump, dataclasses.replace(plain, halving=grid.halving), OPTIONS)
    assert sweep.evaluations <= read_sweep(expdir, "task_arithmetic", "asr").evaluations
    assert sweep.chosen in sweep.finalists and "weights" in sweep.chosen.params


def test_another_number_of_weights_is_another_search(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    with refusal("each_expert"):
        tune(expdir, PAIRS, dump, dataclasses.replace(GRID, each_expert={NAME: 5}), OPTIONS)


def test_it_cannot_be_replayed_with_halving(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    with refusal(NAME, "a weight for each expert"):
        replay_all([expdir.root], dump, Halving(0.4, 0.5))


@pytest.mark.parametrize("without", [{}, [1], [{}, {}], "x"])
def test_damaged_contributions(expdir, dump, without):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    path = expdir.sweep(NAME, "asr")
    write_json(path, {**read_json(path), "without": without})
    with refusal(path, "without", kind=LorsError):
        read_sweep(expdir, NAME, "asr")
