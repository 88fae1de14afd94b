"""The report: reading score trees and sweeps, tables, plots, command line."""

import json
import shutil
import struct

import pytest

from lors.bin import results as results_main
from lors.errors import LorsError
from lors.plots import write_plots
from lors.plots.bars import bar_figure
from lors.plots.style import method_colours
from lors.plots.sweep import sweep_figure
from lors.recipe.results import cell, describe_runs, make_report, render_markdown, render_text
from lors.recipe.score_tree import read_scores, system_order
from lors.recipe.sweeps import format_params, read_sweeps

# system -> (WER of de, WER of sv-SE, BLEU of de, BLEU of sv-SE)
SCORES = {
    "base": (40.0, 60.0, 10.0, 20.0),
    "expert": (20.0, 20.0, 30.0, 30.0),
    "joint": (24.0, 28.0, 26.0, 28.0),
    "average.langs": (30.0, 50.0, 15.0, 22.5),
    "average.langs_tasks": (35.0, 50.0, 15.0, 22.5),
    "lors.langs": (25.0, 30.0, 25.0, 27.5),
    "lors.langs_tasks": (30.0, 40.0, 20.0, 25.0),
}
ASR = {
    "task": "asr",
    "utterances": 160,
    "empty_refs": 0,
    "ref_words": 1000,
    "unit": "word",
    "normaliser": "whisper-basic",
    "openai_whisper_version": "1",
    "jiwer_version": "4.0.0",
}
ST = {
    "task": "st",
    "utterances": 160,
    "empty_refs": 1,
    "bleu_signature": "nrefs:1|case:mixed|tok:13a",
    "chrf_signature": "nrefs:1|nc:6",
}


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def change(path, **values):
    put(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def make_scores(expdir, shift=0.0):
    for system, (de, sv, de_st, sv_st) in SCORES.items():
        folder = expdir / "scores" / "test" / system
        for lang, wer, bleu in (("de", de, de_st), ("sv-SE", sv, sv_st)):
            put(folder / f"{lang}_asr.json", {**ASR, "wer": wer + shift, "cer": wer / 2})
            put(folder / f"{lang}_st.json", {**ST, "bleu": bleu + shift, "chrf": bleu + 20})
    return expdir


def make_sweeps(expdir, coefficient=0.4):
    lors = [
        {
            "params": {"rank": rank, "density": 0.2, "scaling_coef": c},
            "objective": 0.6 - (c - coefficient) ** 2 - rank / 100,
            "scores": {"de_asr": {"wer": 30.0}},
        }
        for rank in (3, 7)
        for c in (0.2, 0.4, 0.6)
    ]
    best = next(
        i
        for i, e in enumerate(lors)
        if e["params"] == {"rank": 3, "density": 0.2, "scaling_coef": coefficient}
    )
    for scope in ("asr", "st", "asr_st"):
        for method, grid, chosen in (
            ("lors", lors, best),
            ("average", [{"params": {}, "objective": 0.25, "scores": {}}], 0),
        ):
            content = {"method": method, "scope": scope, "grid": grid, "best": chosen}
            put(expdir / "tune" / f"{method}.{scope}" / "sweep.json", content)
    return expdir


@pytest.fixture
def expdir(tmp_path):
    return make_sweeps(make_scores(tmp_path / "exp" / "seed1"))


def section(sections, start):
    (found,) = [s for s in sections if s.title.startswith(start)]
    return found


def row_of(part, *labels):
    (found,) = [row for row in part.rows if tuple(row[: len(labels)]) == labels]
    return list(found[part.labels :])


def test_systems_are_ordered_whatever_methods_there_are():
    names = [
        "lors.langs_tasks", "ties.langs", "joint", "lors.langs", "average.langs_tasks",
        "another", "sequential", "base", "average.langs", "expert", "ties.langs_tasks",
    ]  # fmt: skip
    assert sorted(names, key=system_order) == [
        "base", "expert", "joint", "sequential", "another",
        "average.langs", "average.langs_tasks", "ties.langs", "ties.langs_tasks",
        "lors.langs", "lors.langs_tasks",
    ]  # fmt: skip


def test_table_by_hand_for_one_run(expdir):
    table = read_scores([expdir])
    assert table.tasks == ["asr", "st"] and table.languages("asr") == ["de", "sv-SE"]
    sections = make_report(table, read_sweeps([expdir]))
    asr = section(sections, "Speech recognition: WER in %")
    assert list(asr.header[2:]) == ["de", "sv-SE", "average", "norm. perf."]
    # (15/20 + 30/40) / 2; (5/20 + 10/40) / 2
    assert row_of(asr, "lors", "languages") == ["25.0", "30.0", "27.5", "0.75"]
    assert row_of(asr, "average", "languages and tasks") == ["35.0", "50.0", "42.5", "0.25"]
    assert row_of(asr, "base", "-") == ["40.0", "60.0", "50.0", "0.00"]
    assert row_of(asr, "expert", "-")[-1] == "1.00"
    st = section(sections, "Speech translation: BLEU (higher")
    assert row_of(st, "average", "languages") == ["15.0", "22.5", "18.8", "0.25"]
    both = section(sections, "Normalised performance")
    assert row_of(both, "average", "languages") == ["0.38", "0.25", "0.31"]
    assert row_of(section(sections, "CER"), "lors", "languages") == ["12.5", "15.0", "13.8"]
    assert row_of(section(sections, "chrF"), "joint", "-") == ["46.0", "48.0", "47.0"]
    assert "no spread" in describe_runs(table)


def test_several_seeds_give_mean_and_sample_standard_deviation(tmp_path):
    dirs = [make_scores(tmp_path / f"seed{i}", shift) for i, shift in enumerate((-1.0, 0.0, 4.0))]
    table = read_scores(dirs)
    asr = section(make_report(table, []), "Speech recognition")
    # mean 40 + 1, sample variance (4 + 1 + 9) / 2 = 7
    assert row_of(asr, "base", "-")[0] == "41.0 ± 2.6"
    # base and expert moved alike, so the share did not
    assert row_of(asr, "lors", "languages")[-1] == "0.75 ± 0.00"
    assert "over 3 seeds" in describe_runs(table)


def test_cell():
    assert cell([1.25], 1) == "1.2" and cell([1.0, 3.0], 2) == "2.00 ± 1.41"


def test_missing_scores_are_named_and_nothing_is_written(expdir, tmp_path, capsys):
    gone = expdir / "scores/test/joint/sv-SE_st.json"
    gone.unlink()
    out = tmp_path / "RESULTS.md"
    assert results_main.main(["--expdirs", str(expdir), "--out", str(out)]) == 1
    assert f"missing: {gone}" in capsys.readouterr().err
    assert not out.exists()


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
    assert str(caught.value).count("missing: ") == 4
    assert str(other / "scores/test/lors.langs/de_asr.json") in str(caught.value)


def test_no_scores_at_all_and_a_directory_given_twice(expdir, tmp_path):
    with pytest.raises(LorsError, match="no scores found"):
        read_scores([tmp_path / "nothing"])
    with pytest.raises(LorsError, match="given twice"):
        read_scores([expdir, expdir / ".." / expdir.name])


def test_malformed_score_files_are_all_named(expdir):
    folder = expdir / "scores/test"
    change(folder / "base/de_asr.json", wer=None)
    change(folder / "base/de_st.json", bleu_signature="", task="asr")
    put(folder / "joint/de_asr.json", [])
    with pytest.raises(LorsError) as caught:
        read_scores([expdir])
    for problem in (
        "base/de_asr.json: 'wer' is not a number",
        "base/de_st.json: 'bleu_signature' is missing",
        "base/de_st.json: is a score of task 'asr'",
        "joint/de_asr.json: not a JSON object",
    ):
        assert problem in str(caught.value)


def test_a_file_with_another_name_is_refused(expdir):
    put(expdir / "scores/test/base/summary.json", {})
    with pytest.raises(LorsError, match=r"summary.json: name is not <lang>_<task>"):
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
    with pytest.raises(LorsError, match="cannot be reported together") as caught:
        read_scores([expdir])
    assert f"{name}: " in str(caught.value)


def test_expert_equal_to_base_names_run_system_and_pair(expdir):
    change(expdir / "scores/test/expert/de_asr.json", wer=40.0)
    with pytest.raises(LorsError) as caught:
        make_report(read_scores([expdir]), [])
    message = str(caught.value)
    assert "de_asr: expert and base both have wer 40.0" in message and str(expdir) in message


def test_expert_worse_than_base_is_pointed_out(expdir):
    change(expdir / "scores/test/expert/de_asr.json", wer=45.0)
    asr = section(make_report(read_scores([expdir]), []), "Speech recognition")
    assert any("worse than the base model for de_asr" in note for note in asr.below)


def test_without_base_there_is_no_normalised_performance(expdir):
    shutil.rmtree(expdir / "scores/test/base")
    sections = make_report(read_scores([expdir]), [])
    asr = section(sections, "Speech recognition")
    assert asr.header[-1] == "average" and "needs scores of both base" in asr.below[0]
    assert not [s for s in sections if s.title.startswith("Normalised")]


def test_chosen_parameters_and_what_was_not_tuned(expdir):
    shutil.rmtree(expdir / "tune/average.st")
    part = section(make_report(read_scores([expdir]), read_sweeps([expdir])), "Merge parameters")
    assert [row[:2] for row in part.rows] == [
        ["average", "asr"], ["average", "asr + st"],
        ["lors", "asr"], ["lors", "st"], ["lors", "asr + st"],
    ]  # fmt: skip
    assert part.rows[0][3:] == ["none", "0.250", "1"]
    assert part.rows[2][3:] == ["rank=3 density=0.2 scaling_coef=0.4", "0.570", "6"]
    assert part.below == [f"Without a sweep on dev: average.st in {expdir}."]


@pytest.mark.parametrize(
    "values, problem",
    [
        ({"best": 0}, "the highest is 0.57"),
        ({"best": 6}, "not an index into a grid of 6"),
        ({"best": True}, "not an index"),
        ({"grid": []}, "grid is empty"),
        ({"grid": [{"params": {}, "objective": None}], "best": 0}, "number as objective: \\[0\\]"),
        ({"grid": [{"params": {}, "objective": float("nan")}], "best": 0}, "number as objective"),
        ({"scope": "st"}, "is of method 'lors' and scope 'st'"),
    ],
)
def test_malformed_sweeps_are_refused(expdir, values, problem):
    change(expdir / "tune/lors.asr/sweep.json", **values)
    with pytest.raises(LorsError, match=problem) as caught:
        read_sweeps([expdir])
    assert "lors.asr/sweep.json" in str(caught.value)


def test_format_params():
    assert format_params({"rank": 7, "density": 0.25, "kind": "x"}) == "rank=7 density=0.25 kind=x"
    assert format_params({}) == "none"


def test_markdown_and_text_hold_the_same_tables(expdir):
    table = read_scores([expdir])
    sections = make_report(table, read_sweeps([expdir]))
    markdown = render_markdown(sections, "T", describe_runs(table), (), "./run.sh --seed 1")
    text = render_text(sections, "T", describe_runs(table))
    in_markdown = [
        [c.strip().replace("\\", "") for c in line.strip("|").split(" | ")]
        for line in markdown.splitlines()
        if line.startswith("| ") and ":--" not in line
    ]
    expected = [list(row) for s in sections if s.rows for row in (s.header, *s.rows)]
    assert in_markdown == expected
    for row in expected:
        assert any(line.split() == " ".join(row).split() for line in text.splitlines())
    assert "```bash\n./run.sh --seed 1\n```" in markdown
    assert "nrefs:1\\|case:mixed\\|tok:13a" in markdown and "nrefs:1|case:mixed|tok:13a" in text
    assert "own definition" in markdown


def test_text_columns_are_aligned(expdir):
    part = section(make_report(read_scores([expdir]), []), "Speech recognition")
    lines = render_text([part], "T", "").splitlines()
    start = lines.index(part.title) + 1
    assert len({len(line) for line in lines[start : start + 2 + len(part.rows)]}) == 1


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_command_writes_report_and_plots_and_prints_the_tables(expdir, tmp_path, capsys):
    other = make_sweeps(make_scores(expdir.parent / "seed2", 1.0), 0.6)
    out, plots = tmp_path / "exp" / "RESULTS.md", tmp_path / "exp" / "plots"
    arguments = ["--expdirs", str(expdir), str(other), "--out", str(out), "--plots", str(plots)]
    assert results_main.main([*arguments, "--title", "mini", "--command", "./run.sh"]) == 0
    markdown = out.read_text(encoding="utf-8")
    assert markdown.startswith("# mini\n") and "(plots/bars_asr.png)" in markdown
    assert "40.5 ± 0.7" in markdown and "40.5 ± 0.7" in capsys.readouterr().out
    for name in ("bars_asr.png", "bars_st.png", "sweep.png"):
        width, height = png_size(plots / name)
        assert width > 1000 and height > 500


def test_report_is_the_same_every_time(expdir, tmp_path):
    texts = set()
    for name in "ab":
        out = tmp_path / name
        assert results_main.main(["--expdirs", str(expdir), "--out", str(out)]) == 0
        texts.add(out.read_text(encoding="utf-8"))
    assert len(texts) == 1


def test_no_sweeps_no_sweep_figure(expdir, tmp_path):
    plots = write_plots(read_scores([expdir]), [], tmp_path / "plots")
    assert [path.rsplit("/")[-1] for _, path in plots] == ["bars_asr.png", "bars_st.png"]


def test_sweep_figure_has_a_line_for_each_rank_and_density(expdir, tmp_path):
    other = make_sweeps(tmp_path / "seed2", 0.6)
    for path in other.glob("tune/lors.*/sweep.json"):  # the order of parameters means nothing
        content = json.loads(path.read_text(encoding="utf-8"))
        for entry in content["grid"]:
            entry["params"] = dict(sorted(entry["params"].items()))
        put(path, content)
    figure = sweep_figure(read_sweeps([expdir, other]))
    assert [axes.get_title() for axes in figure.axes] == [
        "ASR experts", "ST experts", "ASR and ST experts",
    ]  # fmt: skip
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "average", "lors rank=3 density=0.2", "lors rank=7 density=0.2", "chosen on dev",
    ]  # fmt: skip
    curve = figure.axes[0].containers[0].lines[0]
    assert list(curve.get_xdata()) == [0.2, 0.4, 0.6]
    # rank 3: means of 0.57 - (c - 0.4)^2 and 0.57 - (c - 0.6)^2
    assert list(curve.get_ydata()) == pytest.approx([0.47, 0.55, 0.55])
    rings = [
        line.get_xdata()[0] for line in figure.axes[0].lines if line.get_label() == "chosen on dev"
    ]
    assert sorted(rings) == [0.4, 0.6]


def test_bar_figure_has_a_bar_for_each_system_and_language_in_as_many_rows_as_needed(expdir):
    one_row = bar_figure(read_scores([expdir]), "asr")
    heights = [bar.get_height() for group in one_row.axes[0].containers for bar in group]
    assert heights[:3] == [40.0, 60.0, 50.0] and len(heights) == 3 * len(SCORES)
    for i in range(25):
        for scope in ("langs", "langs_tasks"):
            source = expdir / "scores/test/lors.langs"
            shutil.copytree(source, expdir / f"scores/test/m{i}.{scope}")
    assert len(bar_figure(read_scores([expdir]), "asr").axes) == 3


def test_colours_differ_however_many_methods():
    methods = [f"m{i}" for i in range(18)] + ["lors"]
    assert len(set(method_colours(methods).values())) == len(methods)
