"""The page of an experiment in headless Chromium: console, width, contrast, sorting, choices."""

import pytest

from lors.bin import results as results_main
from lors.page.write import write_page
from lors.recipe.significance import significance_file
from tests.chromium import NAMES, Chromium, find_chromium
from tests.unit.score_trees import few_samples, make_sweeps, make_texts, put

WIDE = 'document.querySelectorAll(".wide, pre")'
OVERFLOWING = f"""(() => {{
  const scrolled = [...{WIDE}];
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5)
    .filter((e) => !scrolled.some((s) => s !== e && s.contains(e)))
    .map((e) => e.outerHTML.slice(0, 80));
}})()"""
# WCAG 2: 4.5 for text, 3 for large text and for marks of a plot.
LOW_CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = ([r, g, b, a], under, opacity = 1) =>
    [r, g, b].map((c, k) => c * (a / 255) * opacity + under[k] * (1 - (a / 255) * opacity));
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const background = (e) => {
    const chain = [];
    for (let at = e; at; at = at.parentElement) chain.unshift(at);
    let under = [255, 255, 255];
    for (const at of chain) under = over(rgba(getComputedStyle(at).backgroundColor), under);
    return under;
  };
  const found = [];
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || e.closest("title, script, option")) continue;
    if (!e.checkVisibility()) continue;
    texts += 1;
    const style = getComputedStyle(e);
    const under = background(e);
    const colour = rgba(e.closest("svg") ? style.fill : style.color);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const value = ratio(over(colour, under, Number(style.opacity)), under);
    if (value < (isLarge ? 3 : 4.5)) found.push(`${value.toFixed(2)} ${e.outerHTML.slice(0, 80)}`);
  }
  const marks = document.querySelectorAll(
    ".mark rect:not(.hit), .mark circle, .mark path, .line, .interval");
  for (const e of marks) {
    const style = getComputedStyle(e);
    const under = background(e);
    const shown = over(rgba(style.stroke), under, style.opacity * style.strokeOpacity);
    const value = ratio(shown, under);
    if (value < 3) found.push(`${value.toFixed(2)} ${e.outerHTML.slice(0, 80)}`);
  }
  return { texts, marks: marks.length, found };
})()"""
CELLS = """[...document.querySelectorAll("#asr table")[0].tBodies[0].rows]
  .map((row) => parseFloat(row.cells[2].textContent))
  .map((value) => (Number.isNaN(value) ? null : value))"""
SHOWN = """[...document.querySelectorAll("article")[0].querySelectorAll("[data-system]")]
  .filter((e) => e.checkVisibility()).map((e) => e.dataset.system)"""


AXES = """[...document.querySelectorAll("svg .axis")].filter((e) => e.checkVisibility())
  .map((e) => {
    const box = e.getBoundingClientRect();
    const others = [...e.closest("svg").querySelectorAll("text")].filter((o) => o !== e)
      .map((o) => o.getBoundingClientRect());
    const meets = (o) => o.left < box.right - 1 && o.right > box.left + 1
      && o.top < box.bottom - 2 && o.bottom > box.top + 2;
    return [e.textContent, box.height, box.right, others.filter(meets).length];
  })"""
STICKY = """[...document.querySelectorAll("th:first-child")]
  .filter((e) => e.checkVisibility() && getComputedStyle(e).position === "sticky")
  .map((e) => [e.getBoundingClientRect().width, e.textContent])"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of two runs, with a score that both lack and one that the second lacks."""
    folder = tmp_path_factory.mktemp("browser")
    runs = [make_sweeps(make_texts(folder / f"seed{k}", str(k))) for k in (1, 2)]
    for run in runs:
        (run / "scores/test/average.langs/de_asr.json").unlink()
        inputs = {"pairs": ["de_asr"], "config": {"seed": 1}, "base": ["ab" * 32]}
        put(run / "quantised_sat_speaker/de-x-8be98b202238_asr/.done", {"inputs": inputs})
        put(run / "merged/task_arithmetic+boost.asr_st/merge.yaml", {"plan": {"method": "lors"}})
    (runs[1] / "scores/test/lors.langs_tasks/es_asr.json").unlink()
    report, page = folder / "RESULTS.md", folder / "report.html"
    with few_samples():
        assert results_main.main(["--expdirs", *map(str, runs), "--out", str(report)]) == 0
        title = "A title with a long-long-word " * 4
        assert write_page(runs, page, title, significance_file(report)) == [f"written: {page}"]
    return page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser on PATH ({', '.join(NAMES)})")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_console_requests_width_and_contrast(browser, page, width, scheme):
    browser.open(page, width, scheme)
    browser.run('document.querySelectorAll("details").forEach((e) => { e.open = true; })')
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OVERFLOWING) == []
    contrast = browser.run(LOW_CONTRAST)
    assert contrast["texts"] > 500 and contrast["marks"] > 50
    assert browser.run('document.querySelectorAll(".mark .run").length') > 50
    assert browser.run('document.querySelectorAll(".mark .interval").length') > 20
    assert "missing" in browser.run('document.querySelector("#asr figure").textContent')
    assert contrast["found"] == []
    dark = browser.run('matchMedia("(prefers-color-scheme: dark)").matches')
    assert dark == (scheme == "dark")
    assert browser.complaints() == []
    assert {url for url in browser.requests() if url != "data:,"} == {page.resolve().as_uri()}


