"""The page of an experiment: its numbers, its form, and what is missing."""

import base64
import csv
import hashlib
import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import pytest

from lors.bin import report as report_main
from lors.bin import results as results_main
from lors.errors import LorsError
from lors.fileio import read_json
from lors.page.charts import ticks_between
from lors.page.summary import best_on_dev, dev_performance
from lors.page.texts import UTTERANCES_SHOWN
from lors.page.write import write_page
from lors.recipe.score_tree import read_scores
from lors.recipe.sweeps import read_sweeps
from lors.tasks import Pair
from tests.refusal import refusal
from tests.unit.score_trees import (
    change,
    change_at,
    error_rates,
    make_experiment,
    make_overlap,
    make_scores,
    make_sizes,
    make_sweeps,
    put,
    put_score,
    put_stages,
)

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "</script><script>alert(1)</script> \"'&<!-- {{ 7 * 7 }} ‮ \x0b"


class Element:
    """An element of the page, with its text and that of all its children."""

    def __init__(self, name, attributes):
        self.name, self.attributes, self.children, self.own = name, dict(attributes), [], []

    @property
    def text(self):
        return " ".join("".join(self._texts()).split())

    def _texts(self):
        for part in self.own:
            yield from part._texts() if isinstance(part, Element) else [part]

    def all(self, name, **attributes):
        """Return the elements below with this name and these attributes, in order."""
        for child in self.children:
            fits = all(child.attributes.get(k) == v for k, v in attributes.items())
            if child.name == name and fits:
                yield child
            yield from child.all(name, **attributes)


class Tree(HTMLParser):
    """Builds the tree of the page; every element must be closed where it has to be."""

    def __init__(self, text):
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root]

    def _add(self, name, attributes):
        assert len(attributes) == len(dict(attributes))
        element = Element(name, attributes)
        self.open[-1].children.append(element)
        self.open[-1].own.append(element)
        return element

    def handle_starttag(self, name, attributes):
        element = self._add(name, attributes)
        if name not in VOID:
            self.open.append(element)

    def handle_startendtag(self, name, attributes):
        assert name in {"circle", "path", "rect", "polyline"}, name
        self._add(name, attributes)

    def handle_endtag(self, name):
        assert self.open[-1].name == name
        self.open.pop()

    def handle_data(self, text):
        self.open[-1].own.append(text)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    for module in ("comparison", "significance"):
        monkeypatch.setattr(f"lors.recipe.{module}.SAMPLES", 100)


def page_of(out):
    return Tree(out.read_text(encoding="utf-8")).root


def write(out, *expdirs, **options):
    remarks = write_page(expdirs, out, **options)
    assert remarks[-1] == f"written: {out}"
    return page_of(out)


def rows_of(table):
    """Return the cells of a table's body, without their notes."""
    return [
        [" ".join("".join(texts_without_notes(cell)).split()) for cell in row.children]
        for row in next(table.all("tbody")).all("tr")
    ]


def texts_without_notes(cell):
    for part in cell.own:
        if not isinstance(part, Element):
            yield part
        elif part.name != "small":
            yield part.text if not part.text.startswith("±") else f" {part.text}"


def head_of(table):
    return [cell.text for cell in table.all("th", scope="col")]


