"""The official split rule, and what is dropped, counted, listed or refused."""

from __future__ import annotations

import json

import pytest
from cv_corpus import Corpus, Row, small_corpus

from lors.data import speakers
from lors.data.corpus_report import format_corpus_reports
from lors.data.covost2 import check_corpus, write_covost2_splits
from lors.data.datadir import read_data_dir, validate_data_dir
from lors.errors import UsageError
from tests.refusal import refusal


def prepare(corpus: Corpus, out, **limits):
    return write_covost2_splits(corpus.common_voice, corpus.covost2, corpus.lang, out, **limits)


def clips_of(path):
    """Clip file names of a data directory."""
    return sorted(utt.wav.rsplit("/", 1)[1] for utt in read_data_dir(path))


def drops_of(path):
    """clip -> (split, reason) of a dropped.tsv."""
    lines = (path / "dropped.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "split\tclip\treason\tdetail"
    return {clip: (split, why) for split, clip, why, _ in (line.split("\t") for line in lines[1:])}


def test_the_official_rule(tmp_path):
    corpus = small_corpus(tmp_path)
    corpus.rows += [
        Row("extra_train.mp3", split="train_covost"),
        Row("extra_dev.mp3", split="dev_covost"),
        Row("extra_test.mp3", split="test_covost"),
        Row("only_in_common_voice.mp3", split=None),
    ]
    report = prepare(corpus.write(), tmp_path / "data")
    names = {split: [row.name for row in corpus.rows if row.split == split] for split in
             ("train", "train_covost", "dev", "test")}  # fmt: skip
    assert clips_of(tmp_path / "data/train") == sorted(names["train"] + names["train_covost"])
    assert clips_of(tmp_path / "data/dev") == names["dev"]
    assert clips_of(tmp_path / "data/test") == names["test"]
    assert report["rows_of_other_splits"] == {"dev_covost": 1, "test_covost": 1}
    assert {split: row["join_rate"] for split, row in report["splits"].items()} == {
        "train": 1.0, "dev": 1.0, "test": 1.0,
    }  # fmt: skip


def test_a_data_directory_has_everything_that_asr_and_st_need(tmp_path):
    corpus = small_corpus(tmp_path, lang="sv-SE")
    corpus.rows[0].sentence = 'Han  sa\u00a0"hej'
    corpus.rows[0].translation = "null"
    prepare(corpus.write(), tmp_path / "data/sv-SE")
    train = tmp_path / "data/sv-SE/train"
    assert validate_data_dir(train, check_audio=True) == []
    utterance = next(u for u in read_data_dir(train) if u.wav.endswith(corpus.rows[0].name))
    assert utterance.text == 'Han sa "hej' and utterance.translations == {"en": "null"}
    assert utterance.lang == "sv-SE" and utterance.wav == str(corpus.clips / corpus.rows[0].name)
    assert utterance.id == f"{utterance.speaker}-sv-SE-100" and len(utterance.speaker) == 12


def test_ids_are_unique_over_languages_and_speakers_are_the_same(tmp_path):
    ids, speakers = [], []
    for lang in ("de", "es"):
        corpus = small_corpus(tmp_path, lang)
        for row in corpus.rows:
            row.client = "one client"
        prepare(corpus.write(), tmp_path / "data" / lang)
        utterances = read_data_dir(tmp_path / "data" / lang / "train")
        ids += [utt.id for utt in utterances]
        speakers += [utt.speaker for utt in utterances]
    assert len(set(ids)) == len(ids) and len(set(speakers)) == 1


def test_clips_of_unknown_speakers_do_not_become_one_speaker(tmp_path):
    corpus = small_corpus(tmp_path)
    for row in corpus.rows:
        row.client = ""
    report = prepare(corpus.write(), tmp_path / "data")
    assert report["splits"]["train"]["speakers"] == 4
    assert report["overlap_with_train"]["test"]["speakers"] == 0


def test_every_drop_is_counted_and_listed_with_its_reason(tmp_path):
    corpus = small_corpus(tmp_path, per_split=40)
    corpus.rows += [
        Row("missing.mp3", audio=None),
        Row("zero.mp3", audio=b""),
        Row("zero_test.mp3", audio=b"", split="test"),
        Row("silent.mp3", sentence="  "),
        Row("untranslated.mp3", translation=""),
        Row("quoted_nothing.mp3", translation='""'),
        Row("../outside.mp3"),
    ]
    corpus.write()
    with corpus.covost_tsv.open("a") as handle:
        handle.write("elsewhere.mp3\tNot in this release\ttrain\nragged.mp3\ttrain\n")
        handle.write("common_voice_de_100.mp3\tThe same row again\ttrain\n")
    report = prepare(corpus, tmp_path / "data")
    drops = drops_of(tmp_path / "data")
    assert drops == {
        "missing.mp3": ("train", "missing_file"),
        "zero.mp3": ("train", "empty_file"),
        "zero_test.mp3": ("test", "empty_file"),
        "silent.mp3": ("train", "empty_text"),
        "untranslated.mp3": ("train", "empty_translation"),
        "quoted_nothing.mp3": ("train", "empty_translation"),
        "../outside.mp3": ("train", "unsafe_name"),
        "elsewhere.mp3": ("train", "not_in_validated"),
        "common_voice_de_100.mp3": ("train", "repeated_row"),
        "-": ("-", "malformed_row"),
    }
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert train["dropped"] == {
        "empty_file": 1, "empty_text": 1, "empty_translation": 2, "missing_file": 1,
        "not_in_validated": 1, "repeated_row": 1, "unsafe_name": 1,
    }  # fmt: skip
    assert train["rows"] == 40 + 6 + 2 and train["clips"] == 40
    assert train["drop_rate"] == pytest.approx(8 / 48)
    assert test["dropped"] == {"empty_file": 1} and test["clips"] == 40
    assert report["malformed_rows"] == {"validated.tsv": 0, "covost_v2.de_en.tsv": 1}
    assert "covost_v2.de_en.tsv line" in (tmp_path / "data/dropped.tsv").read_text()
    assert json.loads((tmp_path / "data/report.json").read_text()) == report
    table = format_corpus_reports([report])
    assert "2 empty_translation" in table and "16.67%" in table and "1 malformed row" in table


def test_dev_and_test_keep_a_clip_without_translation_and_say_so(tmp_path):
    corpus = small_corpus(tmp_path)
    corpus.rows.append(Row("untranslated.mp3", translation='""', split="test", client="new"))
    report = prepare(corpus.write(), tmp_path / "data")
    kept = [u for u in read_data_dir(tmp_path / "data/test") if "untranslated" in u.wav]
    assert len(kept) == 1 and kept[0].translations == {"en": ""} and kept[0].text == "Ein Satz"
    assert report["splits"]["test"]["kept_empty"] == ["untranslated.mp3"]
    assert "kept though empty: 1" in format_corpus_reports([report])


def test_another_release_is_refused(tmp_path):
    corpus = small_corpus(tmp_path, per_split=20).write()
    for row in corpus.rows[:10]:
        row.name = "renamed_" + row.name
    lines = corpus.covost_tsv.read_text()
    corpus.write()
    corpus.covost_tsv.write_text(lines)
    facts = ("train 10 of 20 (50.0%)", "dev 20 of 20 (100.0%)", "95%")
    with refusal(corpus.covost_tsv, *facts, "cv-corpus-4-2019-12-10", "--min_join"):
        prepare(corpus, tmp_path / "data")
    assert not (tmp_path / "data/train").exists()
    report = prepare(corpus, tmp_path / "data", min_join=0.5)
    assert report["splits"]["train"]["clips"] == 10
    assert report["splits"]["train"]["dropped"] == {"not_in_validated": 10}


def test_a_clip_of_the_test_set_is_never_trained_on(tmp_path):
    corpus = small_corpus(tmp_path)
    corpus.write()
    name = corpus.rows[-1].name
    with corpus.covost_tsv.open("a") as handle:
        handle.write(f"{name}\tAgain\ttrain\n")
    report = prepare(corpus, tmp_path / "data")
    assert name in clips_of(tmp_path / "data/test")
    assert name not in clips_of(tmp_path / "data/train")
    assert report["splits"]["train"]["dropped"] == {"also_in_test": 1}


def test_overlap_between_train_and_test_is_reported(tmp_path):
    corpus = small_corpus(tmp_path)
    train, test = corpus.rows[0], corpus.rows[-1]
    test.sentence, test.client = train.sentence, train.client
    report = prepare(corpus.write(), tmp_path / "data")
    assert report["overlap_with_train"]["test"] == {
        "sentences": 1, "of_sentences": 4, "speakers": 1, "of_speakers": 4,
    }  # fmt: skip
    assert report["overlap_with_train"]["dev"]["sentences"] == 0


def test_clips_that_are_not_unpacked_are_refused_but_listed(tmp_path):
    corpus = small_corpus(tmp_path, per_split=10)
    for row in corpus.rows[:2]:
        row.audio = None
    corpus.write()
    with refusal("de train", "2 of 10", tmp_path / "data/dropped.tsv", "--max_bad_audio"):
        prepare(corpus, tmp_path / "data")
    assert len(drops_of(tmp_path / "data")) == 2
    assert prepare(corpus, tmp_path / "data", max_bad_audio=0.2)["splits"]["train"]["clips"] == 8


def test_an_incomplete_translation_file_is_refused(tmp_path):
    corpus = small_corpus(tmp_path)
    corpus.rows = [row for row in corpus.rows if row.split != "dev"]
    with refusal("dev", corpus.covost_tsv):
        prepare(corpus.write(), tmp_path / "data")
    corpus.covost_tsv.write_bytes(b"")
    with refusal(corpus.covost_tsv):
        prepare(corpus, tmp_path / "data")


def test_a_table_of_mostly_malformed_rows_is_refused(tmp_path):
    corpus = small_corpus(tmp_path).write()
    with corpus.covost_tsv.open("a") as handle:
        handle.write("one field only\n" * 5)
    with refusal(corpus.covost_tsv, 5, 12, "line 14"):
        prepare(corpus, tmp_path / "data")


def test_a_split_without_any_clip_left_is_refused(tmp_path):
    corpus = small_corpus(tmp_path)
    for row in corpus.rows[:4]:
        row.translation = ""
    with refusal("de train", "4 empty_translation", tmp_path / "data/dropped.tsv"):
        prepare(corpus.write(), tmp_path / "data")


def test_two_clients_are_never_made_one_speaker(tmp_path, monkeypatch):
    monkeypatch.setattr(speakers, "speaker_id", lambda client: "0123")
    with refusal("0123", "SPEAKER_DIGITS"):
        prepare(small_corpus(tmp_path).write(), tmp_path / "data")


def test_missing_files_of_all_languages_are_named_at_once(tmp_path):
    corpus = small_corpus(tmp_path).write()
    other = small_corpus(tmp_path, lang="fr").write()
    other.covost_tsv.unlink()
    corpus.validated.unlink()
    with refusal(corpus.validated, other.covost_tsv):
        check_corpus(corpus.common_voice, corpus.covost2, ["de", "fr"])


def test_an_unknown_language_and_a_wrong_folder_are_refused(tmp_path):
    corpus = small_corpus(tmp_path, lang="sv-SE").write()
    with refusal("'sv'", "sv-SE", kind=UsageError):
        check_corpus(corpus.common_voice, corpus.covost2, ["sv"])
    with refusal(tmp_path / "nowhere"):
        check_corpus(tmp_path / "nowhere", corpus.covost2, ["sv-SE"])
    check_corpus(corpus.common_voice, corpus.covost2, ["sv-SE"])


def test_gender_of_speakers_where_it_is_known(tmp_path):
    corpus = small_corpus(tmp_path, per_split=5)
    train = corpus.rows[:5]
    for row, gender in zip(
        train, ("male", "female_feminine", "other", "male", "female"), strict=True
    ):
        row.gender = gender
    train[4].client = train[3].client  # a client with two genders
    prepare(corpus.write(), tmp_path / "data")
    path = tmp_path / "data/train"
    speaker = {utt.wav.rsplit("/", 1)[1]: utt.speaker for utt in read_data_dir(path)}
    expected = {speaker[train[0].name]: "m", speaker[train[1].name]: "f"}
    lines = (path / "spk2gender").read_text().splitlines()
    assert dict(line.split() for line in lines) == expected and lines == sorted(lines)
    assert not (tmp_path / "data/dev/spk2gender").exists()


def test_a_release_without_the_column_gender(tmp_path):
    corpus = small_corpus(tmp_path).write()
    corpus.validated.write_text(corpus.validated.read_text().replace("gender", "sex", 1))
    prepare(corpus, tmp_path / "data")
    assert validate_data_dir(tmp_path / "data/train") == []


def test_translation_out_of_english(tmp_path):
    corpus = small_corpus(tmp_path, "en")
    corpus.target = "zh-CN"
    corpus.write()
    check_corpus(corpus.common_voice, corpus.covost2, ["en"], "zh-CN")
    report = prepare(corpus, tmp_path / "data", target="zh-CN")
    assert report["target"] == "zh-CN"
    utterances = read_data_dir(tmp_path / "data/train")
    assert all(set(utt.translations) == {"zh-CN"} for utt in utterances)
    assert (tmp_path / "data/train/text.zh-CN").exists()
    with refusal("'de'", kind=UsageError):
        check_corpus(corpus.common_voice, corpus.covost2, ["de"], "zh-CN")
