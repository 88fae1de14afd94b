"""The report: tables, notes, Markdown and text, the command."""

import shutil

import pytest

from lors.bin import results as results_main
from lors.errors import UsageError
from lors.fileio import read_json
from lors.recipe.mask_overlap import overlap_sections
from lors.recipe.personal import size_sections
from lors.recipe.report import UNDEFINED, render_markdown, render_text
from lors.recipe.results import DEFINITION, cell, describe_runs, make_report, read_report
from lors.recipe.score_tree import read_scores
from lors.recipe.significance import (
    kept_significance,
    read_significance,
    significance_file,
    significance_of,
)
from lors.recipe.subnet_sizes import subnet_size_sections
from lors.recipe.sweeps import read_sweeps
from tests.refusal import refusal
from tests.unit.score_trees import (
    change,
    change_at,
    error_rates,
    make_overlap,
    make_scores,
    make_sizes,
    make_sweeps,
    make_texts,
    put,
)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    for module in ("comparison", "significance"):
        monkeypatch.setattr(f"lors.recipe.{module}.SAMPLES", 500)


@pytest.fixture
def expdir(tmp_path):
    return make_sweeps(make_scores(tmp_path / "exp" / "seed1"))


def section(sections, start):
    (found,) = [s for s in sections if s.title.startswith(start)]
    return found


def row_of(part, *labels):
    (found,) = [row for row in part.rows if tuple(row[: len(labels)]) == labels]
    return list(found[part.labels :])


def test_table_by_hand_for_one_run(expdir):
    scores = expdir / "scores/test"
    shutil.copytree(scores / "joint", scores / "sequential_reversed")
    table = read_scores([expdir])
    sections = make_report(table, read_sweeps([expdir]))
    asr = section(sections, "Speech recognition: WER in %")
    assert list(asr.header[2:]) == ["de", "sv-SE", "average", "norm. perf."]
    # (50 - 27.5) / (50 - 20); (50 - 42.5) / (50 - 20)
    assert row_of(asr, "lors", "languages") == ["25.0", "30.0", "27.5", "0.75"]
    assert row_of(asr, "average", "languages and tasks") == ["35.0", "50.0", "42.5", "0.25"]
    assert row_of(asr, "base", "-") == ["40.0", "60.0", "50.0", "0.00"]
    assert row_of(asr, "expert", "-")[-1] == "1.00"
    assert row_of(asr, "sequential_reversed", "-") == ["24.0", "28.0", "26.0", "0.80"]
    st = section(sections, "Speech translation: BLEU (higher")
    assert row_of(st, "average", "languages") == ["15.0", "22.5", "18.8", "0.25"]
    both = section(sections, "Normalised performance")
    assert list(both.header[2:]) == ["WER", "BLEU", "all pairs"]
    assert row_of(both, "average", "languages") == ["0.33", "0.25", "0.29"]
    assert row_of(section(sections, "CER"), "lors", "languages") == ["12.5", "15.0", "13.8"]
    assert row_of(section(sections, "chrF"), "joint", "-") == ["46.0", "48.0", "47.0"]
    assert str(expdir) in describe_runs(table)


def test_systems_with_fewer_runs_have_their_number(tmp_path):
    dirs = [make_scores(tmp_path / f"seed{k}", shift) for k, shift in enumerate((0.0, 2.0))]
    (dirs[1] / "scores/test/joint/sv-SE_st.json").unlink()
    sections = make_report(*read_report(dirs, None))
    assert f"{dirs[1]} has no scores of joint for sv-SE_st." in sections[0].above
    for start in ("Speech translation", "chrF", "Normalised performance"):
        part = section(sections, start)
        assert part.header[-1] == "runs"
        assert {row[0]: row[-1] for row in part.rows if row[1] == "-"} == {
            "base": "2", "expert": "2", "joint": "1",
        }  # fmt: skip
    assert row_of(section(sections, "Speech translation"), "joint", "-")[:3] == [
        "27.0 ± 1.4", "28.0", "27.0",
    ]  # fmt: skip
    assert section(sections, "Speech recognition").header[-1] == "norm. perf."