@pytest.mark.parametrize("width", [400, 900])
def test_a_sticky_head_leaves_room_for_the_other_columns(browser, page, width):
    browser.open(page, width, "light")
    found = browser.run(STICKY)
    assert any("quantised_sat_speaker" in text for _, text in found)
    assert any("merged/task_arithmetic+boost" in text for _, text in found)
    assert [text for wide, text in found if not 0 < wide < width / 2] == []


def test_axes_can_be_read_on_a_narrow_screen(browser, page):
    browser.open(page, 400, "light")
    found = browser.run(AXES)
    names = {"WER in %", "BLEU", "normalised performance", "scaling_coef", "norm. perf. on dev"}
    assert {name for name, *_ in found} == names
    for name, height, right, met in found:
        assert height > 9 and right <= 400 and met == 0, name


def test_a_click_on_a_head_sorts_the_rows(browser, page):
    browser.open(page, 1400, "light")
    before = browser.run(CELLS)
    assert len(before) == 5 and before.count(None) == 1 and before[-1] is not None
    known = [value for value in before if value is not None]
    numbers = sorted(known)
    assert known not in (numbers, numbers[::-1])
    browser.click("#asr thead button", 2)
    assert browser.run(CELLS) == [*numbers, None]
    assert browser.run('document.querySelector("#asr [aria-sort]").ariaSort') == "ascending"
    browser.click("#asr thead button", 2)
    assert browser.run(CELLS) == [*reversed(numbers), None]
    assert browser.run('document.querySelectorAll("#asr [aria-sort]").length') == 1


def test_the_reader_chooses_two_systems(browser, page):
    browser.open(page, 1400, "light")
    assert sorted(browser.run(SHOWN)) == ["expert", "lors.langs"]
    browser.run("""(() => {
      const select = document.querySelectorAll("#systems select")[1];
      select.value = "base";
      select.dispatchEvent(new Event("change"));
    })()""")
    assert sorted(browser.run(SHOWN)) == ["base", "lors.langs"]
    left = (
        '(s) => document.querySelector(`article [data-system="${s}"]`).getBoundingClientRect().left'
    )
    assert browser.run(f'({left})("lors.langs") < ({left})("base")')


def test_without_scripts_tables_and_plots_are_there(browser, page):
    browser.open(page, 1400, "light", scripts=False)
    assert browser.run('document.querySelectorAll("thead button").length') == 0
    assert len(browser.run(CELLS)) == 5
    assert browser.run('document.querySelectorAll("svg .mark title").length') > 30
    assert sorted(browser.run(SHOWN)) == ["expert", "lors.langs"]
    assert not browser.run('document.querySelector("#systems").checkVisibility()')
