from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from lors.config import (
    REQUIRED,
    Key,
    Range,
    build,
    check,
    describe,
    load_config,
    parse_assignments,
    read_yaml,
)
from lors.errors import LorsError, UsageError


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Range(0, 1)] = 0.5


@dataclass(frozen=True)
class Config:
    name: str
    steps: Annotated[int, Range(1)] = 10
    task: Literal["asr", "st"] = "asr"
    langs: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    place: Path | None = None
    inner: Inner = field(default_factory=Inner)
    items: list[Inner] = field(default_factory=list)
    verbose: bool = False
    extra: Any = None


def load(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(Config, path)


def test_load_config_converts_every_supported_type(tmp_path):
    config = load(
        tmp_path,
        "name: run\nsteps: 3\ntask: st\nlangs: [de, sv-SE]\nweights: {de: 1, fr: 1e-3}\n"
        "place: a/b\ninner: {rate: 1}\nitems: [{rate: 0.25}]\nverbose: true\nextra: [1]\n",
    )
    assert config == Config(
        "run", 3, "st", ("de", "sv-SE"), {"de": 1.0, "fr": 0.001}, Path("a/b"), Inner(1.0),
        [Inner(0.25)], True, [1],
    )  # fmt: skip
    assert isinstance(config.inner.rate, float)


def test_defaults_are_used(tmp_path):
    assert load(tmp_path, "name: run\n") == Config("run")


def test_all_errors_are_reported_at_once(tmp_path):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, "stpes: 3\nsteps: 0\ntask: asrr\nlangs: [de, no]\ninner: {rte: 2}\n")
    text = str(caught.value)
    assert str(tmp_path / "config.yaml") in text
    assert "6 problems" in text
    assert "stpes: unknown (did you mean steps" in text
    assert "steps: expected an integer at least 1, got 0" in text
    assert "task: expected one of asr, st, got 'asrr'" in text
    assert "langs[1]: expected a text, got False (quote it" in text  # YAML's no, not Norwegian
    assert "inner.rte: unknown (did you mean rate?)" in text
    assert "name: missing; expected a text" in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("steps: 1.0", "steps: expected an integer"),
        ("steps: true", "steps: expected an integer"),
        ("verbose: 1", "verbose: expected true or false"),
        ("inner: {rate: .nan}", "inner.rate: expected a number from 0 to 1, got nan"),
        ("inner: {rate: '0.5'}", "inner.rate: expected a number"),
        ("inner: 3", "inner: expected a mapping"),
        ("langs: de", "langs: expected a list (of a text), got 'de'"),
        ("weights: {de: x}", "weights.de: expected a number"),
        ("place: 3", "place: expected a path or null, got 3"),
        ("name: null", "name: expected a text, got None"),
        ("items: [{}, {rate: -1}]", "items[1].rate: expected a number from 0 to 1, got -1"),
    ],
)
def test_wrong_values(tmp_path, line, expected):
    prefix = "" if line.startswith("name") else "name: run\n"
    with pytest.raises(UsageError) as caught:
        load(tmp_path, prefix + line + "\n")
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


def test_yaml_errors(tmp_path):
    path = tmp_path / "c.yaml"
    with pytest.raises(LorsError, match="file not found"):
        read_yaml(path)
    path.write_text("a: 1\nb: 2\na: 3\n")
    with pytest.raises(UsageError, match="'a' appears twice"):
        read_yaml(path)
    path.write_text("a: [1\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        read_yaml(path)
    path.write_text("- a\n")
    with pytest.raises(UsageError, match="must hold a mapping"):
        read_yaml(path)
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


def test_yaml_never_makes_objects(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        read_yaml(path)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.e-3", ".1e-2"])
def test_numbers_in_scientific_notation(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"a: {text}\nb: e3\nc: 1e3x\n")
    assert read_yaml(path) == {"a": 0.001, "b": "e3", "c": "1e3x"}


def test_parse_assignments():
    assert parse_assignments(["rank=7", "density=2e-1", "mode=a=b", "on=true"], "--params") == {
        "rank": 7,
        "density": 0.2,
        "mode": "a=b",
        "on": True,
    }
    with pytest.raises(UsageError) as caught:
        parse_assignments(["rank", "=3", "a=1", "a=2", "b=[", "c={d:1}"], "--params")
    text = str(caught.value)
    assert "'c={d:1}': a space is missing after the colon" in text
    assert "5 problems" in text and "--params" in text
    assert "'a' is given twice" in text and "'b=[': the value is not valid YAML" in text


def test_build_and_check_name_the_place():
    with pytest.raises(UsageError, match="the command line"):
        build(Config, {}, "the command line")
    keys = {"rank": Key(int), "scale": Key(float, 1.0)}
    assert check(keys, {"rank": 2}, "x") == {"rank": 2, "scale": 1.0}
    assert keys["rank"].default is REQUIRED
    with pytest.raises(UsageError, match="there are none here"):
        check({}, {"rank": 2}, "x")


def test_range():
    assert 0 in Range(0, 1) and 1 in Range(0, 1) and 1.5 not in Range(0, 1)
    assert float("nan") not in Range() and float("inf") not in Range()
    assert describe(Annotated[int, Range(0)]) == "an integer at least 0"
    assert describe(Annotated[float, Range(high=2)]) == "a number at most 2"
