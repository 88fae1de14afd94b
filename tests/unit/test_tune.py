"""The search for merge parameters, with a stand-in for the model."""

import dataclasses
import weakref

import pytest
import torch
from score_trees import put_score, references
from stand_ins import FakeS2TModel, use_fake_models, write_audio_dump, write_model

from lors.bin import replay_halving
from lors.config import read_yaml
from lors.data.datadir import Utterance, read_data_dir, write_data_dir
from lors.errors import UsageError
from lors.fileio import read_json, write_json
from lors.merge import merged_delta
from lors.models.espnet_s2t.prompts import S2TOptions
from lors.page.summary import dev_performance
from lors.page.write import write_page
from lors.plots.report import write_plots
from lors.recipe import tuner
from lors.recipe.cost import cost_sections
from lors.recipe.eval_set import read_eval_set
from lors.recipe.expdir import ExpDir
from lors.recipe.grid import Grid
from lors.recipe.halving import Halving, clip_order
from lors.recipe.merge_tuned import merge_tuned
from lors.recipe.parameters import parameter_section
from lors.recipe.replay import replay, replay_all
from lors.recipe.report import UNDEFINED
from lors.recipe.score_tree import read_scores
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
    return use_fake_models(monkeypatch)


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


def test_plan_takes_options_beside_the_parameters(expdir):
    setting = {"density": 0.5, "boost": 0.3, "lines": [0.5, 1.0], "weights": [1, -1]}
    plan = plan_of(expdir, PAIRS, "ties", setting)
    assert (plan.boost, plan.lines, plan.weights, plan.svc) == (0.3, (0.5, 1), (1, -1), None)
    assert plan.params == {"density": 0.5, "scaling_coef": 1.0}
    assert plan_of(expdir, PAIRS, "lors", {"svc": 1.0}).svc == 1


# --- the search


@pytest.mark.parametrize("rank", [{"ratio": 0.5}, {"energy": 0.6}])
@pytest.mark.parametrize("method", ["lors", "cart"])
def test_ranks_by_ratio_and_by_energy(expdir, dump, method, rank):
    points = tuple({"rank": rank, "scaling_coef": c} for c in (0.5, 1.0))
    tune(expdir, PAIRS, dump, Grid({method: points}, None), OPTIONS)
    sweep = read_json(expdir.sweep(method, "asr"))
    assert [point["params"]["rank"] for point in sweep["grid"]] == [rank, rank]
    assert merges(FakeS2TModel.calls) == 2
    merge_tuned(expdir, [method], ["de", "es"], ["asr"])
    record = read_yaml(expdir.merged(method, "asr") / "merge.yaml")
    assert record["plan"]["params"] == sweep["grid"][sweep["best"]]["params"]


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
    names = {path.name for path in expdir.sweep("lors", "asr").parent.iterdir()}
    assert names == {"sweep.json", "cost.json", "points", ".done"}
    assert not list(expdir.root.rglob("*.decompositions"))
    assert {pair: score["wer"] for pair, score in sweep["base"].items()} == {
        **{str(pair): 87.5 for pair in PAIRS}
    }
    assert {score["wer"] for score in sweep["expert"].values()} == {12.5}


@pytest.mark.parametrize("words", [1, 0])
def test_experts_that_are_no_better_than_the_base(expdir, dump, words, tmp_path, caplog):
    """The search goes on by the average gain, and the report says so."""
    for seed, pair in enumerate(PAIRS, 1):
        write_model(expdir.expert(pair), seed, {str(pair): words, "de_st": 7})
    tune(expdir, PAIRS, dump, Grid({"task_arithmetic": POINTS}, None), OPTIONS)
    assert "asr" in caplog.text and "87.5" in caplog.text
    (sweep,) = read_sweeps([expdir.root])
    wers = [[score.wer for score in trial.scores.values()] for trial in sweep.grid]
    gains = [87.5 - sum(of) / len(of) for of in wers]
    assert [trial.objective for trial in sweep.grid] == pytest.approx(gains)
    assert sweep.best == gains.index(max(gains)) and "87.5" in sweep.undefined
    merge_tuned(expdir, ["task_arithmetic"], ["de", "es"], ["asr"])

    for system in ("base", "expert", "task_arithmetic.langs"):
        for pair in PAIRS:
            put_score(expdir.root, system, pair, references(pair), references(pair))
    table = read_scores([expdir.root])
    part = parameter_section(table, [sweep])
    assert part.rows[0][-2] == UNDEFINED and "87.5" in part.below[0]
    assert [path for _, path in write_plots(table, [sweep], tmp_path)] == [
        str(tmp_path / "bars_asr.png")
    ]
    assert dev_performance("task_arithmetic.langs", table, [sweep]) is None
    write_page([expdir.root], tmp_path / "report.html")
    with refusal("task_arithmetic.asr"):
        replay_all([expdir.root], dump, Halving(0.5, 0.5))


