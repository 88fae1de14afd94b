"""Names and paths from options: refused before one of them becomes a file or folder."""

import os

import pytest

from lors.bin import (
    inference,
    merge_tuned,
    record_run,
    score_expdir,
    train,
    train_tokenizer,
    tune,
)
from lors.errors import UsageError
from lors.recipe.names import check_names
from tests.refusal import refusal

GOOD = {
    **{"expdir": "exp/a b", "dump": "../dump", "data": "/data", "out": "exp=1", "split": "test2"},
    **{"langs": ["de", "sv-SE", "zh_TW"], "tasks": ["asr", "st"], "methods": []},
    **{
        "systems": ["base", "lors.langs"],
        "scopes": ["asr_st", "asr"],
        "pairs": ["de_asr", "fr_st"],
    },
}


def test_good_names_and_other_options():
    check_names({**GOOD, "split": None, "seed": "../x", "config": ""})


@pytest.mark.parametrize(
    ("option", "value", "facts"),
    [
        *((option, "", ["''"]) for option in ("expdir", "dump", "data", "out", "split")),
        ("out", "-x", ["./-x"]),
        ("expdir", "a\nb", [r"a\nb"]),
        ("split", "../test", ["'../test'"]),
        ("langs", ["../x", "de", "de"], ["'../x'", "'de'"]),
        ("langs", ["de_st"], ["'de_st'"]),
        ("methods", ["lors", ""], ["''"]),
        ("methods", [os.fsdecode(b"\xff")], ["UTF-8"]),
        ("systems", ["../lors.langs", "base", "base"], ["'../lors.langs'", "'base'"]),
        ("scopes", ["asr_st", "st_asr", "mt", "../asr"], ["'st_asr'", "'mt'", "'../asr'"]),
        ("scopes", ["asr", "asr"], ["'asr'"]),
        ("pairs", ["de_asr", "de_mt", "_asr"], ["'de_mt'", "'_asr'"]),
        ("pairs", ["../de_asr", "fr_st", "fr_st"], ["'../de_asr'", "'fr_st'"]),
        ("pairs", ["de_asr_st"], ["'de_asr'"]),
    ],
)
def test_wrong_names_are_all_listed(option, value, facts):
    with refusal(f"--{option}: ", *facts, kind=UsageError):
        check_names({**GOOD, option: value})


def test_long_list_is_shortened():
    with refusal("../0", "500 wrong", "and 480 more", kind=UsageError):
        check_names({"langs": [f"../{number}" for number in range(500)]})


PLACES = ["--expdir", "", "--dump", "dump"]
SETS = ["--langs", "../de", "--tasks", "asr", "asr"]


@pytest.mark.parametrize(
    ("program", "words", "facts"),
    [
        (
            train,
            [
                *("--pairs", "../de_asr", "--dump", "", "--config", "x.yaml"),
                *("--out", "", "--stats", "s"),
            ],
            ["--pairs: '../de_asr'", "--dump: ''", "--out: ''"],
        ),
        (
            tune,
            [
                *(*PLACES, *SETS, "--grid", "x.yaml"),
                *("--methods", "../m", "--inference_config", "x.yaml"),
            ],
            ["--expdir: ''", "--langs: '../de'", "--tasks: 'asr'", "--methods: '../m'"],
        ),
        (
            inference,
            [
                *(*PLACES, *SETS, "--split", "a/b"),
                *("--systems", "../s", "--inference_config", "x.yaml"),
            ],
            ["--expdir: ''", "--langs: '../de'", "--split: 'a/b'", "--systems: '../s'"],
        ),
        (
            merge_tuned,
            ["--expdir", "", "--methods", "a/b", "--langs", "../de", "--scopes", "../asr"],
            ["--expdir: ''", "--methods: 'a/b'", "--langs: '../de'", "--scopes: '../asr'"],
        ),
        (
            record_run,
            [
                *("--stage", "data", "--pid", "1", "--command", "x", "--stop_stage", "1"),
                *("--expdir", "", "--data", "", "--dump", "", "--langs", "../de", "--tasks", "asr"),
                *("--methods", "a/b", "--systems", "../s", "--skip_train", "true"),
            ],
            ["--expdir: ''", "--data: ''", "--dump: ''", "--methods: 'a/b'", "--systems: '../s'"],
        ),
        (
            score_expdir,
            [*PLACES, *SETS, "--split", "a/b", "--systems", "../s"],
            ["--expdir: ''", "--langs: '../de'", "--split: 'a/b'", "--systems: '../s'"],
        ),
        (
            train_tokenizer,
            ["--dump", "", "--langs", "../de", "--config", "x", "--vocab_size", "9", "--out", ""],
            ["--dump: ''", "--langs: '../de'", "--out: ''"],
        ),
    ],
)
def test_programs_list_all_wrong_names_and_write_nothing(
    program, words, facts, tmp_path, monkeypatch, capsys
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert program.main(words) == 2
    error = capsys.readouterr().err
    assert all(fact in error for fact in facts), error
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]
