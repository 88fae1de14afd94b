"""The report of searches without scores of test sets."""

import pytest

from lors.bin import results as results_main
from lors.errors import LorsError, UsageError
from lors.recipe.sweep_report import write_sweeps
from tests.refusal import refusal
from tests.unit.score_trees import change, error_rates, make_sweeps, put, translation_scores

HEADER = ["method", "tasks", "run", "parameters", "chosen", "norm. perf.", "part of dev"]


def tables_of(path) -> dict[str, list[list[str]]]:
    """Return title -> the rows of its table, the header first, of a report."""
    tables: dict[str, list[list[str]]] = {}
    title = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        title = line[3:] if line.startswith("## ") else title
        if line.startswith("| ") and ":--" not in line:
            cells = [cell.strip().replace("\\", "") for cell in line[1:-1].split(" | ")]
            tables.setdefault(title, []).append(cells)
    return tables


def report_of(tmp_path, *expdirs, options=()):
    out = tmp_path / "SWEEPS.md"
    words = ["--sweeps_only", "--expdirs", *map(str, expdirs), "--out", str(out), *options]
    assert results_main.main(words) == 0
    return tables_of(out)


def scores_of(wers, bleus=()):
    """Dev scores of languages named 0, 1, ..."""
    found = {f"{lang}_asr": error_rates(wer).to_json() for lang, wer in enumerate(wers)}
    return found | {
        f"{lang}_st": translation_scores(bleu).to_json() for lang, bleu in enumerate(bleus)
    }


def test_a_row_for_each_setting(tmp_path, capsys):
    exp = make_sweeps(tmp_path / "exp")  # no scores of test sets
    tables = report_of(tmp_path, exp, options=["--title", "Curves"])
    [(title, [header, *rows])] = tables.items()
    assert title == "Settings tried on dev" and header == [*HEADER, "WER in %", "BLEU"]
    assert len(rows) == 3 * (1 + 6)
    of_lors = [row for row in rows if row[:2] == ["lors", "asr"]]
    assert [row[2:6] for row in of_lors] == [
        [str(exp), f"rank={rank} scaling_coef={coefficient}", chosen, performance]
        for rank, coefficient, chosen, performance in [
            (3, 0.2, "", "0.530"),
            (3, 0.4, "yes", "0.570"),
            (3, 0.6, "", "0.530"),
            (7, 0.2, "", "0.490"),
            (7, 0.4, "", "0.530"),
            (7, 0.6, "", "0.490"),
        ]
    ]
    assert {tuple(row[6:]) for row in of_lors} == {("100 %", "30.0", "-")}
    shown = capsys.readouterr().out
    assert shown.startswith("Curves\n") and f"written: {tmp_path / 'SWEEPS.md'}" in shown


def test_means_base_experts_and_parts_of_dev(tmp_path):
    trials = [
        {"params": {"scaling_coef": 0.5}, "objective": 0.25, "scores": scores_of((30, 40), (20,))},
        {"params": {"scaling_coef": 1.0}, "objective": 0.9, "scores": scores_of((50, 60), (10,))},
    ]
    for score in trials[1]["scores"].values():
        score["utterances"] = 40  # of 160: left out by successive halving
    content = {"method": "ties", "scope": "asr_st", "grid": trials, "best": 0}
    content |= {"base": scores_of((40, 60), (10,)), "expert": scores_of((20, 20), (30,))}
    put(tmp_path / "exp/tune/ties.asr_st/sweep.json", content)
    [[_, *rows]] = report_of(tmp_path, tmp_path / "exp").values()
    assert [[row[0], *row[3:]] for row in rows] == [
        ["base", "-", "", "0.000", "100 %", "50.0", "10.0"],
        ["expert", "-", "", "1.000", "100 %", "20.0", "30.0"],
        ["ties", "scaling_coef=0.5", "yes", "0.250", "100 %", "35.0", "20.0"],
        ["ties", "scaling_coef=1", "", "0.900", "25 %", "55.0", "10.0"],
    ]


def test_experts_without_a_gain(tmp_path):
    exp = make_sweeps(tmp_path / "exp")
    ends = {"base": scores_of((20,)), "expert": scores_of((20,))}
    change(exp / "tune/lors.asr/sweep.json", **ends)
    [[_, *rows]] = report_of(tmp_path, exp).values()
    wanted = [row for row in rows if row[0] in ("base", "expert", "lors") and row[1] == "asr"]
    assert len(wanted) == 8 and {row[5] for row in wanted} == {"undefined"}
    assert "gain over the base model" in (tmp_path / "SWEEPS.md").read_text(encoding="utf-8")