def test_several_seeds_give_mean_and_sample_standard_deviation(tmp_path):
    dirs = [make_scores(tmp_path / f"seed{i}", shift) for i, shift in enumerate((-1.0, 0.0, 4.0))]
    table = read_scores(dirs)
    asr = section(make_report(table, []), "Speech recognition")
    # mean 40 + 1, sample variance (4 + 1 + 9) / 2 = 7
    assert row_of(asr, "base", "-")[0] == "41.0 ± 2.6"
    # base and expert moved alike, so the share did not
    assert row_of(asr, "lors", "languages")[-1] == "0.75 ± 0.00"
    assert "3 seeds" in describe_runs(table)


def put_training(expdir, name="expert/de_asr", seed=2, data="a", **config):
    config = {"seed": seed, "init_param": [f"{expdir}/base/model.pth"], **config}
    data = {"train/wav.scp": str(expdir), "train/text": data}
    put(expdir / name / ".done", {"inputs": {"config": config, "data": data}})


def test_runs_that_are_no_repetitions_are_named(tmp_path, caplog):
    one, two, three = dirs = [make_scores(tmp_path / name) for name in ("one", "two", "three")]
    for seed, expdir in enumerate(dirs):
        put_training(expdir, seed=seed, max_epoch=3)
    table = read_scores(dirs)
    assert "Caution" not in describe_runs(table) and not caplog.records
    put_training(two, seed=0, max_epoch=4)
    put_training(three, seed=2, max_epoch=3, data="b")
    put(three / "joint/.done", {"inputs": "damaged"})
    cautions = [
        f"Caution: {one} and {two} have the same seed 0.",
        f"Caution: {two} and {one} were trained with other settings of max_epoch.",
        f"Caution: {three} and {one} were trained on other data: expert/de_asr.",
    ]
    assert describe_runs(table).endswith(f"({one}, {two}, {three}). {' '.join(cautions)}")
    assert [record.getMessage() for record in caplog.records] == cautions
    assert "Caution" not in describe_runs(read_scores([one]))


def test_other_trainings_of_speakers_and_under_masks_are_named(tmp_path):
    one, two = dirs = [make_scores(tmp_path / name) for name in ("one", "two")]
    names = ("quantised_sat", "quantised_speaker/de-x-anna_asr", "s3net_taylor_30", "lora/de_asr")
    for seed, expdir in enumerate(dirs):
        for name in names:
            files = {"normalize_conf": {"stats_file": f"{expdir}/base/feats_stats.npz"}}
            put_training(expdir, name, seed, max_epoch=3, **files)
        put(expdir / "quantised/.done", {"inputs": {"config": "digest", "double": False}})
    table = read_scores(dirs)
    assert "Caution" not in describe_runs(table)
    put(two / "quantised/.done", {"inputs": {"config": "digest", "double": True}})
    put_training(two, names[0], seed=1, max_epoch=3, optim="adam")
    put_training(two, names[1], seed=0, max_epoch=3)
    put_training(two, names[2], seed=1, max_epoch=4)
    put_training(two, names[3], seed=1, max_epoch=3, data="b")
    cautions = [
        f"Caution: {one} and {two} have the same seed 0.",
        f"Caution: {two} and {one} were trained with other settings of double, max_epoch, optim.",
        f"Caution: {two} and {one} were trained on other data: lora/de_asr.",
    ]
    assert describe_runs(table).endswith(f"({one}, {two}). {' '.join(cautions)}")


def test_other_test_sets_of_another_run_are_named(tmp_path):
    one, two = (make_scores(tmp_path / name) for name in ("one", "two"))
    for path in two.glob("scores/test/*/de_asr.json"):
        change(path, utterances=150)
    line = f"Caution: {two} and {one} have other test sets: de_asr."
    assert describe_runs(read_scores([one, two])).endswith(line)
    rates = {"base": 0.5, "lors.langs": 0.2}
    one, two = (make_texts(tmp_path / name, rates=rates) for name in ("three", "four"))
    assert "Caution" not in describe_runs(read_scores([one, two]))
    path = two / "scores/test/base/es_st.utterances.tsv"
    path.write_text(path.read_text().replace("worda", "other"))
    assert describe_runs(read_scores([one, two])).endswith("have other test sets: es_st.")


def test_cell():
    assert cell([1.25], 1) == "1.2" and cell([1.0, 3.0], 2) == "2.00 ± 1.41"


def test_sizes_of_the_test_sets(expdir):
    part = section(make_report(read_scores([expdir]), []), "The test sets")
    assert row_of(part, "de", "asr") == ["160", "1000", "0"]
    assert row_of(part, "de", "st") == ["160", "n/a", "1"]


