"""The commands of README.md and docs/ work as they are written, on tiny checkpoints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lors.merge import MergePlan, run_merge
from lors.merge.methods import METHODS
from tests.blocks import ROOT, Block, pages, to_run
from tests.unit.whisper_files import DIMS, openai_state

ELSEWHERE = {"docs/own_corpus.md"}  # tests/integration/test_own_corpus.py
PAGES = [page for page in pages() if page not in ELSEWHERE and to_run(page)]
VOCABULARY = 51865


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """The folder that the commands begin in: a base model, experts, their merge, and conf/."""
    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("base", "de", "es", "fr", "it")):
        state = openai_state(number)
        generator = torch.Generator().manual_seed(number)
        embedding = torch.randn(VOCABULARY, DIMS["n_text_state"], generator=generator)
        state["decoder.token_embedding.weight"] = embedding
        content = {"dims": {**DIMS, "n_vocab": VOCABULARY}, "model_state_dict": state}
        torch.save(content, folder / f"{name}.pth")
    experts = tuple(str(folder / f"{name}.pth") for name in ("de", "es", "fr"))
    run_merge(MergePlan(str(folder / "base.pth"), experts, "lors"), folder / "merged/model.pth")
    # The heads of official widths are known, those of this small one are not.
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    for place in (folder, folder / "merged"):
        (place / "config.json").write_text(json.dumps({"model_type": "whisper", **heads}))
    shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "bin").mkdir()
    program = folder / "bin/lors"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lors.bin.lors "$@"\n')
    program.chmod(0o755)
    return folder


def run(block: Block, folder: Path) -> str:
    """Run a block in a folder and return its output."""
    words = ["bash", "-euo", "pipefail"] if block.language == "bash" else [sys.executable, "-"]
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        words,
        input=block.text,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{block.page}:{block.line}: {block.text}{done.stdout}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(models, tmp_path, page):
    folder = tmp_path / "work"
    shutil.copytree(models, folder)
    for block in to_run(page):
        said = run(block, folder)
        for out in re.findall(r"--(?:out|plots) (\S+)", block.text):
            made = folder / out
            assert made.is_dir() or made.stat().st_mtime > (models / "bin/lors").stat().st_mtime
        if "list-methods" in block.text:
            assert all(f"\n{name}\n" in f"\n{said}" for name in METHODS)


def test_the_commands_of_merging_are_run():
    commands = "".join(block.text for page in PAGES for block in to_run(page))
    for command in ("merge", "inspect", "export-whisper", "list-methods"):
        assert f"lors {command}" in commands
