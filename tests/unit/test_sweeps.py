"""Sweep files: reading, writing, checks."""

import pytest

from lors.fileio import read_json
from lors.recipe.expdir import ExpDir
from lors.recipe.parameters import at_edges
from lors.recipe.sweeps import (
    Sweep,
    Trial,
    format_params,
    incomparable_sweeps,
    read_sweep,
    read_sweeps,
    varied_params,
    write_sweep,
)
from lors.tasks import Pair
from tests.refusal import refusal
from tests.unit.score_trees import change, error_rates, make_sweeps, put, translation_scores

TRIALS = [
    Trial(
        {"rank": 2, "scaling_coef": coefficient},
        objective,
        {Pair("de", "asr"): error_rates(12.5), Pair("de", "st"): translation_scores(30.0)},
    )
    for coefficient, objective in ((0.1, 0.25), (0.2, 0.5), (0.3, 0.5))
]


@pytest.fixture
def expdir(tmp_path):
    return make_sweeps(tmp_path / "exp")


def test_written_sweep_is_read_again(tmp_path):
    expdir = ExpDir(tmp_path)
    written = write_sweep(expdir, "lors", "asr_st", TRIALS)
    assert written.best == 1  # the first of the best
    assert read_sweep(expdir, "lors", "asr_st") == written
    content = read_json(expdir.sweep("lors", "asr_st"))
    assert list(content) == ["method", "scope", "defaults", "grid", "best"]
    assert content["defaults"]["order"] == "low_rank_first"
    assert list(content["grid"][0]) == ["params", "objective", "scores"]
    assert content["grid"][0]["scores"]["de_asr"] == error_rates(12.5).to_json()


def test_sweeps_are_sorted_by_method_and_scope(expdir):
    sweeps = read_sweeps([expdir])
    names = [f"{sweep.method}.{sweep.scope}" for sweep in sweeps]
    assert names == [
        *("average.asr", "average.st", "average.asr_st"),
        *("lors.asr", "lors.st", "lors.asr_st"),
    ]
    assert {sweep.expdir for sweep in sweeps} == {str(expdir)}
    assert sweeps[3].chosen.params == {"rank": 3, "density": 0.2, "scaling_coef": 0.4}


GOOD = {"params": {}, "objective": 0.5, "scores": {}}


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"best": 0}, ["entry 0", "0.57"]),
        ({"best": 6}, ["6"]),
        ({"best": True}, ["True", "6"]),
        ({"grid": []}, ["grid"]),
        ({"grid": [GOOD, {**GOOD, "objective": None}], "best": 0}, ["entry 1", "objective"]),
        ({"grid": [{**GOOD, "objective": float("nan")}], "best": 0}, ["entry 0", "objective"]),
        ({"grid": [{**GOOD, "scores": {"de_mt": {}}}], "best": 0}, ["entry 0", "de_mt"]),
        (
            {"grid": [{**GOOD, "scores": {"de_asr": error_rates(1, unit="").to_json()}}]},
            ["entry 0", "de_asr", "'unit'"],
        ),
        ({"grid": [{"objective": 1}], "best": 0}, ["entry 0", "params", "scores"]),
        ({"scope": "st"}, ["'lors'", "'st'"]),
        ({"defaults": []}, ["defaults"]),
        ({"grid": [{**GOOD, "params": {"scaling_coef": "x"}}]}, ["entry 0", "scaling_coef"]),
        ({"grid": [{**GOOD, "objective": 10**400}]}, ["entry 0", "objective"]),
    ],
)
def test_malformed_sweeps_are_refused(expdir, values, facts):
    change(expdir / "tune/lors.asr/sweep.json", **values)
    with refusal(expdir / "tune/lors.asr/sweep.json", *facts, "what to do"):
        read_sweeps([expdir])


@pytest.mark.parametrize(
    "content", [[], {}, {"grid": [], "best": 0}, None, {"method": [], "scope": {}}]
)
def test_sweep_of_another_shape(expdir, content):
    path = expdir / "tune/lors.asr/sweep.json"
    put(path, content)
    with refusal(path, f"remove {path.parent}"):
        read_sweep(ExpDir(expdir), "lors", "asr")