def test_how_the_scores_are_computed(expdir):
    table = read_scores([expdir])
    asr, st, definition = section(make_report(table, []), "How the scores").above
    assert "lors-basic (lors 1)" in asr and "4.0.0" in asr and "(de, sv-SE)" in asr
    assert "nrefs:1|nc:6" in st and "(de, sv-SE)" in st
    assert definition == DEFINITION and "WER" in definition and "BLEU" not in definition


def test_report_of_experts_that_are_no_better_than_the_base(expdir):
    for lang, wer in (("de", 40.0), ("sv-SE", 60.0)):
        change(expdir / f"scores/test/expert/{lang}_asr.json", wer=wer)
    sections = make_report(read_scores([expdir]), [])
    asr = section(sections, "Speech recognition")
    assert row_of(asr, "lors", "languages") == ["25.0", "30.0", "27.5", UNDEFINED]
    caution, reason = asr.below
    assert "de_asr, sv-SE_asr" in caution and str(expdir) in caution
    assert all(fact in reason for fact in ("de_asr, sv-SE_asr", str(expdir), "50"))
    both = section(sections, "Normalised performance")
    assert row_of(both, "lors", "languages") == [UNDEFINED, "0.75", UNDEFINED]
    assert str(expdir) in both.below[0]


def test_report_of_experts_that_are_worse_than_the_base(expdir):
    for lang in ("de", "sv-SE"):
        change(expdir / f"scores/test/expert/{lang}_asr.json", wer=90.0)
    asr = section(make_report(read_scores([expdir]), []), "Speech recognition")
    assert {row[-1] for row in asr.rows} == {UNDEFINED}
    assert "90" in asr.below[1] and "50" in asr.below[1]


def test_a_mean_over_the_seeds_where_it_is_defined(tmp_path):
    dirs = [make_scores(tmp_path / name) for name in ("exp1", "exp2")]
    for lang in ("de", "sv-SE"):
        change(dirs[1] / f"scores/test/expert/{lang}_asr.json", wer=90.0)
    asr = section(make_report(read_scores(dirs), []), "Speech recognition")
    assert row_of(asr, "lors", "languages")[-1] == "0.75"
    _, reason, others = asr.below
    assert str(dirs[1]) in reason and str(dirs[0]) not in reason and others


def test_report_of_one_expert_that_is_no_better_than_the_base(expdir):
    change(expdir / "scores/test/expert/de_asr.json", wer=40.0)
    asr = section(make_report(read_scores([expdir]), []), "Speech recognition")
    # (50 - 27.5) / (50 - 30)
    assert row_of(asr, "lors", "languages")[-1] == "1.12" and "de_asr" in asr.below[0]


def test_expert_worse_than_base_is_pointed_out(expdir):
    change(expdir / "scores/test/expert/de_asr.json", wer=45.0)
    sections = make_report(read_scores([expdir]), [])
    (note,) = section(sections, "Speech recognition").below
    assert "de_asr" in note and "sv-SE_asr" not in note and str(expdir) in note
    assert not section(sections, "Speech translation").below


def test_without_base_there_is_no_normalised_performance(expdir):
    shutil.rmtree(expdir / "scores/test/base")
    sections = make_report(read_scores([expdir]), [])
    asr = section(sections, "Speech recognition")
    assert asr.header[-1] == "average" and "base" in asr.below[0]
    assert not [s for s in sections if s.title.startswith("Normalised")]


def test_chosen_parameters_and_what_was_not_tuned(expdir):
    shutil.rmtree(expdir / "tune/average.st")
    part = section(make_report(read_scores([expdir]), read_sweeps([expdir])), "Merge parameters")
    assert [row[:2] for row in part.rows] == [
        ["average", "asr"], ["average", "asr + st"],
        ["lors", "asr"], ["lors", "st"], ["lors", "asr + st"],
    ]  # fmt: skip
    assert part.rows[0][3:] == ["none", "0.250", "1"]
    # density is the same in all trials, and the default
    assert part.rows[2][3:] == ["rank=3 scaling_coef=0.4", "0.570", "6"]
    (note,) = part.below
    assert f"average.st in {expdir}" in note and "lors" not in note


