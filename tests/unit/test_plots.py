"""The figures of a report."""

import json
import math
import shutil
import struct

import pytest

from lors.fileio import read_json
from lors.page.sweep_charts import sweep_panels
from lors.plots.bars import bar_figure
from lors.plots.inspection import spectrum_figure
from lors.plots.report import write_plots
from lors.plots.searches import experiments_figure, settings_figure
from lors.plots.style import method_colours
from lors.plots.sweep import scope_title, sweep_figure
from lors.recipe.expdir import BASELINES, PERSONAL
from lors.recipe.score_tree import read_scores
from lors.recipe.sweeps import Sweep, Trial, read_sweeps
from tests.unit.score_trees import SCORES, change, error_rates, make_scores, make_sweeps, put


@pytest.fixture
def expdir(tmp_path):
    return make_sweeps(make_scores(tmp_path / "exp" / "seed1"))


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def draw(expdir, folder):
    return write_plots(read_scores([expdir]), read_sweeps([expdir]), folder)


def test_every_figure_is_written_with_a_caption(expdir, tmp_path):
    written = draw(expdir, tmp_path / "plots")
    names = ["bars_asr.png", "bars_st.png", "sweep.png"]
    assert [path for _, path in written] == [str(tmp_path / "plots" / name) for name in names]
    for caption, metric in zip((c for c, _ in written), ("WER", "BLEU", "dev"), strict=True):
        assert metric in caption
    for _, path in written:
        width, height = png_size(tmp_path / path)
        assert width > 1000 and height > 500


def test_no_sweeps_no_sweep_figure(expdir, tmp_path):
    plots = write_plots(read_scores([expdir]), [], tmp_path / "plots")
    assert [path.rsplit("/")[-1] for _, path in plots] == ["bars_asr.png", "bars_st.png"]


