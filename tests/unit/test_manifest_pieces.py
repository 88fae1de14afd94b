"""Manifests with pieces of recordings, and with lengths that the files do not have."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from lors.data.datadir import read_data_dir, validate_data_dir
from lors.data.formatting import FormatOptions, format_data_dir
from lors.data.manifest import prepare_manifest
from lors.data.manifest_names import Manifest
from tests.refusal import refusal
from tests.unit.test_manifest import WRITERS, dropped, good_rows, write_wav

RATE = 8000


def recording(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat(np.arange(1, seconds + 1) / 100, RATE), RATE)
    return path


def rows_with_pieces(folder, values):
    """Good rows, and rows of train with these values beside `audio`."""
    recording(folder / "long.wav", 20)
    rows = [row | {"duration": ""} for row in good_rows(folder)]
    names = dict.fromkeys(name for row in values for name in row)
    empty = dict.fromkeys(names, "")
    rows = [row | {name: row.get(name, "") for name in names} for row in rows]
    for number, row in enumerate(values):
        text = {"text": f"Stück {number}", "audio": "long.wav"}
        rows.append(rows[0] | empty | text | row)
    return rows


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "values",
    [
        [{"offset": "2", "duration": "1.5"}, {"offset": "7", "duration": "2"}],
        [{"start": "2", "end": "3.5"}, {"start": "7", "end": "9"}],
        [
            {"offset": "2", "end": "3.5", "duration": "1.5"},
            {"offset": "7", "end": "9", "duration": "2"},
        ],
    ],
)
def test_pieces_of_a_recording(tmp_path, kind, values):
    rows = rows_with_pieces(tmp_path, values)
    manifest = WRITERS[kind](tmp_path / f"own.{kind}", rows)
    (report,) = prepare_manifest(manifest, tmp_path / "data")
    train = tmp_path / "data/de/train"
    assert validate_data_dir(train, check_audio=True) == []
    assert report["splits"]["train"]["clips"] == 4
    pieces = {utt.text: utt for utt in read_data_dir(train) if utt.text.startswith("Stück")}
    found = [(utt.piece.start, utt.piece.end) for utt in pieces.values()]
    assert found == [(2, 3.5), (7, 9)]
    format_data_dir(train, tmp_path / "dump")
    for utterance in read_data_dir(tmp_path / "dump"):
        if utterance.text in pieces:
            begin, end = pieces[utterance.text].piece.start, pieces[utterance.text].piece.end
            assert utterance.duration == end - begin
            samples = soundfile.read(utterance.wav)[0]
            assert round(100 * float(np.median(samples[:4000]))) == begin + 1


def test_the_rest_of_a_recording_and_all_of_it(tmp_path):
    values = [{"offset": "15", "duration": ""}, {"offset": "0", "duration": "20"}]
    rows = rows_with_pieces(tmp_path, values[:1])
    prepare_manifest(WRITERS["tsv"](tmp_path / "own.tsv", rows), tmp_path / "data")
    (rest,) = [utt for utt in read_data_dir(tmp_path / "data/de/train") if utt.text == "Stück 0"]
    assert (rest.piece.start, rest.piece.end) == (15, None)
    rows = rows_with_pieces(tmp_path, values[1:])
    prepare_manifest(WRITERS["tsv"](tmp_path / "own.tsv", rows), tmp_path / "data")
    (whole,) = [utt for utt in read_data_dir(tmp_path / "data/de/train") if utt.text == "Stück 0"]
    assert whole.piece is None
    assert not (tmp_path / "data/de/train/segments").exists()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"duration": "2"}, "wrong_duration"),
        ({"duration": "20.5"}, "wrong_duration"),
        ({"offset": "19", "duration": "2"}, "outside_recording"),
        ({"offset": "25", "duration": ""}, "outside_recording"),
        ({"offset": "-1", "duration": "2"}, "bad_duration"),
        ({"offset": "nan", "duration": "2"}, "bad_duration"),
        ({"offset": "00:01", "duration": "2"}, "bad_duration"),
        ({"offset": "1", "duration": "inf"}, "bad_duration"),
        ({"start": "5", "end": "5"}, "bad_duration"),
        ({"start": "5", "end": "2"}, "bad_duration"),
        ({"start": "5", "end": "7", "duration": "9"}, "wrong_duration"),
    ],
)
def test_bad_pieces_and_lengths_are_listed(tmp_path, values, reason):
    manifest = WRITERS["tsv"](tmp_path / "own.tsv", rows_with_pieces(tmp_path, [values]))
    with refusal("own.tsv line 8: ", reason):
        prepare_manifest(manifest, tmp_path / "data")
    (report,) = prepare_manifest(manifest, tmp_path / "data", strict=False)
    assert report["splits"]["train"]["dropped"] == {reason: 1}
    assert [row[2] for row in dropped(tmp_path / "data/de")] == [reason]


def test_lengths_may_differ_a_little(tmp_path):
    rows = rows_with_pieces(tmp_path, [{"duration": "20.15"}])
    (report,) = prepare_manifest(WRITERS["tsv"](tmp_path / "own.tsv", rows), tmp_path / "data")
    assert report["splits"]["train"]["clips"] == 3


def test_a_recording_without_a_readable_header_is_left_to_stage_2(tmp_path):
    rows = rows_with_pieces(tmp_path, [{"offset": "1", "duration": "2", "audio": "odd.mp3"}])
    (tmp_path / "odd.mp3").write_bytes(b"no sound")
    (report,) = prepare_manifest(WRITERS["tsv"](tmp_path / "own.tsv", rows), tmp_path / "data")
    assert report["splits"]["train"]["clips"] == 3
    report = format_data_dir(
        tmp_path / "data/de/train", tmp_path / "dump", FormatOptions(max_bad_audio=1)
    )
    assert report["dropped"] == {"undecodable": 1}


def test_the_same_piece_twice_and_a_piece_of_the_test_set(tmp_path):
    piece = {"offset": "2", "duration": "3", "split": "train"}
    values = [
        piece,
        piece,
        {"offset": "10", "duration": "3", "split": "test"},
        {"offset": "11", "duration": "5", "split": "train"},
        {"offset": "12.95", "duration": "3", "split": "train"},  # it only touches the test set
    ]
    manifest = WRITERS["tsv"](tmp_path / "own.tsv", rows_with_pieces(tmp_path, values))
    (report,) = prepare_manifest(manifest, tmp_path / "data", strict=False)
    reasons = report["splits"]["train"]["dropped"]
    assert reasons == {"also_in_test": 1, "repeated_audio": 1, "repeated_id": 1}
    lines = {(row[2], row[3].split(": ")[0]) for row in dropped(tmp_path / "data/de")}
    assert ("also_in_test", "own.tsv line 11") in lines


def test_two_names_for_the_start(tmp_path):
    rows = rows_with_pieces(tmp_path, [{"offset": "1", "start": "1"}])
    manifest = WRITERS["tsv"](tmp_path / "own.tsv", rows)
    with refusal(manifest, "'offset'", "'start'"):
        prepare_manifest(manifest, tmp_path / "data")


def test_names_as_in_the_manifests_of_nemo(tmp_path):
    rows = [
        {
            "audio_filepath": row["audio"],
            "text": row["text"],
            "split": row["split"],
            "duration": 0.1,
            "offset": None,
        }
        for row in good_rows(tmp_path)
    ]
    write_wav(tmp_path / "x.wav", 3)
    rows.append(rows[0] | {"audio_filepath": "x.wav", "offset": 1.0, "duration": 1.5})
    manifest = WRITERS["jsonl"](tmp_path / "own.jsonl", rows)
    rename = {"audio": "audio_filepath"}
    prepare_manifest([Manifest(manifest, "de")], tmp_path / "data", rename=rename)
    (cut,) = [utt for utt in read_data_dir(tmp_path / "data/de/train") if utt.piece.start]
    assert (cut.piece.start, cut.piece.end, cut.duration) == (1, 2.5, 1.5)