@pytest.mark.parametrize("defaults", [None, {"rank": 7, "density": 0.2, "threshold": "matrix"}])
@pytest.mark.parametrize(
    ("params", "shown"),
    [
        ({"rank": 7, "density": 0.2}, "scaling_coef=0.4"),
        ({"rank": 5, "density": 0.2, "threshold": "matrix"}, "rank=5 scaling_coef=0.4"),
        ({"rank": 7, "threshold": "global"}, "threshold=global scaling_coef=0.4"),
        ({"rank": 7, "new": 1}, "new=1 scaling_coef=0.4"),
    ],
)
def test_parameters_with_their_defaults_are_not_shown(expdir, defaults, params, shown):
    path = expdir / "tune/lors.asr/sweep.json"
    trial = {"params": {**params, "scaling_coef": 0.4}, "objective": 0.5, "scores": {}}
    shutil.rmtree(expdir / "tune")
    put(path, {"method": "lors", "scope": "asr", "defaults": defaults, "grid": [trial], "best": 0})
    part = section(make_report(read_scores([expdir]), read_sweeps([expdir])), "Merge parameters")
    assert part.rows[0][3] == shown


def test_a_merge_of_one_task_needs_no_sweep_of_the_other(expdir):
    for path in expdir.glob("scores/test/average.langs/*_st.json"):
        path.unlink()
    shutil.rmtree(expdir / "tune")
    part = section(make_report(*read_report([expdir], None)), "Merge parameters")
    untuned = part.below[0].removeprefix("Without a sweep on dev: ").rstrip(".").split(", ")
    assert f"average.asr in {expdir}" in untuned and f"lors.st in {expdir}" in untuned
    assert f"average.st in {expdir}" not in untuned


def test_variant_is_shown_with_its_method(expdir):
    path = expdir / "tune/lors_paper.asr/sweep.json"
    trial = {"params": {"rank": 5, "boost": 0.3}, "objective": 0.5, "scores": {}}
    facts = {"method": "lors_paper", "variant_of": "lors", "scope": "asr", "best": 0}
    put(path, {**facts, "defaults": {"rank": 7}, "grid": [trial]})
    part = section(make_report(read_scores([expdir]), read_sweeps([expdir])), "Merge parameters")
    assert row_of(part, "lors_paper")[-2:] == ["0.500", "1"]
    assert [row[3] for row in part.rows if row[0] == "lors_paper"] == ["lors: rank=5 boost=0.3"]


def test_cost_of_merging(expdir):
    def cost():
        sections = make_report(read_scores([expdir]), read_sweeps([expdir]))
        return [s for s in sections if s.title == "Cost of merging"]

    assert cost() == []
    seconds = {"cpu_s": 12.34, "wall_s": 7.0}
    search = {"merging": seconds, "inference": {"cpu_s": 100.0, "wall_s": 50.0}, "decoded": 9}
    put(expdir / "tune/lors.asr/cost.json", search)
    put(expdir / "merged/lors.st/cost.json", {"merging": seconds, "decoded": 0})
    [part] = cost()
    # 6 settings of 160 utterances, of which 3 have seen half of them
    path = expdir / "tune/lors.asr/sweep.json"
    grid = read_json(path)["grid"]
    for entry in grid[3:]:
        entry["scores"]["de_asr"]["utterances"] = 80
    change(path, grid=grid)
    [part] = cost()
    assert row_of(part, "lors", "asr") == ["n/a", "12.3", "100.0", "720", "75 %"]
    assert row_of(part, "lors", "st") == ["12.3", "n/a", "n/a", "960", "100 %"]
    put(expdir / "tune/lors.asr/cost.json", {})
    with refusal(expdir / "tune/lors.asr/cost.json"):
        cost()


def test_sweeps_with_another_normaliser_are_pointed_out(expdir):
    path = expdir / "tune/lors.asr/sweep.json"
    scores = {"de_asr": error_rates(30.0, normaliser="whisper-basic").to_json()}
    change(path, grid=[{"params": {}, "objective": 0.5, "scores": scores}], best=0)
    part = section(make_report(read_scores([expdir]), read_sweeps([expdir])), "Merge parameters")
    (note,) = part.below
    assert f"lors.asr in {expdir}" in note and "average" not in note


def test_nothing_was_tuned(expdir):
    part = section(make_report(read_scores([expdir]), []), "Merge parameters")
    (note,) = part.below
    for scope in ("asr", "st", "asr_st"):
        assert f"lors.{scope} in {expdir}" in note and f"average.{scope} in {expdir}" in note
    assert not part.rows and part.above == [
        f"No search on dev lies in {expdir}; rows may have been tuned elsewhere."
    ]


