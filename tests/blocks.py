"""Fenced blocks of the pages of the documentation.

The tests run every block of commands (``bash``) and of ``python`` of :func:`pages`, unless the line
before it says why not: ``<!-- not run: needs a cluster -->``. The blocks of :func:`recipe_pages`
take hours; their programs and options are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = ("bash", "python")
"""Languages of the blocks to run."""
LANGUAGES = {*RUN, "yaml", "text", "mermaid"}
FENCE = re.compile(r"^(```+)([^\n`]*)\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run:(.*?)-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: path of the page in the repository.
        line: line of the fence.
        language: the word after the fence.
        text: its lines.
        reason: why it is not run; None if it is to be run.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None = None


def blocks_of(page: str, source: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page.

    Args:
        page: path of the page in the repository.
        source: its content.
    """
    for fence in FENCE.finditer(source):
        before = source[: fence.start()]
        mark = re.search(MARK.pattern + r"\n\Z", before[before.rfind("<!--") :], re.DOTALL)
        reason = mark[1].strip() if mark else None
        yield Block(page, before.count("\n") + 1, fence[2].strip(), fence[3], reason)


def pages() -> list[str]:
    """Return the paths of README.md and of the pages in docs/."""
    docs = sorted((ROOT / "docs").rglob("*.md"))
    return ["README.md", *(path.relative_to(ROOT).as_posix() for path in docs)]


def recipe_pages() -> list[str]:
    """Return the paths of the other pages of the site: results, contributing, and all recipes."""
    recipes = sorted([*ROOT.glob("egs/*/*1/README.md"), *ROOT.glob("egs/*/*1/RESULTS.md")])
    found = [path.relative_to(ROOT).as_posix() for path in recipes]
    others = ["RESULTS.md", "utils/bench/RESULTS.md", "CONTRIBUTING.md"]
    return [*others, "lors/data/espeak/grammar/README.md", *found]


def to_run(page: str) -> list[Block]:
    """Return the blocks of a page that are to be run."""
    found = blocks_of(page, (ROOT / page).read_text("utf-8"))
    return [block for block in found if block.language in RUN and block.reason is None]
