"""A user's own corpus: every kind of manifest, and every kind of problem."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys
import time
import wave
from pathlib import Path

import pytest

from lors.bin import prepare_manifest as command
from lors.data.datadir import read_data_dir, read_scp, validate_data_dir
from lors.data.manifest import format_manifest_reports, prepare_manifest
from lors.data.manifest_names import Manifest
from lors.errors import UsageError, pip_install
from tests.refusal import refusal

PACKAGES = Path(__file__).parents[2] / ".test_packages"  # of tests/run.sh
SPLITS = ("train", "dev", "test")
COLUMNS = ("audio", "lang", "speaker", "text", "translation", "split", "duration", "gender")


def write_wav(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(b"\0\0" * int(16000 * seconds))
    return path


def good_rows(folder: Path, lang: str = "de") -> list[dict[str, str]]:
    """Two clips in each split, by a speaker of its own, with their files."""
    rows = []
    for number, split in enumerate(SPLITS):
        for clip in range(2):
            audio = f"clips/{lang}_{split}_{clip}.wav"
            write_wav(folder / audio)
            values = (audio, lang, f"{lang}{number}", f"Satz {split} {clip}", "a sentence", split)
            rows.append(dict(zip(COLUMNS, (*values, "0.1", "f"), strict=True)))
    return rows


def write_tsv(path: Path, rows: list[dict[str, str]]) -> Path:
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


WRITERS = {"tsv": write_tsv, "csv": write_csv, "jsonl": write_jsonl}


def dropped(folder: Path) -> list[list[str]]:
    lines = (folder / "dropped.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "split\tclip\treason\tdetail"
    return [line.split("\t") for line in lines[1:]]


# --- what is good -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_gives_the_same_data_directories(tmp_path, kind):
    rows = good_rows(tmp_path)
    rows[0]["text"] = 'sagte "null", NA und \\n'
    (report,) = prepare_manifest(WRITERS[kind](tmp_path / f"own.{kind}", rows), tmp_path / "data")
    for split in SPLITS:
        assert validate_data_dir(tmp_path / "data/de" / split, check_audio=True) == []
        assert report["splits"][split]["clips"] == report["splits"][split]["rows"] == 2
    first = read_data_dir(tmp_path / "data/de/train")[0]
    assert first.id == "de0-de-clips_de_train_0" and first.speaker == "de0"
    assert first.text == 'sagte "null", NA und \\n' and first.translations == {"en": "a sentence"}
    assert first.wav == str(tmp_path / "clips/de_train_0.wav") and first.duration == 0.1
    assert read_scp(tmp_path / "data/de/train/spk2gender") == {"de0": "f"}
    assert read_scp(tmp_path / "data/de/train/utt2lang") == dict.fromkeys(
        ("de0-de-clips_de_train_0", "de0-de-clips_de_train_1"), "de"
    )
    written = json.loads((tmp_path / "data/de/report.json").read_text())
    assert written == report and report["splits"]["train"]["hours"] == round(0.2 / 3600, 4)
    assert dropped(tmp_path / "data/de") == dropped(tmp_path / "data") == []


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_byte_order_mark_and_windows_line_ends(tmp_path, kind):
    manifest = WRITERS[kind](tmp_path / f"own.{kind}", good_rows(tmp_path))
    text = manifest.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    manifest.write_bytes(b"\xef\xbb\xbf" + text)
    (report,) = prepare_manifest(manifest, tmp_path / "data")
    assert report["splits"]["train"]["clips"] == 2
    assert read_data_dir(tmp_path / "data/de/test")[0].text == "Satz test 0"


def test_only_what_is_required(tmp_path):
    """No translation, speaker, gender or duration; nested translations in JSON."""
    rows = good_rows(tmp_path)
    bare = [{name: row[name] for name in ("audio", "lang", "text", "split")} for row in rows]
    (report,) = prepare_manifest(write_tsv(tmp_path / "own.tsv", bare), tmp_path / "data")
    names = {file.name for file in (tmp_path / "data/de/train").iterdir()}
    assert names == {"wav.scp", "utt2spk", "spk2utt", "utt2lang", "text"}
    assert report["unknown_speakers"] == 6 and report["splits"]["train"]["hours"] is None
    nested = [row | {"translations": {"fr": "une phrase", "en": "one"}} for row in bare]
    prepare_manifest(write_jsonl(tmp_path / "own.jsonl", nested), tmp_path / "data")
    first = read_data_dir(tmp_path / "data/de/train")[0]
    assert first.translations == {"en": "one", "fr": "une phrase"}


def test_other_names_of_columns_and_one_language(tmp_path, capsys):
    rows = good_rows(tmp_path)
    theirs = [
        {"path": r["audio"], "client": r["speaker"], "sentence": r["text"], "set": r["split"]}
        for r in rows
    ]
    manifest = write_csv(tmp_path / "own.csv", theirs)
    words = ["--manifest", f"de={manifest}", "--out", str(tmp_path / "data")]
    rename = ["audio=path", "text=sentence", "speaker=client", "split=set"]
    assert command.main([*words, "--rename", *rename]) == 0
    table = capsys.readouterr().out
    assert any(line.split()[:4] == ["de", "train", "2", "2"] for line in table.splitlines())
    assert read_data_dir(tmp_path / "data/de/dev")[0].speaker == "de1"
    assert command.main([*words, "--rename", *rename[1:], "audio=pth"]) == 1
    error = capsys.readouterr().err
    assert "'pth'" in error and "near: path" in error
    assert command.main([*words, "--rename", "texd=sentence"]) == 2
    error = capsys.readouterr().err
    assert "'texd'" in error and "did you mean text" in error


def test_languages_are_chosen_and_others_left_alone(tmp_path):
    rows = good_rows(tmp_path) + good_rows(tmp_path, "sv-SE")
    rows[-1]["text"] = ""  # not asked for: no problem of this preparation
    rows[-1]["audio"] = "none.wav"
    manifest = write_tsv(tmp_path / "own.tsv", rows)
    reports = prepare_manifest(manifest, tmp_path / "data", ["de"])
    assert [report["lang"] for report in reports] == ["de"]
    assert not (tmp_path / "data/sv-SE").exists()
    with refusal("'es'", "de, sv-SE", manifest, kind=UsageError):
        prepare_manifest(manifest, tmp_path / "data", langs=["de", "es"])


def test_a_language_with_any_code(tmp_path):
    manifest = write_tsv(tmp_path / "own.tsv", good_rows(tmp_path, "tlh"))
    with refusal("'tlh'", "unknown_language"):
        prepare_manifest(manifest, tmp_path / "data")
    (report,) = prepare_manifest(manifest, tmp_path / "data", ["tlh"])
    assert report["lang"] == "tlh"


def test_names_that_need_changes_stay_apart(tmp_path):
    rows = good_rows(tmp_path)
    for row, speaker in zip(rows, ["a b", "a/b", "c-d", "c_d", "ä", "ä"], strict=True):
        row["speaker"], row["split"] = speaker, row["split"]
    write_wav(tmp_path / "clips with spaces/x y.wav")
    rows[0]["audio"] = "clips with spaces/x y.wav"
    prepare_manifest(write_tsv(tmp_path / "own.tsv", rows), tmp_path / "data")
    for split, count in (("train", 2), ("dev", 2), ("test", 1)):
        path = tmp_path / "data/de" / split
        assert validate_data_dir(path, check_audio=True) == []
        assert len(read_scp(path / "spk2utt")) == count


def test_the_same_input_gives_the_same_bytes(tmp_path):
    manifest = write_tsv(tmp_path / "own.tsv", good_rows(tmp_path))
    contents = []
    for _ in range(2):
        prepare_manifest(manifest, tmp_path / "data")
        files = sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file())
        contents.append([(path, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


# --- bad rows -----------------------------------------------------------------------------------


def audio_that_is(kind: str, folder: Path) -> str:
    """The path of an audio file with something wrong."""
    if kind == "directory":
        (folder / "clips/dir.wav").mkdir(parents=True, exist_ok=True)
        return "clips/dir.wav"
    (folder / "clips").mkdir(exist_ok=True)
    (folder / "clips/empty.wav").touch()
    return {"empty": "clips/empty.wav", "missing": "clips/none.wav", "pipe": "sox x - |"}[kind]


BAD = {  # reason -> what makes a good row of train bad
    "missing_file": {"audio": "missing"},
    "is_directory": {"audio": "directory"},
    "empty_file": {"audio": "empty"},
    "unsafe_name": {"audio": "pipe"},
    "missing_value": {"lang": ""},
    "unknown_language": {"lang": "dee"},
    "unknown_split": {"split": "trian"},
    "empty_text": {"text": "  "},
    "empty_translation": {"translation": ""},
    "bad_duration": {"duration": "-1"},
    "wrong_duration": {"duration": "3"},
}


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize("reason", BAD)
def test_bad_rows(tmp_path, kind, reason):
    rows = good_rows(tmp_path)
    changes = dict(BAD[reason])
    if "audio" in changes:
        changes["audio"] = audio_that_is(changes["audio"], tmp_path)
    rows[1] |= changes
    manifest = WRITERS[kind](tmp_path / f"own.{kind}", rows)
    line = 2 if kind == "jsonl" else 3
    with refusal(manifest, f"own.{kind} line {line}: ", reason, "--strict false"):
        prepare_manifest(manifest, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("wav.scp"))

    reports = prepare_manifest(manifest, tmp_path / "data", strict=False)
    assert [report["splits"]["train"]["clips"] for report in reports] == [1]
    where = tmp_path / "data" / ("" if "lang" in changes else "de")
    assert [row[2] for row in dropped(where)] == [reason]
    assert f"line {line}" in dropped(where)[0][3]
    train = reports[0]["splits"]["train"]
    if "lang" in changes:
        assert reports[0]["malformed_rows"] == {reason: 1}
    elif "split" in changes:
        assert reports[0]["dropped_of_no_split"] == {reason: 1}
    else:
        assert train["dropped"] == {reason: 1} and train["drop_rate"] == 0.5
    assert f"1 {reason}" in format_manifest_reports(reports)


def test_near_matches_of_values(tmp_path):
    rows = good_rows(tmp_path)
    rows[0]["split"], rows[2]["lang"] = "trian", "de_DE"
    with refusal("'trian', near: train", "'de_DE', near: de"):
        prepare_manifest(write_tsv(tmp_path / "own.tsv", rows), tmp_path / "data")


@pytest.mark.parametrize(
    ("raw", "reason", "facts"),
    [
        (b"a.wav\tde\ts\tf\xfcr\tx\ttrain\t1\tf", "not_utf8", ["0xfc"]),
        (b"a.wav\tde\ts\tein\tSatz\tx\ttrain\t1\tf", "wrong_fields", ["9 fields", "tab"]),
        (b"a.wav\tde", "wrong_fields", ["2 fields", 8]),
    ],
)
def test_rows_that_cannot_be_read(tmp_path, raw, reason, facts):
    manifest = write_tsv(tmp_path / "own.tsv", good_rows(tmp_path))
    lines = manifest.read_bytes().splitlines()
    manifest.write_bytes(b"\r\n".join([*lines[:3], raw, *lines[3:]]))
    with refusal("own.tsv line 4: ", reason, *facts):
        prepare_manifest(manifest, tmp_path / "data")
    (report,) = prepare_manifest(manifest, tmp_path / "data", strict=False)
    assert report["malformed_rows"] == {reason: 1}
    assert [row[2] for row in dropped(tmp_path / "data")] == [reason]


def test_an_unbalanced_quote_damages_one_row_of_csv_only(tmp_path):
    manifest = write_csv(tmp_path / "own.csv", good_rows(tmp_path))
    text = manifest.read_text().replace("Satz train 1", '"Satz train 1')
    manifest.write_text(text)
    with refusal("own.csv line 3: "):
        prepare_manifest(manifest, tmp_path / "data")
    (report,) = prepare_manifest(manifest, tmp_path / "data", strict=False)
    assert report["malformed_rows"] == {"bad_quotes": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "bad_json"),
        ("[1]", "bad_json"),
        ('{"audio": ["a"]}', "bad_json"),
        ('{"translations": "x"}', "missing_value"),
        ("{}", "missing_value"),
        ("[" * 200_000, "bad_json"),
        ('{"a":' * 200_000, "bad_json"),
        ('{"text": "\\ud800", "audio": "x"}', "not_utf8"),
        ('{"\\udc00": "x"}', "not_utf8"),
        ('{"text": "a", "text": "b"}', "bad_json"),
        ('{"text": true}', "bad_json"),
        ('\ufeff{"text": "x"}', "bad_json"),
    ],
)
def test_bad_json(tmp_path, line, reason):
    manifest = write_jsonl(tmp_path / "own.jsonl", good_rows(tmp_path))
    with manifest.open("a", encoding="utf-8") as handle:
        handle.write(f"{line}\n")
    with refusal("own.jsonl line 7: ", reason):
        prepare_manifest(manifest, tmp_path / "data")
    (report,) = prepare_manifest(manifest, tmp_path / "data", strict=False)
    assert report["malformed_rows"][reason] >= 1
    assert all("line 7: " in row[3] for row in dropped(tmp_path / "data"))


def test_numbers_of_json_keep_their_spelling(tmp_path):
    manifest = write_jsonl(tmp_path / "own.jsonl", good_rows(tmp_path))
    manifest.write_text(manifest.read_text().replace('"Satz train 0"', "1e5"))
    prepare_manifest(manifest, tmp_path / "data")
    assert read_data_dir(tmp_path / "data/de/train")[0].text == "1e5"


@pytest.mark.parametrize("audio", ["/", ".", "..", "/dev/zero", "x\0y", "x" * 5000])
def test_audio_that_is_no_file(tmp_path, audio):
    rows = [*good_rows(tmp_path), good_rows(tmp_path)[0] | {"audio": audio}]
    manifest = write_jsonl(tmp_path / "own.jsonl", rows)
    with refusal("own.jsonl line 7: "):
        prepare_manifest(manifest, tmp_path / "data")
    (report,) = prepare_manifest(manifest, tmp_path / "data", strict=False)
    assert report["splits"]["train"]["clips"] == 2


def test_a_blank_id_is_no_id(tmp_path):
    rows = [{"id": f"x{number}"} | row for number, row in enumerate(good_rows(tmp_path))]
    rows[2]["id"], rows[3]["id"] = " ", "\u00a0"
    rows[2]["speaker"] = " "
    prepare_manifest(write_tsv(tmp_path / "own.tsv", rows), tmp_path / "data")
    keys = [utterance.id for utterance in read_data_dir(tmp_path / "data/de/dev")]
    assert sorted(keys) == ["clips_de_dev_0-de-clips_de_dev_0", "de1-de-clips_de_dev_1"]


@pytest.mark.parametrize("column", ["lang", "split", "audio"])
def test_a_value_of_white_space_is_missing(tmp_path, column):
    rows = good_rows(tmp_path)
    rows[0][column] = " "
    manifest = write_tsv(tmp_path / "own.tsv", rows)
    with refusal("own.tsv line 2: ", "missing_value"):
        prepare_manifest(manifest, tmp_path / "data")


def test_all_splits_are_written_or_none(tmp_path, monkeypatch):
    manifest = write_tsv(tmp_path / "own.tsv", good_rows(tmp_path) + good_rows(tmp_path, "es"))
    prepare_manifest(manifest, tmp_path / "data")
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*/*/*")}
    changed = manifest.read_text().replace("Satz", "Anderes")
    manifest.write_text(changed)
    calls = []

    def full_disk(descriptor):
        calls.append(descriptor)
        if len(calls) == 30:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        prepare_manifest(manifest, tmp_path / "data")
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*/*/*")} == before


def test_repeated_ids_and_clips(tmp_path):
    rows = [{"id": str(number), **row} for number, row in enumerate(good_rows(tmp_path))]
    rows[1]["id"] = "0"  # the same speaker's, in train
    rows[3]["audio"] = rows[2]["audio"]  # within dev
    rows[0]["audio"] = rows[4]["audio"]  # test and train: test keeps it
    manifest = write_tsv(tmp_path / "own.tsv", rows)
    with refusal() as refused:
        prepare_manifest(manifest, tmp_path / "data")
    for line, other, reason in (
        (3, 2, "repeated_id"),
        (5, 4, "repeated_audio"),
        (2, 6, "also_in_test"),
    ):
        assert any(
            problem.startswith(f"own.tsv line {line}: ")
            and problem.endswith(f"own.tsv line {other} ({reason})")
            for problem in refused.value.got
        )
    with refusal("de train", "2 rows", manifest):
        prepare_manifest(manifest, tmp_path / "data", strict=False)


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path):
    rows = good_rows(tmp_path) * 30
    for number, row in enumerate(rows):
        rows[number] = row | {"audio": f"none{number}.wav"}
    with refusal("180 missing_file", "130 more") as refused:
        prepare_manifest(write_tsv(tmp_path / "own.tsv", rows), tmp_path / "data")
    message = str(refused.value)
    assert message.index("line 9:") < message.index("line 10:")
    assert len(dropped(tmp_path / "data/de")) == 180


@pytest.mark.parametrize(
    ("stated", "gender"),
    [
        ("male_masculine", "m"),
        ("Female_Feminine", "f"),
        ("M", "m"),
        ("", None),
        ("?", None),
        ("transgender", None),
        ("non-binary", None),
        ("intersex", None),
        ("do_not_wish_to_say", None),
    ],
)
def test_gender_is_known_or_unknown_and_never_a_problem(tmp_path, stated, gender):
    rows = [row | {"gender": stated} for row in good_rows(tmp_path)]
    (report,) = prepare_manifest(write_tsv(tmp_path / "own.tsv", rows), tmp_path / "data")
    for split in SPLITS:
        assert report["splits"][split]["clips"] == 2
        assert {clip.gender for clip in read_data_dir(tmp_path / "data/de" / split)} == {gender}


def test_gender_that_changes_is_unknown(tmp_path):
    rows = good_rows(tmp_path)
    rows[1]["gender"] = "male"
    prepare_manifest(write_tsv(tmp_path / "own.tsv", rows), tmp_path / "data")
    assert [clip.gender for clip in read_data_dir(tmp_path / "data/de/train")] == [None, None]
    assert read_data_dir(tmp_path / "data/de/dev")[0].gender == "f"


def test_dev_and_test_keep_what_is_empty(tmp_path):
    rows = good_rows(tmp_path)
    rows[2]["text"] = rows[4]["translation"] = ""
    (report,) = prepare_manifest(write_tsv(tmp_path / "own.tsv", rows), tmp_path / "data")
    for split in ("dev", "test"):
        assert report["splits"][split]["clips"] == 2
        assert len(report["splits"][split]["kept_empty"]) == 1


def test_overlap_is_reported_and_not_refused(tmp_path, capsys):
    rows = good_rows(tmp_path)
    rows[4]["speaker"], rows[4]["text"] = rows[0]["speaker"], rows[0]["text"]
    manifest = write_tsv(tmp_path / "own.tsv", rows)
    assert command.main(["--manifest", str(manifest), "--out", str(tmp_path / "data")]) == 0
    assert "test shares with train: 1 of 2 sentences, 1 of 2 speakers" in capsys.readouterr().out


# --- bad files ----------------------------------------------------------------------------------


def test_missing_columns_with_near_matches(tmp_path):
    rows = [
        {"Audio": r["audio"], "language": r["lang"], "texts": r["text"], "speakr": r["speaker"]}
        for r in good_rows(tmp_path)
    ]
    manifest = write_tsv(tmp_path / "own.tsv", rows)
    with refusal(manifest) as refused:
        prepare_manifest(manifest, tmp_path / "data", strict=False)
    *problems, columns = refused.value.got
    names = (
        ("'audio'", "near: Audio"),
        ("'lang'", "near: language"),
        ("'text'", "near: texts"),
        ("'split'", ""),
        ("'speakr'", "'speaker'"),
    )
    for problem, facts in zip(problems, names, strict=True):
        assert all(fact in problem for fact in facts)
    assert "Audio, language, texts, speakr" in columns


def test_unknown_language_of_translations(tmp_path):
    rows = [row | {"text.enn": "x"} for row in good_rows(tmp_path)]
    with refusal("text.enn, near: "):
        prepare_manifest(write_tsv(tmp_path / "own.tsv", rows), tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "content", "facts"),
    [
        ("own.tsv", b"", []),
        ("own.tsv", b"audio\tlang\ttext\tsplit\n", []),
        ("own.tsv", "audio\tlang\na\tde".encode("utf-16"), ["line 1", "UTF-8"]),
        ("own.csv", b"audio,spr\xe4ch\na.wav,de\n", ["line 1", "0xe4"]),
        ("own.tsv", b"audio\taudio\n", ["audio"]),
        ("own.jsonl", b"\n\n", []),
        ("own.jsonl", b"{\n", ["line 1"]),
    ],
)
def test_files_without_a_readable_row(tmp_path, name, content, facts):
    manifest = tmp_path / name
    manifest.write_bytes(content)
    with refusal(manifest, *facts):
        prepare_manifest(manifest, tmp_path / "data")


def test_no_manifest(tmp_path):
    spreadsheet, folder = tmp_path / "own.xlsx", tmp_path / "folder"
    spreadsheet.write_bytes(b"PK")
    with refusal(spreadsheet, ".tsv, .csv, .jsonl", kind=UsageError):
        prepare_manifest(spreadsheet, tmp_path / "data")
    folder.mkdir()
    (folder / "readme.txt").touch()
    with refusal(folder, "dataset_dict.json"):
        prepare_manifest(folder, tmp_path / "data")
    with refusal(tmp_path / "none.tsv"):
        prepare_manifest(tmp_path / "none.tsv", tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "separator", "kind"),
    [
        ("own.csv", ";", "semicolons"),
        ("own.csv", "\t", ".tsv"),
        ("own.tsv", ",", ".csv"),
        ("own.tsv", ";", "semicolons"),
    ],
)
def test_a_table_with_other_separators(tmp_path, name, separator, kind):
    rows = good_rows(tmp_path)
    lines = [separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    with refusal(tmp_path / name, kind):
        prepare_manifest(tmp_path / name, tmp_path / "data")


HEADER = "audio\tlang\ttext\tsplit\n"
HOSTILE = {
    "columns.tsv": "\t".join(f"c{n}" for n in range(100_000)) + "\n",
    "columns.csv": ",".join(f"c{n}" for n in range(100_000)) + "\n",
    "same.tsv": "\t".join(["c"] * 100_000) + "\n",
    "keys.jsonl": "".join(f'{{"c{n}": 1, "d{n}": 1}}\n' for n in range(20_000)),
    "translations.tsv": HEADER.strip() + "".join(f"\ttext.q{n}" for n in range(900)) + "\nx\n",
    "languages.tsv": HEADER + "".join(f"x\tzq{n}x\tt\ttrain\n" for n in range(20_000)),
    "splits.tsv": HEADER + "".join(f"x\tde\tt\ttr{n}\n" for n in range(20_000)),
    "long.tsv": HEADER + f"{'a' * 3_000_000}\tde\tt\ttrain\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused_soon_and_briefly(tmp_path, name):
    (tmp_path / name).write_text(HOSTILE[name])
    began = time.process_time()
    with refusal(tmp_path / name) as refused:
        prepare_manifest(tmp_path / name, tmp_path / "data")
    assert time.process_time() - began < 10  # comparing all rows with each other takes minutes
    assert len(str(refused.value)) < 10_000


@pytest.mark.parametrize("lang", ["../../de", "/x", "", "..", "d e", "de\n", "\udcff"])
def test_a_language_that_is_no_folder(tmp_path, lang):
    manifest = write_tsv(tmp_path / "own.tsv", good_rows(tmp_path))
    with refusal("--langs", kind=UsageError):
        prepare_manifest(manifest, tmp_path / "data", ["de", lang])
    with refusal("--langs", "de", kind=UsageError):
        prepare_manifest(manifest, tmp_path / "data", ["de", "de"])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["not\udcffutf8", "two\nlines"])
def test_a_folder_whose_name_cannot_be_written(tmp_path, name):
    folder = tmp_path / name
    manifest = write_tsv(tmp_path / "own.tsv", good_rows(tmp_path))
    with refusal(repr(str(folder))):
        prepare_manifest(manifest, folder)
    good_rows(folder)
    inside = write_tsv(folder / "own.tsv", good_rows(folder))
    with refusal(repr(str(inside))):
        prepare_manifest(inside, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_split_without_clips(tmp_path):
    rows = [row for row in good_rows(tmp_path) if row["split"] != "dev"]
    with refusal("de dev", "0 rows"):
        prepare_manifest(write_tsv(tmp_path / "own.tsv", rows), tmp_path / "data", strict=False)


@pytest.mark.parametrize(("words", "code"), [(["--strict", "maybe"], 2), ([], 1)])
def test_exit_codes(tmp_path, capsys, words, code):
    arguments = ["--manifest", str(tmp_path / "none.tsv"), "--out", str(tmp_path / "data"), *words]
    try:
        assert command.main(arguments) == code
    except SystemExit as ended:  # of argparse
        assert ended.code == code
    assert "Traceback" not in capsys.readouterr().err


# --- folders ------------------------------------------------------------------------------------


def write_fleurs(folder: Path) -> Path:
    number = 0
    for lang, words in (("sv_se", "en mening"), ("en_us", "A sentence")):
        for split in SPLITS:
            lines = []
            for sentence in range(2):
                number += 1
                write_wav(folder / lang / "audio" / split / f"{number}.wav")
                key = 10 * SPLITS.index(split) + sentence
                lines.append(f'{key}\t{number}.wav\t{words} "{key}\tx\tx |\t1600\tFEMALE')
            (folder / lang / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_folder_like_fleurs(tmp_path):
    folder = write_fleurs(tmp_path / "fleurs")
    swedish, english = prepare_manifest(folder, tmp_path / "data", ["sv-SE", "en"])[::-1]
    assert swedish["splits"]["train"]["clips"] == english["splits"]["test"]["clips"] == 2
    assert swedish["unknown_speakers"] == 6
    first = read_data_dir(tmp_path / "data/sv-SE/dev")[0]
    assert first.text == 'en mening "10' and first.translations == {"en": 'A sentence "10'}
    assert first.duration == 0.1
    assert read_data_dir(tmp_path / "data/en/dev")[0].translations == {}
    (folder / "sv_se/train.tsv").write_text("only\tfour\tfields\there\n")
    with refusal("sv_se/train.tsv line 1: ", "4 fields", 7):
        prepare_manifest(folder, tmp_path / "data", langs=["sv-SE"])


def test_datasets_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train"]}')
    with refusal(tmp_path / "set", pip_install("pyarrow")):
        prepare_manifest(tmp_path / "set", tmp_path / "data")


@pytest.mark.parametrize(
    "content",
    [
        "[]", "1", "null", '"train"', "{}", '{"splits": null}', '{"splits": 3}',
        '{"splits": "train"}', '{"splits": {"train": 1}}', '{"splits": []}', '{"splits": [1]}',
        '{"splits": [["train"]]}',
        '{"splits": ["train", "train"]}', '{"splits": ["../x"]}', '{"splits": ["/tmp"]}',
        '{"splits": [""]}', '{"splits": [".."]}', "{", "[" * 200_000,
    ],
)  # fmt: skip
def test_an_index_of_datasets_of_the_wrong_shape(tmp_path, content):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/dataset_dict.json").write_text(content)
    with refusal(tmp_path / "set/dataset_dict.json"):
        prepare_manifest(tmp_path / "set", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", "[]"),
        ("state.json", '{"_data_files": null}'),
        ("state.json", '{"_data_files": {"filename": "x"}}'),
        ("state.json", '{"_data_files": ["x.arrow"]}'),
        ("state.json", '{"_data_files": [{"filename": 1}]}'),
        ("state.json", '{"_data_files": [{"filename": "../train/data-00000-of-00002.arrow"}]}'),
        ("dataset_info.json", "[]"),
        ("dataset_info.json", '{"features": ["gender"]}'),
        ("dataset_info.json", '{"features": {"gender": {"_type": "ClassLabel", "names": "mf"}}}'),
        ("dataset_info.json", '{"features": {"gender": {"_type": "ClassLabel"}}}'),
        ("dataset_info.json", '{"features": {"gender": {"_type": "ClassLabel", "names": [1]}}}'),
    ],
)
def test_files_of_datasets_of_the_wrong_shape(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
    folder = write_datasets(tmp_path / "set", embedded=False)
    (folder / "train" / name).write_text(content)
    with refusal(folder / "train" / name):
        prepare_manifest([Manifest(folder, "de")], tmp_path / "data")


def write_datasets(folder: Path, embedded: bool) -> Path:
    """Write a folder as ``DatasetDict.save_to_disk`` does."""
    arrow = pytest.importorskip("pyarrow")
    splits = ("train", "validation", "test")
    for number, split in enumerate(splits):
        clips = [write_wav(folder / f"clips/{split}{clip}.wav") for clip in range(4)]
        audio = [
            {"bytes": clip.read_bytes() if embedded else None, "path": clip.name}
            if embedded
            else {"bytes": None, "path": str(clip)}
            for clip in clips
        ]
        table = arrow.table(
            {
                "id": [7, 7, 8, 8],
                "audio": audio,
                "transcription": [f"Satz {split} {clip}" for clip in range(4)],
                "speaker_id": [number] * 4,
                "gender": [0, 1, 1, -1][:1] * 4,
                "words": [["ein", "Satz"]] * 4,
            }
        )
        part = folder / split
        part.mkdir()
        names = [f"data-0000{shard}-of-00002.arrow" for shard in range(2)]
        for shard, name in enumerate(names):
            with arrow.OSFile(str(part / name), "wb") as file:
                piece = table.slice(2 * shard, 2)
                with arrow.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(piece)
        state = {"_data_files": [{"filename": name} for name in names], "_split": split}
        (part / "state.json").write_text(json.dumps(state))
        features = {"gender": {"names": ["male", "female"], "_type": "ClassLabel"}}
        (part / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


@pytest.mark.parametrize("embedded", [True, False])
def test_a_datasets_folder(tmp_path, monkeypatch, embedded):
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
    folder = write_datasets(tmp_path / "set", embedded)
    rename = {"text": "transcription", "speaker": "speaker_id"}
    options = {"rename": rename}
    with refusal("'text'", "'speaker_id'", "'speaker'"):
        prepare_manifest([Manifest(folder, "de")], tmp_path / "data")
    for _ in range(2):
        (report,) = prepare_manifest([Manifest(folder, "de")], tmp_path / "data", **options)
    assert report["splits"]["dev"]["clips"] == 4
    clips = read_data_dir(tmp_path / "data/de/train")
    assert [clip.text for clip in clips] == [f"Satz train {number}" for number in range(4)]
    assert clips[3].id == "0-de-train_00000003"
    assert Path(clips[3].wav).read_bytes() == (folder / "clips/train3.wav").read_bytes()
    assert read_scp(tmp_path / "data/de/train/spk2gender") == {"0": "m"}
    (folder / "train/data-00001-of-00002.arrow").write_bytes(b"not arrow")
    with refusal(folder / "train/data-00001-of-00002.arrow"):
        prepare_manifest([Manifest(folder, "de")], tmp_path / "data", **options)
    (folder / "train/state.json").write_text("{}")
    with refusal(folder / "train/state.json", "_data_files"):
        prepare_manifest([Manifest(folder, "de")], tmp_path / "data", **options)
