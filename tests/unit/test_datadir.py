"""Kaldi data directories: order, round trip, and all problems at once."""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from lors.data.datadir import (
    Utterance,
    read_data_dir,
    read_scp,
    read_text,
    validate_data_dir,
    write_data_dir,
    write_kaldi_text,
)
from tests.refusal import refusal


def utterance(key, speaker="s", **values):
    defaults = {"lang": "de", "text": "ein Satz", "translations": {"en": "a sentence"}}
    return Utterance(key, f"/audio/{key}.mp3", speaker, **(defaults | values))


def write_files(path, **files):
    """Files of a data directory as given; `_` in a name stands for a dot."""
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (path / name.replace("_", ".")).write_bytes(content)
    return path


VALID = {
    "wav_scp": "a-1 /1.wav\na-2 /2.wav\nb-1 /3.wav\n",
    "utt2spk": "a-1 a\na-2 a\nb-1 b\n",
    "spk2utt": "a a-1 a-2\nb b-1\n",
    "text": "a-1 eins\na-2\nb-1 drei vier\n",
    "utt2dur": "a-1 1.5\na-2 2\nb-1 3\n",
}


def test_what_is_written_is_read_back(tmp_path):
    utterances = [
        utterance("s1-b", "s1", text="", duration=1.25),
        utterance("s1-a", "s1", lang="sv-SE", text='null "x', duration=30.0),
        utterance("s2-a", "s2", translations={"en": ""}, duration=0.1),
    ]
    write_data_dir(tmp_path / "d", utterances)
    assert read_data_dir(tmp_path / "d") == sorted(utterances, key=lambda utt: utt.id)
    assert (tmp_path / "d" / "spk2utt").read_text() == "s1 s1-a s1-b\ns2 s2-a\n"
    assert (tmp_path / "d" / "text").read_text() == 's1-a null "x\ns1-b\ns2-a ein Satz\n'
    assert validate_data_dir(tmp_path / "d") == []


def test_order_is_that_of_sort_in_the_c_locale(tmp_path):
    # Upper and lower case, punctuation around "-", beyond ASCII and beyond 16 bits.
    alphabet = ["a", "B", "-", "_", "0", "é", "ß", "ﬀ", "𝄞", "z"]
    rng = random.Random(0)
    ids = {"".join(rng.choices(alphabet, k=rng.randint(1, 5))) for _ in range(300)}
    write_kaldi_text(tmp_path / "ids", dict.fromkeys(ids, ""))
    ours = (tmp_path / "ids").read_bytes()
    theirs = subprocess.run(
        ["sort"], input=ours, env=os.environ | {"LC_ALL": "C"}, capture_output=True, check=True
    ).stdout
    assert ours == theirs and len(ours.splitlines()) == len(ids)


@pytest.mark.parametrize(
    ("key", "value"),
    [*((key, "x") for key in ("", "a b", "a\t", "a\n", "a\u00a0b")), ("a", "x\ny"), ("a", "x\r")],
)
def test_lines_that_could_not_be_read_back_are_not_written(tmp_path, key, value):
    with refusal(tmp_path / "text", repr(key)) as caught:
        write_kaldi_text(tmp_path / "text", {"good": "x", key: value})
    assert "good" not in str(caught.value) and not (tmp_path / "text").exists()


def test_a_hypothesis_may_be_empty_but_a_path_may_not(tmp_path):
    (tmp_path / "hyp").write_text("u2 some  words \nu1\n")
    assert read_text(tmp_path / "hyp") == {"u2": "some  words", "u1": ""}
    with refusal(tmp_path / "hyp", "'u1'"):
        read_scp(tmp_path / "hyp")