def test_markdown_and_text_hold_the_same_tables(expdir):
    table = read_scores([expdir])
    sections = make_report(table, read_sweeps([expdir]))
    markdown = render_markdown(
        sections, "T", describe_runs(table), (), [("exp", "./run.sh --seed 1")]
    )
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
    assert "## Commands\n\nexp:\n\n```bash\n./run.sh --seed 1\n```" in markdown
    assert "nrefs:1\\|case:mixed\\|tok:13a" in markdown and "nrefs:1|case:mixed|tok:13a" in text
    assert DEFINITION in markdown.replace("\\", "") and DEFINITION in text


def test_text_columns_are_aligned(expdir):
    part = section(make_report(read_scores([expdir]), []), "Speech recognition")
    lines = render_text([part], "T", "").splitlines()
    start = lines.index(part.title) + 1
    assert len({len(line) for line in lines[start : start + 2 + len(part.rows)]}) == 1


# --- intervals and comparisons


@pytest.fixture
def texts(tmp_path):
    return make_texts(tmp_path / "texts")


def report_of(*expdirs, compare_to=None, family=None):
    table = read_scores(expdirs)
    return make_report(table, [], significance_of(table, compare_to, family))


def test_rows_that_differ_from_lors_are_marked(texts):
    sections = report_of(texts)
    for start in ("Speech recognition", "Speech translation"):
        part = section(sections, start)
        assert part.header[-1] == "vs. lors"
        assert {row[0] + row[1]: row[-1] for row in part.rows} == {
            "base-": "worse", "expert-": "better", "averagelanguages": "worse",
            "lorslanguages": "-", "lorslanguages and tasks": "-",
        }  # fmt: skip
        note = part.below[-1]
        assert "0.05" in note and "Holm" in note and "3 rows" in note and "lors.langs" in note
    assert "matched-pairs" in section(sections, "Speech recognition").below[-1]
    assert "bootstrap" in section(sections, "Speech translation").below[-1]


def test_intervals_hold_the_scores(texts):
    sections = report_of(texts)
    for metric, start in (("WER", "Speech recognition"), ("BLEU", "Speech translation")):
        part, scores = section(sections, f"95 % intervals of {metric}"), section(sections, start)
        assert list(part.header) == ["system", "de", "es", "average"]
        assert len(part.rows) == len(scores.rows)
        for row, of_scores in zip(part.rows, scores.rows, strict=True):
            for ends, score in zip(row[1:], of_scores[2:5], strict=True):
                low, high = map(float, ends.split(" to "))
                assert low <= float(score) <= high and high - low < 30
        (note,) = part.above
        assert "speakers" in note and "500" in note and "12345" in note


def test_each_merge_is_compared_over_the_same_experts(tmp_path):
    rates = {
        "base": 0.5,
        "a.langs": 0.3,
        "a.langs_tasks": 0.3,
        "b.langs": 0.2,
        "b.langs_tasks": 0.1,
    }
    part = section(report_of(make_texts(tmp_path, rates=rates), compare_to="b"), "WER compared")
    assert [row[1:3] for row in part.rows] == [
        ["base", "b.langs"], ["a.langs", "b.langs"], ["a.langs_tasks", "b.langs_tasks"],
    ]  # fmt: skip


def test_rows_can_be_compared_with_any_system(texts):
    part = section(report_of(texts, compare_to="expert"), "BLEU compared with expert")
    assert {row[2] for row in part.rows} == {"expert"} and len(part.rows) == 4
    assert {row[-1] for row in part.rows} == {"worse"}
    with refusal("lros", "did you mean lors", kind=UsageError):
        report_of(texts, compare_to="lros")


def test_without_lors_there_are_intervals_only(tmp_path):
    sections = report_of(make_texts(tmp_path, rates={"base": 0.5, "ties.langs": 0.2}))
    intervals = section(sections, "95 % intervals of WER")
    assert intervals.rows and "--compare_to" in intervals.above[-1]
    assert not [s for s in sections if "compared" in s.title]
    assert section(sections, "Speech recognition").header[-1] == "average"


