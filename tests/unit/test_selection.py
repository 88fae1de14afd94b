"""Texts, clip names and ids of a selection."""

from __future__ import annotations

import pytest

from lors.data.selection import is_clip_name, is_empty, utterance_id
from lors.data.speakers import speaker_id


@pytest.mark.parametrize(
    ("text", "empty"),
    [("", True), ('""', True), (' " \t', True), ("\u00a0", True), ("null", False), ('"a"', False)],
)
def test_what_counts_as_empty(text, empty):
    assert is_empty(text) is empty


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("common_voice_sv-SE_123.mp3", True),
        ("übung.mp3", True),
        ("../x.mp3", False),
        ("a/b.mp3", False),
        (".hidden.mp3", False),
        ("rm -rf x |", False),
        ("x.mp3|", False),
        ("x.mp3\n", False),
        ("", False),
    ],
)
def test_clip_names_that_are_safe_as_file_names(name, safe):
    assert is_clip_name(name) is safe


def test_ids_start_with_the_speaker_and_differ_between_languages():
    speaker = speaker_id("client")
    assert speaker == speaker_id("client") != speaker_id("client2")
    ids = {utterance_id(speaker, lang, f"common_voice_{lang}_17.mp3") for lang in ("de", "sv-SE")}
    assert ids == {f"{speaker}-de-17", f"{speaker}-sv-SE-17"}
    assert utterance_id(speaker, "de", "other.v2.mp3") == f"{speaker}-de-other.v2"
