"""Pieces of recordings: cut in stage 2, and known to every tool for data directories."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from lors.bin import data_dir, validate_data_dir
from lors.data.audio_source import ark_place, file_of, is_command
from lors.data.datadir import Utterance, read_data_dir, write_data_dir
from lors.data.datadir import validate_data_dir as problems_of
from lors.data.formatting import FormatOptions, format_data_dir
from lors.data.pieces import Piece, agree
from lors.data.sound import SoundError, lengths_of, read_clip, seconds_of
from tests.refusal import refusal

RATE = 8000


def recording(path, seconds=10):
    """A recording whose level rises by 0.01 each second, so that a piece shows its place."""
    levels = np.repeat(np.arange(1, seconds + 1) / 100, RATE)
    soundfile.write(path, levels, RATE, subtype="PCM_16")
    return path


def second_of(samples):
    """The second in which a piece of half a second begins."""
    return round(float(np.median(samples)) * 100) - 1


def make(path, segments, recordings=("r1", "r2"), **more):
    """A data directory with these segments: utterance -> value."""
    path.mkdir(parents=True)
    files = {
        "segments": [f"{key} {value}" for key, value in segments.items()],
        "wav.scp": [f"{r} {recording(path.parent / f'{path.name}_{r}.wav')}" for r in recordings],
        "utt2spk": [f"{key} {key[0]}" for key in segments],
        "text": [f"{key} Satz {key}" for key in segments],
    }
    speakers = sorted({key[0] for key in segments})
    files["spk2utt"] = [f"{s} {' '.join(k for k in segments if k[0] == s)}" for s in speakers]
    for name, lines in (files | more).items():
        (path / name).write_text("".join(f"{line}\n" for line in lines))
    return path


PIECES = {"a-1": "r1 0 0.5", "a-2": "r1 2.0 2.5", "b-1": "r1 9.5 -1", "b-2": "r2 4 4.5"}


def tool(*words):
    return data_dir.main([str(word) for word in words])


def content(path, name):
    return (path / name).read_text().splitlines()


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "piece"),
    [
        ("r 0 1", Piece("r", 0, 1)),
        ("r 0.25 1e1", Piece("r", 0.25, 10)),
        ("r 3 -1", Piece("r", 3, None)),
        ("r 3 -1.0", Piece("r", 3, None)),
    ],
)
def test_segments_are_read_and_written(value, piece):
    assert Piece.parse(value) == piece
    assert Piece.parse(str(piece)) == piece


@pytest.mark.parametrize(
    "value", ["", "r", "r 1", "r 1 2 3", "r a 2", "r 1 1", "r 2 1", "r -1 2", "r 1 -2", "r nan 2",
              "r 1 nan", "r inf -1", "r 0 inf"],
)  # fmt: skip
def test_what_is_no_segment(value):
    with refusal():
        Piece.parse(value)


def test_lengths_agree_within_a_tenth_of_a_second_or_one_percent():
    assert agree(1.05, 1) and agree(100.9, 100) and not agree(1.2, 1) and not agree(102, 100)


def test_sources():
    assert ark_place("/d/x.ark:123") == ("/d/x.ark", 123) and file_of("/d/x.ark:123") == "/d/x.ark"
    assert file_of("a:b.wav") == "a:b.wav" and ark_place("x.wav:1") is None
    commands = ["sox x.mp3 -t wav - |", "| cat", "-", "touch x |:1 |"]
    assert all(map(is_command, commands)) and not is_command("a|b.wav")


# --- stage 2 ------------------------------------------------------------------------------------


def test_pieces_are_cut(tmp_path):
    source = make(tmp_path / "d", PIECES)
    report = format_data_dir(source, tmp_path / "dump")
    assert report["clips"] == 4 and report["dropped"] == {}
    made = read_data_dir(tmp_path / "dump")
    assert {utt.id: second_of(read_clip(utt.wav)) for utt in made} == {
        "a-1": 0, "a-2": 2, "b-1": 9, "b-2": 4,
    }  # fmt: skip
    assert [utt.duration for utt in made] == [0.5] * 4
    assert all(utt.piece is None for utt in made) and not (tmp_path / "dump/segments").exists()
    assert problems_of(tmp_path / "dump", check_audio=True) == []


def test_changed_segments_are_a_changed_input(tmp_path):
    source = make(tmp_path / "d", PIECES)
    format_data_dir(source, tmp_path / "dump")
    (source / "segments").write_text((source / "segments").read_text().replace("2.0 2.5", "3 3.5"))
    with refusal(tmp_path / "dump", "segments"):
        format_data_dir(source, tmp_path / "dump")
    (tmp_path / "dump/.done").unlink()  # as if the first run had been interrupted
    format_data_dir(source, tmp_path / "dump")
    made = {utt.id: read_clip(utt.wav) for utt in read_data_dir(tmp_path / "dump")}
    assert second_of(made["a-2"]) == 3


def test_good_pieces_of_an_interrupted_run_are_used_again(tmp_path):
    source = make(tmp_path / "d", PIECES)
    format_data_dir(source, tmp_path / "dump")
    made = [Path(utt.wav) for utt in read_data_dir(tmp_path / "dump")]
    inodes = [path.stat().st_ino for path in made]
    (tmp_path / "dump/.done").unlink()
    format_data_dir(source, tmp_path / "dump")
    assert [path.stat().st_ino for path in made] == inodes


@pytest.mark.parametrize(
    ("second", "more", "reason"),
    [
        ("r1 9.5 12", {}, "outside_recording"),
        ("r1 20 -1", {}, "outside_recording"),
        ("r1 5 -1", {"utt2dur": ["a-1 0.5", "a-2 2"]}, "wrong_duration"),
    ],
)
def test_pieces_that_the_recording_lacks(tmp_path, second, more, reason):
    source = make(tmp_path / "d", {"a-1": "r1 0 0.5", "a-2": second}, ["r1"], **more)
    assert problems_of(source) == []
    (problem,) = problems_of(source, check_audio=True)
    assert "(a-2)" in problem and "1 " in problem
    with refusal("1 of 2", tmp_path / "dump/dropped.tsv"):
        format_data_dir(source, tmp_path / "dump")
    report = format_data_dir(source, tmp_path / "dump", FormatOptions(max_bad_audio=0.5))
    assert report["dropped"] == {reason: 1} and report["clips"] == 1
    assert f"a-2\t{reason}\t" in (tmp_path / "dump/dropped.tsv").read_text()


def test_an_end_slightly_behind_the_recording_is_its_end(tmp_path):
    source = make(tmp_path / "d", {"a-1": "r1 9.5 10.05"}, ["r1"])
    assert problems_of(source, check_audio=True) == []
    format_data_dir(source, tmp_path / "dump")
    assert read_data_dir(tmp_path / "dump")[0].duration == 0.5


def test_a_declared_length_that_is_not_that_of_the_file(tmp_path):
    wav = recording(tmp_path / "x.wav")
    clips = [Utterance(f"s-{k}", str(wav), "s", text="x", duration=d) for k, d in ((1, 10), (2, 2))]
    write_data_dir(tmp_path / "d", clips)
    assert problems_of(tmp_path / "d") == []
    (problem,) = problems_of(tmp_path / "d", check_audio=True)
    assert problem.startswith("utt2dur: 1 ") and "(s-2)" in problem
    report = format_data_dir(tmp_path / "d", tmp_path / "dump", FormatOptions(max_bad_audio=0.5))
    assert report["dropped"] == {"wrong_duration": 1}


# --- validate -----------------------------------------------------------------------------------


def test_a_directory_with_segments_is_valid_and_read_back(tmp_path, capsys):
    source = make(tmp_path / "d", PIECES)
    assert problems_of(source, check_audio=True) == []
    assert validate_data_dir.main([str(source)]) == 0 and "4 utterances" in capsys.readouterr().out
    utterances = read_data_dir(source)
    assert utterances[1].piece == Piece("r1", 2, 2.5)
    assert utterances[3].wav.endswith("d_r2.wav")
    write_data_dir(tmp_path / "copy", utterances)
    assert read_data_dir(tmp_path / "copy") == utterances


def test_whole_files_beside_pieces(tmp_path):
    wav = recording(tmp_path / "x.wav")
    pieces = [
        Utterance("s-1", str(wav), "s", piece=Piece("x", 1, 2)),
        Utterance("s-2", "/y.wav", "s"),
    ]
    write_data_dir(tmp_path / "d", pieces)
    assert content(tmp_path / "d", "segments") == ["s-1 x 1 2", "s-2 s-2 0 -1"]
    assert content(tmp_path / "d", "wav.scp") == ["s-2 /y.wav", f"x {wav}"]


@pytest.mark.parametrize(
    ("name", "old", "new", "facts"),
    [
        ("segments", "r1 0 0.5", "r1 0", ("segments", "a-1")),
        ("segments", "r1 0 0.5", "r9 0 0.5", ("segments", "r9")),
        ("segments", "r2 4 4.5", "r1 4 4.5", ("wav.scp", "r2")),
        ("segments", "a-1 r1 0 0.5\n", "", ("segments", "a-1")),
        ("wav.scp", "r2 ", "r3 ", ("segments", "r2")),
        ("wav.scp", "d_r2.wav", "d_r2.wav |", ("wav.scp", "r2", "|")),
        ("utt2dur", "b-2 0.5", "b-2 7", ("utt2dur", "b-2")),
    ],
)
def test_each_problem_of_segments(tmp_path, name, old, new, facts):
    source = make(tmp_path / "d", PIECES, utt2dur=[f"{key} 0.5" for key in PIECES])
    changed = (source / name).read_text().replace(old, new)
    (source / name).write_text(changed)
    found = problems_of(source)
    assert any(all(fact in problem for fact in facts if fact != "|") for problem in found)
    with refusal(source, *facts[:2]):
        format_data_dir(source, tmp_path / "dump")
    assert not list((tmp_path / "dump").glob("wav.scp"))


def test_commands_are_never_run(tmp_path, capsys):
    source = make(tmp_path / "d", {"a-1": "r1 0 0.5"}, ["r1"])
    (source / "wav.scp").write_text(f"r1 touch {tmp_path}/ran |\n")
    assert validate_data_dir.main(["--check_audio", str(source)]) == 1
    error = capsys.readouterr().err
    assert "wav.scp" in error and "r1" in error and "command" in error
    with refusal("wav.scp", "r1"):
        format_data_dir(source, tmp_path / "dump")
    with refusal(f"touch {tmp_path}/ran |:1", kind=SoundError):
        read_clip(f"touch {tmp_path}/ran |:1")
    with refusal(f"touch {tmp_path}/ran |.ark:1", kind=SoundError):
        read_clip(f"touch {tmp_path}/ran |.ark:1")
    assert not (tmp_path / "ran").exists()


# --- fix, subset, split, combine ----------------------------------------------------------------


def test_fixing(tmp_path):
    source = make(
        tmp_path / "d",
        {"b-2": "r2 4 4.5", "a-1": "r1 0 0.5", "a-2": "r9 1 2", "b-1": "r1 2 1", "b-3": "r3 1 2"},
        ["r3", "r2", "r1"],
        reco2dur=["r1 10", "r2 10", "r3 10"],
    )
    (source / "text").write_text("a-1 x\na-2 x\nb-1 x\nb-2 x\n")
    assert tool("fix", source) == 0
    assert content(source, "segments") == ["a-1 r1 0 0.5", "b-2 r2 4 4.5"]
    assert [line.split()[0] for line in content(source, "wav.scp")] == ["r1", "r2"]
    assert content(source, "reco2dur") == ["r1 10", "r2 10"]
    assert problems_of(source, check_audio=True) == []


def test_a_subset(tmp_path):
    source = make(tmp_path / "d", PIECES)
    assert tool("subset", "--first", source, 3, tmp_path / "part") == 0
    assert content(tmp_path / "part", "segments") == [
        "a-1 r1 0 0.5",
        "a-2 r1 2.0 2.5",
        "b-1 r1 9.5 -1",
    ]
    assert len(content(tmp_path / "part", "wav.scp")) == 1
    assert problems_of(tmp_path / "part", check_audio=True) == []


def test_a_split(tmp_path):
    source = make(tmp_path / "d", PIECES)
    assert tool("split", source, 2) == 0
    for part, recordings in (("1", 1), ("2", 2)):
        assert problems_of(source / "split2" / part, check_audio=True) == []
        assert len(content(source / "split2" / part, "wav.scp")) == recordings


def test_combining_pieces_with_pieces_and_with_whole_files(tmp_path, capsys):
    first = make(tmp_path / "d", PIECES, ["r1", "r2"])
    assert tool("subset", "--first", first, 2, tmp_path / "p1") == 0
    assert tool("subset", "--last", first, 2, tmp_path / "p2") == 0
    assert tool("combine", tmp_path / "all", tmp_path / "p1", tmp_path / "p2") == 0
    for name in ("segments", "wav.scp", "utt2spk", "text"):
        assert content(tmp_path / "all", name) == content(first, name)
    wav = recording(tmp_path / "whole.wav")
    write_data_dir(tmp_path / "w", [Utterance("c-1", str(wav), "c", text="x")])
    assert tool("combine", tmp_path / "both", first, tmp_path / "w") == 0
    assert "c-1 c-1 0 -1" in content(tmp_path / "both", "segments")
    assert problems_of(tmp_path / "both", check_audio=True) == []
    assert (
        tool("combine", tmp_path / "not", first, make(tmp_path / "e", {"d-1": "r1 1 2"}, ["r1"]))
        == 1
    )
    assert "r1" in capsys.readouterr().err and not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    "words", [["subset", "{}", 1, "{}2"], ["split", "{}", 1], ["combine", "{}2", "{}"]]
)
def test_bad_segments_are_refused_with_the_way_to_mend_them(tmp_path, capsys, words):
    source = make(tmp_path / "d", {"a-1": "r9 0 1"}, ["r1"])
    assert tool(*(str(word).format(source) for word in words)) == 1
    error = capsys.readouterr().err
    assert "r9" in error and str(source / "segments") in error and "fix_data_dir.sh" in error


# --- ark files ----------------------------------------------------------------------------------


def write_ark(path, kind):
    """Two utterances in an ark file; return the sources."""
    options = {"write_function": "soundfile", "write_kwargs": {"format": "flac"}}
    clips = {f"u-{k}": (RATE, np.full(RATE, 0.1 * k * 32768).astype(np.int16)) for k in (1, 2)}
    scp = path.parent / f"{path.name}.scp"
    kaldiio.save_ark(str(path), clips, scp=str(scp), **(options if kind == "flac" else {}))
    return dict(
        line.split() for line in (path.parent / f"{path.name}.scp").read_text().splitlines()
    )


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_ark_files_of_kaldi_and_espnet(tmp_path, kind):
    sources = write_ark(tmp_path / "data.ark", kind)
    for number, source in enumerate(sources.values(), 1):
        assert ark_place(source)
        assert float(np.median(read_clip(source))) == pytest.approx(0.1 * number, abs=1e-3)
        assert seconds_of(source) == 1.0
        piece = read_clip(source, Piece("r", 0.25, 0.75))
        assert len(piece) == 8000
    assert lengths_of([*sources.values(), "none.ark:5"]) == dict.fromkeys(sources.values(), 1.0)
    clips = [Utterance(key, source, "u", text="x") for key, source in sources.items()]
    write_data_dir(tmp_path / "d", clips)
    assert problems_of(tmp_path / "d", check_audio=True) == []
    assert format_data_dir(tmp_path / "d", tmp_path / "dump")["clips"] == 2


class Code:
    """Content that writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_other_content_of_ark_files(tmp_path):
    ark = tmp_path / "x.ark"
    flac = io.BytesIO()
    soundfile.write(flac, np.zeros(10), RATE, format="FLAC")
    for data in (
        b"PKL" + pickle.dumps(Code(str(tmp_path / "ran"))),
        b"\0BFM " + struct.pack("<bibi", 4, 2, 4, 2) + b"\0" * 16,
        b"[ 1 2 ]",
        b"AUDIO\4" + struct.pack("<I", 2**31) + b"\0" * 10,
        b"AUDIO",
        b"RIFF\0\0\0\0",
        flac.getvalue()[:40],
        b"",
    ):
        ark.write_bytes(b"u " + data)
        with refusal(f"{ark}:2", kind=SoundError):
            read_clip(f"{ark}:2")
    for offset in (99, 10**17):
        with refusal(f"{ark}:{offset}", kind=SoundError):
            read_clip(f"{ark}:{offset}")
    with refusal(f"{tmp_path}/no.ark:2", kind=SoundError):
        read_clip(f"{tmp_path}/no.ark:2")
    assert not (tmp_path / "ran").exists()


# --- files that claim too much ------------------------------------------------------------------


def test_a_small_file_that_claims_hours_is_refused_at_once(tmp_path):
    path = tmp_path / "x.flac"
    soundfile.write(path, np.zeros(1000), RATE)
    content = bytearray(path.read_bytes())
    content[21:26] = bytes([content[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])  # STREAMINFO: samples
    path.write_bytes(content)
    with refusal(path, kind=SoundError) as refused:
        read_clip(path)
    assert refused.value.reason == "too_long"
