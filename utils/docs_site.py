"""Hooks of mkdocs: pages of the site that lie outside docs/, their links, and the diagram.

A link in a page is that of the file in the repository. Where its target is a page of the site, the
link leads there; a link to any other file becomes the path of that file, because the site has no
copy of the sources.
"""

from __future__ import annotations

import importlib.util
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]


def _of_recipes(file: str) -> dict[str, str]:
    """Return the name of a recipe (corpus, and system unless that is lors1) -> its page."""
    return {
        "_".join(path.parts[-3:-1]).removesuffix("_lors1"): path.relative_to(ROOT).as_posix()
        for path in sorted(ROOT.glob(f"egs/*/*1/{file}"))
    }


RECIPES = _of_recipes("README.md")
RESULTS = _of_recipes("RESULTS.md")
OUTSIDE = {
    "index.md": "README.md",
    "results.md": "RESULTS.md",
    "results/bench.md": "utils/bench/RESULTS.md",
    "contributing.md": "CONTRIBUTING.md",
    "recipes/grammar.md": "lors/data/espeak/grammar/README.md",
    **{f"recipes/{name}.md": path for name, path in RECIPES.items()},
    **{f"results/{name}.md": path for name, path in RESULTS.items()},
}
"""Page of the site -> its file in the repository, for those outside docs/."""
PAGES = {file: page for page, file in OUTSIDE.items()}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
BLOCK = r"^(?P<fence>```|~~~).*?^(?P=fence)[ \t]*$"
SPAN = r"(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
CODE_OR_LINK = re.compile(f"{LINK.pattern}|{BLOCK}|{SPAN}", re.MULTILINE | re.DOTALL)
MERMAID = re.compile(r"^```mermaid$.*?^```$", re.MULTILINE | re.DOTALL)
ROLE = re.compile(r":(?:mod|class|func|meth|data|attr):(?=<code)")

log = logging.getLogger("mkdocs.hooks.docs_site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the recipes and their results to the navigation."""
    for title, pages in ("Recipes", RECIPES), ("Results", RESULTS):
        chapter = next(entry[title] for entry in config["nav"] if title in entry)
        chapter[1:1] = [{name: f"{title.lower()}/{name}.md"} for name in pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ and the pictures in them."""
    for page, name in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
        for is_picture, _, target in LINK.findall((ROOT / name).read_text("utf-8")):
            picture = _joined(name, target)
            if is_picture and (ROOT / picture).is_file():
                files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text with the links of the site, and the diagram as a drawing."""
    source = OUTSIDE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    drawn = MERMAID.sub(lambda _: _drawing(), markdown)
    return CODE_OR_LINK.sub(
        lambda found: found[0] if found[3] is None else _link(found, source, page), drawn
    )


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Remove the roles of reST, which some docstrings have before a name."""
    return ROLE.sub("", html)


def _joined(source: str, target: str) -> str:
    """Return the path in the repository of a link in a file; links are relative to their file."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _link(found: re.Match[str], source: str, page: Page) -> str:
    """Return a link for the site.

    Args:
        found: the link in the file.
        source: path of the file in the repository.
        page: the page of the site.
    """
    picture, shown, target = found.groups()[:3]
    path, _, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return found[0]
    path = _joined(source, path)
    if not (ROOT / path).exists():
        log.warning("%s: no such file: %s", source, target)
        return found[0]
    if path in PAGES:
        place = PAGES[path]
    elif picture or path.startswith("docs/"):
        place = path.removeprefix("docs/")
    else:
        return f"`{path}`" if shown.strip("`") in path else f"{shown} (`{path}`)"
    place = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
    return f"{picture}[{shown}]({place}{'#' * bool(anchor)}{anchor})"


def _drawing() -> str:
    """Return the packages and their imports as SVG, for which the theme needs no other host."""
    place = ROOT / "utils/architecture.py"
    spec = importlib.util.spec_from_file_location("architecture", place)
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)
    return architecture.drawing(architecture.all_modules())
