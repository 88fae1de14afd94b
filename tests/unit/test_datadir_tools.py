"""utils/{validate,fix,subset,combine,split}: the behaviour of Kaldi's tools of these names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lors.bin import data_dir
from lors.data.datadir import read_data_dir, validate_data_dir
from lors.data.datadir_tools import BACKUP, fix_data_dir

ROOT = Path(__file__).parents[2]


def write(path: Path, files: dict[str, str]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_text(content, encoding="utf-8")
    return path


def make(path: Path, prefix: str = "s", speakers: int = 4, each: int = 5, **more: str) -> Path:
    """A valid data directory of some speakers with some utterances each, of lengths 1, 2, ..."""
    ids = [f"{prefix}{s}-{u}" for s in range(speakers) for u in range(each)]
    files = {
        "wav.scp": "".join(f"{i} /audio/{i}.wav\n" for i in ids),
        "utt2spk": "".join(f"{i} {i.split('-')[0]}\n" for i in ids),
        "spk2utt": "".join(
            f"{prefix}{s} {' '.join(ids[s * each : (s + 1) * each])}\n" for s in range(speakers)
        ),
        "text": "".join(f"{i} ein  Satz ß\n" for i in ids),
        "text.en": "".join(f"{i}\n" for i in ids),
        "utt2dur": "".join(f"{i} {n + 1}\n" for n, i in enumerate(ids)),
    }
    return write(path, files | more)


def tool(*words: object) -> int:
    return data_dir.main([str(word) for word in words])


def ids(path: Path) -> list[str]:
    return [utterance.id for utterance in read_data_dir(path)]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


# --- fix ----------------------------------------------------------------------------------------


def test_fixing_sorts_removes_incomplete_utterances_and_keeps_the_old_files(tmp_path, capsys):
    path = write(
        tmp_path / "d",
        {
            "wav.scp": "b-1 /b1.wav\na-2 /a2.wav\n\na-1 /a1.wav\na-1 /again.wav\nc-1 /c.wav\nb-2\n",
            "utt2spk": "b-1 b\na-1 a\na-2 a\nb-2 b\nc-1 c\n",
            "spk2utt": "a a-1\n",
            "text": "b-1 drei\na-1 eins\na-2\nb-2 vier\n",
            "utt2dur": "a-1 1\nb-1 3\nz-1 5\n",
            "spk2gender": "c m\nb f\n",
        },
    )
    before = contents(path)
    assert tool("fix", path) == 0
    printed = capsys.readouterr().out
    assert "wav.scp: 3 line(s)" in printed and "3 of 5 utterances" in printed
    (problem,) = validate_data_dir(path)
    assert problem.startswith("utt2dur:") and "(a-2)" in problem
    assert (path / "wav.scp").read_text() == "a-1 /a1.wav\na-2 /a2.wav\nb-1 /b1.wav\n"
    assert (path / "text").read_text() == "a-1 eins\na-2\nb-1 drei\n"
    assert (path / "utt2dur").read_text() == "a-1 1\nb-1 3\n"
    assert (path / "spk2utt").read_text() == "a a-1 a-2\nb b-1\n"
    assert (path / "spk2gender").read_text() == "b f\n"
    assert contents(path / BACKUP) == before
    assert fix_data_dir(path) == []
    assert contents(path / BACKUP) == before


def test_fixing_leaves_a_valid_directory_as_it_is(tmp_path, capsys):
    path = make(tmp_path / "d")
    before = contents(path)
    assert tool("fix", path) == 0
    assert str(path) in capsys.readouterr().out
    assert contents(path) == before and not (path / BACKUP).exists()


def test_order_is_that_of_bytes(tmp_path):
    names = ["é-1", "z-1", "B-1", "a_b-1", "a-1"]
    path = write(
        tmp_path / "d",
        {
            "wav.scp": "".join(f"{name} /x.wav\n" for name in names),
            "utt2spk": "".join(f"{name} {name[:-2]}\n" for name in names),
        },
    )
    fix_data_dir(path)
    ordered = subprocess.run(
        ["sort"], input="\n".join(names), env={**os.environ, "LC_ALL": "C"},
        text=True, capture_output=True, check=True,
    ).stdout.split()  # fmt: skip
    assert ids(path) == ordered


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        ({"wav.scp": "a /a.wav\n"}, ["utt2spk"]),
        ({"utt2spk": "a a\n", "wav.scp": "b /b.wav\n"}, ["utt2spk: 1", "wav.scp: 1"]),
        ({"utt2spk": "a a\n", "wav.scp": "a /a\n", "segments": "a r 0 1\n"}, ["segments: 1"]),
    ],
)
def test_what_cannot_be_mended(tmp_path, capsys, files, facts):
    path = write(tmp_path / "d", files)
    assert tool("fix", path) == 1
    error = capsys.readouterr().err
    assert str(path) in error and all(fact in error for fact in facts)
    assert {name: (path / name).read_text() for name in files} == files


def test_ids_that_do_not_start_with_the_speaker_are_counted(tmp_path):
    path = write(tmp_path / "d", {"utt2spk": "a-1 b\n", "wav.scp": "a-1 /a.wav\n"})
    strangers, written = fix_data_dir(path)
    assert strangers.startswith("1 utterance id(s)") and "spk2utt" in written


# --- subset -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--first"], ["s0-0", "s0-1", "s0-2"]),
        (["--last"], ["s3-2", "s3-3", "s3-4"]),
        ([], ["s0-0", "s1-1", "s2-3"]),
        (["--shortest"], ["s0-0", "s0-1", "s0-2"]),
    ],
)
def test_subsets_by_number(tmp_path, options, expected):
    source = make(tmp_path / "d")
    assert tool("subset", *options, source, 3, tmp_path / "part") == 0
    assert ids(tmp_path / "part") == expected
    assert (tmp_path / "part" / "text.en").read_text().split() == expected


def test_whole_speakers_and_some_of_each(tmp_path):
    source = make(tmp_path / "d")
    assert tool("subset", "--speakers", source, 6, tmp_path / "six") == 0
    assert tool("subset", "--speakers", source, 11, tmp_path / "eleven") == 0
    six, eleven = set(ids(tmp_path / "six")), set(ids(tmp_path / "eleven"))
    assert len(six) == 10 and len(eleven) == 15 and six < eleven
    assert tool("subset", "--per-spk", source, 2, tmp_path / "each") == 0
    assert ids(tmp_path / "each") == [f"s{s}-{u}" for s in range(4) for u in (0, 2)]


def test_subsets_by_lists(tmp_path, capsys):
    source = make(tmp_path / "d", spk2gender="s0 f\ns1 m\n")
    (tmp_path / "utts").write_text("s1-3 and more\ns0-0\n\n")
    (tmp_path / "speakers").write_text("s2\n")
    assert tool("subset", "--utt-list", tmp_path / "utts", source, tmp_path / "a") == 0
    assert ids(tmp_path / "a") == ["s0-0", "s1-3"]
    assert tool("subset", "--spk_list", tmp_path / "speakers", source, tmp_path / "a") == 0
    assert ids(tmp_path / "a") == [f"s2-{u}" for u in range(5)]
    assert not (tmp_path / "a" / "spk2gender").exists()
    (tmp_path / "utts").write_text("s9-9\n")
    assert tool("subset", "--utt_list", tmp_path / "utts", source, tmp_path / "a") == 1
    assert "s9-9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["{}", "21", "{}/part"], "1 to 20"),
        (["{}", "0", "{}/part"], "1 to 20"),
        (["{}", "few", "{}/part"], "few"),
        (["{}", "{}/part"], "source number target"),
        (["{}", "3", "{}"], "{}"),
    ],
)
def test_wrong_use_of_subset(tmp_path, capsys, words, fact):
    source = make(tmp_path / "d")
    before = contents(source)
    assert tool("subset", *(word.format(source) for word in words)) == 2
    assert fact.format(source) in capsys.readouterr().err
    assert contents(source) == before


def test_the_shortest_need_lengths(tmp_path, capsys):
    source = make(tmp_path / "d", utt2dur="s0-0 1\ns0-1 long\n")
    assert tool("subset", "--shortest", source, 1, tmp_path / "part") == 1
    error = capsys.readouterr().err
    assert str(source / "utt2dur") in error and "long" in error
    (source / "utt2dur").write_text("s0-0 1\n")
    assert tool("subset", "--shortest", source, 2, tmp_path / "part") == 2
    assert "1 to 1" in capsys.readouterr().err
    (source / "utt2dur").unlink()
    assert tool("subset", "--shortest", source, 1, tmp_path / "part") == 1
    assert str(source / "utt2dur") in capsys.readouterr().err


def test_bad_lines_are_refused_with_the_way_to_mend_them(tmp_path, capsys):
    source = make(tmp_path / "d", utt2dur="s0-0 1\ns0-0 2\n")
    assert tool("subset", source, 3, tmp_path / "part") == 1
    error = capsys.readouterr().err
    assert str(source / "utt2dur") in error and "utils/fix_data_dir.sh" in error


def test_files_that_the_tools_do_not_know(tmp_path, capsys):
    """Files whose lines begin with ids are taken, the others are named."""
    source = make(
        tmp_path / "d",
        utt2score="".join(f"s{s}-{u} 0.{u}\n" for s in range(4) for u in range(5)),
        ctm="".join(f"s{s}-{u} 1 0 1 a\ns{s}-{u} 1 1 2 b\n" for s in range(4) for u in range(5)),
        spk2age="s0 40\ns1 50\n",
        README="what this is\n",
        frame_shift="0.01\n",
        empty="",
    )
    assert tool("subset", "--first", source, 2, tmp_path / "part") == 0
    part = contents(tmp_path / "part")
    assert part["utt2score"] == b"s0-0 0.0\ns0-1 0.1\n"
    assert part["ctm"].split(b"\n")[:2] == [b"s0-0 1 0 1 a", b"s0-0 1 1 2 b"]
    assert len(part["ctm"].splitlines()) == 4 and part["spk2age"] == b"s0 40\n"
    assert not {"README", "frame_shift", "empty"} & part.keys()
    assert "README, empty, frame_shift" in capsys.readouterr().err
    assert tool("split", source, 2) == 0 and tool("combine", tmp_path / "all", *(
        source / "split2" / number for number in "12"
    )) == 0  # fmt: skip
    for name in ("utt2score", "ctm"):
        assert contents(tmp_path / "all")[name] == contents(source)[name]
    (source / "text").write_text((source / "text").read_text().replace("s0-0", "s9-9"))
    assert tool("fix", source) == 0
    assert (
        b"s0-0" not in contents(source)["ctm"] and contents(source)["README"] == b"what this is\n"
    )


def test_a_byte_order_mark(tmp_path, capsys):
    source = make(tmp_path / "d")
    before = (source / "text").read_bytes()
    (source / "text").write_bytes(b"\xef\xbb\xbf" + before)
    (problem,) = validate_data_dir(source)
    assert problem.startswith("text line 1: ")
    assert tool("subset", source, 3, tmp_path / "part") == 1
    assert "fix_data_dir.sh" in capsys.readouterr().err
    assert tool("fix", source) == 0 and (source / "text").read_bytes() == before
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfs0-0\n")
    assert tool("subset", "--utt_list", tmp_path / "list", source, tmp_path / "part") == 0
    assert ids(tmp_path / "part") == ["s0-0"]


# --- combine and split --------------------------------------------------------------------------


def test_combining(tmp_path, capsys):
    first, second = make(tmp_path / "a", "b"), make(tmp_path / "b", "a")
    (second / "utt2dur").unlink()
    assert tool("combine", tmp_path / "all", first, second) == 0
    assert "utt2dur" in capsys.readouterr().out
    assert ids(tmp_path / "all") == sorted(ids(first) + ids(second))
    assert "utt2dur" not in contents(tmp_path / "all")
    assert read_data_dir(tmp_path / "all")[0].text == "ein  Satz ß"


def test_combining_what_overlaps(tmp_path, capsys):
    first, second = make(tmp_path / "a"), make(tmp_path / "b", speakers=1)
    assert tool("combine", tmp_path / "all", first, second) == 1
    error = capsys.readouterr().err
    assert "5 id(s)" in error and "s0-0" in error and str(second) in error
    assert not (tmp_path / "all").exists()
    assert tool("combine", first, first, second) == 2


def test_speakers_of_several_directories(tmp_path, capsys):
    genders = "s0 f\ns1 f\ns2 f\ns3 f\n"
    first = make(tmp_path / "a", spk2gender=genders)
    assert tool("subset", "--first", first, 3, tmp_path / "b") == 0
    assert tool("subset", "--last", first, 17, tmp_path / "c") == 0
    assert tool("combine", tmp_path / "all", tmp_path / "b", tmp_path / "c") == 0
    assert contents(tmp_path / "all") == contents(first)
    (tmp_path / "c" / "spk2gender").write_text(genders.replace("s0 f", "s0 m"))
    assert tool("combine", tmp_path / "all", tmp_path / "b", tmp_path / "c") == 1
    assert "spk2gender" in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_splitting_by_speaker(tmp_path, number):
    path = make(tmp_path / "d")
    assert tool("split", path, number) == 0
    parts = [ids(path / f"split{number}" / str(part + 1)) for part in range(number)]
    assert [key for part in parts for key in part] == ids(path) and all(parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 5
    speakers = [{key.split("-")[0] for key in part} for part in parts]
    assert sum(map(len, speakers)) == 4


def test_splitting_when_the_last_speakers_are_few(tmp_path):
    """Every part gets a speaker, however unequal they are."""
    keys = [f"a-{u}" for u in range(8)] + ["b-0", "c-0"]
    files = {
        "wav.scp": "".join(f"{key} /x.wav\n" for key in keys),
        "utt2spk": "".join(f"{key} {key[0]}\n" for key in keys),
    }
    path = write(tmp_path / "d", files)
    assert tool("split", path, 3) == 0
    assert [len(ids(path / "split3" / str(part))) for part in (1, 2, 3)] == [8, 1, 1]


def test_splitting_by_utterance(tmp_path, capsys):
    path = make(tmp_path / "d")
    assert tool("split", path, 6) == 2
    assert "--per-utt" in capsys.readouterr().err
    assert tool("split", "--per-utt", path, 6) == 0
    parts = [ids(path / "split6utt" / str(part)) for part in range(1, 7)]
    assert [key for part in parts for key in part] == ids(path)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


# --- from the command line ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["validate", "fix", "subset", "split", "combine"])
def test_the_scripts_work_in_any_directory(tmp_path, name):
    path = make(tmp_path / "d")
    script = f"{name}_data.sh" if name in ("split", "combine") else f"{name}_data_dir.sh"
    words = {
        "subset": ["--first", "d", "3", "part"],
        "split": ["d", "2"],
        "combine": ["all", "d"],
        "validate": ["--no-feats", "--no-text", "d"],
    }.get(name, ["d"])
    done = subprocess.run(
        [ROOT / "utils" / script, *words],
        cwd=tmp_path,
        env={**os.environ, "LORS_PYTHON": sys.executable},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert validate_data_dir(path) == []
    for made in ("part", "all", "d/split2/1", "d/split2/2"):
        if (tmp_path / made).exists():
            assert validate_data_dir(tmp_path / made) == []