@pytest.fixture
def partly_scored(texts):
    """Two more methods: one scored for recognition only, scoring of the other was stopped."""
    scores = texts / "scores/test"
    for method, ends in (("ties", ("_st.*",)), ("tsv_m", ("_st.*", "es_asr.*"))):
        shutil.copytree(scores / "average.langs", scores / f"{method}.langs")
        for path in [p for end in ends for p in scores.glob(f"{method}.langs/*{end}")]:
            path.unlink()
    return texts


def test_scores_of_other_calls_are_reported_as_far_as_they_are_there(partly_scored, capsys):
    out = partly_scored / "RESULTS.md"
    command = ["--expdirs", str(partly_scored), "--out", str(out), "--plots", f"{out}.plots"]
    assert results_main.main(command) == 0
    lines = [
        f"{partly_scored} has no scores of ties.langs for de_st, es_st.",
        f"{partly_scored} has no scores of tsv_m.langs for de_st, es_asr, es_st.",
    ]
    warnings, report = capsys.readouterr().err, out.read_text().replace("\\", "")
    assert all(line in warnings and line in report for line in lines)


def test_rows_without_all_scores_of_a_task_have_no_interval_there(partly_scored):
    table, sweeps = read_report([partly_scored], None)
    sections = make_report(table, sweeps, significance_of(table))
    asr = section(sections, "Speech recognition")
    first, ties, half = (row_of(asr, m, "languages") for m in ("average", "ties", "tsv_m"))
    assert ties == first and ties[-1] == "worse"
    incomplete = "not compared: incomplete"
    assert half == [first[0], "missing", "missing", "missing", incomplete]
    assert first[0] != "missing" and row_of(asr, "lors", "languages")[-1] == "-"
    st = section(sections, "Speech translation")
    assert row_of(st, "ties", "languages") == ["missing"] * 4 + [incomplete]
    intervals = section(sections, "95 % intervals of WER").rows
    assert [row[0] for row in intervals] == [s for s in table.systems if s != "tsv_m.langs"]
    rows = {m: [r[1] for r in section(sections, f"{m} compared").rows] for m in ("WER", "BLEU")}
    assert rows["BLEU"] == ["base", "expert", "average.langs"]
    assert rows["WER"] == [*rows["BLEU"], "ties.langs"]


def test_intervals_are_made_again_when_scores_are_complete(partly_scored, tmp_path):
    out = tmp_path / "RESULTS.md"
    table, _ = read_report([partly_scored], None)
    assert ("st", "ties.langs") not in kept_significance(table, None, out).intervals
    assert read_significance(table, significance_file(out))
    for path in (partly_scored / "scores/test/average.langs").iterdir():
        shutil.copy(path, partly_scored / "scores/test/ties.langs")
    table, _ = read_report([partly_scored], None)
    assert read_significance(table, significance_file(out)) is None
    assert ("st", "ties.langs") in kept_significance(table, None, out).intervals


def test_no_system_has_all_scores_of_a_task(tmp_path):
    expdir = make_texts(tmp_path / "exp", rates={"base": 0.5, "lors.langs": 0.2})
    for name in ("base/de", "lors.langs/es"):
        for path in [*expdir.glob(f"scores/test/{name}_*.json")]:
            path.unlink()
    for _ in range(2):  # the second time from the file
        table, sweeps = read_report([expdir], None)
        found = kept_significance(table, None, tmp_path / "RESULTS.md")
        assert not found.intervals and not any(found.comparisons.values())
        sections = make_report(table, sweeps, found)
        assert row_of(section(sections, "Speech recognition"), "base", "-")[0] == "missing"


def test_several_seeds_are_compared_by_the_bootstrap_of_their_means(texts, tmp_path):
    other = make_texts(tmp_path / "other", "other")
    sections = report_of(texts, other)
    part = section(sections, "WER compared with lors")
    assert "MAPSSWE p" not in part.header and "seeds" in part.above[0]
    assert "bs:500" in part.below[0] and "mapsswe" not in part.below[0]
    assert "mapsswe" in section(report_of(texts), "WER compared").below[0]
    scores = [section(report_of(d), "WER compared").rows[0][3] for d in (texts, other)]
    assert float(part.rows[0][3]) == pytest.approx(sum(map(float, scores)) / 2, abs=0.01)
    assert "±" in section(sections, "Speech recognition").rows[0][2]