def test_format_params():
    assert format_params({"rank": 7, "density": 0.25, "kind": "x"}) == "rank=7 density=0.25 kind=x"
    assert format_params({}) == "none"


def sweep_of(*settings):
    grid = tuple(Trial(params, 0.5, {}) for params in settings)
    return Sweep("exp", "lors", "asr", grid, 0)


def scored(normaliser):
    return {Pair("de", "asr"): error_rates(10, normaliser=normaliser)}


def test_sweeps_of_another_normaliser():
    ours, whispers = scored("lors-basic"), scored("whisper-basic")
    trials = [Trial({}, 0.5, scores) for scores in (ours, whispers, ours)]
    sweeps = [Sweep("exp", "lors", "asr", tuple(trials), best) for best in range(3)]
    assert incomparable_sweeps(sweeps, ours) == [sweeps[1]]


def test_varied_params():
    first = sweep_of({"rank": 2, "density": 0.2, "scaling_coef": 1}, {"rank": 3, "density": 0.2})
    assert varied_params([first]) == ("rank",)
    other = sweep_of({"rank": 2, "density": 0.2, "order": "sparse_first"})
    assert varied_params([first, other]) == ("rank", "order")
    assert varied_params([sweep_of({"rank": {"ratio": 0.1}}, {"rank": 4})]) == ("rank",)
    assert varied_params([]) == ()


# --- successive halving, variants


def seen(utterances, objective, coefficient=1.0):
    scores = {Pair("de", "asr"): error_rates(10, utterances=utterances)}
    return Trial({"scaling_coef": coefficient}, objective, scores)


HALVED = [seen(10, 0.9, 0.1), seen(40, 0.6, 0.2), seen(20, 0.8, 0.3), seen(40, 0.7, 0.4)]


def test_choice_is_among_points_that_have_seen_all_of_dev(tmp_path):
    sweep = write_sweep(ExpDir(tmp_path), "task_arithmetic", "asr", HALVED)
    assert sweep.best == 3 and sweep.finalists == [HALVED[1], HALVED[3]]
    assert (sweep.evaluations, sweep.plain_evaluations) == (110, 160)
    assert read_sweeps([tmp_path]) == [sweep]
    path = tmp_path / "tune/task_arithmetic.asr/sweep.json"
    for best, fact in ((0, "all of dev"), (1, "0.7")):
        change(path, best=best)
        with refusal(path, f"entry {best}", fact):
            read_sweeps([tmp_path])


def test_variant_has_the_defaults_of_its_method(tmp_path):
    expdir = ExpDir(tmp_path)
    scores = scored("lors-basic")
    written = write_sweep(expdir, "lors_paper", "asr", TRIALS, "lors", scores, scores)
    assert read_sweep(expdir, "lors_paper", "asr") == written
    assert (written.method, written.merge_method) == ("lors_paper", "lors")
    assert written.defaults["order"] == "low_rank_first" and written.base == scores


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"variant_of": 3}, ["variant_of"]),
        ({"base": []}, ["base"]),
        ({"expert": {"de_mt": {}}}, ["expert", "de_mt"]),
    ],
)
def test_malformed_additions_to_a_sweep(expdir, values, facts):
    change(expdir / "tune/lors.asr/sweep.json", **values)
    with refusal(expdir / "tune/lors.asr/sweep.json", *facts):
        read_sweep(ExpDir(expdir), "lors", "asr")


@pytest.mark.parametrize(
    "best, expected",
    [(0, ["rank=1, the smallest", "=0.3, the smallest"]), (1, []), (2, ["=0.9, the largest"])],
)
def test_a_choice_at_the_edge_of_its_grid(best, expected):
    settings = [(1, 0.3), (4, 0.6), (7, 0.9), (9, 0.6)]
    grid = tuple(
        Trial({"rank": rank, "density": 0.2, "order": "x", "scaling_coef": coef}, 0.5, {})
        for rank, coef in settings
    )
    sweep = Sweep("exp", "lors", "asr", grid, best)
    notes = at_edges([sweep])
    assert len(notes) == bool(expected)
    assert all(edge in notes[0] for edge in expected)
    assert "".join(notes).count("exp") == len(expected) and "density" not in "".join(notes)