def test_a_first_round_with_few_clips_has_words(expdir, dump):
    """By its hash, the one clip of German in the first round would be one without words."""
    first = clip_order(read_eval_set(dump / "de/dev").ids)[0]
    utterances = read_data_dir(dump / "de" / "dev")
    empty = [dataclasses.replace(u, text="(…)") if u.id == first else u for u in utterances]
    write_data_dir(dump / "de" / "dev", empty)
    grid = Grid({"task_arithmetic": POINTS}, None, halving=Halving(0.3, 0.5))
    tune(expdir, PAIRS, dump, grid, OPTIONS)
    (sweep,) = read_sweeps([expdir.root])
    assert sweep.grid[1].scores[PAIRS[0]].empty_refs == 1
    assert min(trial.evaluations for trial in sweep.grid) == 2


def test_sweeps_are_what_the_report_reads(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    assert len(read_sweeps([expdir.root])) == 3


def test_search_is_greedy_on_some_of_the_utterances(expdir, dump, calls):
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


def interrupt(after, expdir, dump, grid):
    """Search, and press Ctrl-C when the next model after so many merges is loaded."""

    class Interrupted(FakeS2TModel):
        def load_state(self, state):
            if merges(self.calls) == after:
                raise KeyboardInterrupt
            super().load_state(state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lors.models.espnet_s2t.inference.S2TModel", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(expdir, PAIRS, dump, grid, OPTIONS)


@pytest.mark.parametrize("after", [1, 3, 6, 8])
def test_interrupted_search_ends_with_the_same_files(expdir, dump, tmp_path, calls, after):
    whole = make_expdir(tmp_path / "whole")
    tune(whole, PAIRS, dump, GRID, OPTIONS)
    calls.clear()

    interrupt(after, expdir, dump, GRID)
    assert merges(calls) == after
    calls.clear()
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    assert merges(calls) == 9 - after  # no merge is tried twice
    for method in GRID.points:
        first, second = (e.sweep(method, "asr").read_bytes() for e in (whole, expdir))
        assert first == second
    assert not list(expdir.root.rglob("*.decompositions"))


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ([1], "digest"),
        ({"model": "1"}, "hypotheses"),
        ({"model": "1", "hypotheses": {"de_mt": {}}}, "de_mt"),
        ({"model": "1", "hypotheses": {"de_asr": {"spk0-de-dev": 1}}}, "de_asr"),
        ({"model": "1", "hypotheses": {"de_asr": {"spk9-de-dev": ""}}}, "spk9-de-dev"),
    ],
)
def test_damaged_hypotheses_of_an_unfinished_search(expdir, dump, content, fact):
    directory = expdir.sweep("task_arithmetic", "asr").with_name("points")
    for index in (0, 2):
        write_json(directory / f"000{index}.json", content)
    with refusal("0000.json", "0002.json", fact, "remove these files"):
        tune(expdir, PAIRS, dump, Grid({"task_arithmetic": POINTS}, None), OPTIONS)


@pytest.mark.parametrize("content", [[], {"decoded": 1.5}, {"decoded": 1, "merging": {"cpu_s": 1}}])
def test_damaged_cost(expdir, dump, content):
    path = expdir.sweep("task_arithmetic", "asr").with_name("cost.json")
    write_json(path, content)
    with refusal(path, "remove this file"):
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


def test_a_search_on_the_first_utterances_is_not_continued(expdir, dump, calls):
    """Earlier versions took the first utterances and recorded their number alone."""
    grid = Grid({"task_arithmetic": POINTS}, 2)
    tune(expdir, PAIRS, dump, grid, OPTIONS)
    marker = expdir.sweep("task_arithmetic", "asr").with_name(".done")
    old = read_json(marker)
    del old["inputs"]["chosen_by"]
    write_json(marker, old)
    with refusal("chosen_by: ", marker.parent):
        tune(expdir, PAIRS, dump, grid, OPTIONS)