def test_several_experiments_side_by_side(tmp_path):
    two, three = (make_sweeps(tmp_path / name) for name in ("2_languages", "3_languages"))
    change(three / "tune/average.asr/sweep.json", method="mp")
    (three / "tune/average.asr").rename(three / "tune/mp.asr")
    tables = report_of(tmp_path, three, two)
    assert list(tables) == ["Normalised performance on dev by experiment", "Settings tried on dev"]
    header, *rows = tables["Normalised performance on dev by experiment"]
    assert header == ["method", "tasks", str(three), str(two)]
    found = {tuple(row[:2]): row[2:] for row in rows}
    assert found["lors", "asr + st"] == ["0.570", "0.570"]
    assert found["average", "asr"] == ["missing", "0.250"]
    assert found["mp", "asr"] == ["0.250", "missing"]


def test_an_experiment_without_a_search(tmp_path):
    make_sweeps(tmp_path / "exp")
    with refusal(tmp_path / "none", "stage tune", kind=LorsError):
        write_sweeps([tmp_path / "exp", tmp_path / "none"], tmp_path / "SWEEPS.md", "Results")
    assert not (tmp_path / "SWEEPS.md").exists()


def test_some_of_the_merges(tmp_path):
    exp = make_sweeps(tmp_path / "exp")
    options = ["--systems", "lors.langs", "average.langs_tasks"]
    [[_, *rows]] = report_of(tmp_path, exp, options=options).values()
    assert {tuple(row[:2]) for row in rows} == {
        ("lors", "asr"), ("lors", "st"), ("average", "asr + st"),
    }  # fmt: skip
    with refusal("lors.lang", "did you mean lors.langs", kind=UsageError):
        write_sweeps([exp], tmp_path / "x.md", "Results", systems=["lors.lang"])


def test_merges_of_one_task(tmp_path):
    one, two = (make_sweeps(tmp_path / name) for name in ("one", "two"))
    for scope in ("st", "asr_st"):  # one of two experiments has recognition alone
        for method in ("lors", "average"):
            (two / f"tune/{method}.{scope}/sweep.json").unlink()
    tables = report_of(tmp_path, one, two, options=["--tasks", "asr", "--systems", "lors.langs"])
    assert {tuple(row[:2]) for _, *rows in tables.values() for row in rows} == {("lors", "asr")}
    assert "missing" not in (tmp_path / "SWEEPS.md").read_text(encoding="utf-8")
    with refusal("--expdirs", str(two), kind=LorsError):
        write_sweeps([one, two], tmp_path / "x.md", "Results", tasks=["st"])


@pytest.mark.parametrize("coefficient, edge", [(0.2, "smallest"), (0.4, ""), (0.6, "largest")])
def test_choices_at_the_edge_of_a_grid_are_named(tmp_path, coefficient, edge):
    report_of(tmp_path, make_sweeps(tmp_path / "exp", coefficient))
    text = (tmp_path / "SWEEPS.md").read_text(encoding="utf-8").replace("\\", "")
    assert (f"(scaling_coef={coefficient:g}, the {edge})" in text) == bool(edge)
    assert ("At the edge" in text) == bool(edge)


def test_an_option_about_test_scores(tmp_path, capsys):
    exp, option = make_sweeps(tmp_path / "exp"), ["--compare_to", "lors"]
    words = ["--sweeps_only", "--expdirs", str(exp), "--out", str(tmp_path / "x.md"), *option]
    with pytest.raises(SystemExit) as ended:
        results_main.main(words)
    assert ended.value.code == 2 and option[0] in capsys.readouterr().err


def test_the_label_of_an_axis_is_in_the_caption(tmp_path, capsys):
    dirs = [str(make_sweeps(tmp_path / name)) for name in ("one", "two")]
    words = ["--expdirs", *dirs, "--out", str(tmp_path / "SWEEPS.md"), "--x_label", "hours"]
    plots = ["--plots", str(tmp_path / "plots")]
    assert results_main.main(["--sweeps_only", *words, *plots]) == 0
    assert "by hours" in (tmp_path / "SWEEPS.md").read_text()
    for option in (["--x_label", "hours"], ["--tasks", "asr"]):
        with pytest.raises(SystemExit):
            results_main.main([*words[:-2], *option])
        assert option[0] in capsys.readouterr().err


def test_the_figure_is_linked(tmp_path, capsys):
    one, two = (make_sweeps(tmp_path / name) for name in ("one", "two"))
    options = ["--plots", str(tmp_path / "plots")]
    report_of(tmp_path, one, options=options)
    assert "(plots/settings.png)" in (tmp_path / "SWEEPS.md").read_text()
    report_of(tmp_path, one, two, options=options)
    assert "(plots/experiments.png)" in (tmp_path / "SWEEPS.md").read_text()
    assert f"figure: {tmp_path / 'plots/experiments.png'}" in capsys.readouterr().out
    for name in ("settings", "experiments"):
        assert (tmp_path / f"plots/{name}.png").read_bytes()[1:4] == b"PNG"