def test_comparisons_are_kept_beside_the_report(texts, tmp_path, monkeypatch):
    table, out = read_scores([texts]), tmp_path / "RESULTS.md"
    first = kept_significance(table, None, out)
    assert read_json(tmp_path / "RESULTS.significance.json")["compared_with"] == "lors"
    made = []
    monkeypatch.setattr("lors.recipe.significance.significance_of", lambda *of: made.append(of))
    assert kept_significance(table, None, out) == first and not made
    for compare_to, path in (("expert", None), (None, "base/de_st.utterances.tsv")):
        if path:
            file = texts / "scores/test" / path
            file.write_text(file.read_text().replace("wrong", "false", 1))
        with pytest.raises(AttributeError):  # the stand-in returns None
            kept_significance(table, compare_to, out)
    assert made == [(table, "expert", None), (table, None, None)]


def test_rows_of_another_family_are_not_compared(texts):
    sections = report_of(texts, family=["merges"])
    part = section(sections, "Speech recognition")
    assert {row[0] + row[1]: row[-1] for row in part.rows} == {
        "base-": "not compared", "expert-": "not compared", "averagelanguages": "worse",
        "lorslanguages": "-", "lorslanguages and tasks": "-",
    }  # fmt: skip
    assert "Holm's correction over 1 row: merges)" in part.below[-1]
    (row,) = section(sections, "WER compared").rows
    assert row[1] == "average.langs" and row[-2] == row[-4]  # MAPSSWE p is not multiplied
    assert len(section(sections, "95 % intervals of WER").rows) == 5
    part = section(report_of(texts, family=["average", "base"]), "Speech recognition")
    assert "over 2 rows: average, base)" in part.below[-1]


def test_a_family_without_a_row_to_compare_is_refused(texts):
    with refusal("--family", "avrage", "did you mean average", kind=UsageError):
        report_of(texts, family=["avrage"])
    with refusal("--family", "lors", kind=UsageError):
        report_of(texts, family=["lors"])


def test_the_family_is_kept_with_the_comparisons(texts, tmp_path):
    table, out = read_scores([texts]), tmp_path / "RESULTS.md"
    command = ["--expdirs", str(texts), "--out", str(out)]
    assert results_main.main(command) == 0
    assert results_main.main([*command, "--family", "merges"]) == 0
    assert "3 rows" not in out.read_text()
    found = read_significance(table, significance_file(out))
    assert found.family == ["merges"] and len(found.comparisons["asr"]) == 1
    assert kept_significance(table, None, out, ["merges"]) == found
    assert len(kept_significance(table, None, out).comparisons["asr"]) == 3


def test_scores_without_utterances_are_reported_without_intervals(texts):
    (texts / "scores/test/base/de_asr.utterances.tsv").unlink()
    sections = report_of(texts)
    (note,) = section(sections, "Intervals and comparisons").above
    assert "utterances" in note
    assert not [s for s in sections if "95 %" in s.title]
    assert section(sections, "Speech recognition").header[-1] == "norm. perf."


