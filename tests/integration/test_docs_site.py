"""The documentation site: built without warnings, every link alive, in a browser as in a file."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.chromium import NAMES, Chromium, find_chromium

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / ".test_packages"  # of tests/run.sh
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""Element that loads something -> the attribute with its address."""
FOREIGN = re.compile(r"(https?:)?//")
OVERFLOWING = """(() => {
  const scrolls = (e) => ["auto", "scroll", "hidden", "clip"]
    .includes(getComputedStyle(e).overflowX);
  const isInside = (e) => {
    for (let at = e.parentElement; at && at !== document.body; at = at.parentElement)
      if (scrolls(at)) return true;
    return false;
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility() && getComputedStyle(e).position !== "fixed")
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5 && !isInside(e))
    .map((e) => e.outerHTML.slice(0, 100));
})()"""
BRIGHTNESS = """getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)
  .map(Number).reduce((a, b) => a + b) / 3"""


class Page(HTMLParser):
    """The links, the loaded files and the anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attributes}
        self.anchors |= {known[name] for name in ("id", "name") if name in known}
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        if LOADING.get(tag, "-") in known and known.get("rel") not in ("next", "prev", "canonical"):
            self.loaded.append(known[LOADING[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with warnings as errors."""
    if not (PACKAGES / "mkdocs").exists() and find_spec("mkdocs") is None:
        pytest.skip("no mkdocs here: tests/run.sh installs it, or pip install .[docs]")
    folder = tmp_path_factory.mktemp("docs") / "site"
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(PACKAGES)]))
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    """All pages but the one for wrong addresses, whose links begin at the root of a server."""
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def test_every_page_is_in_the_site(site, pages):
    names = {path.relative_to(site).with_suffix("").as_posix() for path in pages}
    docs = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert names > {path.with_suffix("").as_posix() for path in docs}
    readmes = list(ROOT.glob("egs/*/*1/README.md"))
    assert len([name for name in names if re.match("recipes/(?!grammar)", name)]) == len(readmes)
    assert names > {"index", "results", "contributing", "recipes/mini_covost"}


def test_links_and_anchors_lead_somewhere(pages):
    broken, followed = [], 0
    for path, page in pages.items():
        for link in page.links + page.loaded:
            if re.match(r"[a-z]+:", link):
                continue
            target, anchor = urldefrag(unquote(link))
            file = (path.parent / target).resolve() if target else path
            followed += 1
            if not file.is_file():
                broken.append(f"{path.name}: {link}")
            elif anchor and file in pages and anchor not in pages[file].anchors:
                broken.append(f"{path.name}: {link}, no such anchor")
    assert broken == []
    assert followed > 1000


def test_nothing_is_loaded_from_other_hosts(site, pages):
    loaded = {link for page in pages.values() for link in page.loaded}
    assert {link for link in loaded if FOREIGN.match(link)} == set()
    assert any(link.endswith(".js") for link in loaded), "the check finds scripts"
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"url\(\s*['\"]?([^'\")]+)", sheet.read_text("utf-8"))
        assert not [address for address in addresses if FOREIGN.match(address)], sheet


def test_the_docstrings_are_in_the_site(site):
    for page, name in (
        *(("merge", "lors.merge.run_merge"), ("merge", "lors.merge.extract.extract")),
        ("checkpoint", "lors.checkpoint.vector_file.write_vector"),
    ):
        assert f'id="{name}"' in (site / f"api/{page}.html").read_text("utf-8"), name
    assert not re.search(r":(func|class|mod):", (site / "api/merge.html").read_text("utf-8"))
    assert "<svg viewBox" in (site / "architecture.html").read_text("utf-8")
    assert "mermaid" not in (site / "architecture.html").read_text("utf-8")


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    """The address of the site on a server of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=site)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser here: {', '.join(NAMES)}")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_pages_in_a_browser(site, pages, address, browser, width, scheme):
    for path in pages:
        name = path.relative_to(site).as_posix()
        browser.open(f"{address}/{name}", width, scheme)
        assert browser.run("document.documentElement.scrollWidth") <= width, name
        assert browser.run(OVERFLOWING) == [], name
        assert (browser.run(BRIGHTNESS) > 128) == (scheme == "light"), name
        asked = browser.requests()
        assert not [url for url in asked if not url.startswith((address, "data:"))], name
        assert browser.complaints() == [], name


@pytest.mark.slow
def test_the_search_finds_a_method(address, browser):
    browser.open(f"{address}/index.html", 1400, "light")
    browser.run("document.querySelector('[data-md-component=search-query]').focus()")
    browser.run(
        "(() => { const e = document.querySelector('[data-md-component=search-query]');"
        "e.value = 'karcher'; e.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}));"
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    wait = """new Promise((done) => { const look = (n) => {
      const found = [...document.querySelectorAll(".md-search-result a")].map((e) => e.href);
      if (found.length || n === 0) done(found); else setTimeout(() => look(n - 1), 100); };
      look(300); })"""
    found = browser.send(
        "Runtime.evaluate", expression=wait, awaitPromise=True, returnByValue=True
    )["result"]["value"]
    assert any("methods.html" in link for link in found), found
