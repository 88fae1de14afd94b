"""lors.config: values checked against type annotations, all problems at once."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from lors.config import (
    FRACTION,
    REQUIRED,
    Key,
    Range,
    build,
    check,
    check_number,
    count,
    describe,
    finite_number,
    fraction,
    load_config,
    parse_assignments,
    process_count,
    read_yaml,
)
from lors.errors import UsageError
from tests.refusal import refusal


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


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (finite_number, "-1e3", -1000.0),
        (fraction, "0.1", 0.1),
        (fraction, "1", 1.0),
        (count, "12", 12),
        (finite_number, "nan", None),
        (finite_number, "inf", None),
        (finite_number, "1e999", None),
        (finite_number, "", None),
        (fraction, "nan", None),
        (fraction, "-0.1", None),
        (fraction, "1.1", None),
        (fraction, "10 %", None),
        (process_count, "8", 8),
        (process_count, "1001", None),
        (count, "0", None),
        (count, "-1", None),
        (count, "1.5", None),
        (count, "1e3", None),
        (count, "10000000000", None),
        (count, "9" * 5000, None),
    ],
)
def test_numbers_of_options(kind, text, value):
    if value is not None:
        assert kind(text) == value
        return
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        kind(text)
    assert text[:40] in str(refused.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 2, "x", None])
def test_numbers_of_functions(value):
    check_number(0.5, FRACTION, "--share")
    with refusal("--share", "from 0 to 1", value, kind=UsageError):
        check_number(value, FRACTION, "--share")


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
    expected = {
        "stpes": ["steps"],
        "steps": ["an integer at least 1", "0"],
        "task": ["asr, st", "'asrr'"],
        "langs[1]": ["a text", "False"],  # YAML's no, not Norwegian
        "inner.rte": ["rate"],
        "name": ["missing", "a text"],
    }
    with refusal(tmp_path / "config.yaml", kind=UsageError) as caught:
        load(tmp_path, "stpes: 3\nsteps: 0\ntask: asrr\nlangs: [de, no]\ninner: {rte: 2}\n")
    problems = dict(line.split(": ", 1) for line in caught.value.got)
    assert problems.keys() == expected.keys()
    for key, facts in expected.items():
        assert all(fact in problems[key] for fact in facts)


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("steps: 1.0", ["steps: ", "an integer", "1.0"]),
        ("steps: true", ["steps: ", "an integer", "True"]),
        ("verbose: 1", ["verbose: ", "true or false", "1"]),
        ("inner: {rate: .nan}", ["inner.rate: ", "a number from 0 to 1", "nan"]),
        ("inner: {rate: '0.5'}", ["inner.rate: ", "a number", "'0.5'"]),
        ("inner: 3", ["inner: ", "a mapping", "3"]),
        ("langs: de", ["langs: ", "a list (of a text)", "'de'"]),
        ("weights: {de: x}", ["weights.de: ", "a number", "'x'"]),
        ("weights: {1: 2}", ["weights (key): ", "a text", "1"]),
        ("place: 3", ["place: ", "a path or null", "3"]),
        ("name: null", ["name: ", "a text", "None"]),
        ("items: [{}, {rate: -1}]", ["items[1].rate: ", "a number from 0 to 1", "-1"]),
    ],
)
def test_wrong_values(tmp_path, line, facts):
    prefix = "" if line.startswith("name") else "name: run\n"
    with refusal(kind=UsageError) as caught:
        load(tmp_path, prefix + line + "\n")
    [problem] = caught.value.got
    assert problem.startswith(facts[0]) and all(fact in problem for fact in facts)


def test_yaml_errors(tmp_path):
    path = tmp_path / "c.yaml"
    with refusal(path):
        read_yaml(path)
    path.write_text("a: 1\nb: 2\na: 3\n")
    with refusal(path, "'a'", "line 3", kind=UsageError):
        read_yaml(path)
    path.write_text("a: [1\n")
    with refusal(path, "line 2", kind=UsageError):
        read_yaml(path)
    path.write_text("- a\n")
    with refusal(path, "list", kind=UsageError):
        read_yaml(path)
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


def test_yaml_never_makes_objects(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with refusal(path, "os.getcwd", kind=UsageError):
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
    with refusal("--params", kind=UsageError) as caught:
        parse_assignments(["rank", "=3", "a=1", "a=2", "b=[", "c={d:1}"], "--params")
    for problem, fact in zip(
        caught.value.got, ["'rank'", "'=3'", "'a'", "'b=['", "'c={d:1}'"], strict=True
    ):
        assert fact in problem


def test_build_and_check_name_the_place():
    with refusal("the command line", "name", kind=UsageError):
        build(Config, {}, "the command line")
    keys = {"rank": Key(int), "scale": Key(float, 1.0)}
    assert check(keys, {"rank": 2}, "x") == {"rank": 2, "scale": 1.0}
    assert keys["rank"].default is REQUIRED
    with refusal("x", "rank", kind=UsageError):
        check({}, {"rank": 2}, "x")


def test_range():
    assert 0 in Range(0, 1) and 1 in Range(0, 1) and 1.5 not in Range(0, 1)
    assert float("nan") not in Range() and float("inf") not in Range()
    assert describe(Annotated[int, Range(0)]) == "an integer at least 0"
    assert describe(Annotated[float, Range(high=2)]) == "a number at most 2"


def bomb(levels, width):
    lines = ["a0: &a0 [" + ", ".join("x" * width) + "]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * width) + "]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 2001-13-45", 1),
        ("b: 1\na: !!int x", 2),
        ("a: !!float x", 1),
        ("a: 0x" + "f" * 20_000, 1),
        ("a: 0b" + "1" * 20_000, 1),
        ("a: !!bool x", 1),
        ("a: !!int ''", 1),
        ("a: !!timestamp x", 1),
        ("a: !!binary é", 1),
        ("a: " + "9" * 5000, 1),
        ("? [a]\n: 1", 1),
        ("a: &x [*x]", 1),
        ("a: &x\n  b: {c: *x}", 2),
        ("a: *x", 1),
        ("a: " + "[" * 100_000, 1),
        ("".join(" " * n + "a:\n" for n in range(210)), 201),
        (bomb(9, 10), 6),
        ("a: [" + "1, " * 200_001 + "]", 1),
    ],
)
def test_malformed_values_and_texts_without_end(tmp_path, text, line):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with refusal(path, f"line {line},", kind=UsageError):
        read_yaml(path)


def test_aliases_of_earlier_values(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &x {b: 1, c: 2}\nd: [*x, *x]\ne:\n  <<: *x\n  c: 3\n")
    value = {"b": 1, "c": 2}
    assert read_yaml(path) == {"a": value, "d": [value, value], "e": {"b": 1, "c": 3}}


def test_many_unknown_keys(tmp_path):
    with refusal("stepz0", "and 19951 more", kind=UsageError):
        load(tmp_path, "".join(f"stepz{number}: 1\n" for number in range(20_000)))


@pytest.mark.parametrize("line", ["steps: ", "inner: {rate: ", "weights: {de: "])
def test_huge_numbers(tmp_path, line):
    for number in ("9" * 400, "0x" + "f" * 5000):
        end = "}" * line.count("{")
        with refusal(line.split(":")[0], kind=UsageError) as caught:
            load(tmp_path, f"name: run\n{line}{number}{end}\n")
        assert len(str(caught.value)) < 500


def test_values_in_messages_are_short(tmp_path):
    text = bomb(4, 10) + "\nname: *a3\nsteps: *a3\n"
    with refusal("name", "steps", kind=UsageError) as caught:
        load(tmp_path, text)
    assert len(str(caught.value)) < 3000


def test_files_that_cannot_be_read(tmp_path):
    with refusal(tmp_path) as caught:
        read_yaml(tmp_path)
    assert caught.value.hint
    (tmp_path / "c.yaml").write_bytes(b"a: \xff\xfe")
    with refusal(tmp_path / "c.yaml", kind=UsageError):
        read_yaml(tmp_path / "c.yaml")
