"""Sentences of docstrings, comments and Markdown begin with a noun or a verb.

Sentences with the first word "Of", "What", "Who", "Whose", "Nor" or "Being" are refused, except
questions.
"""

import ast
import io
import os
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("lors", "utils", "egs", "local", "conf", "docs", "tests", ".ci")
SKIPPED = {"__pycache__", ".venv", ".test_packages", "downloads", "dump", "exp"}
START = re.compile(
    r"""(?:^|[.!?:]["'`)\]*]*\s+)  # the start of a paragraph, or the end of a sentence
    ["'`(\[*_]*((?:Of|What|Who|Whose|Nor|Being)\b)""",
    re.VERBOSE,
)
END = re.compile(r"[.!?](?=[\"'`)\]*]*(?:\s|$))")
NEW_PARAGRAPH = re.compile(r"\s*(?:[-*] |\d+\. |#+ |\w+: )")
"""The first words of a list item, a heading, or an entry under "Args:"."""
COMMENT = re.compile(r"(?:^|(?<=\s))#+ (.*)$")

Lines = Iterable[tuple[int, str]]


def refused(lines: Lines) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each refused sentence."""
    for paragraph in paragraphs(lines):
        text = "\n".join(line for _, line in paragraph)
        for found in START.finditer(text):
            end = END.search(text, found.end())
            sentence = text[found.start(1) : end.end() if end else len(text)]
            if not sentence.endswith("?"):
                number = paragraph[text.count("\n", 0, found.start(1))][0]
                yield number, " ".join(sentence.split())


def paragraphs(lines: Lines) -> Iterator[list[tuple[int, str]]]:
    """Yield lines that belong together; a gap in the line numbers separates two paragraphs."""
    paragraph: list[tuple[int, str]] = []
    for number, line in lines:
        begin = NEW_PARAGRAPH.match(line)
        is_apart = not line.strip() or begin or (paragraph and number > paragraph[-1][0] + 1)
        if paragraph and is_apart:
            yield paragraph
            paragraph = []
        if line.strip():
            start = begin.end() if begin else 0
            paragraph.append((number, line[start:].strip()))
    if paragraph:
        yield paragraph


def docstrings(source: str) -> Iterator[Lines]:
    """Yield the lines of every string that is a statement: docstrings, also of attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            value = node.value.value
            yield enumerate(value.split("\n") if isinstance(value, str) else [], node.lineno)


def python_comments(source: str) -> Iterator[Lines]:
    """Yield the lines of comments: all whole-line comments, then each comment beside code."""
    whole = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = (token.start[0], token.string.lstrip("#"))
            if token.line.lstrip().startswith("#"):
                whole.append(line)
            else:
                yield [line]
    yield whole


def shell_comments(source: str) -> Iterator[Lines]:
    """Yield the lines of comments in a shell script or YAML file, as python_comments()."""
    whole = []
    for number, line in enumerate(source.splitlines(), 1):
        found = COMMENT.search(line)
        if line.startswith("#!"):
            continue
        if line.lstrip().startswith("#"):
            whole.append((number, line.lstrip("# ")))
        elif found:
            yield [(number, found[1])]
    yield whole


def markdown(source: str) -> Iterator[Lines]:
    """Yield the lines of a page without code blocks; the cells of a table one by one."""
    is_code, text = False, []
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif is_code:
            continue
        elif line.startswith("|"):
            yield from ([(number, cell)] for cell in line.strip("|").split("|"))
        else:
            text.append((number, line))
    yield text


def prose_of(name: str, source: str) -> list[Lines]:
    """Return the prose of a source file, in groups of lines."""
    if name.endswith(".md"):
        return list(markdown(source))
    if name.endswith(".py"):
        return [*docstrings(source), *python_comments(source)]
    if name.endswith((".sh", ".yaml", ".conf")) or source.startswith("#!"):
        return list(shell_comments(source))
    return []


def sources() -> Iterator[Path]:
    """Yield the source files, without links and without data and results of recipes."""
    yield from ROOT.glob("*.md")
    for top in FOLDERS:
        for folder, directories, files in os.walk(ROOT / top):
            skipped = SKIPPED | ({"data"} if top == "egs" else set())
            directories[:] = [name for name in directories if name not in skipped]
            paths = (Path(folder) / name for name in files)
            yield from (path for path in paths if not path.is_symlink() and is_text(path))


def is_text(path: Path) -> bool:
    return path.suffix in {".md", ".py", ".sh", ".yaml", ".conf", ""}


def test_no_sentence_begins_with_a_refused_word():
    found = []
    for path in sorted(sources()):
        for lines in prose_of(path.name, path.read_text("utf-8")):
            place = path.relative_to(ROOT)
            found += [f"{place}:{number}: {sentence}" for number, sentence in refused(lines)]
    assert not found, "\n".join(["sentences to begin with another word:", *found])


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("a.py", '"""Of two models the first."""', [(1, "Of two models the first.")]),
        ("a.py", 'x = 1\n"""What x\nmeans."""', [(2, "What x means.")]),
        ("a.py", 'def f():\n    """F.\n\n    Good. Who\n    asks.\n    """', [(4, "Who asks.")]),
        ("a.py", '"""F.\n\nArgs:\n    x: Being x.\n"""', [(4, "Being x.")]),
        ("a.py", '"""A table (Nor x). (Nor y)."""', [(1, "Nor y).")]),
        ("a.py", "# Fine, and\n# good. Whose\n# is it.\nx = 1\n", [(2, "Whose is it.")]),
        ("a.py", "x = 1  # What it is\n", [(1, "What it is")]),
        ("a.sh", "#!/bin/sh\n# Good.\n# Nor bad.\nx=1 # Of x\n", [(3, "Nor bad."), (4, "Of x")]),
        ("run", "#!/bin/sh\n# What it runs\n", [(2, "What it runs")]),
        ("a.yaml", "x: 1 # Good. Being 1.\n", [(1, "Being 1.")]),
        ("a.conf", "# What is asked.\n", [(1, "What is asked.")]),
        ("a.md", "# Title\n\nGood.\nOf a\nmodel.\n", [(4, "Of a model.")]),
        ("a.md", "# What it costs\n", [(1, "What it costs")]),
        ("a.md", "- Good\n- **What** it is\n", [(2, "What** it is")]),
        ("a.md", "See:\n[What x](y.md) says.\n", [(2, "What x](y.md) says.")]),
        ("a.md", "| x | What y |\n|---|---|\n", [(1, "What y")]),
        ("a.py", '"""What is x? It is 1. How, and of what?"""', []),
        ("a.py", '"""Offline. Whatever. Norms. The kind of x, e.g. of y. Beings."""', []),
        ("a.py", 'x = "What x"\n', []),
        ("a.sh", "echo 'What x'\necho ${#x}\n", []),
        ("a.md", "```\n# What x\n```\n", []),
        ("a.txt", "What x.\n", []),
    ],
)
def test_the_check_finds_such_sentences(name, source, expected):
    found = [hit for lines in prose_of(name, source) for hit in refused(lines)]
    assert sorted(found) == expected
