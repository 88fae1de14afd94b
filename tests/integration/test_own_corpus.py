"""The commands of docs/own_corpus.md work as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lors.checkpoint.quantised import open_quantised
from lors.data.datadir import read_data_dir
from tests.unit.test_manifest import PACKAGES

ROOT = Path(__file__).parents[2]
PARTS = ("egs/TEMPLATE", "egs/mini_covost", "conf", "local", "utils", "lors")
PRODUCTS = ("downloads", "data", "dump", "exp", "__pycache__")

pytestmark = [pytest.mark.espnet, pytest.mark.slow]


def lhotse_alone(place: Path) -> Path:
    """Link lhotse and the packages that it needs, so that pip finds them installed."""
    place.mkdir()
    for name in ("lhotse", "cytoolz", "toolz", "tlz", "intervaltree", "sortedcontainers"):
        found = list(PACKAGES.glob(f"{name}*"))
        if not found:
            pytest.skip(f"{name} is not in {PACKAGES}")
        for part in found:
            (place / part.name).symlink_to(part)
    return place


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the checkout in which the tutorial was typed, and its output."""
    copy = tmp_path_factory.mktemp("tutorial") / "lors"
    for part in PARTS:
        ignore = shutil.ignore_patterns(*PRODUCTS) if part.startswith("egs") else None
        shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=ignore)
    tutorial = (ROOT / "docs/own_corpus.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", tutorial, re.MULTILINE | re.DOTALL)
    assert len(blocks) == tutorial.count("```") / 2 >= 6, "every block is one of commands"
    environment = {**os.environ, "LORS_PYTHON": sys.executable}
    environment["PYTHONPATH"] = str(lhotse_alone(copy.parent / "packages"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input="\n".join(blocks),
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return copy, done.stdout


def test_the_tutorial_ends_with_a_table_of_scores(checkout):
    copy, said = checkout
    recipe = copy / "egs/my_corpus/lors1"
    results = (recipe / "exp/RESULTS.md").read_text(encoding="utf-8")
    assert results in said
    for system in ("base", "expert", "joint", "lors"):
        assert re.search(rf"^\| {system} \|", results, re.MULTILINE), system
    assert (recipe / "exp/merged/lors.asr/merge.yaml").is_file()
    assert (recipe / "exp/packed/lors.asr.zip").is_file()


def test_what_the_tutorial_says_of_its_data(checkout):
    copy, said = checkout
    recipe = copy / "egs/my_corpus/lors1"
    for lang in ("de", "es"):
        sizes = [len(read_data_dir(recipe / f"data/{lang}/{s}")) for s in ("train", "dev", "test")]
        assert sizes == [51, 5, 5]
        train, test = (read_data_dir(recipe / f"data/{lang}/{s}") for s in ("train", "test"))
        assert not {u.speaker for u in train} & {u.speaker for u in test}
        assert not {u.text for u in train} & {u.text for u in test}
    assert "broken.tsv line 2: no such file" in said and "--strict false" in said
    assert "1 missing_file" in said
    assert len(read_data_dir(recipe / "data_broken/ten")) == 10


def test_recipe_for_speakers(checkout):
    copy, _ = checkout
    recipe = copy / "egs/my_corpus/pqm1"
    codes = (recipe / "speakers/speakers").read_text().split()
    assert [code.partition("-x-")[0] for code in codes] == ["de", "es"]
    for code in codes:
        parts = [read_data_dir(recipe / f"speakers/{code}/{s}") for s in ("train", "dev", "test")]
        assert [len(part) for part in parts] == [8, 4, 5]
    assert open_quantised(recipe / "exp/quantised").quantised_names()


def test_recipes_of_data_that_is_there_already(checkout):
    copy, _ = checkout
    for lang in ("de", "es"):
        for split in ("train", "dev", "test"):
            first, kaldi, cuts = (
                read_data_dir(copy / f"egs/{corpus}/lors1/data/{lang}/{split}")
                for corpus in ("my_corpus", "from_kaldi", "from_cuts")
            )
            expected = {(u.wav, u.text, u.translations["en"], u.speaker) for u in first}
            for made in (kaldi, cuts):
                assert {(u.wav, u.text, u.translations["en"], u.speaker) for u in made} == expected
    db = (copy / "egs/from_kaldi/lors1/db.sh").read_text(encoding="utf-8")
    assert f"de/train={copy}/egs/my_corpus/lors1/data/de/train\n" in db
