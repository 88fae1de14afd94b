"""Data directories of Kaldi and ESPnet as a corpus: found, read, and every problem listed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lors.bin import name_manifests, prepare_manifest
from lors.data.audio_source import folder_of
from lors.data.datadir import read_data_dir, validate_data_dir
from lors.data.formatting import FormatOptions, format_corpus
from lors.data.manifest import prepare_manifest as prepare
from lors.data.manifest_names import parse_manifests
from lors.data.sound import read_clip
from lors.errors import UsageError
from tests.refusal import refusal
from tests.unit.kaldi_dirs import SPLITS, write_dir, write_dirs, write_lines


def run(out: Path, *manifests: object, **options):
    return prepare(parse_manifests(map(str, manifests)), out / "data", **options)


def lines_of(path: Path) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in path.read_text().splitlines())


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- good directories ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flac.ark", "wav.ark", "flac", "wav"])
def test_a_dump_of_espnet_becomes_a_corpus(tmp_path, kind):
    dirs = write_dirs(tmp_path / "dump", clips=3, kind=kind)
    (report,) = run(tmp_path, *dirs)
    assert {s: report["splits"][s]["clips"] for s in SPLITS} == dict.fromkeys(SPLITS, 3)
    for number, split in enumerate(SPLITS):
        data = tmp_path / f"data/de/{split}"
        assert validate_data_dir(data, check_audio=True) == []
        utterances = read_data_dir(data)
        assert [u.id for u in utterances] == [f"de{split}-de-{split}_de{k}" for k in range(3)]
        assert {u.speaker for u in utterances} == {f"de{split}"}
        for k, utterance in enumerate(utterances):
            assert utterance.text == f"Satz de de{split}-{split}_de{k}"
            assert utterance.translations == {"en": f"Sentence de{split}-{split}_de{k}"}
            level = float(np.median(read_clip(utterance.wav)))
            assert level == pytest.approx(0.01 * (10 * number + k + 1), abs=1e-4)
    format_corpus(tmp_path / "data", tmp_path / "made", ["de"], SPLITS, FormatOptions())
    assert len(read_data_dir(tmp_path / "made/de/train")) == 3


def test_the_language_of_each_utterance(tmp_path):
    dirs = []
    for split in SPLITS:
        path = write_dir(tmp_path / f"dump/raw/{split}", clips=4, speakers=[f"a{split}", split])
        keys = lines_of(path / "wav.scp")
        write_lines(path / "utt2lang", {k: ("de", "es")[k.startswith("a")] for k in keys})
        dirs.append(path)
    reports = run(tmp_path, *dirs)
    assert [report["lang"] for report in reports] == ["de", "es"]
    assert all(report["splits"]["dev"]["clips"] == 2 for report in reports)
    assert {u.speaker for u in read_data_dir(tmp_path / "data/es/test")} == {"atest"}
    (report,) = run(tmp_path / "one", *dirs, langs=["es"])
    assert report["lang"] == "es"


def test_a_said_language_may_be_spelt_otherwise_in_utt2lang(tmp_path):
    dirs = write_dirs(tmp_path / "dump")
    for path in dirs:
        write_lines(path / "utt2lang", dict.fromkeys(lines_of(path / "wav.scp"), "deu"))
    (report,) = run(tmp_path, *(f"de={path}" for path in dirs))
    assert report["lang"] == "de"
    write_lines(dirs[0] / "utt2lang", dict.fromkeys(lines_of(dirs[0] / "wav.scp"), "es"))
    with refusal("2 other_name", "'es'", f"de/train={dirs[0]}"):
        run(tmp_path, *(f"de={path}" for path in dirs))


def test_segments(tmp_path):
    dirs = write_dirs(tmp_path / "dump", kind="wav", seconds=1)
    keys = list(lines_of(dirs[0] / "wav.scp"))
    write_lines(dirs[0] / "wav.scp", {"r1": lines_of(dirs[0] / "wav.scp")[keys[0]]})
    write_lines(dirs[0] / "segments", {keys[0]: "r1 0 0.5", keys[1]: "r1 0.5 -1"})
    run(tmp_path, *dirs)
    first, second = read_data_dir(tmp_path / "data/de/train")
    assert (first.piece.start, first.piece.end) == (0, 0.5)
    assert (second.piece.start, second.piece.end) == (0.5, None)


def test_genders_and_lengths(tmp_path):
    dirs = write_dirs(tmp_path / "dump", kind="wav")
    write_lines(dirs[0] / "spk2gender", {"detrain": "f"})
    write_lines(dirs[0] / "utt2dur", dict.fromkeys(lines_of(dirs[0] / "wav.scp"), "0.1"))
    run(tmp_path, *dirs)
    made = read_data_dir(tmp_path / "data/de/train")
    assert {(u.gender, u.duration) for u in made} == {("f", 0.1)}
    write_lines(dirs[0] / "utt2dur", dict.fromkeys(lines_of(dirs[0] / "wav.scp"), "3"))
    with refusal("2 wrong_duration", f"{dirs[0]} detrain-train_de0"):
        run(tmp_path, *dirs)


def test_texts_of_translation_recipes(tmp_path, caplog):
    dirs = write_dirs(tmp_path / "dump")
    for path in dirs:
        keys = lines_of(path / "wav.scp")
        (path / "text").unlink()
        for name in ("text.tc.de", "text.lc.rm.de", "text.lc.en", "text.lc.fr", "text.prev"):
            write_lines(path / name, {key: f"{name} of {key}" for key in keys})
    with caplog.at_level("INFO"):
        run(tmp_path, *dirs)
    (first, _) = read_data_dir(tmp_path / "data/de/train")
    assert first.text == "text.tc.de of detrain-train_de0"
    assert first.translations == {
        "en": "Sentence detrain-train_de0",
        "fr": "text.lc.fr of detrain-train_de0",
    }
    assert "text.lc.en, text.lc.rm.de, text.prev" in caplog.text
    rename = {"text": "text.lc.rm.de", "text.en": "text.lc.en"}
    run(tmp_path, *dirs, rename=rename)
    (first, _) = read_data_dir(tmp_path / "data/de/train")
    assert first.text.startswith("text.lc.rm.de") and first.translations["en"].startswith("text.lc")
    with refusal(dirs[0], "no file text.uc.en", "--rename speaker=x"):
        run(tmp_path, *dirs, rename={"text.en": "text.uc.en", "speaker": "x"})


def test_ids_may_be_shared_by_languages_and_need_not_begin_with_the_speaker(tmp_path):
    german, spanish = write_dirs(tmp_path / "dump"), write_dirs(tmp_path / "dump", "es")
    for path in (*german, *spanish):
        split = path.name.split("_")[0]
        for file in path.iterdir():
            if file.is_file() and file.name not in ("feats_type", "audio_format"):
                renamed = [f"u{k}" for k, _ in enumerate(lines_of(file))]
                values = list(lines_of(file).values())
                write_lines(file, dict(zip(renamed, values, strict=True)))
        write_lines(path / "utt2spk", dict.fromkeys(("u0", "u1"), split))
    run(tmp_path, *german, *spanish)
    ids = {u.id for lang in ("de", "es") for u in read_data_dir(tmp_path / f"data/{lang}/train")}
    assert ids == {"train-de-u0", "train-de-u1", "train-es-u0", "train-es-u1"}


def test_where_relative_paths_begin(tmp_path):
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/x").mkdir()
    (tmp_path / "a/x/1.wav").touch()
    assert folder_of(["x/1.wav", "/abs.wav"], tmp_path / "a/b/c") == tmp_path / "a"
    assert folder_of(["none.ark:3"], tmp_path / "a/b/c") == tmp_path / "a/b/c"
    (tmp_path / "link").symlink_to("a/b/c")
    assert folder_of(["x/1.wav"], tmp_path / "link") == tmp_path / "a"


# --- bad directories ----------------------------------------------------------------------------


def set_line(path: Path, number: int, value: str | None) -> str:
    """Replace the value of a line, or remove the line; return the id."""
    values = lines_of(path)
    key = list(values)[number]
    if value is None:
        del values[key]
    else:
        values[key] = value
    write_lines(path, values)
    return key


@pytest.mark.parametrize(
    ("name", "value", "facts"),
    [
        ("wav.scp", None, ("1 no_audio", "wav.scp")),
        ("wav.scp", "sox x.mp3 -t wav - |", ("1 command", "sox x.mp3")),
        ("wav.scp", "dump/none.flac", ("1 missing_file", "none.flac")),
        ("wav.scp", "raw/train_de/data/wav.ark:999999", ("1 cut_short", "wav.ark:999999")),
        ("wav.scp", "", ("1 no_audio",)),
        ("text", None, ("1 no_text", "no line in text")),
        ("text", "", ("1 empty_text",)),
        ("text", "<deu><asr><notimestamps> Satz", ("1 prompt_in_text",)),
        ("text.tc.en", None, ("1 no_translation", "text.tc.en")),
        ("utt2spk", None, ("1 no_speaker", "utt2spk")),
    ],
)
def test_each_problem_of_an_utterance(tmp_path, name, value, facts):
    dirs = write_dirs(tmp_path / "dump")
    key = set_line(dirs[0] / name, 1, value)
    with refusal(f"{dirs[0]} {key}", *facts):
        run(tmp_path, *dirs)
    assert tree(tmp_path / "data") == ["de/dropped.tsv", "dropped.tsv"]
    (report,) = run(tmp_path, *dirs, strict=False)
    assert report["splits"]["train"]["clips"] == 1


def test_all_problems_of_all_directories_at_once(tmp_path):
    dirs = write_dirs(tmp_path / "dump")
    run(tmp_path, *dirs)
    before = {name: (tmp_path / "data" / name).read_bytes() for name in tree(tmp_path / "data")}
    set_line(dirs[0] / "text", 0, None)
    set_line(dirs[1] / "wav.scp", 0, "cat x.wav |")
    set_line(dirs[2] / "utt2spk", 0, None)
    with (dirs[2] / "text").open("ab") as file:
        file.write(b"detest-x \xff\n")
    with refusal("detrain-train_de0", "dedev-dev_de0", "detest-test_de0", f"{dirs[2]}/text line 3"):
        run(tmp_path, *dirs)
    for name in before.keys() - {"dropped.tsv", "de/dropped.tsv"}:
        assert (tmp_path / "data" / name).read_bytes() == before[name]


@pytest.mark.parametrize("kind", ["flac.ark", "wav.ark"])
@pytest.mark.parametrize("lost", [2, 100, 2000, 4000])
def test_an_ark_file_that_is_cut_short(tmp_path, kind, lost):
    dirs = write_dirs(tmp_path / "dump", clips=4, kind=kind)
    ark = dirs[0] / "data/wav.ark"
    content = ark.read_bytes()
    size = len(content) - min(lost, len(content) * 2 // 3)
    ark.write_bytes(content[:size])
    starts = [int(v.rpartition(":")[2]) for v in lines_of(dirs[0] / "wav.scp").values()]
    lacking = [k for k, end in enumerate([*starts[1:], len(content)]) if end > size + 20]
    lacking = sorted({*lacking, 3})
    with refusal(f"{len(lacking)} cut_short", *(f"detrain-train_de{k}: " for k in lacking)):
        run(tmp_path, *dirs)


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk", "text"])
def test_a_missing_file(tmp_path, name):
    dirs = write_dirs(tmp_path / "dump")
    (dirs[1] / name).unlink()
    with refusal(dirs[1], name):
        run(tmp_path, *dirs)


def test_missing_files_of_several_directories(tmp_path):
    dirs = write_dirs(tmp_path / "dump")
    (dirs[0] / "text").unlink()
    (dirs[2] / "utt2spk").unlink()
    with refusal(f"de/train={dirs[0]}", "no file text", f"de/test={dirs[2]}", "no file utt2spk"):
        run(tmp_path, *dirs)


def test_a_translation_in_place_of_the_transcript(tmp_path):
    dirs = write_dirs(tmp_path / "dump")
    shutil.copy(dirs[0] / "text.tc.en", dirs[0] / "text")
    with refusal(dirs[0], "text is the same as text.tc.en"):
        run(tmp_path, *dirs)


def test_features(tmp_path):
    dirs = write_dirs(tmp_path / "dump")
    (dirs[1] / "feats_type").write_text("fbank_pitch\n")
    with refusal(dirs[1], "fbank_pitch"):
        run(tmp_path, *dirs)
    (dirs[1] / "feats_type").unlink()
    (dirs[1] / "wav.scp").rename(dirs[1] / "feats.scp")
    with refusal(dirs[1], "feats.scp", "wav.scp"):
        run(tmp_path, *dirs)


def test_the_same_sound_in_two_splits(tmp_path):
    dirs = write_dirs(tmp_path / "dump")
    shutil.rmtree(dirs[2])
    shutil.copytree(dirs[0], dirs[2])
    with refusal("also_in_test", dirs[0]):
        run(tmp_path, *dirs)


@pytest.mark.parametrize(
    ("value", "facts"),
    [
        ("r9 0 0.5", ("1 no_audio", "r9")),
        ("r1 0.5 0.1", ("1 bad_segment", "r1 0.5 0.1")),
        ("r1 0 9", ("1 outside_recording",)),
    ],
)
def test_bad_segments(tmp_path, value, facts):
    dirs = write_dirs(tmp_path / "dump", kind="wav", seconds=1)
    keys = list(lines_of(dirs[0] / "wav.scp"))
    write_lines(dirs[0] / "wav.scp", {"r1": lines_of(dirs[0] / "wav.scp")[keys[0]]})
    write_lines(dirs[0] / "segments", {keys[0]: "r1 0 0.5", keys[1]: value})
    with refusal(f"{dirs[0]} {keys[1]}", *facts):
        run(tmp_path, *dirs)


# --- languages and splits -----------------------------------------------------------------------


def test_names_that_tell_nothing(tmp_path):
    dirs = write_dirs(tmp_path / "dump")
    other = write_dir(tmp_path / "dump/raw/part_one")
    third = write_dir(tmp_path / "dump/raw/dev")
    with refusal(f"{other}: which language and split?", f"{third}: which language?", "de/train=",
                 kind=UsageError):  # fmt: skip
        run(tmp_path, other, third, dirs[2])
    (report,) = run(tmp_path, f"de/train={other}", f"de={third}", dirs[2])
    assert report["splits"]["train"]["clips"] == 2


def test_a_split_given_twice(tmp_path):
    dirs = write_dirs(tmp_path / "dump")
    second = dirs[0].parent / "train_all_de"
    shutil.copytree(dirs[0], second)
    with refusal("de/train", dirs[0], second, kind=UsageError):
        run(tmp_path, *dirs, second)
    with refusal("de/train", dirs[0], second, kind=UsageError):
        parse_manifests([f"de/train={dirs[0]}", f"de/train={second}"])
    assert not (tmp_path / "data").exists()


def test_an_unknown_language(tmp_path):
    dirs = write_dirs(tmp_path / "dump")
    write_lines(dirs[0] / "utt2lang", dict.fromkeys(lines_of(dirs[0] / "wav.scp"), "dd"))
    with refusal("2 unknown_language", "'dd'", dirs[0]):
        run(tmp_path, *dirs)
    with refusal("xq", kind=UsageError):
        name_manifests_of(*(f"xq={path}" for path in dirs))


def test_directories_of_other_languages_are_not_read(tmp_path):
    german, spanish = write_dirs(tmp_path / "dump"), write_dirs(tmp_path / "dump", "es")
    (spanish[0] / "text").unlink()
    said = [f"{path.name[-2:]}={path}" for path in (*german, *spanish)]
    (report,) = run(tmp_path, *said, langs=["de"])
    assert report["lang"] == "de" and report["manifests"] == [str(path) for path in german]
    with refusal(spanish[0], "no file text"):
        run(tmp_path, *said, langs=["de", "es"])
    with refusal("--langs", "'fr'", kind=UsageError):
        run(tmp_path, *said[:3], langs=["fr"])


def test_a_folder_of_data_directories(tmp_path):
    run(tmp_path, *write_dirs(tmp_path / "dump"))
    for folder in (tmp_path / "data", tmp_path / "dump/raw"):
        with refusal(folder, "the data directories in this folder"):
            run(tmp_path / "again", folder)


def test_missing_directories(tmp_path):
    with refusal(tmp_path / "x", tmp_path / "y"):
        run(tmp_path, tmp_path / "x", f"de/train={tmp_path / 'y'}")
    (tmp_path / "raw").mkdir()
    with refusal(tmp_path / "raw", "wav.scp"):
        run(tmp_path, tmp_path / "raw")


# --- programs -----------------------------------------------------------------------------------


def name_manifests_of(*words):
    from lors.data.manifest_sources import languages_of

    return languages_of(parse_manifests(words))


def test_the_lines_of_db_sh(tmp_path, capsys, monkeypatch):
    dirs = write_dirs(tmp_path / "du mp")
    monkeypatch.chdir(tmp_path)
    assert name_manifests.main([str(path.relative_to(tmp_path)) for path in dirs]) == 0
    expected = [f"    'de/{split}={path}'" for split, path in zip(SPLITS, dirs, strict=True)]
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["export MANIFEST=(", *expected, ")", "export LANGS=de"]
    assert name_manifests.main([str(path) for path in dirs[:2]]) == 1
    assert "de/test" in capsys.readouterr().err


def test_the_program(tmp_path, capsys):
    dirs = write_dirs(tmp_path / "dump")
    words = ["--out", str(tmp_path / "data"), "--manifest", f"de/train={dirs[0]}"]
    assert prepare_manifest.main([*words, str(dirs[1]), str(dirs[2])]) == 0
    assert any(line.split()[:3] == ["de", "train", "2"] for line in
               capsys.readouterr().out.splitlines())  # fmt: skip
    assert prepare_manifest.main([*words, f"de/train={dirs[1]}"]) == 2
    assert "de/train" in capsys.readouterr().err
