"""Every program starts, and every name that a program imports or tells the user exists."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAIN = 'if __name__ == "__main__":'
BIN = sorted(path.stem for path in (ROOT / "lors/bin").glob("[a-z]*.py"))
ESPNET = {"s2t_train", "wav2vec2_train", "whisper_train"}
"""Training programs with ESPnet's parser, which tests/contract/test_recipes.py makes."""
WITHOUT_HELP = {"training_child.py"}
"""Programs for other programs: they take no options."""
HELP = """
import contextlib, io, runpy, sys
for path in sys.argv[1:]:
    sys.argv, printed, ended = [path, "--help"], io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as error:
        ended = error.code
    except BaseException as error:
        ended = f"{type(error).__name__}: {error}"
    if ended or "--" not in printed.getvalue():
        print(f"{path}: {ended}")
"""
PAGES = ("*.md", "docs/**/*.md", "egs/*/*/*.md", "lors/**/*.md")
SCRIPTS = ("egs/*/*/*.sh", "egs/*/*/local/*", "local/*", "utils/*", "tests/*.sh")


def programs(directory: Path) -> list[Path]:
    return [p for p in sorted(directory.glob("*.py")) if MAIN in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("directory", ["utils", "utils/bench"])
def test_every_program_of_utils_prints_its_help(directory):
    """In a process for each directory, because both have a module jobs."""
    found = [path for path in programs(ROOT / directory) if path.name not in WITHOUT_HELP]
    assert len(found) > 3
    path = os.pathsep.join(filter(None, [str(ROOT / directory), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", HELP, *map(str, found)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), path))},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name in BIN if name not in ESPNET])
def test_every_program_of_lors_has_a_help(name):
    program = importlib.import_module(f"lors.bin.{name}")
    assert "--" in program.get_parser().format_help()


# --- imports ------------------------------------------------------------------------------------


@functools.cache
def names_in(module: str) -> frozenset[str] | None:
    """Return the names at the top of a module of LoRS, and its submodules; None without it."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return None
    names = {part.stem for part in path.glob("*")} if path.is_dir() else set()
    pending = list(ast.parse(file.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(a.asname or a.name).partition(".")[0] for a in node.names}
        else:  # assignments, also in branches
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            pending += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
    return frozenset(names)


def unknown_imports(source: str) -> list[str]:
    """Return the imports from LoRS of names that do not exist, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names if alias.name.split(".")[0] == "lors"]
            found += [name for name in named if names_in(name) is None]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lors":
            known = names_in(node.module) or frozenset()
            found += [f"{node.module}.{a.name}" for a in node.names if a.name not in known]
    return found


def test_every_import_from_lors_outside_of_it_exists():
    """In lors itself mypy checks them; slow programs and tests are not run in each round."""
    files = [p for place in ("utils", "tests", "egs") for p in (ROOT / place).rglob("*.py")]
    wrong = {str(p.relative_to(ROOT)): unknown_imports(p.read_text("utf-8")) for p in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_the_check_finds_unknown_imports():
    source = "def f():\n    from lors.checkpoint.places import FILE_NAME, RECIPE_MODEL\n"
    assert unknown_imports(source) == ["lors.checkpoint.places.FILE_NAME"]
    assert unknown_imports("import lors.nothing\nfrom lors import none, merge") == [
        *("lors.nothing", "lors.none"),
    ]


# --- names of programs in texts -----------------------------------------------------------------


def test_every_program_that_a_text_names_exists():
    files = [*ROOT.glob("lors/**/*.py"), *ROOT.glob("utils/**/*.py"), *ROOT.glob("egs/**/*.yaml")]
    files += [p for pattern in (*PAGES, *SCRIPTS) for p in ROOT.glob(pattern) if p.is_file()]
    wrong = {
        str(path.relative_to(ROOT)): unknown
        for path in dict.fromkeys(files)
        if (unknown := unknown_programs(path.read_text(encoding="utf-8", errors="ignore")))
    }
    assert wrong == {}
    assert unknown_programs("python -m lors.bin.merge or lors.bin.subnetwork") == ["subnetwork"]


def unknown_programs(text: str) -> list[str]:
    return [name for name in re.findall(r"\blors\.bin\.([a-z]\w*)", text) if name not in BIN]
