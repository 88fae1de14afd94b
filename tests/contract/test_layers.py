"""The layers of lors: imports go down only, so that the lower packages, merging above all, can be
read, tested and used without the higher packages."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Import names of the base requirements in setup.py: the packages of `pip install lors`.
MERGING = {
    *("torch", "numpy", "scipy", "safetensors", "yaml", "tqdm"),
    *("threadpoolctl", "xxhash", "zlib_ng", "filelock"),
}
ASKED_FOR = {"huggingface_hub"}
"""Imported for a name on the Hub only; tests/unit/test_hub.py merges local files without it."""

MERGING_PROGRAMS = ("merge", "inspect", "extract", "export_whisper")
# Modules of the standard library that other systems lack.
ONLY_UNIX = {
    *("curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios"),
    "tty",
}

spec = importlib.util.spec_from_file_location("architecture", ROOT / "utils/architecture.py")
architecture = importlib.util.module_from_spec(spec)
spec.loader.exec_module(architecture)


@pytest.fixture(scope="module")
def modules():
    return architecture.all_modules()


def test_every_unit_has_one_layer_and_exists(modules):
    listed = [unit for layer in architecture.LAYERS for unit in layer]
    there = {name.split(".")[1] for name in modules if "." in name}
    assert sorted(listed) == sorted(there)


def test_imports_go_down_and_in_no_circle(modules):
    assert architecture.violations(modules) == []
    assert architecture.circles(modules) == []


def test_few_modules_lie_flat():
    flat = [path.stem for path in (ROOT / "lors").glob("*.py") if path.stem != "__init__"]
    assert len(flat) <= 8


def test_the_diagram_is_that_of_the_code(modules):
    page = architecture.PAGE.read_text()
    assert architecture.replaced(page, architecture.diagram(modules)) == page


def test_modules_and_functions_stay_short():
    long = []
    for path in sorted([*ROOT.glob("lors/**/*.py"), *ROOT.glob("utils/**/*.py")]):
        source = path.read_text()
        if len(source.splitlines()) > 400:
            long.append(f"{path}: {len(source.splitlines())} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > 60:
                    long.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    assert long == []


def test_merging_needs_only_the_base_requirements(modules):
    needed = architecture.needed_by("lors.bin.merge", modules)
    # Loaded by their file names, which no import statement shows.
    methods = {module for module in modules if module.startswith("lors.merge.methods")}
    assert {"lors.merge.run", "lors.checkpoint.reader", "lors.merge.methods"} <= needed
    assert architecture.third_party(modules, needed | methods) <= MERGING | ASKED_FOR


def test_exporting_needs_only_the_base_requirements(modules):
    needed = architecture.needed_by("lors.bin.export_whisper", modules)
    assert architecture.third_party(modules, needed) <= MERGING | ASKED_FOR


def test_looking_at_an_experiment_needs_no_package(modules):
    """utils/status starts fast, and with any Python; a program that writes imports filelock."""
    needed = architecture.needed_by("lors.bin.status", modules)
    needed |= architecture.needed_by("lors.bin.record_run", modules)
    assert "lors.recipe.status" in needed
    assert architecture.third_party(modules, needed) == {"filelock"}
    code = "import sys, lors.bin.status, lors.bin.record_run; sys.exit('filelock' in sys.modules)"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("program", MERGING_PROGRAMS)
def test_programs_for_merging_import_nothing_that_only_linux_has(program, modules):
    needed = architecture.needed_by(f"lors.bin.{program}", modules)
    needed |= {module for module in modules if module.startswith("lors.merge.methods")}
    assert {"lors.fileio", "lors.checkpoint.writer"} <= needed
    imported = {name.split(".")[0] for module in needed for name in modules[module]}
    assert imported & {"json", "torch"} and not imported & ONLY_UNIX


@pytest.mark.parametrize("program", MERGING_PROGRAMS)
def test_programs_for_merging_know_no_model_family(program, modules):
    needed = architecture.needed_by(f"lors.bin.{program}", modules)
    assert not {name for name in needed if name.startswith(("lors.models", "lors.recipe.train"))}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("lors.merge.run", "import lors.models.whisper", ["lors.models.whisper"]),
        ("lors.merge.run", "from lors.models import whisper", ["lors.models.whisper"]),
        ("lors.merge.run", "from lors import models", ["lors.models"]),
        ("lors.merge.run", "def f():\n    from ..models import x", ["lors.models.x"]),
        ("lors.merge.methods.ties", "from ...export.whisper import T", ["lors.export.whisper.T"]),
        ("lors.fileio", "from lors.log import x", ["lors.log.x"]),
        ("lors.errors", "import lors.bin.merge", ["lors.bin.merge"]),
        ("lors", "from lors.merge.run import x", ["lors.merge.run.x"]),
        (
            "lors.merge.methods.ties",
            "from lors.merge.methods.base import x; import lors.linalg",
            [],
        ),
        ("lors.merge.run", "from lors import __version__; import torch, json", []),
    ],
)
def test_the_check_finds_forbidden_imports(module, source, expected):
    modules = {module: architecture.imports_of(source, module, is_package=False)}
    assert architecture.violations(modules) == [f"{module} imports {name}" for name in expected]


def test_the_check_finds_circles():
    modules = {
        "lors.a": {"lors.b.x"},
        "lors.b": {"lors.c.y", "json"},
        "lors.c": {"lors.a", "lors.d"},
        "lors.d": set(),
    }
    assert architecture.circles(modules) == ["lors.a -> lors.b -> lors.c -> lors.a"]


def test_the_check_follows_imports():
    modules = {
        "lors": set(),
        "lors.bin": set(),
        "lors.bin.merge": {"lors.merge.run_merge"},
        "lors.merge": {"json", "lors.policy.Policy", "torch.nn"},
        "lors.policy": {"espnet2.tasks"},
        "lors.text": {"sacrebleu"},
    }
    needed = architecture.needed_by("lors.bin.merge", modules)
    assert needed == set(modules) - {"lors.text"}
    assert architecture.third_party(modules, needed) == {"torch", "espnet2"}


def test_yaml_is_read_in_one_place():
    """By the reader with bounds; PyYAML's own functions have none."""
    texts = {path: path.read_text() for path in (ROOT / "lors").rglob("*.py")}
    texts |= {path: path.read_text() for path in (ROOT / "utils").rglob("*.py")}
    load = re.compile(r"yaml\.(\w+_)?(load|parse|scan|compose)\w*\(")
    readers = [path for path, text in texts.items() if load.search(text)]
    assert readers == [ROOT / "lors/config/files.py"]