@pytest.mark.parametrize(
    ("method", "params", "facts"),
    [
        ("losr", {}, ["losr", "did you mean lors"]),
        ("lors", {"rnak": 3}, ["rnak", "did you mean rank"]),
        ("lors", {"boost": 2}, ["boost", "2"]),
        ("lors", {"lines": 0.5}, ["lines", "0.5"]),
        ("ties", {"svc": 1.0}, ["svc", "ties"]),
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


# --- variants, models with the same values


def decoded(calls):
    """Number of utterances that merges have decoded; base and experts do not count."""
    first = next((k for k, call in enumerate(calls) if call[0] == "load_state"), len(calls))
    return sum(call[1] for call in calls[first:] if call[0] == "greedy")


def test_variants_have_sweeps_of_their_own(expdir, dump):
    boosted = tuple({**point, "boost": 0.5} for point in POINTS)
    points = {"task_arithmetic": POINTS, "boosted": boosted, "lors_paper": LORS, "lors": LORS}
    grid = Grid(points, None, {"boosted": "task_arithmetic", "lors_paper": "lors"})
    tune(expdir, PAIRS, dump, grid, OPTIONS)
    sweeps = {sweep.method: sweep for sweep in read_sweeps([expdir.root])}
    assert set(sweeps) == set(points)
    assert [sweeps[name].variant_of for name in points] == [None, "task_arithmetic", "lors", None]
    assert tuple(trial.params for trial in sweeps["boosted"].grid) == boosted
    assert sweeps["lors_paper"].grid == sweeps["lors"].grid


def test_variant_cannot_have_the_name_of_another_method(expdir, dump, calls):
    with refusal("ties", "lors", kind=UsageError):
        tune(expdir, PAIRS, dump, Grid({"ties": LORS}, None, {"ties": "lors"}), OPTIONS)
    assert calls == []


def test_another_method_under_the_same_name_is_refused(expdir, dump):
    tune(expdir, PAIRS, dump, Grid({"mine": POINTS}, None, {"mine": "task_arithmetic"}), OPTIONS)
    with refusal(expdir.sweep("mine", "asr").parent, "method: 'task_arithmetic' -> 'average'"):
        tune(expdir, PAIRS, dump, Grid({"mine": POINTS}, None, {"mine": "average"}), OPTIONS)


def test_models_with_the_same_values_are_decoded_once(expdir, dump, calls):
    twice = (*POINTS, {"scaling_coef": 0.2})
    tune(expdir, PAIRS, dump, Grid({"task_arithmetic": twice}, None), OPTIONS)
    assert merges(calls) == 4 and decoded(calls) == 4 * 6
    sweep = read_sweeps([expdir.root])[0]
    assert sweep.grid[0] == sweep.grid[4]
    assert (sweep.evaluations, sweep.plain_evaluations) == (30, 30)  # the budget counts them
    calls.clear()
    # Another name for the same settings, in a later run.
    points = {"task_arithmetic": twice, "again": twice}
    tune(expdir, PAIRS, dump, Grid(points, None, {"again": "task_arithmetic"}), OPTIONS)
    assert merges(calls) == 0
    again = read_sweeps([expdir.root])[0]
    assert again.method == "again" and again.grid == sweep.grid


def test_a_delta_is_gone_before_the_next_is_made(expdir, dump, monkeypatch):
    made, threads = [], []

    def recorded(plan, inputs, nj, **options):
        pruned = inputs.names("prune")
        assert [ref for delta in made for ref in delta if ref() is not None] == []
        threads.append(nj)
        found = merged_delta(plan, inputs, nj, **options)
        made.append([weakref.ref(found[name]) for name in pruned])
        return found

    monkeypatch.setattr(tuner, "merged_delta", recorded)
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    # lors has two ranks, whose deltas share the tensors that are merged whole.
    assert len(made) == 4 and all(made)
    assert threads == [torch.get_num_threads()] * 4


def test_cost_of_a_search_and_of_a_merge(expdir, dump):
    tune(expdir, PAIRS, dump, GRID, OPTIONS)
    cost = read_json(expdir.sweep("lors", "asr").with_name("cost.json"))
    assert set(cost) == {"merging", "inference", "decoded"} and cost["decoded"] == 4 * 6
    assert all(of[name] >= 0 for of in (cost["merging"], cost["inference"]) for name in of)
    merge_tuned(expdir, ["lors"], ["de", "es"], ["asr"])
    [section] = cost_sections(read_sweeps([expdir.root]))
    assert [row[0] for row in section.rows] == ["average", "task_arithmetic", "lors"]
    assert [row[3] == "n/a" for row in section.rows] == [True, True, False]
    assert [row[6:] for row in section.rows] == [[n, "100 %"] for n in ("6", "24", "24")]


# --- successive halving

CLIPS = 8
HALVING = Halving(first=0.25, keep=0.5)


@pytest.fixture
def larger(tmp_path):
    return write_audio_dump(tmp_path / "larger", utterances=CLIPS)


def test_halving_saves_evaluations_and_makes_the_same_choice(expdir, larger, tmp_path, calls):
    grid = Grid({"average": ({},), "task_arithmetic": POINTS, "lors": LORS}, None)
    tune(expdir, PAIRS, larger, grid, OPTIONS)
    calls.clear()
    halved = make_expdir(tmp_path / "halved")
    tune(halved, PAIRS, larger, dataclasses.replace(grid, halving=HALVING), OPTIONS)
    # 2 x 8 clips: 4 points on 4, 2 points on 4 more, 1 point on 8 more.
    assert decoded(calls) == 2 * CLIPS + 2 * (4 * 4 + 2 * 4 + 8)
    for plain, ours in zip(read_sweeps([expdir.root]), read_sweeps([halved.root]), strict=True):
        assert (ours.best, ours.chosen) == (plain.best, plain.chosen)
        assert ours.chosen.evaluations == 2 * CLIPS
        counts = [trial.evaluations for trial in ours.grid]
        assert sorted(counts) == ([16] if ours.method == "average" else [4, 4, 8, 16])
        assert ours.plain_evaluations == plain.evaluations


@pytest.mark.parametrize("after", [2, 6, 8, 10])
def test_interrupted_halving_ends_with_the_same_files(expdir, larger, tmp_path, calls, after):
    grid = Grid({"task_arithmetic": POINTS, "lors": LORS}, None, {}, HALVING)
    whole = make_expdir(tmp_path / "whole")
    tune(whole, PAIRS, larger, grid, OPTIONS)
    clips, number = decoded(calls), merges(calls)
    calls.clear()

    interrupt(after, expdir, larger, grid)
    before = decoded(calls)
    calls.clear()
    tune(expdir, PAIRS, larger, grid, OPTIONS)
    assert merges(calls) == number - after and before + decoded(calls) == clips
    for name in ("task_arithmetic", "lors"):
        first, second = (e.sweep(name, "asr").read_bytes() for e in (whole, expdir))
        assert first == second


def test_plain_search_cannot_become_a_halved_one(expdir, dump):
    grid = Grid({"task_arithmetic": POINTS}, None)
    tune(expdir, PAIRS, dump, grid, OPTIONS)
    with refusal(expdir.sweep("task_arithmetic", "asr").parent, "halving: None -> "):
        tune(expdir, PAIRS, dump, dataclasses.replace(grid, halving=HALVING), OPTIONS)


def test_replay_of_halving_is_the_halved_search(expdir, larger, tmp_path, calls, capsys):
    grid = Grid({"average": ({},), "task_arithmetic": POINTS, "lors": LORS}, None)
    halved = make_expdir(tmp_path / "halved")
    tune(expdir, PAIRS, larger, grid, OPTIONS)
    tune(halved, PAIRS, larger, dataclasses.replace(grid, halving=HALVING), OPTIONS)
    calls.clear()
    references = {
        pair: read_eval_set(larger / pair.lang / "dev").references["asr"] for pair in PAIRS
    }
    for plain, ours in zip(read_sweeps([expdir.root]), read_sweeps([halved.root]), strict=True):
        found = replay(plain, references, HALVING)
        assert found.halved.grid == ours.grid and found.is_same and found.loss == 0
    options = ["--expdirs", str(expdir.root), "--dump", str(larger), "--first", "0.25"]
    assert replay_halving.main(options) == 0
    printed = capsys.readouterr().out
    assert "in 2 of 2 searches" in printed and "50 % of the evaluations" in printed
    assert replay_halving.main([*options, "--keep", "2"]) == 2
    assert "keep" in capsys.readouterr().err
    assert calls == []


def test_searches_that_cannot_be_replayed(expdir, larger):
    grid = Grid({"task_arithmetic": POINTS}, None, {}, HALVING)
    tune(expdir, PAIRS, larger, grid, OPTIONS)
    with refusal("task_arithmetic.asr"):
        replay_all([expdir.root], larger, HALVING)
    plain = make_expdir(expdir.root.parent / "plain")
    tune(plain, PAIRS, larger, dataclasses.replace(grid, halving=None), OPTIONS)
    missing = plain.sweep("task_arithmetic", "asr").with_name("points") / "0001.json"
    missing.unlink()
    with refusal(missing):
        replay_all([plain.root], larger, HALVING)
