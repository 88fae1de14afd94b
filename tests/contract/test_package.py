"""The package: files for maintainers; sdist and wheel, installed in an empty environment."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lors import __version__
from tests.unit.whisper_files import DIMS, openai_state

ROOT = Path(__file__).parents[2]
KINDS = {".py", ".typed", ".yaml", ".html", ".css", ".js"}
BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"


def build(kind: str, source: Path, place: Path) -> None:
    """Build as pip does, with the setuptools of this environment."""
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, kind, place]
    subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from the sdist."""
    place = tmp_path_factory.mktemp("package")
    source = place / "source"
    shutil.copytree(ROOT / "lors", source / "lors", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source / name)
    build("build_sdist", source, place)
    (sdist,) = place.glob("lors-*.tar.gz")
    (place / "unpacked").mkdir()
    # Not tarfile: its option `filter` is missing in Python 3.11.2, and needed by later versions.
    subprocess.run(["tar", "-xzf", sdist, "-C", place / "unpacked"], check=True)
    build("build_wheel", place / "unpacked" / sdist.name.removesuffix(".tar.gz"), place)
    (wheel,) = place.glob("lors-*.whl")
    return sdist, wheel


def test_the_wheel_has_every_module_and_data_file(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    files = {path.relative_to(ROOT) for path in ROOT.glob("lors/**/*") if path.suffix in KINDS}
    assert Path("lors/py.typed") in files and Path("lors/bin/merge.py") in files
    assert {str(path) for path in files} <= names


def test_the_version_stands_in_one_place(built):
    assert [path.name.split("-")[1].removesuffix(".tar.gz") for path in built] == [__version__] * 2
    (newest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest == __version__
    for name in ("setup.py", "pyproject.toml", "CITATION.cff"):
        assert __version__ not in (ROOT / name).read_text()


def test_the_citation_has_what_the_format_requires():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert content["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= content.keys()
    paper = content["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert "2502.17380" in paper["url"] and f"({paper['url']})" in (ROOT / "README.md").read_text()


def test_the_hooks_are_local_and_run_the_checks_of_the_tests():
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in content["repos"]] == ["local"]
    entries = [hook["entry"] for hook in content["repos"][0]["hooks"]]
    script = (ROOT / "tests/check.sh").read_text()
    every = re.search(r"set -- (.+?);", script)[1].split()
    assert entries == [f"tests/check.sh {check}" for check in every]
    assert "tests/check.sh\n" in (ROOT / "tests/run.sh").read_text()


def test_the_workflow_runs_what_ci_runs():
    content = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    steps = content["jobs"]["tests"]["steps"]
    assert steps[-1]["run"] == ".ci/run"
    installer = (ROOT / "utils/install.sh").read_text() + (ROOT / "tests/run.sh").read_text()
    wanted = " ".join(re.findall(r'system_packages[= ]"(.+?)"', installer)).split()
    packages = "\n".join(step.get("run", "") for step in steps).split()
    assert {"espeak-ng", "slurmctld"} <= set(wanted) <= {*packages, "sctk"}


def link_requirements(names: list[str], place: Path) -> None:
    """Make a folder with these installed packages and what they require, and nothing else."""
    place.mkdir()
    waiting, known = [*names], set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in known:
            continue
        known.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # such as a package of CUDA, for a torch that does without
        tops = {file.parts[0] for file in package.files} - {"..", "__pycache__"}
        for top in tops:
            if not (place / top).exists():
                (place / top).symlink_to(package.locate_file(top))
        required = map(Requirement, package.requires or [])
        waiting += [r.name for r in required if not r.marker or r.marker.evaluate({"extra": ""})]


@pytest.fixture(scope="module")
def empty_environment(built, tmp_path_factory):
    """The folder of the programs of a new environment that has the wheel and its requirements."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    programs = place / "venv" / "bin"
    options = ["--no-deps", "--no-index", "--no-compile", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", *options]
    subprocess.run([*pip, built[1]], check=True)
    with zipfile.ZipFile(built[1]) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    required = [Requirement(line[15:]) for line in lines if line.startswith("Requires-Dist: ")]
    names = [r.name for r in required if not r.marker or r.marker.evaluate({"extra": ""})]
    assert {"torch", "filelock"} <= set(names) and "espnet" not in names
    link_requirements(names, place / "requirements")
    site = sysconfig.get_path("purelib", vars={"base": str(place / "venv")})
    (Path(site) / "requirements.pth").write_text(f"{place / 'requirements'}\n")
    return programs


def test_a_new_environment_merges_inspects_and_exports(empty_environment, tmp_path):
    for seed, name in enumerate(("base", "de", "fr")):
        torch.save({"dims": DIMS, "model_state_dict": openai_state(seed)}, tmp_path / f"{name}.pt")
    work = tmp_path / "empty"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def lors(*words: str) -> str:
        command = [empty_environment / "lors", *words]
        return subprocess.check_output(command, cwd=work, env=environment, text=True)

    assert lors("--version") == f"lors {__version__}\n"
    models = ["--base", "../base.pt", "--experts", "../de.pt", "../fr.pt"]
    lors("merge", "--method", "lors", *models, "--params", "rank=2", "--out", "merged/model.pt")
    assert "rank 2" in lors("inspect", *models, "--rank", "2", "--out", "inspect.json")
    lors("export-whisper", "--model", "merged/model.pt", "--out", "exported.pt")
    merged, exported = (
        torch.load(work / name, weights_only=True)["model_state_dict"]
        for name in ("merged/model.pt", "exported.pt")
    )
    assert merged.keys() == exported.keys() == openai_state().keys()
    assert all(torch.equal(value, exported[name]) for name, value in merged.items())
    assert sorted(path.name for path in work.iterdir()) == ["exported.pt", "inspect.json", "merged"]
    origin = "import lors; print(lors.__file__)"
    found = subprocess.check_output(
        [empty_environment / "python", "-c", origin], cwd=work, env=environment, text=True
    )
    assert Path(found).is_relative_to(empty_environment.parent)