def ages(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def test_figures_of_the_same_files_are_left_alone(expdir, tmp_path):
    folder = tmp_path / "plots"
    first = draw(expdir, folder)
    before = ages(folder)
    assert draw(expdir, folder) == first and ages(folder) == before


@pytest.mark.parametrize("what", ["score", "sweep", "figure", "removed", "system"])
def test_figures_of_other_files_are_drawn_again(expdir, tmp_path, what):
    folder = tmp_path / "plots"
    draw(expdir, folder)
    before = ages(folder)
    if what == "score":
        change(expdir / "scores/test/joint/de_asr.json", wer=21.0)
    elif what == "sweep":
        path = expdir / "tune/average.asr/sweep.json"
        change(path, grid=[{"params": {}, "objective": 0.3, "scores": {}}])
    elif what == "figure":
        (folder / "bars_asr.png").write_bytes(b"half")
    elif what == "removed":
        (folder / "bars_st.png").unlink()
    else:
        shutil.rmtree(expdir / "scores/test/joint")
    draw(expdir, folder)
    assert ages(folder).keys() == before.keys() and ages(folder) != before
    assert png_size(folder / "bars_asr.png")


# --- searches alone


def test_settings_figure_has_a_curve_for_each_setting_of_each_method(expdir):
    figure = settings_figure(read_sweeps([expdir]))
    assert [axes.get_title() for axes in figure.axes] == [
        scope_title(scope) for scope in ("asr", "st", "asr_st")
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "average", "lors rank=3", "lors rank=7",
    ]  # fmt: skip
    curve = figure.axes[0].lines[1]
    assert list(curve.get_xdata()) == [0.2, 0.4, 0.6]
    assert list(curve.get_ydata()) == pytest.approx([0.53, 0.57, 0.53])


def test_experiments_figure_has_the_best_settings_in_the_order_of_the_experiments(tmp_path):
    dirs = [str(make_sweeps(tmp_path / name)) for name in ("b", "a")]
    file = tmp_path / "a/tune/lors.asr/sweep.json"
    grid = read_json(file)["grid"]
    grid[1]["objective"] = 0.55
    change(file, grid=grid)
    figure = experiments_figure(read_sweeps(dirs), dirs)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["b", "a"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["average", "lors"]
    assert list(axes.lines[1].get_ydata()) == pytest.approx([0.57, 0.55])
    assert axes.lines[1].get_linestyle() == "None" and not axes.get_xlabel()  # no order is known
    axes = experiments_figure(read_sweeps(dirs), dirs, "hours").axes[0]
    assert axes.lines[1].get_linestyle() == "-" and axes.get_xlabel() == "hours"


# --- sweep


def test_title_of_each_scope():
    assert [scope_title(scope) for scope in ("asr", "st", "asr_st")] == [
        "ASR experts", "ST experts", "ASR and ST experts",
    ]  # fmt: skip


def test_sweep_figure_has_a_line_for_each_rank_and_density(expdir, tmp_path):
    other = make_sweeps(tmp_path / "seed2", 0.6)
    for path in other.glob("tune/lors.*/sweep.json"):  # the order of parameters means nothing
        content = json.loads(path.read_text(encoding="utf-8"))
        for entry in content["grid"]:
            entry["params"] = dict(sorted(entry["params"].items()))
        put(path, content)
    figure = sweep_figure(read_sweeps([expdir, other]))
    titles = [scope_title(scope) for scope in ("asr", "st", "asr_st")]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "average", "lors rank=3", "lors rank=7", "chosen on dev",
    ]  # fmt: skip
    curve = figure.axes[0].containers[0].lines[0]
    assert list(curve.get_xdata()) == [0.2, 0.4, 0.6]
    # rank 3: means of 0.57 - (c - 0.4)^2 and 0.57 - (c - 0.6)^2
    assert list(curve.get_ydata()) == pytest.approx([0.47, 0.55, 0.55])
    rings = [
        line.get_xdata()[0] for line in figure.axes[0].lines if line.get_label() == "chosen on dev"
    ]
    assert sorted(rings) == [0.4, 0.6]


def test_a_setting_of_some_runs_is_in_no_line(expdir, tmp_path):
    """The first run has left out the setting that the second has chosen, and another one."""
    path = expdir / "tune/lors.asr/sweep.json"
    grid = read_json(path)["grid"]
    for entry in grid:
        if (entry["params"]["rank"], entry["params"]["scaling_coef"]) in ((3, 0.6), (7, 0.2)):
            entry["scores"] = {"de_asr": error_rates(30.0, utterances=80).to_json()}
    change(path, grid=grid)
    other = make_sweeps(make_scores(tmp_path / "exp/seed2"), 0.6)
    table, sweeps = read_scores([expdir, other]), read_sweeps([expdir, other])
    axes = sweep_figure(sweeps).axes[0]
    curves = [list(box.lines[0].get_xdata()) for box in axes.containers]
    assert curves == [[0.2, 0.4], [0.4, 0.6]]  # ranks 3 and 7
    rings = [line.get_xydata()[0] for line in axes.lines if line.get_label() == "chosen on dev"]
    assert sorted(map(tuple, rings)) == [(0.4, pytest.approx(0.55)), (0.6, pytest.approx(0.57))]
    assert "a ring beside them is of some" in write_plots(table, sweeps, tmp_path)[-1][0]
    (panel,) = [panel for panel in sweep_panels(sweeps) if panel.title == "lors"]
    marks = [trial for trial in panel.trials if trial.kind == 0]
    assert len(marks) == 5 and len(panel.lines[0][1].split()) == 3
    assert [trial.title for trial in marks if trial.is_partial] == [
        "ASR experts, rank=3 scaling_coef=0.6: 0.570, 1 of 2 runs, chosen"
    ]
    (ring,) = [trial for trial in marks if trial.is_partial]
    assert f"{ring.x},{ring.y}" not in panel.lines[0][1].split()


def trials(method, settings):
    coefficients = (0.1, 0.4, 0.8)
    return tuple(
        Trial({**params, "scaling_coef": c}, 0.5 - (c - 0.4) ** 2, {})
        for params in settings
        for c in coefficients
    )


def many_sweeps(panels, methods, settings):
    grids = {f"boosted_method_{i}": [{"density": 0.2}] for i in range(methods - 1)}
    return [
        Sweep("exp", method, scope, trials(method, grid), 1)
        for scope in ("asr", "st", "asr_st")[:panels]
        for method, grid in {**grids, "lors": settings}.items()
    ]


LORS = {
    "rank": 5,
    "density": 0.2,
    "order": "low_rank_first",
    "threshold": "matrix",
    "keep_norm": False,
}
RANKS = [{**LORS, "rank": rank} for rank in (2, 6, 13, {"ratio": 0.01}, {"energy": 0.5})]
GRID = [{**LORS, "rank": r, "density": d / 20} for r in range(12) for d in range(1, 6)]


def assert_legend_is_beside_the_axes(figure):
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert box.y0 >= 0 and box.y1 <= figure.bbox.y1
    for axes in figure.axes:
        assert axes.get_tightbbox().x1 < box.x0
        assert axes.bbox.width > 1.5 * figure.dpi


@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize(("methods", "settings"), [(1, [LORS]), (2, GRID), (6, RANKS), (20, RANKS)])
def test_legend_of_the_sweeps_lies_beside_the_panels(panels, methods, settings):
    assert_legend_is_beside_the_axes(sweep_figure(many_sweeps(panels, methods, settings)))


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ([LORS], ["lors"]),
        (
            RANKS,
            [
                *("lors rank=2", "lors rank=6", "lors rank=13"),
                *("lors rank={'energy': 0.5}", "lors rank={'ratio': 0.01}"),
            ],
        ),
        (
            [
                {**LORS, "threshold": t, "density": d}
                for t in ("matrix", "global")
                for d in (1, 0.5)
            ],
            [
                *("lors density=0.5 threshold=global", "lors density=0.5 threshold=matrix"),
                *("lors density=1 threshold=global", "lors density=1 threshold=matrix"),
            ],
        ),
    ],
)
def test_labels_name_only_what_varies(settings, labels):
    figure = sweep_figure(many_sweeps(1, 2, settings))
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["boosted_method_0", *labels, "chosen on dev"]
    lines = [box.lines[0] for box in figure.axes[0].containers]
    looks = {(str(line.get_color()), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(lines) == len(labels) + 1


def test_legend_of_the_spectra_lies_beside_the_axes():
    experts = [f"language_{i}" for i in range(20)]
    matrices = {"m": {"experts": [{"spectrum": [3.0, 2.0, 1.0]} for _ in experts]}}
    figure = spectrum_figure(matrices, experts)
    assert len(figure.legends[0].get_texts()) == len(experts)
    assert_legend_is_beside_the_axes(figure)


# --- bars


@pytest.mark.parametrize("methods", [1, 20])
def test_legend_of_the_bars_lies_beside_the_bars(expdir, methods):
    for i in range(methods):
        shutil.copytree(expdir / "scores/test/lors.langs", expdir / f"scores/test/m{i}.langs")
    assert_legend_is_beside_the_axes(bar_figure(read_scores([expdir]), "asr"))


def test_bar_figure_has_a_bar_for_each_system_and_language_in_as_many_rows_as_needed(expdir):
    one_row = bar_figure(read_scores([expdir]), "asr")
    heights = [bar.get_height() for group in one_row.axes[0].containers for bar in group]
    assert heights[:3] == [40.0, 60.0, 50.0] and len(heights) == 3 * len(SCORES)
    for i in range(25):
        for merged_over in ("langs", "langs_tasks"):
            source = expdir / "scores/test/lors.langs"
            shutil.copytree(source, expdir / f"scores/test/m{i}.{merged_over}")
    assert len(bar_figure(read_scores([expdir]), "asr").axes) == 3


def test_a_missing_score_has_no_bar(expdir, tmp_path):
    other = make_scores(tmp_path / "seed2", 2.0)
    (other / "scores/test/joint/de_asr.json").unlink()
    for folder in (expdir, other):
        (folder / "scores/test/lors.langs/de_asr.json").unlink()
    axes = bar_figure(read_scores([expdir, other], partial=True), "asr").axes[0]
    bars = [[bar.get_height() for bar in group.patches] for group in axes.containers[1::2]]
    systems = dict(zip(SCORES, bars, strict=True))
    assert systems["base"] == [41.0, 61.0, 51.0] and systems["joint"] == [24.0, 29.0, 26.0]
    de, sv, average = systems["lors.langs"]
    assert math.isnan(de) and math.isnan(average) and sv == 31.0


def test_scores_of_zero_have_no_negative_axis(expdir):
    for path in expdir.glob("scores/test/*/*_asr.json"):
        change(path, wer=0.0)
    figure = bar_figure(read_scores([expdir]), "asr")
    assert figure.axes[0].get_ylim() == (0, 1)


@pytest.mark.parametrize("coefficients", [(0.0, 0.0), (-1.0, -1.0), (-1.0, -0.5), (0.0, 2.0)])
def test_the_ticks_of_the_page_lie_in_the_field(expdir, coefficients):
    for path in expdir.glob("tune/*/sweep.json"):
        grid = read_json(path)["grid"][:2]
        params = [{"scaling_coef": c} for c in coefficients]
        grid = [{**t, "params": p, "objective": 0.3} for t, p in zip(grid, params, strict=False)]
        change(path, grid=grid, best=0)
    for panel in sweep_panels(read_sweeps([expdir])):
        assert panel.x_ticks and all(panel.left <= x <= panel.right for x, _ in panel.x_ticks)
        assert all(panel.left <= trial.x <= panel.right for trial in panel.trials)


def test_legend_of_the_bars(expdir):
    legend = bar_figure(read_scores([expdir]), "st").legends[0]
    labels = [text.get_text().replace("\n", " ") for text in legend.get_texts()]
    assert labels == [
        "base", "expert", "joint", "average", "lors",
        "merged over languages", "merged over languages and tasks",
    ]  # fmt: skip
    hatches = [patch.get_hatch() for patch in legend.get_patches()]
    assert [bool(hatch) for hatch in hatches] == [False] * 6 + [True]


@pytest.mark.parametrize(
    "systems",
    [
        [*BASELINES, *PERSONAL],
        ["base", "expert", "joint", "s3net_magnitude_30", "s3net_taylor_30", "lora", "tsv_m.langs"],
        ["base", "lors", "lors.langs", "lors.langs_tasks"],
    ],
)
def test_every_system_of_a_figure_has_a_look_of_its_own(tmp_path, systems):
    for system in systems:
        rates = {"task": "asr", **error_rates(20.0).to_json()}
        put(tmp_path / "scores/test" / system / "de_asr.json", rates)
    figure = bar_figure(read_scores([tmp_path]), "asr")
    bars = [group.patches[0] for group in figure.axes[0].containers]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == len(systems)
    unmerged = [name for name in systems if "." not in name]
    handles = figure.legends[0].get_patches()[: len(unmerged)]
    assert len({(handle.get_facecolor(), handle.get_hatch()) for handle in handles}) == len(
        unmerged
    )


def test_colours_differ_however_many_methods():
    methods = [f"m{i}" for i in range(40)] + ["lors"]
    assert len(set(method_colours(methods).values())) == len(methods)
