"""Pages of the documentation: blocks run or say why not, links work, methods.md is current."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from lors.merge.methods import METHODS
from lors.recipe import expdir
from tests.blocks import FENCE, LANGUAGES, MARK, ROOT, RUN, Block, blocks_of, pages

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
PRODUCTS = {"downloads", "data", "dump", "exp", ".venv", "build"}


def problems_of(page: str, source: str) -> list[str]:
    """Return the blocks of unknown languages, and the marks without a reason or a block to run."""
    blocks = list(blocks_of(page, source))
    found = [
        f"{page}:{block.line}: block of the language '{block.language}'"
        for block in blocks
        if block.language not in LANGUAGES
    ]
    marked = [block for block in blocks if block.reason is not None]
    found += [
        f"{block.page}:{block.line}: a mark without a reason"
        for block in marked
        if not block.reason
    ]
    if len(MARK.findall(source)) != sum(block.language in RUN for block in marked):
        found.append(f"{page}: a mark that is not in the line before a block of commands or Python")
    for name in re.findall(r"tests/[\w/]+\.py", " ".join(block.reason or "" for block in marked)):
        if not (ROOT / name).is_file():
            found.append(f"{page}: no such test: {name}")
    return found


def test_every_block_is_run_or_says_why_not():
    found = [p for page in pages() for p in problems_of(page, (ROOT / page).read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("```bash\nls\n```\n", [Block("p", 1, "bash", "ls\n")]),
        ("x\n<!-- not run: slow -->\n```bash\nls\n```\n", [Block("p", 3, "bash", "ls\n", "slow")]),
        ("<!-- not run: a -->\n```bash\n1\n```\n```bash\n2\n```\n",
         [Block("p", 2, "bash", "1\n", "a"), Block("p", 5, "bash", "2\n")]),
        ("````text\n```\n````\n", [Block("p", 1, "text", "```\n")]),
    ],
)  # fmt: skip
def test_blocks_are_found(source, expected):
    assert list(blocks_of("p", source)) == expected
    assert problems_of("p", source) == []


@pytest.mark.parametrize(
    "source",
    [
        "```\nls\n```\n",
        "```sh\nls\n```\n",
        "<!-- not run: -->\n```bash\nls\n```\n",
        "<!-- not run: slow -->\n\n```bash\nls\n```\n",
        "<!-- not run: slow -->\n```yaml\na: 1\n```\n",
        "<!-- not run: tests/none.py does it -->\n```bash\nls\n```\n",
    ],
)
def test_the_check_finds_bad_blocks(source):
    assert len(problems_of("p", source)) == 1


def test_no_experiment_lies_in_the_place_of_a_product():
    """``--expdir exp/base`` would be the base model of the experiment ``exp``."""
    layout = Path(expdir.__file__).read_text(encoding="utf-8")
    products = set(re.findall(r"^\| ``(\w+)/", layout, re.MULTILINE))
    assert {"base", "expert", "lora", "joint", "half", "quantised"} <= products
    for path in ROOT.glob("egs/*/*/*.[ms][dh]"):
        known = products - ({"lora"} if path.parent.name == "lors1" else set())
        named = set(re.findall(r"--expdir exp/(\w+)", path.read_text(encoding="utf-8")))
        assert not named & known, path


def test_the_page_of_methods_is_that_of_the_code():
    program = runpy.run_path(str(ROOT / "utils/methods_page.py"))
    page = program["page_of"](program["results_pages"]())
    assert program["PAGE"].read_text("utf-8") == page, "to mend it: utils/methods_page.py --write"


def test_methods_that_share_decompositions():
    known = {name for name, method in METHODS.items() if method.decomposes}
    places = {
        "docs/search.md": r"((?:`\w+`(?:, | and )?)+), which approximate each task vector",
        "lors/recipe/cost.py": r"one of low rank \((.*?)\) share its",
        "lors/bin/merge.py": r"further merges of the same experts \(([^)]*)\)",
    }
    for place, sentence in places.items():
        [named] = re.findall(sentence, (ROOT / place).read_text("utf-8"))
        assert set(re.findall(r"\w+", named)) - {"and"} == known, place


def test_every_extra_is_on_the_page_of_the_start():
    setup = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    [extras] = [
        node.value
        for node in setup.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "EXTRAS"
    ]
    page = (ROOT / "docs/start.md").read_text("utf-8")
    shown = re.findall(r"^\| `pip install \.\[(\w+)\]` \|", page, re.MULTILINE)
    assert sorted(shown) == sorted(ast.literal_eval(key) for key in extras.keys)


def markdown_files() -> Iterator[Path]:
    """Yield the Markdown files of the repository, without products of recipes and links."""
    for path in sorted(ROOT.rglob("*.md")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") for part in parts)
        in_recipe = parts[0] == "egs" and PRODUCTS & set(parts)
        if not (hidden or in_recipe or parts[0] == "build" or path.resolve() != path):
            yield path


def anchors_of(source: str) -> set[str]:
    """Return the anchors of the headings, as code hosts make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", source), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)|[\\`*]", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w -]", "", text).replace(" ", "-"))
    return found


def broken_links(path: Path, root: Path) -> list[str]:
    """Return the links whose file does not exist, lies outside, or lacks the heading."""
    found = []
    for link in LINK.findall(re.sub(r"(`+).+?\1", "", FENCE.sub("", path.read_text("utf-8")))):
        name, _, anchor = unquote(link).partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or not target.is_relative_to(root):
            found.append(f"{path.relative_to(root)}: {link}")
        elif anchor and anchor not in anchors_of(target.read_text("utf-8")):
            found.append(f"{path.relative_to(root)}: {link}, no such heading")
    return found


def test_links_between_files_are_alive():
    files = list(markdown_files())
    assert {ROOT / "README.md", ROOT / "docs/merging.md", ROOT / "RESULTS.md"} <= set(files)
    assert [link for path in files for link in broken_links(path, ROOT)] == []


@pytest.mark.parametrize(
    ("link", "is_broken"),
    [
        ("b.md", False),
        ("b.md#the-end-of-b", False),
        ("#begin", False),
        ("https://example.org/none", False),
        ("c.md", True),
        ("b.md#none", True),
        ("../outside.md", True),
    ],
)
def test_the_check_finds_broken_links(tmp_path, link, is_broken):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.md").touch()
    (root / "a.md").write_text(f"# Begin\n\n[`x` and y]({link})\n\n```bash\n[a](none)\n```\n")
    (root / "b.md").write_text("# The end, of `b`\n")
    assert bool(broken_links(root / "a.md", root)) == is_broken
