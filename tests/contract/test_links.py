"""Links between recipes and the shared parts: relative, inside the repository, and alive."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = {
    ".git",
    ".venv",
    ".test_packages",
    "downloads",
    "data",
    "dump",
    "exp",
    "__pycache__",
    "build",
}


def find_links(root):
    """Yield all symbolic links of the sources, without those in data and results of recipes."""
    for folder, directories, files in os.walk(root):
        in_recipe = Path(folder).relative_to(root).parts[:1] == ("egs",)
        skipped = SKIPPED if in_recipe else SKIPPED - {"data"}
        entries = [Path(folder) / name for name in directories + files]
        yield from (entry for entry in entries if entry.is_symlink() and entry.name not in skipped)
        directories[:] = [name for name in directories if name not in skipped]


def problem_of(link, root):
    """Return the problem of a link; None if there is none."""
    target = link.readlink()
    if target.is_absolute():
        return "absolute"
    if not link.exists():
        return "dangling"
    if not link.resolve().is_relative_to(root.resolve()):
        return "leaves the repository"
    return None


def test_links_are_relative_and_alive():
    links = list(find_links(ROOT))
    problems = {
        f"{link.relative_to(ROOT)} -> {link.readlink()}": problem
        for link in links
        if (problem := problem_of(link, ROOT))
    }
    assert not problems


def test_recipes_link_to_the_shared_parts():
    names = {str(link.relative_to(ROOT)) for link in find_links(ROOT)}
    assert "egs/mini_covost/lors1/utils" in names


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("file", None),
        ("none", "dangling"),
        ("self", "dangling"),
        ("/etc", "absolute"),
        ("../..", "leaves the repository"),
    ],
)
def test_the_check_finds_bad_links(tmp_path, target, problem):
    (tmp_path / "egs").mkdir()
    (tmp_path / "egs" / "file").touch()
    link = tmp_path / "egs" / "self"
    link.symlink_to(target)
    assert list(find_links(tmp_path)) == [link]
    assert problem_of(link, tmp_path) == problem