def table_of(page, label):
    """Return the table in the region with this label."""
    regions = [r for r in page.all("div", role="region") if r.attributes["aria-label"] == label]
    (found,) = regions
    return next(found.all("table"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """An experiment with texts, sweeps and comparisons."""
    folder = tmp_path_factory.mktemp("page") / "exp"
    return make_experiment(folder)


@pytest.fixture
def expdir(tmp_path):
    return make_sweeps(make_scores(tmp_path / "exp"))


def test_every_number_is_that_of_the_score_files(texts, tmp_path):
    page = write(tmp_path / "report.html", texts)
    for task, metrics in (("asr", ("wer", "cer")), ("st", ("bleu", "chrf"))):
        section = next(page.all("section", id=task))
        for table, metric in zip(section.all("table"), metrics, strict=True):
            assert head_of(table)[:5] == ["system", "merged over", "de", "es", "average"]
            systems = []
            for method, over, *cells in rows_of(table):
                name = {"languages": ".langs", "languages and tasks": ".langs_tasks", "-": ""}
                systems.append(method + name[over])
                values = [
                    read_json(texts / f"scores/test/{systems[-1]}/{lang}_{task}.json")[metric]
                    for lang in ("de", "es")
                ]
                assert cells[:3] == [f"{v:.1f}" for v in (*values, sum(values) / 2)]
            assert sorted(systems) == sorted(p.name for p in (texts / "scores/test").iterdir())
    errors = rows_of(table_of(page, "Errors of recognition in %"))
    assert len(errors) == 10
    score = read_json(texts / "scores/test/base/es_asr.json")
    (row,) = (row for row in errors if row[0] == "base" and row[2] == "es")
    assert row[3:5] == [str(score["utterances"]), str(score["ref_words"])]
    assert row[6] == f"{100 * score['substitutions'] / score['ref_words']:.1f}"
    assert row[9] == f"{score['wer']:.1f}"


def test_intervals_and_comparisons_are_those_of_the_file(texts, tmp_path):
    page = write(tmp_path / "report.html", texts)
    kept = read_json(texts / "RESULTS.significance.json")
    table = table_of(page, "Speech recognition: WER in % (lower is better)")
    notes = [note.text for note in table.all("small")]
    expected = [row for row in kept["intervals"] if row["task"] == "asr"]
    ends = [pair for row in expected for pair in row["languages_and_average"]]
    assert notes == [f"{low:.1f} to {high:.1f}" for low, high in ends]
    assert head_of(table)[-1] == "vs. lors"
    verdicts = {c["system"]: c["verdict"] for c in kept["comparisons"]["asr"]}
    assert rows_of(table)[0][-1] == verdicts["base"] == "worse"
    compared = table_of(page, "WER compared with lors")
    assert [row[1] for row in rows_of(compared)] == [*verdicts]
    assert "bs:100|seed:" in next(page.all("section", id="compared")).text


def test_the_best_merge_is_chosen_on_dev(expdir, tmp_path):
    # More pairs, more weight: (3 * 0.2 + 1 * 0.8) / 4 = 0.35 for average, and 0.57 for lors.
    scores = {f"{lang}_asr": put_scores(expdir) for lang in ("de", "es", "fr")}
    for scope, objective, of in (("asr", 0.2, scores), ("st", 0.8, {})):
        grid = [{"params": {}, "objective": objective, "scores": of}]
        change(expdir / f"tune/average.{scope}/sweep.json", grid=grid)
    chosen = best_on_dev(read_scores([expdir]), read_sweeps([expdir]))
    assert [c.system for c in chosen] == ["lors.langs", "lors.langs_tasks"]
    assert chosen[0].dev == pytest.approx(0.57)
    change(expdir / "tune/average.st/sweep.json", grid=[{**grid[0], "objective": 3.0}])
    # Test scores of average are worse: they have no part in the choice.
    chosen = best_on_dev(read_scores([expdir]), read_sweeps([expdir]))
    assert (chosen[0].system, chosen[0].dev) == ("average.langs", pytest.approx(0.9))
    lead = next(write(tmp_path / "r.html", expdir).all("p")).text
    assert "average over languages" in lead and "0.900 on dev" in lead
    assert "WER 40.0 %" in lead and "experts have 20.0 %" in lead and "joint training" in lead
    scores = expdir / "scores/test"
    shutil.copytree(scores / "joint", scores / "sequential_reversed")
    lead = next(write(tmp_path / "r2.html", expdir).all("p")).text
    assert "sequential training in the opposite order" in lead


def test_the_summary_without_base_and_experts_and_that_of_experts_without_a_gain(expdir, tmp_path):
    for path in expdir.glob("scores/test/expert/*_asr.json"):
        change(path, wer=99.0)
    page = write(tmp_path / "r.html", expdir)
    assert "normalised performance undefined" in next(page.all("p")).text
    assert "de_asr, sv-SE_asr" in next(page.all("section", id="normalised")).text
    for system in ("base", "expert", "joint"):
        shutil.rmtree(expdir / "scores/test" / system)
    lead = next(write(tmp_path / "r2.html", expdir).all("p")).text
    assert "WER" in lead and "where" not in lead


def put_scores(expdir):
    return read_json(expdir / "tune/lors.asr/sweep.json")["grid"][0]["scores"]["de_asr"]


def test_plots_say_their_values_on_hover(texts, tmp_path):
    page = write(tmp_path / "report.html", texts)
    section = next(page.all("section", id="asr"))
    average, de, _ = section.all("figure")
    order = [mark.children[0].text.split(",")[0] for mark in average.all("g")]
    assert order == ["base", "expert", "lors.langs", "lors.langs_tasks", "average.langs"]
    titles = [title.text for title in de.all("title")]
    score = read_json(texts / "scores/test/lors.langs/de_asr.json")["wer"]
    (own,) = (title for title in titles if title.startswith("lors.langs, de"))
    assert f"WER {score:.1f} %" in own and "95 % interval" in own
    assert len(titles) == 5
    search = next(page.all("section", id="search"))
    average, lors = search.all("figure")
    assert len([*lors.all("title")]) == 3 * 6 and len([*average.all("title")]) == 3
    assert len([*lors.all("circle", **{"class": "ring"})]) == 3
    assert "ASR experts, rank=3 scaling_coef=0.4: 0.570, chosen" in [
        title.text for title in lors.all("title")
    ]


def test_places_in_a_plot_follow_the_values(tmp_path):
    dirs = [make_scores(tmp_path / f"seed{k}", shift) for k, shift in enumerate((0.0, 4.0))]
    page = write(tmp_path / "r.html", *dirs)
    panel = next(page.all("figure"))
    marks = {}
    for mark in panel.all("g"):
        shapes = [s for s in mark.children if "base" in s.attributes.get("class", "").split()]
        squares = [float(s.attributes["x"]) + 4 for s in shapes if s.name == "rect"]
        runs = [float(s.attributes["cx"]) for s in mark.all("circle") if "r" in s.attributes]
        if squares:
            marks[mark.children[0].text.split(",")[0]] = (squares[0], runs)
    (base, runs), (expert, _) = marks["base"], marks["expert"]
    # WER of base: 50 and 54; of the experts: 20 and 24.
    assert base == pytest.approx(sum(runs) / 2, abs=0.2)
    assert (base - expert) / (runs[1] - runs[0]) == pytest.approx(30 / 4, rel=0.05)


def test_hostile_texts_stay_texts(tmp_path):
    expdir = tmp_path / "exp"
    refs = {"utt\"><b>'": HOSTILE + " word", "utt2": "a </title></style> word"}
    hyps = {"utt\"><b>'": "word " + HOSTILE, "utt2": "<img src=x onerror=alert(1)>"}
    for system in ("base", "expert", "lors.langs"):
        for pair in (Pair("de", "asr"), Pair("de", "st")):
            texts = refs if system == "expert" else hyps
            put_score(expdir, system, pair, refs, texts)
    params = {"order": HOSTILE, "scaling_coef": 1.0}
    grid = [{"params": params, "objective": 0.1, "scores": {}}]
    put(
        expdir / "tune/lors.st/sweep.json",
        {"method": "lors", "scope": "st", "grid": grid, "best": 0},
    )
    make_overlap(expdir)
    written = (expdir / "overlap.json").read_text().replace("s3net_taylor_50", "HOSTILE")
    masks = json.loads(
        written.replace('"de"', '"HOSTILE"').replace('"HOSTILE"', json.dumps(HOSTILE))
    )
    put(expdir / "overlap.json", masks)
    out = tmp_path / "report.html"
    page = write(out, expdir, title=HOSTILE)
    assert len([*page.all("script")]) == 1 and len([*page.all("style")]) == 1
    assert not [*page.all("img")] and not [*page.all("b")]
    assert not re.search(r"[\x00-\x08\x0b\x0c]", out.read_text(encoding="utf-8"))
    assert next(page.all("title")).text.startswith("</script><script>alert(1)")
    assert "{{ 7 * 7 }}" in next(page.all("h1")).text
    names = {p.text for p in page.all("p", **{"class": "name"})}
    assert "utt\"><b>'" in names
    hypothesis = [p.text for p in page.all("p", dir="auto")]
    assert any("<img" in text for text in hypothesis)
    handlers = [a for e in everything(page) for a in e.attributes if a.startswith("on")]
    assert handlers == []


def everything(element):
    for child in element.children:
        yield child
        yield from everything(child)


def test_the_page_loads_nothing(texts, tmp_path):
    out = tmp_path / "report.html"
    page = write(out, texts)
    text = out.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|import\(", text)
    for element in everything(page):
        assert not {"src", "srcset", "action", "data", "style"} & element.attributes.keys()
        assert re.match("#|data:,$", element.attributes.get("href", "#"))
    (policy,) = (m for m in page.all("meta") if "http-equiv" in m.attributes)
    rules = policy.attributes["content"]
    assert rules.startswith("default-src 'none';")
    for name in ("style", "script"):
        (element,) = page.all(name)
        content = "".join(element.own)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in rules


def test_anchors_and_ids_fit(texts, tmp_path):
    page = write(tmp_path / "report.html", texts)
    ids = [e.attributes["id"] for e in everything(page) if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    links = [e.attributes["href"][1:] for e in page.all("a")]
    assert len(links) >= 7 and set(links) <= set(ids)


def test_same_inputs_give_the_same_bytes(texts, tmp_path):
    first, second = tmp_path / "a/report.html", tmp_path / "b/report.html"
    for out in (first, second):
        out.parent.mkdir()
        write(out, texts)
    assert first.read_bytes() == second.read_bytes()


def test_the_page_is_written_again_only_after_a_change(expdir, tmp_path):
    out = tmp_path / "report.html"
    write(out, expdir)
    assert write_page([expdir], out) == [f"up to date: {out}"]
    change(expdir / "scores/test/lors.langs/de_asr.json", wer=12.3)
    assert "12.3" in write(out, expdir).text
    (expdir / "tune/average.st/sweep.json").unlink()
    write(out, expdir)


def test_without_sweeps_comparisons_texts_and_records(tmp_path):
    page = write(tmp_path / "r.html", make_scores(tmp_path / "exp"))
    assert "no sweeps" in next(page.all("p")).text
    ids = {section.attributes.get("id") for section in page.all("section")}
    assert ids == {None, "asr", "st", "normalised", "search", "errors", "record"}
    assert not [*next(page.all("section", id="search")).all("svg")]
    assert not [*next(page.all("section", id="record")).all("details")]
    (sentence_errors,) = {row[-1] for row in rows_of(table_of(page, "Errors of recognition in %"))}
    assert sentence_errors == "n/a"  # score files from before they were counted


def test_a_missing_score_is_shown_as_missing(expdir, tmp_path):
    (expdir / "scores/test/lors.langs/de_asr.json").unlink()
    shutil.rmtree(expdir / "scores/test/average.langs")
    (expdir / "scores/test/average.langs").mkdir()
    page = write(tmp_path / "r.html", expdir)
    table = table_of(page, "Speech recognition: WER in % (lower is better)")
    (row,) = (row for row in rows_of(table) if row[:2] == ["lors", "languages"])
    assert row[2:] == ["missing", "30.0", "missing", "missing"]
    (row,) = (row for row in rows_of(table) if row[:2] == ["lors", "languages and tasks"])
    assert row[2:] == ["30.0", "40.0", "35.0", "0.50"]
    assert not [row for row in rows_of(table) if row[:2] == ["average", "languages"]]
    assert f"{expdir} has no scores of lors.langs for de_asr." in page.text
    errors = rows_of(table_of(page, "Errors of recognition in %"))
    assert ["lors", "languages", "de", *["missing"] * 8] in errors
    with refusal("lors.langs/de_asr.json"):
        read_scores([expdir])


def test_systems_with_fewer_runs(tmp_path):
    dirs = [make_scores(tmp_path / f"seed{k}", shift) for k, shift in enumerate((0.0, 2.0))]
    shutil.rmtree(dirs[1] / "scores/test/average.langs")
    page = write(tmp_path / "r.html", *dirs)
    table = table_of(page, "Speech recognition: WER in % (lower is better)")
    assert head_of(table)[-1] == "runs"
    assert f"{dirs[1]} has no scores of average.langs." in page.text
    found = {tuple(row[:2]): row[2:] for row in rows_of(table)}
    assert found["average", "languages"] == ["30.0", "50.0", "40.0", "0.33", "1"]
    assert found["base", "-"] == ["41.0 ± 1.4", "61.0 ± 1.4", "51.0 ± 1.4", "0.00 ± 0.00", "2"]


def test_nothing_is_marked_as_best_by_its_runs(tmp_path):
    """A merge with the easier run alone is not the best of a column, nor of the key figures."""
    dirs = [make_scores(tmp_path / f"seed{k}", shift) for k, shift in enumerate((0.0, 20.0))]
    make_sweeps(dirs[0])
    page = write(tmp_path / "r.html", *dirs)
    assert "No merge was chosen on dev" in next(page.all("p")).text  # no sweeps of one run
    make_sweeps(dirs[1])
    before = write(tmp_path / "r.html", *dirs)
    lead = next(before.all("p")).text
    assert "best merge on dev is lors over languages " in lead and "WER 37.5 ± 14.1 %" in lead
    assert "joint training has 36.0 ± 14.1 %" in lead
    for system in ("lors.langs", "joint"):
        shutil.rmtree(dirs[1] / "scores/test" / system)
    page = write(tmp_path / "r.html", *dirs)
    lead = next(page.all("p")).text
    assert "among those with all scores is lors over languages and tasks" in lead
    assert "joint training" not in lead and "WER 45.0 ± 14.1 %" in lead
    wer = "Speech recognition: WER in % (lower is better)"
    assert best_of(before, wer) == best_of(before, "Normalised performance") == {"lors languages"}
    assert best_of(page, "Normalised performance") == {"lors languages and tasks"}
    assert best_of(page, wer) == {"lors languages and tasks", "average languages"}  # equal in de
    assert "Bold: the best merge of a column among those with all runs." in page.text
    assert "Bold: the best merge of a column." in before.text


def best_of(page, label):
    """Return the merges with a cell that is marked as the best of its column."""
    rows = [row.children for row in next(table_of(page, label).all("tbody")).all("tr")]
    marked = [row for row in rows if any("best" in c.attributes.get("class", "") for c in row)]
    return {f"{method.text} {over.text}" for method, over, *_ in marked}


def test_runs_where_dev_is_undefined_have_no_part_in_the_choice(tmp_path):
    dirs = [make_sweeps(make_scores(tmp_path / f"seed{k}")) for k in (1, 2)]
    for method, scores in (("average", (0.5, 0.9)), ("lors", (0.6, 0.1))):
        for folder, objective in zip(dirs, scores, strict=True):
            for scope in ("asr", "st"):
                grid = [{"params": {}, "objective": objective, "scores": {}}]
                change(folder / f"tune/{method}.{scope}/sweep.json", grid=grid, best=0)
    expected = {"average.langs": 0.7, "lors.langs": 0.35}
    table = read_scores(dirs)
    found = {s: dev_performance(s, table, read_sweeps(dirs)) for s in expected}
    assert found == pytest.approx(expected)
    rates = {k: {"de_asr": error_rates(50.0).to_json()} for k in ("base", "expert")}
    change(dirs[1] / "tune/average.asr/sweep.json", **rates)
    assert [s.method for s in read_sweeps(dirs) if s.undefined] == ["average"]
    found = {s: dev_performance(s, table, read_sweeps(dirs)) for s in expected}
    assert found == pytest.approx({"average.langs": 0.5, "lors.langs": 0.6})


def test_comparisons_of_several_seeds(tmp_path):
    """The page of evidence.sh: chosen rows, of experiments that have others too."""
    dirs = [make_experiment(tmp_path / f"seed{k}", str(k)) for k in (1, 2)]
    shutil.rmtree(dirs[1] / "scores/test/average.langs")
    systems = ["base", "expert", "lors.langs"]
    words = ["--expdirs", *map(str, dirs), "--systems", *systems]
    report, out = tmp_path / "RESULTS.md", tmp_path / "report.html"
    assert results_main.main([*words, "--out", str(report)]) == 0
    file = tmp_path / "RESULTS.significance.json"
    words += ["--title", "T", "--significance", str(file)]
    assert report_main.main([*words, "--out", str(out)]) == 0
    page = page_of(out)
    compared = rows_of(table_of(page, "WER compared with lors"))
    assert [row[1] for row in compared] == ["base", "expert"]
    table = table_of(page, "Speech recognition: WER in % (lower is better)")
    assert [row[0] for row in rows_of(table)] == ["base", "expert", "lors"]
    ends = [i["languages_and_average"] for i in read_json(file)["intervals"] if i["task"] == "asr"]
    notes = [note.text for note in table.all("small")]
    assert notes == [f"{low:.1f} to {high:.1f}" for of in ends for low, high in of]
    assert head_of(table)[-1] == "vs. lors" and "average" not in next(page.all("nav")).text
    (command,) = (p.text for p in page.all("pre") if "lors.bin.report" in p.text)
    assert shlex.split(command)[3:] == [*words, "--out", "report.html"]
    with refusal("average.langs"):
        write_page(dirs, out, systems=["base", "average.langs"])


def test_cost_of_merging(expdir, tmp_path):
    out = tmp_path / "r.html"
    assert "Cost of merging" not in write(out, expdir).text
    cost = {"merging": {"cpu_s": 12.34, "wall_s": 7.0}, "decoded": 0}
    put(expdir / "merged/lors.st/cost.json", cost)
    rows = rows_of(table_of(write(out, expdir), "Cost of merging"))
    (row,) = (row for row in rows if row[:2] == ["lors", "st"])
    assert row[3] == "12.3" and row[4] == "n/a"
    cost["merging"]["cpu_s"] = 45.6
    put(expdir / "merged/lors.st/cost.json", cost)
    assert "45.6" in table_of(write(out, expdir), "Cost of merging").text


def test_overlap_of_masks_beside_the_loss_of_merging(expdir, tmp_path):
    page = write(tmp_path / "r.html", make_overlap(expdir))
    table = table_of(page, f"Overlap of masks in {expdir}")
    systems = ["s3net_taylor_50", "s3net_magnitude_50"]
    losses = ["loss of merging, asr", "loss of merging, st"]
    assert head_of(table) == ["languages", *systems, *losses]
    assert rows_of(table) == [
        ["sv-SE de", "0.62", "0.88", "0.25", "-"],
        ["sv-SE fr", "0.25", "0.75", "-0.12", "-"],
        ["de fr", "-", "0.50", "0.50", "0.38"],
        ["at random", "0.33", "0.33", "-", "-"],
    ]
    section = next(page.all("section", id="overlap"))
    panels = {next(figure.all("figcaption")).text: figure for figure in section.all("figure")}
    assert {name: [t.text for t in of.all("title")] for name, of in panels.items()} == {
        systems[0]: [
            "de sv-SE, asr: overlap 0.62, loss 0.25",
            "sv-SE fr, asr: overlap 0.25, loss -0.12",
        ],
        systems[1]: [
            "de sv-SE, asr: overlap 0.88, loss 0.25",
            "de fr, asr: overlap 0.50, loss 0.50",
            "sv-SE fr, asr: overlap 0.75, loss -0.12",
            "de fr, st: overlap 0.50, loss 0.38",
        ],
    }
    legend = next(section.all("p", **{"class": "legend"}))
    assert [name.text for name in legend.all("span")] == ["asr", "st"]
    # The axes are those of both systems: 0.625 is in the middle of 0.75 and 0.5.
    (middle, down), _ = circles(panels[systems[0]])
    (right, equal), (left, up), (between, below_zero) = circles(panels[systems[1]])
    assert middle == pytest.approx((between + left) / 2, abs=0.2) and down == equal
    assert (right - between) / (between - left) == pytest.approx(0.5, abs=0.01)
    assert (below_zero - equal) / (below_zero - up) == pytest.approx(0.375 / 0.625, abs=0.01)
    assert left < between < right and up < equal < below_zero  # a larger loss is higher up
    ticks = {"middle": {}, "end": {}}
    marked = [text for text in panels[systems[1]].all("text") if "axis" not in class_of(text)]
    for text in marked:
        axis = class_of(text).split()[1]
        ticks[axis][text.text] = float(text.attributes["x" if axis == "middle" else "y"])
    assert ticks["middle"]["0.8"] == pytest.approx(left + 0.8 * (right - left), abs=0.2)
    assert ticks["end"]["0.2"] - 4 == pytest.approx(up + 0.48 * (below_zero - up), abs=0.2)
    (square,) = panels[systems[1]].all("rect")
    assert float(square.attributes["x"]) + 2.8 == pytest.approx(left)
    for panel in panels.values():
        (zero,) = panel.all("path", **{"class": "zero"})
        place = float(re.match(r"M36 ([0-9.]+)H250$", zero.attributes["d"])[1])
        assert (below_zero - place) / (below_zero - equal) == pytest.approx(1 / 3, abs=0.01)


def class_of(element):
    return element.attributes.get("class", "")


def test_axes_have_their_quantities_and_units(expdir, tmp_path):
    page = write(tmp_path / "r.html", make_overlap(expdir))
    for name, expected in (
        ("asr", ["WER in %"]),
        ("st", ["BLEU"]),
        ("normalised", ["normalised performance"]),
        ("search", ["norm. perf. on dev", "scaling_coef"]),
        ("overlap", ["loss of merging", "overlap (Jaccard)"]),
    ):
        section = next(page.all("section", id=name))
        figures = [figure for figure in section.all("figure")]
        for figure in figures:
            texts = [text for text in figure.all("text") if "axis" in class_of(text)]
            assert [text.text for text in texts] == expected
            *_, width, height = map(float, next(figure.all("svg")).attributes["viewbox"].split())
            for text in texts:
                x, y = float(text.attributes["x"]), float(text.attributes["y"])
                half = 3.1 * len(text.text) if "middle" in class_of(text) else 0
                assert half <= x <= width - half and 11 <= y <= height - 3
            levels = {text.attributes["y"] for text in figure.all("text") if text not in texts}
            assert levels.isdisjoint(text.attributes["y"] for text in texts)
        assert len(figures) >= 2


def circles(panel):
    """Return the places of the marks of the first task."""
    return [(float(c.attributes["cx"]), float(c.attributes["cy"])) for c in panel.all("circle")]


def test_overlap_of_several_seeds(tmp_path):
    dirs = [make_overlap(make_scores(tmp_path / f"seed{k}"), k / 4) for k in (1, 2)]
    page = write(tmp_path / "r.html", *dirs)
    for folder, loss in zip(dirs, ("0.25", "0.50"), strict=True):
        assert rows_of(table_of(page, f"Overlap of masks in {folder}"))[0][3] == loss
        title = f"de sv-SE, asr: overlap 0.88, loss {loss} ({folder})"
        assert title in [t.text for t in page.all("title")]
    assert len([*next(page.all("section", id="overlap")).all("title")]) == 12


@pytest.mark.parametrize("loss", [0.0, 1e-9, 1e30, -1e30])
def test_equal_values_have_a_plot(expdir, tmp_path, loss):
    content = read_json(make_overlap(expdir) / "overlap.json")
    content["masks"].pop("s3net_taylor_50")
    put(expdir / "overlap.json", {**content, "merging": [{**content["merging"][0], "loss": loss}]})
    section = next(write(tmp_path / "r.html", expdir).all("section", id="overlap"))
    (panel,) = section.all("figure")
    assert circles(panel) == [(143.0, 93.0)]  # the middle of the field
    assert 2 <= len([t for t in panel.all("text") if "end" in t.attributes["class"]]) <= 6


def test_overlap_without_a_loss_has_no_plot(expdir, tmp_path):
    content = read_json(make_overlap(expdir) / "overlap.json")
    put(expdir / "overlap.json", {**content, "merging": []})
    page = write(tmp_path / "r.html", expdir)
    assert rows_of(table_of(page, f"Overlap of masks in {expdir}"))[0] == [
        "sv-SE de",
        "0.62",
        "0.88",
    ]
    assert not [*next(page.all("section", id="overlap")).all("svg")]


def test_sizes_of_models_adapters_and_systems(expdir, tmp_path):
    page = write(tmp_path / "r.html", make_sizes(expdir))
    assert rows_of(table_of(page, "Sizes")) == [
        ["full precision", "8.000", "1.00", "2000000", "100.00"],
        ["quantised", "2.000", "4.00", "2000000", "100.00"],
        ["its weights in 4 bits", "0.800", "8.00", "1600000", "80.00"],
        ["adapter of a speaker", "0.164", "-", "40000", "2.00"],
    ]
    assert rows_of(table_of(page, "Sizes of the systems")) == [
        ["joint", "2.500", "2.500", "100.0", "10.02", "0.00"],
        ["lora", "2.600", "2.525", "97.1", "10.42", "0.20"],
    ]
    assert [h.text for h in next(page.all("section", id="sizes")).all("h2")] == [
        "Sizes",
        "Sizes of the systems",
    ]


def test_measurements_are_those_of_the_report(expdir, tmp_path):
    report, out = tmp_path / "RESULTS.md", tmp_path / "report.html"
    words = ["--expdirs", str(make_sizes(make_overlap(expdir)))]
    assert results_main.main([*words, "--out", str(report)]) == 0
    page = write(out, expdir)
    sections = report.read_text(encoding="utf-8").replace("\\", "").split("\n## ")
    for title in ("Sizes", "Sizes of the systems", f"Overlap of masks in {expdir}"):
        (own,) = (section for section in sections if section.startswith(f"{title}\n"))
        lines = [line.strip("| ").split(" | ") for line in own.splitlines() if line[:1] == "|"]
        head, _, *rows = lines
        table = table_of(page, title)
        assert head_of(table) == head and rows_of(table) == rows and len(rows) > 1


def test_pages_follow_their_measurements(expdir, tmp_path):
    out = tmp_path / "r.html"
    before = {s.attributes.get("id") for s in write(out, expdir).all("section")}
    assert not before & {"overlap", "sizes"}
    make_overlap(expdir)
    page = write(out, expdir)
    links = [link.attributes["href"] for link in next(page.all("nav")).all("a")]
    assert "#overlap" in links and "#sizes" not in links
    make_sizes(expdir)
    page = write(out, expdir)
    links = [link.attributes["href"] for link in next(page.all("nav")).all("a")]
    assert "#overlap" in links and "#sizes" in links
    assert write_page([expdir], out) == [f"up to date: {out}"]
    for name, keys, value, text in (
        ("overlap.json", ("masks", "s3net_taylor_50", "density", "de"), 0.1, "0.22"),
        ("parameters.json", ("systems", "lora", "bytes"), 77_000_000, "77.00"),
        ("sizes.json", ("adapter", "bytes"), 78_000_000, "78.000"),
    ):
        assert text not in [cell.text for cell in page.all("td")]
        change_at(expdir / name, keys, value)
        assert text in [cell.text for cell in write(out, expdir).all("td")]
        put(expdir / name, {"unknown": 1})
        with refusal(expdir / name, "unknown"):
            write_page([expdir], out)
        (expdir / name).unlink()
        page = write(out, expdir)
    assert {s.attributes.get("id") for s in page.all("section")} == before


def test_a_directory_without_scores_is_refused(expdir, tmp_path, capsys):
    out, mistyped = tmp_path / "r.html", str(tmp_path / "seed22")
    assert report_main.main(["--expdirs", str(expdir), mistyped, "--out", str(out)]) == 1
    assert mistyped in capsys.readouterr().err and not out.exists()


def test_comparisons_of_other_scores_are_left_out(texts, tmp_path):
    copy = shutil.copytree(texts, tmp_path / "exp")
    out = tmp_path / "r.html"
    remarks = write_page([copy], out)
    assert f"--significance {tmp_path / 'RESULTS.significance.json'}" in remarks[0]
    assert "RESULTS.significance.json" in remarks[0] and remarks[1] == f"written: {out}"
    assert not [*page_of(out).all("section", id="compared")]
    assert f"{copy / 'RESULTS.significance.json'} is not of these scores" in header_of(out)
    path = copy / "RESULTS.significance.json"
    path.write_text('{"intervals": 1}')
    with refusal(path.name):
        write_page([copy], tmp_path / "s.html")
    with refusal("none.json"):
        write_page([texts], tmp_path / "s.html", significance=tmp_path / "none.json")


def header_of(out):
    return next(page_of(out).all("header")).text


def test_a_page_without_intervals_says_why(texts, tmp_path):
    copy, out = shutil.copytree(texts, tmp_path / "exp"), tmp_path / "r.html"
    write(tmp_path / "with.html", texts)
    assert "lors.bin.results" not in header_of(tmp_path / "with.html")
    (copy / "RESULTS.significance.json").unlink()
    write(out, copy, systems=["base", "lors.langs"])
    header = header_of(out)
    assert f"{copy / 'RESULTS.significance.json'} does not exist" in header
    words = f"--expdirs {copy} --systems base lors.langs --out RESULTS.md"
    assert words in header and "--significance RESULTS.significance.json" in header


def test_a_task_without_the_row_to_compare_with_says_so(tmp_path):
    expdir, out = make_experiment(tmp_path / "exp"), tmp_path / "r.html"
    (expdir / "scores/test/expert/de_st.json").unlink()
    words = ["--expdirs", str(expdir), "--out", str(expdir / "RESULTS.md")]
    assert results_main.main([*words, "--compare_to", "expert"]) == 0
    note = "No comparisons: expert has not all scores of this task"
    parts = (expdir / "RESULTS.md").read_text().split("\n## ")
    assert [part.split("\n")[0] for part in parts if note in part] == ["95 % intervals of BLEU"]
    page = write(out, expdir)
    assert note in next(page.all("section", id="st")).text
    assert note not in next(page.all("section", id="asr")).text


def test_commands_seeds_and_settings(texts, expdir, tmp_path):
    run = run_of("./run.sh --seed 7 --langs 'de sv-SE'")
    put(expdir / "recipe.json", run)
    config = {"seed": 7, "max_epoch": 3, "optim_conf": {"lr": 2.5e-4}, "token_list": ["x", "y"]}
    for name, seed in (("expert/de_asr", 7), ("joint", 8)):
        inputs = {"pairs": ["de_asr"], "config": {**config, "seed": seed}, "base": ["ab" * 32]}
        put(expdir / name / ".done", {"inputs": inputs, "hash": "0"})
    merge = expdir / "merged/lors.asr/merge.yaml"
    merge.parent.mkdir(parents=True)
    merge.write_text(
        "lors_version: 0.1.0\nmodel: model.pth\nplan:\n  method: lors\n  params: {rank: 3}\n"
        "  weights: [1.0, -0.5]\n  policy: whisper\n  seed: 5\nfingerprints: {base: c0ffee}\n"
    )
    record = next(write(tmp_path / "r.html", expdir).all("section", id="record"))
    assert not [r for r in record.all("div", role="region") if "Stages" in str(r.attributes)]
    assert run["command"] in [pre.text for pre in record.all("pre")]
    assert "/x" not in record.text
    trained = rows_of(table_of(record, "Trained models"))
    start = "ab" * 8
    assert trained == [
        [f"{expdir}/expert/de_asr", "de_asr", "7", "3", "0.00025", "settings 1", start],
        [f"{expdir}/joint", "de_asr", "8", "3", "0.00025", "settings 1", start],
    ]
    merged = rows_of(table_of(record, "Merged models"))
    assert merged == [[str(merge.parent), "lors", "rank=3", "1 -0.5", "whisper", "5", "0.1.0"]]
    assert "c0ffee" in record.text and "token_list" not in record.text
    assert "nrefs:1|case:mixed|tok:13a" in record.text and "jiwer" in record.text


def test_trainings_of_all_recipes(expdir, tmp_path):
    """The markers lie where the layout in lors/recipe/expdir.py says."""
    speaker = "de-x-anna_asr"
    masked = ["half/s3net_taylor_30/base", "s3net_taylor_30"]
    places = ["expert/de_asr", "lora/de_asr", "joint", "sequential/01_de_asr", masked[0]]
    places += ["half/s3net_taylor_30/expert/de_asr", masked[1], "quantised_sat"]
    places += ["sequential_reversed/01_de_st"]
    places += [f"quantised_speaker/{speaker}", f"quantised_sat_speaker/{speaker}"]
    inputs = {"pairs": ["de_asr"], "config": {"seed": 7}, "base": ["ab" * 32]}
    for place in places:
        masks = {"masks": "cd" * 32} if place in masked else {}
        put(expdir / place / ".done", {"inputs": {**inputs, **masks}})
    for other in ("importance/de", "masks/taylor_30", "quantised", "base", "stats", "sequential"):
        put(expdir / other / ".done", {"inputs": {}})
    page = write(tmp_path / "r.html", expdir)
    table = table_of(page, "Trained models")
    rows = rows_of(table)
    assert sorted(row[0] for row in rows) == sorted(f"{expdir}/{place}" for place in places)
    assert head_of(table)[-1] == "masks"
    assert {row[0]: row[-1] for row in rows if row[-1]} == {
        f"{expdir}/{place}": "cd" * 8 for place in masked
    }
    assert "Trained from and masks: start of the SHA-256" in page.text


def test_commands_and_times_are_those_of_all_calls(expdir, tmp_path):
    """The latest call was stopped before it made a row."""
    other = make_scores(tmp_path / "seed2")
    put(expdir / "recipe.json", {**run_of("./run.sh --epochs 9"), "status": 130})
    put(other / "recipe.json", {**run_of("./run.sh --seed 2"), "status": None})
    stages = [
        ("1 (data)", 19, "./run.sh --stop_stage data"),
        ("7 (tune)", 594, "./run.sh"),
        ("10 (score)", 6, "./run.sh"),
        ("7 (tune)", 2, "./run.sh"),
    ]
    put_stages(expdir, *stages)
    calls = [{"command": "python -m x", "models": {"base": "b", "lors": "exp/<lang>"}}]
    put(expdir / "evaluate.json", {"calls": calls})
    out = tmp_path / "r.html"
    record = next(write(out, expdir, other).all("section", id="record"))
    *commands, own = [pre.text for pre in record.all("pre")]
    assert commands == [
        "./run.sh --stop_stage data",
        "./run.sh",
        "python -m x",
        "./run.sh --seed 2",
    ]
    assert "lors.bin.report" in own
    notes = [p.text for p in record.all("p", **{"class": "note"})]
    assert notes[:4] == [
        f"{expdir}, stage data",
        f"{expdir}, stages tune, score",
        f"{expdir}, systems base, lors",
        f"{other}, stage score",
    ]
    place = [str(expdir), "7 (tune)", "Intel(R)", "2"]
    rows = rows_of(table_of(record, "Stages"))
    assert rows[1] == [*place, "2", "596"] and [row[5] for row in rows] == ["19", "596", "6"]
    evaluated = rows_of(table_of(record, "Evaluated models"))
    assert evaluated == [[str(expdir), "base", "b"], [str(expdir), "lors", "exp/<lang>"]]
    assert write_page([expdir, other], out) == [f"up to date: {out}"]
    put_stages(expdir, *stages, ("11 (pack)", 77, "./run.sh"))
    assert "77" in [cell.text for cell in write(out, expdir, other).all("td")]


def run_of(command):
    return {
        "command": command, "directory": "/x", "host": "h", "pid": 1, "slurm_job": "",
        "began": 1.0, "stage": "score", "stop_stage": 11, "skip_train": False, "status": 0,
        "expdir": "exp", "data": "data", "dump": "dump", "langs": ["de"], "tasks": ["asr"],
        "methods": ["lors"], "systems": ["base"],
    }  # fmt: skip


def test_utterances_with_their_differences(texts, tmp_path):
    page = write(tmp_path / "r.html", texts)
    section = next(page.all("section", id="utterances"))
    sets = [*section.all("details")]
    assert [s.children[0].text.split()[0] for s in sets] == ["de_asr", "de_st", "es_asr", "es_st"]
    articles = [*sets[0].all("article")]
    assert len(articles) == UTTERANCES_SHOWN
    path = texts / "scores/test/base/de_asr.utterances.tsv"
    with path.open(encoding="utf-8") as lines:
        rows = {row["utterance"]: row for row in csv.DictReader(lines, delimiter="\t")}
    for article in articles:
        name, reference = (p.text for p in article.children[:2])
        row = rows[name]
        assert reference == row["reference"]
        (own,) = article.all("div", **{"data-system": "base"})
        line = own.children[1]
        marks = {kind: len([*line.all(kind)]) for kind in ("mark", "del", "ins")}
        found = [row["alignment"].count(kind) for kind in "SDI"]
        assert [marks["mark"], marks["del"], marks["ins"]] == found
        hypotheses = [d for d in article.all("div") if "data-system" in d.attributes]
        shown = [d.attributes["data-system"] for d in hypotheses if "hidden" not in d.attributes]
        assert sorted(shown) == ["expert", "lors.langs"]
    first = next(section.all("div", id="systems")).attributes["data-first"]
    assert json.loads(first) == ["lors.langs", "expert"]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-0.23, 0.41), (7.1, 49.3), (99.0, 99.3), (-1e6, 3e6)]
)
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks_between(low, high)
    assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high + 1e-9
    digits = f"{found[1] - found[0]:.6e}".split("e")[0]
    assert float(digits) in (1, 2, 5)


def test_no_scores(tmp_path):
    with pytest.raises(LorsError):
        write_page([tmp_path], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_command_line(expdir, tmp_path, capsys):
    out = tmp_path / "r.html"
    assert report_main.main(["--expdirs", str(expdir), "--out", str(out), "--title", "T & U"]) == 0
    assert capsys.readouterr().out == f"written: {out}\n"
    assert next(page_of(out).all("h1")).text == "T & U"
