"""Records of the sources of files."""

import os

import pytest

from lors.recipe.made_from import MadeFrom


@pytest.fixture
def files(tmp_path):
    for number, name in enumerate(("source", "product")):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (number, number))
    return tmp_path


def record_of(files, **settings):
    return MadeFrom(files / ".made_from", [files / "source"], [files / "product"], settings)


def test_recorded_files_are_current(files):
    assert not record_of(files, version="1").is_current()
    record_of(files, version="1").record()
    assert record_of(files, version="1").is_current()


@pytest.mark.parametrize("name", ["source", "product"])
@pytest.mark.parametrize("change", ["other", "removed"])
def test_a_changed_or_removed_file_is_not_current(files, name, change):
    record_of(files).record()
    if change == "removed":
        (files / name).unlink()
    else:
        age = (files / name).stat().st_mtime
        (files / name).write_text("other")
        os.utime(files / name, (age, age))
    assert not record_of(files).is_current()


def test_other_settings_are_not_current(files):
    record_of(files, version="1").record()
    assert not record_of(files, version="2").is_current()


def test_another_version_of_lors_is_not_current(files, monkeypatch):
    record_of(files).record()
    monkeypatch.setattr("lors.__version__", "99")
    assert not record_of(files).is_current()


def test_a_product_older_than_its_source_is_not_current(files):
    record_of(files).record()
    os.utime(files / "source", (5, 5))
    assert not record_of(files).is_current()


def test_a_damaged_record_is_not_current(files):
    record_of(files).record()
    (files / ".made_from").write_text("{")
    assert not record_of(files).is_current()
