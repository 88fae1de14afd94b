"""Commands on the pages of the recipes and of the results: programs and options that there are.

These commands take hours, so bash runs them in a tree of stand-ins: each recipe script and program
only records how it was called.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lors.bin.lors import COMMANDS
from tests.blocks import LANGUAGES, ROOT, Block, blocks_of, recipe_pages

RECORD = """#!/bin/bash
printf '%s\\0' "$#" "$PWD" "$0" "$@" >>"$CALLS"
"""
PROGRAMS = ("python", "pip", "lors")
FAULT = re.compile(
    r"^(?:(?:bash: line \d+|sed): .*|tar(?: \(child\))?: .+: Cannot open: .*)", re.MULTILINE
)
"""A line of bash, sed or tar about a file or a command that is not there."""


@dataclass(frozen=True)
class Call:
    """A call of a stand-in: the folder it was called in, its program and its words."""

    folder: Path
    program: str
    words: tuple[str, ...]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The recipes with their configurations and results, and stand-ins for their scripts."""
    root = tmp_path_factory.mktemp("tree")
    stand_ins = [root / "bin" / name for name in PROGRAMS]
    for recipe in ROOT.glob("egs/*/*1"):
        place = root / recipe.relative_to(ROOT)
        for part in filter(Path.is_dir, (recipe / "conf", recipe / "results")):
            shutil.copytree(part, place / part.name)
        scripts = [*recipe.glob("*.sh"), *recipe.glob("local/*.sh"), recipe / "utils/status"]
        stand_ins += [place / script.relative_to(recipe) for script in scripts if script.exists()]
    for path in stand_ins:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("python=python\n" if path.name == "path.sh" else RECORD)
        path.chmod(0o755)
    return root


def calls_of(block: Block, tree: Path) -> tuple[list[Call], list[str]]:
    """Run a block with the stand-ins; return their calls, and the faults that bash has found."""
    record = tree / "calls"
    record.write_bytes(b"")
    done = subprocess.run(
        ["bash"],
        input=block.text,
        cwd=(tree / block.page).parent if block.page.startswith("egs/") else tree,
        env={"PATH": f"{tree}/bin:/usr/bin:/bin", "CALLS": str(record), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    fields = iter(record.read_text().split("\0")[:-1])
    calls = []
    for number in fields:
        folder, program = Path(next(fields)), next(fields)
        words = tuple(next(fields) for _ in range(int(number)))
        calls.append(Call(folder.relative_to(tree.resolve()), program, words))
    return calls, FAULT.findall(done.stderr)


def problems_of(call: Call, tree: Path) -> Iterator[str]:
    """Yield what is wrong with a call."""
    program, words = call.program, call.words
    for word in words:
        if word.startswith("conf/") and not (tree / call.folder / word).is_file():
            yield f"no such configuration: {word}"
    name = Path(program).name
    if name in PROGRAMS:
        if name == "lors":
            known, words = options_of_module(f"lors.bin.{COMMANDS[words[0]][0]}"), words[1:]
        elif words[0] == "-m" and words[1].startswith("lors."):
            known, words = options_of_module(words[1]), words[2:]
        elif words[0].endswith(".py"):
            known, words = options_of_source(ROOT / call.folder / words[0]), words[1:]
        else:  # pip, pytest
            files = [word for word in words if word.endswith(".py")]
            yield from (f"no such file: {word}" for word in files if not (ROOT / word).exists())
            return
    else:
        known = options_of_script(ROOT / call.folder, program)
    elsewhere = any(word.startswith("../") for word in values_of("--datadir", words))
    if elsewhere and not values_of("--stage", words):
        yield f"{program}: stage data would overwrite the data of another recipe"
    if "--data_opts" in words:
        place = words.index("--data_opts") + 1
        given, words = words[place].split(), (*words[:place], *words[place + 1 :])
        unknown = options_in(given) - options_of_script(ROOT / call.folder, "local/data.sh")
        yield from (f"local/data.sh: no option {word}" for word in unknown)
    yield from (f"{program}: no option {word}" for word in options_in(words) - known)


def values_of(option, words) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == option]


def options_in(words) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


@functools.cache
def options_of_module(module: str) -> set[str]:
    return set(importlib.import_module(module).get_parser()._option_string_actions)


@functools.cache
def options_of_source(path: Path) -> set[str]:
    """Return the options of a benchmark, with those that several of them share."""
    texts = [file.read_text(encoding="utf-8") for file in (path, path.with_name("clips.py"))]
    return {option for text in texts for option in re.findall(r'"(--\w+)"', text)}


@functools.cache
def options_of_script(folder: Path, script: str) -> set[str]:
    if script == "utils/status":
        return options_of_module("lors.bin.status")
    done = subprocess.run(
        [script, "--help"], cwd=folder, env=os.environ, capture_output=True, text=True, timeout=60
    )
    return set(re.findall(r"^ +(--\w+) ", done.stdout, re.MULTILINE))


def faults_of(block: Block, tree: Path) -> list[str]:
    calls, faults = calls_of(block, tree)
    faults += [problem for call in calls for problem in problems_of(call, tree)]
    if not calls and not faults:
        faults.append("no program of LoRS")
    return [f"{block.page}:{block.line}: {fault}" for fault in faults]


@pytest.mark.parametrize("page", recipe_pages())
def test_commands_are_those_of_the_programs(page, tree):
    blocks = list(blocks_of(page, (ROOT / page).read_text("utf-8")))
    assert {block.language for block in blocks} <= LANGUAGES
    for block in blocks:
        if block.language == "python":
            compile(block.text, page, "exec")
    found = [block for block in blocks if block.language == "bash"]
    assert [fault for block in found for fault in faults_of(block, tree)] == []


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("./run.sh --lnags de", "--lnags"),
        ("./rum.sh", "rum.sh"),
        ("local/train_base.sh --rates 10", "--rates"),
        ('./run.sh --data_opts "--num_trian 5"', "--num_trian"),
        ("./run.sh --train_config conf/none.yaml", "conf/none.yaml"),
        ("sed s/a/b/ conf/none.yaml >conf/x.yaml; ./run.sh", "conf/none.yaml"),
        ("tar xzf results/none.tar.gz; ./run.sh", "results/none.tar.gz"),
        ("for n in 9; do tar xzf results/seed$n.tar.gz; done; ./run.sh", "seed9.tar.gz"),
        ("python -m lors.bin.results --expdir exp", "--expdir"),
        ("lors merge --expert a.pth", "--expert"),
        ("python utils/bench/merge.py --cases a --seed 1", "--seed"),
        ('merge=(lors merge)\nfor m in a; do "${merge[@]}" --method $m --bse b; done', "--bse"),
        ("time python -m pytest tests/unit/none.py", "tests/unit/none.py"),
        ("./run.sh --datadir ../lors1/data --dumpdir ../lors1/dump", "overwrite"),
        ("ls", "no program"),
    ],
)
def test_the_check_finds_faults(text, fact, tree):
    block = Block("egs/mini_covost/lors1/README.md", 1, "bash", text)
    [fault] = faults_of(block, tree)
    assert fact in fault
