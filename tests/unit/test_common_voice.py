"""Common Voice's own splits, of old and new releases: nothing of dev or test is trained on."""

from __future__ import annotations

import json

import pytest
from cv_corpus import CV_HEADER

from lors.bin import prepare_common_voice
from lors.data.common_voice import check_release, write_common_voice_splits
from lors.data.common_voice import prepare_common_voice as prepare
from lors.data.datadir import read_data_dir, validate_data_dir
from lors.errors import UsageError
from tests.refusal import refusal

NEW_HEADER = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "variant",
    "locale",
    "segment",
]


def write_release(root, header, lang="de", number=4, other=2):
    """`number` clips of each split, and `other` that are validated and in none."""
    folder = root / lang
    (folder / "clips").mkdir(parents=True)
    rows = {"train": [], "dev": [], "test": [], "validated": []}
    for split in ("train", "dev", "test", "rest"):
        for k in range(number if split != "rest" else other):
            name = f"common_voice_{lang}_{split}{k}.mp3"
            value = {
                "client_id": f"client {split} {k}",
                "path": name,
                "sentence": f"Satz {split} {k}",
                "gender": "female_feminine" if k % 2 else "male",
            }
            row = "\t".join(value.get(column, "") for column in header)
            rows["validated"].append(row)
            if split != "rest":
                rows[split].append(row)
            (folder / "clips" / name).write_bytes(b"x")
    for name, lines in rows.items():
        (folder / f"{name}.tsv").write_text("\n".join(["\t".join(header), *lines, ""]))
    return root


def clips_of(path):
    return sorted(utt.wav.rsplit("/", 1)[1] for utt in read_data_dir(path))


@pytest.mark.parametrize("header", [CV_HEADER, NEW_HEADER, sorted(NEW_HEADER)])
def test_official_splits_of_old_new_and_reordered_columns(tmp_path, header):
    release = write_release(tmp_path / "cv", header)
    report = write_common_voice_splits(release, "de", tmp_path / "data")
    for split in ("train", "dev", "test"):
        path = tmp_path / "data" / split
        assert validate_data_dir(path, check_audio=True) == []
        assert clips_of(path) == [f"common_voice_de_{split}{k}.mp3" for k in range(4)]
        utterance = read_data_dir(path)[0]
        assert utterance.text.startswith(f"Satz {split}") and not utterance.translations
        assert utterance.lang == "de" and utterance.gender in ("m", "f")
    assert report["splits"]["train"]["clips"] == 4
    assert json.loads((tmp_path / "data/report.json").read_text()) == report


def test_validated_loses_dev_and_test_and_reports_shared_sentences(tmp_path):
    release = write_release(tmp_path / "cv", CV_HEADER)
    table = release / "de/validated.tsv"
    # Somebody else reads a sentence of the test set: kept, and reported.
    table.write_text(table.read_text().replace("Satz rest 0", "Satz test 0"))
    report = write_common_voice_splits(release, "de", tmp_path / "data", train="validated")
    taken = clips_of(tmp_path / "data/train")
    assert len(taken) == 4 + 2 and not any("dev" in name or "test" in name for name in taken)
    assert report["splits"]["train"]["dropped"] == {"also_in_dev": 4, "also_in_test": 4}
    assert report["overlap_with_train"]["test"] == {
        "sentences": 1, "of_sentences": 4, "speakers": 0, "of_speakers": 4,
    }  # fmt: skip


def test_a_clip_in_train_and_test_stays_in_test(tmp_path):
    release = write_release(tmp_path / "cv", CV_HEADER)
    test = (release / "de/test.tsv").read_text().splitlines()
    with (release / "de/train.tsv").open("a") as handle:
        handle.write(test[1] + "\n")
    report = write_common_voice_splits(release, "de", tmp_path / "data")
    assert report["splits"]["train"]["dropped"] == {"also_in_test": 1}


def test_missing_folders_languages_and_files_are_named(tmp_path):
    release = write_release(tmp_path / "cv", CV_HEADER)
    check_release(release, ["de"])
    with refusal(tmp_path / "nowhere"):
        check_release(tmp_path / "nowhere", ["de"])
    with refusal("'fr'", "de", release, kind=UsageError):
        check_release(release, ["fr"])
    missing = [release / "de/validated.tsv", release / "de/dev.tsv"]
    for table in missing:
        table.unlink()
    with refusal(*missing):
        check_release(release, ["de"], "validated")


def test_a_table_without_rows_is_refused(tmp_path):
    release = write_release(tmp_path / "cv", CV_HEADER)
    table = release / "de/dev.tsv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    with refusal(table):
        write_common_voice_splits(release, "de", tmp_path / "data")