def test_errors_by_kind(expdir, texts):
    part = section(make_report(read_scores([texts]), []), "Errors of recognition")
    assert list(part.header[3:]) == ["Snt", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err"]
    for row in part.rows:
        utterances, words, correct, sub, deleted, inserted, errors, sentences = map(float, row[3:])
        assert utterances == 60 and words > 300
        assert correct + sub + deleted == pytest.approx(100, abs=0.2)
        assert sub + deleted + inserted == pytest.approx(errors, abs=0.2)
        assert errors <= sentences
    # 3 substitutions, 2 deletions, 1 insertion in 1000 words; no count of wrong sentences
    old = section(make_report(read_scores([expdir]), []), "Errors of recognition")
    assert row_of(old, "base", "-", "de")[2:] == ["99.5", "0.3", "0.2", "0.1", "0.6", "n/a"]


# --- the command


def test_command_writes_report_and_plots_and_prints_the_tables(expdir, tmp_path, capsys):
    other = make_sweeps(make_scores(expdir.parent / "seed2", 1.0), 0.6)
    out, plots = tmp_path / "exp" / "RESULTS.md", tmp_path / "exp" / "plots"
    arguments = ["--expdirs", str(expdir), str(other), "--out", str(out), "--plots", str(plots)]
    assert results_main.main([*arguments, "--title", "mini", "--command", "./run.sh"]) == 0
    markdown, printed = out.read_text(encoding="utf-8"), capsys.readouterr().out
    assert markdown.startswith("# mini\n") and "40.5 ± 0.7" in markdown and "40.5 ± 0.7" in printed
    names = ("bars_asr.png", "bars_st.png", "sweep.png")
    assert sorted(path.name for path in plots.glob("*.png")) == sorted(names)
    make_overlap(expdir)
    assert results_main.main(arguments) == 0
    markdown, printed = out.read_text(encoding="utf-8"), capsys.readouterr().out
    for name in (*names, "overlap.png"):
        assert f"(plots/{name})" in markdown and str(plots / name) in printed
        assert (plots / name).exists()


MALFORMED = [
    ("overlap.json", ["masks"], [], ["masks"]),
    (
        "overlap.json",
        ["masks", "s3net_taylor_50", "jaccard", 2],
        [0.25, None],
        ["jaccard", "3 x 3"],
    ),
    ("overlap.json", ["masks", "s3net_taylor_50", "jaccard", 0, 1], 1.5, ["jaccard[0][1]", "1.5"]),
    ("overlap.json", ["masks", "s3net_taylor_50", "density"], {}, ["s3net_taylor_50.density"]),
    (
        "overlap.json",
        ["masks", "s3net_taylor_50", "languages"],
        None,
        ["s3net_taylor_50.languages"],
    ),
    ("overlap.json", ["merging", 1, "loss"], "half", ["merging[1].loss", "half"]),
    ("overlap.json", ["merging", 2, "langs"], ["de"], ["merging[2].langs"]),
    (
        "parameters.json",
        ["systems", "joint"],
        {},
        ["systems.joint.parameters", "systems.joint.used"],
    ),
    ("parameters.json", ["systems", "lora", "parameters"], 0, ["systems.lora.parameters"]),
    ("parameters.json", ["systems", "lora", "bytes"], 1.5, ["systems.lora.bytes", "1.5"]),
    ("sizes.json", ["quantised"], None, ["quantised"]),
    ("sizes.json", ["quantised", "bytes"], 0, ["quantised.bytes"]),
    ("sizes.json", ["adapter", "parameters"], "40000", ["adapter.parameters"]),
]
"""File of measurements, keys of a value, the value in its place, facts of the refusal."""


MEASURED = {
    "overlap.json": overlap_sections,
    "parameters.json": subnet_size_sections,
    "sizes.json": size_sections,
}
"""File of measurements -> its sections of the report."""


@pytest.mark.parametrize(("name", "keys", "value", "facts"), MALFORMED)
def test_malformed_measurements(tmp_path, name, keys, value, facts):
    path = make_sizes(make_overlap(tmp_path)) / name
    assert len(MEASURED[name]([tmp_path])) == 1
    change_at(path, keys, value)
    with refusal(path, *facts):
        MEASURED[name]([tmp_path])


def test_all_problems_of_measurements_are_listed(expdir, tmp_path, capsys):
    path, out = make_overlap(expdir) / "overlap.json", tmp_path / "RESULTS.md"
    change_at(path, ["merging", 0, "langs"], ["de"])
    change_at(path, ["masks", "s3net_magnitude_50", "density"], {})
    assert results_main.main(["--expdirs", str(expdir), "--out", str(out)]) == 1
    message = capsys.readouterr().err
    facts = (str(path), "merging[0].langs", "s3net_magnitude_50.density", "stage overlap")
    assert [fact for fact in facts if fact not in message] == [] and not out.exists()


def test_report_is_the_same_every_time(expdir, tmp_path):
    texts = set()
    for name in "ab":
        out = tmp_path / name
        assert results_main.main(["--expdirs", str(expdir), "--out", str(out)]) == 0
        texts.add(out.read_text(encoding="utf-8"))
    assert len(texts) == 1


def test_command_writes_nothing_if_a_score_of_the_asked_rows_is_missing(expdir, tmp_path, capsys):
    gone = expdir / "scores/test/joint/sv-SE_st.json"
    gone.unlink()
    out = tmp_path / "RESULTS.md"
    command = ["--expdirs", str(expdir), "--out", str(out)]
    assert results_main.main([*command, "--systems", "base", "joint", "lors.langs"]) == 1
    assert str(gone) in capsys.readouterr().err
    assert not out.exists()
    assert results_main.main([*command, "--systems", "base", "lors.langs"]) == 0
    assert "| missing" not in out.read_text(encoding="utf-8")
