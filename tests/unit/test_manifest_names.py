"""Languages and splits of manifests: said, or clear from the name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lors.data.manifest_names import Manifest, parse_manifests, told_by_name
from lors.errors import UsageError
from tests.refusal import refusal


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dump/raw/train_de", ("de", "train")),
        ("dump/raw/org/dev_de", ("de", "dev")),
        ("data/test-de", ("de", "test")),
        ("valid_es", ("es", "dev")),
        ("data/validation.fr", ("fr", "dev")),
        ("train_zh-CN", ("zh-CN", "train")),
        ("train_zh_cn", ("zh-CN", "train")),
        ("sv-SE_test", ("sv-SE", "test")),
        ("train_deu", ("deu", "train")),
        ("train_de_sp", ("de", "train")),
        ("train.de-en", ("de", "train")),
        ("dev_es-en", ("es", "dev")),
        ("data/de/train", ("de", "train")),
        ("train/de", ("de", "train")),
        ("cuts_train_de.jsonl.gz", ("de", "train")),
        ("train", ("", "train")),
        ("train_de_en", ("", "train")),
        ("de-en_train", ("", "train")),
        ("train_dev_de", ("de", "")),
        ("test_clean", ("", "test")),
        ("part_de", ("de", "")),
        ("Train_De", ("de", "train")),
        ("mytrain_german", ("", "")),
        ("de/org/train", ("", "train")),
    ],
)
def test_the_name_tells(name, told, tmp_path):
    assert told_by_name(tmp_path / "x" / name) == told


def test_what_is_said():
    words = ["de/train=a/b", "dev=c", "sv-SE=d=e", "f/g", "zh-CN/validation=h", "./x=y"]
    assert parse_manifests(words) == [
        Manifest(Path("a/b"), "de", "train"),
        Manifest(Path("c"), "", "dev"),
        Manifest(Path("d=e"), "sv-SE"),
        Manifest(Path("f/g")),
        Manifest(Path("h"), "zh-CN", "dev"),
        Manifest(Path("x=y")),
    ]
    assert [str(m) for m in parse_manifests(words)][:4] == [*words[:3], "f/g"]


def test_a_path_that_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "de=x").touch()
    assert parse_manifests(["de=x", "de=y"]) == [
        Manifest(Path("de=x")),
        Manifest(Path("y"), "de"),
    ]


def test_what_cannot_be_read():
    with refusal("de/trian=a", "'trian'", "de/train=:", kind=UsageError):
        parse_manifests(["de/trian=a", "de/train=", "es/dev=b"])
    with refusal("de/dev", "a and b", kind=UsageError):
        parse_manifests(["de/dev=a", "de/valid=b", "es/dev=b"])