def test_reading_lists_every_bad_line(tmp_path):
    (tmp_path / "text").write_bytes(b"a x\n\nb \xff\na y\n   \nc z")
    with refusal(tmp_path / "text", "line 2", "line 3", "line 5", "'a'"):
        read_text(tmp_path / "text")
    with refusal(tmp_path / "nothing"):
        read_text(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        ({"text": "a-2\na-1 x\nb-1 y\n"}, ("text:", "'a-1'", "'a-2'")),
        ({"text": "a-1 x\nb-1 y\n"}, ("text:", "1 utterance(s)", "(a-2)")),
        ({"text_en": "a-1 x\na-2 y\nb-1 z\nc-1 q\n"}, ("text.en:", "1 utterance(s)", "(c-1)")),
        ({"text": ""}, ("text:", "empty")),
        ({"wav_scp": "a-1 /1.wav\na-2\nb-1 /3.wav\n"}, ("wav.scp:", "'a-2'")),
        ({"utt2spk": "a-1 a\na-1 a\na-2 a\nb-1 b\n"}, ("utt2spk:", "'a-1'", "2 times")),
        ({"utt2spk": "a-1 a\na-2 b\nb-1 b\n"}, ("utt2spk:", "(a-2)")),
        ({"spk2utt": "a a-1\nb b-1\n"}, ("spk2utt:", "1 speaker(s)", "(a)")),
        ({"utt2dur": "a-1 0\na-2 x\nb-1 nan\n"}, ("utt2dur:", "3 value(s)", "(a-1, a-2, b-1)")),
        ({"text": b"a-1 \xff\na-2\nb-1\n"}, ("text line 1",)),
    ],
)
def test_each_problem_is_named(tmp_path, files, facts):
    path = write_files(tmp_path / "d", **(VALID | files))
    assert any(all(fact in found for fact in facts) for found in validate_data_dir(path))
    with refusal(path, *facts):
        read_data_dir(path)


def test_all_problems_are_listed_at_once(tmp_path):
    path = write_files(
        tmp_path / "d",
        wav_scp="b /2.wav\na /1.wav\n",
        utt2spk="a a\nb x\n",
        text="a eins\na eins\n",
    )
    found = validate_data_dir(path)
    for name, fact in (
        ("spk2utt", "missing"),
        ("wav.scp", "'a' comes after 'b'"),
        ("text", "'a' appears 2 times"),
        ("text", "(b)"),
        ("utt2spk", "(b)"),
    ):
        assert any(line.startswith(f"{name}: ") and fact in line for line in found), name
    assert len(found) == 5


def test_a_valid_directory_has_no_problem_until_its_audio_is_looked_for(tmp_path):
    path = write_files(tmp_path / "d", **VALID)
    assert validate_data_dir(path) == []
    (problem,) = validate_data_dir(path, check_audio=True)
    assert problem.startswith("wav.scp: 3 ") and "(a-1, a-2, b-1)" in problem
    with refusal(tmp_path / "other"):
        validate_data_dir(tmp_path / "other")


def test_files_that_the_new_content_lacks_are_removed(tmp_path):
    path = tmp_path / "d"
    write_data_dir(path, [utterance("s-1", duration=1.0, translations={"en": "x", "fr": "y"})])
    write_data_dir(path, [utterance("s-1")])
    assert sorted(file.name for file in path.iterdir()) == [
        "spk2utt", "text", "text.en", "utt2lang", "utt2spk", "wav.scp",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("utterances", "facts"),
    [
        ([], ("wav.scp", "empty")),
        ([utterance("s-1"), utterance("s-1")], ("'s-1'", "2 times")),
        ([utterance("s-1"), utterance("s-2", text=None)], ("text:", "(s-2)")),
        ([utterance("t-1")], ("utt2spk:", "(t-1)")),
        ([utterance("s-1", text="two\nlines")], ("text:", "several lines")),
        ([utterance("s 1")], ("'s 1'",)),
    ],
)
def test_an_invalid_directory_is_not_written(tmp_path, utterances, facts):
    path = tmp_path / "d"
    write_data_dir(path, [utterance("s-0")])
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with refusal(path, *facts):
        write_data_dir(path, utterances)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_gender_of_some_speakers(tmp_path):
    utterances = [utterance("s1-a", "s1", gender="f"), utterance("s2-a", "s2")]
    write_data_dir(tmp_path / "d", utterances)
    assert (tmp_path / "d/spk2gender").read_text() == "s1 f\n"
    assert read_data_dir(tmp_path / "d") == utterances
    contradiction = [utterance("s1-a", "s1", gender="f"), utterance("s1-b", "s1", gender="m")]
    with refusal("spk2gender", "'s1'", "2 times"):
        write_data_dir(tmp_path / "e", contradiction)


def test_wrong_genders_are_listed(tmp_path):
    files = {**VALID, "spk2gender": "a female\nb m\nc f\n"}
    wrong, unknown = validate_data_dir(write_files(tmp_path / "d", **files))
    assert wrong.startswith("spk2gender: 1 value(s)") and "(a)" in wrong
    assert unknown.startswith("spk2gender: 1 speaker(s)") and "(c)" in unknown