def test_all_languages_and_the_table(tmp_path, capsys):
    write_release(tmp_path / "cv", CV_HEADER)
    release = write_release(tmp_path / "cv", NEW_HEADER, "sv-SE")
    arguments = ["--common_voice", str(release), "--out", str(tmp_path / "data")]
    assert prepare_common_voice.main([*arguments, "--langs", "de", "sv-SE"]) == 0
    table = capsys.readouterr().out.splitlines()
    for lang in ("de", "sv-SE"):
        assert any(line.split()[:3] == [lang, "train", "4"] for line in table)
    assert prepare_common_voice.main([*arguments, "--langs", "xx"]) == 2
    error = capsys.readouterr().err
    assert "'xx'" in error and "de, sv-SE" in error


def test_a_release_whose_clips_are_named_without_mp3(tmp_path):
    release = write_release(tmp_path / "cv", CV_HEADER)
    write_common_voice_splits(release, "de", tmp_path / "data")
    for table in (release / "de").glob("*.tsv"):
        table.write_text(table.read_text().replace(".mp3", ""))
    report = write_common_voice_splits(release, "de", tmp_path / "other")
    assert report["splits"]["train"]["clips"] == 4
    for split in ("train", "dev", "test"):
        one, other = (read_data_dir(tmp_path / name / split) for name in ("data", "other"))
        assert one == other


def test_malformed_rows_count_for_their_split(tmp_path):
    release = write_release(tmp_path / "cv", CV_HEADER, number=9)
    with (release / "de/dev.tsv").open("ab") as handle:
        handle.write(b"only\ttwo\n")
    with refusal("de dev", "1 of 10", tmp_path / "data/dropped.tsv", "5%"):
        write_common_voice_splits(release, "de", tmp_path / "data", max_bad_audio=0.05)
    report = write_common_voice_splits(release, "de", tmp_path / "data")
    dev = report["splits"]["dev"]
    assert (dev["rows"], dev["clips"], dev["dropped"]) == (10, 9, {"malformed_row": 1})
    assert dev["drop_rate"] == pytest.approx(0.1)
    assert report["splits"]["train"]["rows"] == report["splits"]["train"]["clips"] == 9
    assert "dev\t-\tmalformed_row\tdev.tsv line 11" in (tmp_path / "data/dropped.tsv").read_text()


@pytest.mark.parametrize("stated", ["transgender", "non-binary", "do_not_wish_to_say", "intersex"])
def test_genders_that_kaldi_does_not_have_are_unknown(tmp_path, stated):
    release = write_release(tmp_path / "cv", CV_HEADER)
    for table in (release / "de").glob("*.tsv"):
        table.write_text(table.read_text().replace("female_feminine", stated))
    write_common_voice_splits(release, "de", tmp_path / "data")
    assert {utt.gender for utt in read_data_dir(tmp_path / "data/train")} == {"m", None}


def test_a_folder_in_place_of_a_clip_is_no_clip(tmp_path):
    release = write_release(tmp_path / "cv", CV_HEADER)
    (release / "de/clips/common_voice_de_train0.mp3").unlink()
    (release / "de/clips/common_voice_de_train0.mp3").mkdir()
    report = write_common_voice_splits(release, "de", tmp_path / "data", max_bad_audio=1)
    assert report["splits"]["train"]["dropped"] == {"missing_file": 1}


@pytest.mark.parametrize(
    "words",
    [
        ["--langs", "../../de"],
        ["--langs", "de", "de"],
        ["--langs", "de", "--max_bad_audio", "nan"],
        ["--langs", "de", "--max_bad_audio", "inf"],
        ["--langs", "de", "--max_bad_audio", "2"],
    ],
)
def test_wrong_use(tmp_path, capsys, words):
    release = write_release(tmp_path / "cv", CV_HEADER)
    arguments = ["--common_voice", str(release), "--out", str(tmp_path / "data"), *words]
    try:
        assert prepare_common_voice.main(arguments) == 2
    except SystemExit as ended:  # of argparse
        assert ended.code == 2
    error = capsys.readouterr().err
    assert words[-1] in error and words[-2 if words[1] == "../../de" else 0][:6] in error
    assert not (tmp_path / "data").exists()


def test_a_limit_that_is_no_number(tmp_path):
    release = write_release(tmp_path / "cv", CV_HEADER)
    with refusal("--max_bad_audio", "nan", kind=UsageError):
        prepare(release, ["de"], tmp_path / "data", max_bad_audio=float("nan"))
