"""Data directories of test speakers and of all others."""

from __future__ import annotations

import dataclasses

import pytest

from lors.bin.split_speakers import main
from lors.data.datadir import Utterance, read_data_dir, validate_data_dir, write_data_dir
from lors.data.speaker_split import (
    SpeakerRule,
    check_split,
    chosen_speakers,
    read_partition,
    split_speakers,
)
from lors.errors import UsageError
from tests.refusal import refusal

SPEAKERS = {
    "de": {"anna": (12, 4, 4), "bert": (6, 0, 0), "carl": (0, 6, 5)},
    "fr": {"fr-june": (8, 2, 2)},
}


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "dump", SPEAKERS)


def write(root, speakers):
    """Write data directories with (train, dev, test) utterances of each speaker."""
    for lang, counts in speakers.items():
        for place, split in enumerate(("train", "dev", "test")):
            utterances = [
                Utterance(f"{name}-{split}{i:02d}", f"/x/{i}.flac", name, lang, f"word {i}")
                for name, numbers in counts.items()
                for i in range(numbers[place])
            ]
            if utterances:
                write_data_dir(root / lang / split, utterances)
    return root


def ids(directory):
    return [u.id for u in read_data_dir(directory)]


def test_speakers_with_most_utterances_and_all_others(source, tmp_path):
    out = tmp_path / "speakers"
    codes = split_speakers(source, ["de"], out, SpeakerRule(adapt=8, dev=4, least_test=8))
    assert codes == ["de-x-anna"]
    parts = [ids(out / "de-x-anna" / split) for split in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [8, 4, 8]
    together = [name for part in parts for name in part]
    assert together == sorted(together)
    others = [u for split in ("train", "dev") for u in read_data_dir(out / "de" / split)]
    assert {u.speaker for u in others} == {"bert", "carl"} and len(others) == 17
    assert len(ids(out / "de" / "dev")) == 1  # the tenth of seventeen
    assert (out / "speakers").read_text() == "de-x-anna\n"
    assert (out / "pretraining").read_text() == "de\n"
    for directory in out.glob("*/*"):
        assert validate_data_dir(directory) == []


def test_every_run_gives_the_same_and_other_settings_are_refused(source, tmp_path):
    out, rule = tmp_path / "speakers", SpeakerRule(adapt=8, dev=4, least_test=8)
    split_speakers(source, ["de"], out, rule)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*") if p.is_file()}
    assert split_speakers(source, ["de"], out, rule) == ["de-x-anna"]
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before}
    with refusal("adapt", "8", "7", "--speakerdir"):
        split_speakers(source, ["de"], out, SpeakerRule(adapt=7, dev=4, least_test=8))
    split_speakers(source, ["de"], tmp_path / "again", rule)
    for path, (_, content) in before.items():
        if path.parent != out:
            assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == content


def test_named_speakers_keep_the_splits_of_the_corpus(source, tmp_path):
    out = tmp_path / "speakers"
    rule = SpeakerRule(speakers=("fr-june",), own_splits=True, least_test=2)
    assert split_speakers(source, ["de", "fr"], out, rule) == ["fr-x-june"]
    assert ids(out / "fr-x-june" / "test") == ids(source / "fr" / "test")
    # The test utterances of the others are not trained on either.
    assert ids(out / "de" / "train") == ids(source / "de" / "train")
    assert ids(out / "de" / "dev") == ids(source / "de" / "dev")
    assert not (out / "fr").exists() and (out / "pretraining").read_text() == "de\n"


@pytest.mark.parametrize(("first", "second"), [("anna", "anna"), ("de-anna", "fr-anna")])
def test_a_test_speaker_is_not_heard_in_another_language(first, second, tmp_path, caplog):
    both = {
        "de": {first: (9, 0, 0), "bert": (4, 0, 0)},
        "fr": {second: (4, 0, 0), "june": (9, 0, 0), "luc": (4, 0, 0)},
    }
    source, rule = write(tmp_path / "dump", both), SpeakerRule(adapt=4, dev=2, least_test=3)
    out = tmp_path / "speakers"
    assert split_speakers(source, ["de", "fr"], out, rule) == ["de-x-anna", "fr-x-june"]
    parts = [(lang, split) for lang in ("de", "fr") for split in ("train", "dev")]
    others = {u.speaker for lang, split in parts for u in read_data_dir(out / lang / split)}
    assert others == {"bert", "luc"}
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.args == (1, "fr-x-anna")
    caplog.clear()
    # Nobody is left out who is tested in both languages.
    named = dataclasses.replace(rule, speakers=(first, second), adapt=1, dev=1, least_test=1)
    found = split_speakers(source, ["de", "fr"], tmp_path / "named", named)
    assert found == ["de-x-anna", "fr-x-anna"] and not caplog.records


def test_few_other_speakers_stay_in_the_pre_training(tmp_path, caplog):
    """Nine utterances or fewer have a dev set too; a language that is left out is named."""
    few = {
        "de": {"anna": (9, 0, 0), "bert": (9, 0, 0)},
        "fr": {"june": (9, 0, 0), "luc": (2, 0, 0)},
        "es": {"ana": (9, 0, 0), "eva": (1, 0, 0)},
        "it": {"carlo": (9, 0, 0)},
    }
    source, out = write(tmp_path / "dump", few), tmp_path / "speakers"
    split_speakers(source, [*few], out, SpeakerRule(adapt=4, dev=2, least_test=3))
    assert (out / "pretraining").read_text() == "de\nfr\n"
    parts = {lang: [len(ids(out / lang / s)) for s in ("train", "dev")] for lang in ("de", "fr")}
    assert parts == {"de": [8, 1], "fr": [1, 1]}
    assert ids(out / "fr/dev") == ["luc-train01"]
    left_out = [record.args[0] for record in caplog.records if record.levelname == "WARNING"]
    assert left_out == ["es", "it"]
    assert not (out / "es").exists() and (out / "es-x-ana").exists()


def test_too_few_utterances_name_every_speaker(source, tmp_path):
    rule = SpeakerRule(speakers=("bert", "carl"), adapt=8, dev=2, least_test=4)
    bert, carl = "bert (de): 6 train, 0 dev, 0 test", "carl (de): 8 train, 2 dev, 1 test"
    with refusal(bert, carl, "4 test"):
        split_speakers(source, ["de"], tmp_path / "out", rule)
    assert not (tmp_path / "out").exists()


def test_unknown_speakers_and_nobody_left(source, tmp_path):
    with refusal("dora", "anna", kind=UsageError):
        split_speakers(source, ["de"], tmp_path / "o", SpeakerRule(speakers=("dora", "anna")))
    rule = SpeakerRule(number=1, adapt=4, dev=2, least_test=2)
    with refusal("pre-train", "1 test speakers of 1"):
        split_speakers(source, ["fr"], tmp_path / "o", rule)
    for langs in (["it"], ["de", "it"]):
        with refusal(source, "it", "stage format") as caught:
            split_speakers(source, langs, tmp_path / "o", rule)
        assert caught.value.facts == ["it"]
    assert not (tmp_path / "o").exists()


def test_a_choice_is_compared_with_the_one_that_was_made(source, tmp_path):
    out = tmp_path / "speakers"
    rule = SpeakerRule(speakers=("anna", "fr-june"), adapt=4, dev=2, least_test=2)
    check_split(out, ["de"], rule)  # nothing is there yet
    assert chosen_speakers(out) is None
    split_speakers(source, ["de", "fr"], out, rule)
    assert chosen_speakers(out) == (["de-x-anna", "fr-x-june"], ["de"])
    check_split(out, ["fr", "de"], rule)
    for langs in (["de"], ["de", "fr", "es"]):
        with refusal(out, "langs", "'de', 'fr'", "--speakerdir"):
            check_split(out, langs, rule)
    for changes in ({"speakers": ("bert",)}, {"adapt": 5}, {"own_splits": True}):
        with refusal(out, *changes, "--speakerdir"):
            check_split(out, ["de", "fr"], dataclasses.replace(rule, **changes))
    (out / ".done").rename(out / ".done.started")  # as a kill leaves it
    assert chosen_speakers(out) is None


def translate(directory):
    """Add translations to a data directory."""
    utterances = [
        dataclasses.replace(u, translations={"en": u.text}) for u in read_data_dir(directory)
    ]
    write_data_dir(directory, utterances)


def test_speakers_without_translations(source, tmp_path):
    """Named before the data is written, and also when it is there; English needs none."""
    write(source, {"en": {"bob": (9, 3, 3), "eve": (4, 2, 2)}})
    out, rule = (
        tmp_path / "speakers",
        SpeakerRule(speakers=("anna",), own_splits=True, least_test=1),
    )
    for split in ("train", "dev", "test"):
        translate(source / "de" / split)
    write(source, {"fr": {"fr-june": (8, 2, 2), "fr-luc": (1, 1, 1)}})
    langs = ["de", "en", "fr"]
    with refusal("fr-june (fr)", "10", "fr-luc (fr)", "text.en", "--tasks asr") as caught:
        split_speakers(source, langs, out, rule, ["asr", "st"])
    assert len(caught.value.facts) == 2 and not out.exists()
    split_speakers(source, langs, out, rule)
    with refusal("fr-june (fr)", "fr-luc (fr)", "--second_russian false"):
        split_speakers(source, langs, out, rule, ["st"])
    codes = split_speakers(source, langs[:2], tmp_path / "both", rule, ["asr", "st"])
    assert codes == split_speakers(source, langs[:2], tmp_path / "both", rule, ["st"])
    assert read_data_dir(tmp_path / "both/de-x-anna/test")[0].translations["en"]


@pytest.mark.parametrize("change", ["translations", "lang", "duration", "gender"])
def test_other_files_of_the_data_are_compared_too(change, source, tmp_path):
    out, rule = tmp_path / "speakers", SpeakerRule(adapt=8, dev=4, least_test=8)
    split_speakers(source, ["de"], out, rule)
    value = {"translations": {"en": "x"}, "lang": "nl", "duration": 2.0, "gender": "f"}[change]
    directory = source / "de" / "dev"
    utterances = read_data_dir(directory)
    write_data_dir(directory, [dataclasses.replace(u, **{change: value}) for u in utterances])
    with refusal("de/dev/", "--speakerdir"):
        split_speakers(source, ["de"], out, rule)


def test_fewer_speakers_than_test_speakers(source, tmp_path):
    rule = SpeakerRule(number=3, adapt=4, dev=1, least_test=1)
    write(source, {"en": {"bob": (9, 3, 3), "eve": (4, 2, 2)}})
    with refusal("3 or more", "--num_speakers", "--test_speakers") as caught:
        split_speakers(source, ["de", "en", "fr"], tmp_path / "o", rule)
    assert caught.value.facts == ["en: 2", "fr: 1"]


def test_an_utterance_in_two_splits(source, tmp_path):
    twice = [Utterance("anna-train00", "/x/0.flac", "anna", "de", "word")]
    write_data_dir(source / "de" / "test", twice)
    with refusal("anna-train00", "train", "test"):
        split_speakers(source, ["de"], tmp_path / "o", SpeakerRule())


def test_partition_by_a_list(source, tmp_path):
    path = tmp_path / "partition.yaml"
    path.write_text("anna: [anna-train02, anna-train05]\n")
    rule = SpeakerRule(partition=read_partition(path), least_test=1)
    out = tmp_path / "out"
    assert split_speakers(source, ["de"], out, rule) == ["de-x-anna"]
    everything = sorted(u for s in ("train", "dev", "test") for u in ids(source / "de" / s))
    everything = [u for u in everything if u.startswith("anna")]
    place = everything.index("anna-train02")
    assert ids(out / "de-x-anna/train") == everything[:place]
    assert ids(out / "de-x-anna/dev") == everything[place : place + 4]
    assert ids(out / "de-x-anna/test") == everything[place + 4 :]
    path.write_text("anna: [anna-train02, anna-train77]\n")
    with refusal("anna-train77", "anna"):
        rule = SpeakerRule(partition=read_partition(path))
        split_speakers(source, ["de"], tmp_path / "o", rule)


def test_some_speakers_of_a_partition(source, tmp_path):
    ends = {"anna": ("anna-train02", "anna-train05"), "bert": ("bert-train02", "bert-train03")}
    rule = SpeakerRule(partition=ends, speakers=("bert",), least_test=1)
    assert split_speakers(source, ["de"], tmp_path / "out", rule) == ["de-x-bert"]
    assert ids(tmp_path / "out/de-x-bert/dev") == ["bert-train02", "bert-train03"]
    others = {u.speaker for u in read_data_dir(tmp_path / "out/de/train")}
    assert others == {"anna", "carl"}
    with refusal("carl", "anna, bert", "--partition", kind=UsageError):
        SpeakerRule(partition=ends, speakers=("carl",))


def test_a_partition_beside_the_splits_of_the_corpus():
    ends = {"anna": ("anna-train02", "anna-train05")}
    with refusal("--partition", "--own_splits", kind=UsageError):
        SpeakerRule(partition=ends, own_splits=True)


@pytest.mark.parametrize("content", ["anna: x\n", "anna: [a]\n", "anna: [1, 2]\n", "{}\n"])
def test_malformed_partition(content, tmp_path):
    path = tmp_path / "partition.yaml"
    path.write_text(content)
    with refusal(path):
        read_partition(path)


def test_program(source, tmp_path, capsys):
    options = ["--data", str(source), "--langs", "de", "--out", str(tmp_path / "o")]
    assert main([*options, "--adapt", "8", "--dev", "4", "--least_test", "8"]) == 0
    assert capsys.readouterr().out == "de-x-anna\n"
    assert main([*options[:-1], str(tmp_path / "p"), "--speakers", "nobody"]) == 2
    assert main([*options[:-1], str(tmp_path / "p"), "--adapt", "50"]) == 1
    assert "anna (de)" in capsys.readouterr().err
    list_ = tmp_path / "partition.yaml"
    list_.write_text("anna: [anna-train02, anna-train05]\nbert: [bert-train02, bert-train03]\n")
    named = [*options[:-1], str(tmp_path / "q"), "--partition", str(list_), "--least_test", "1"]
    assert main([*named, "--speakers", "bert"]) == 0
    assert capsys.readouterr().out == "de-x-bert\n"
    assert main([*named, "--own_splits"]) == 2
    assert main([*named, "--speakers", "bert", "--tasks", "asr", "st"]) == 1
    assert "text.en" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*named, "--number", "1"])
    assert "--number" in capsys.readouterr().err
    for other in (["--partition", str(list_)], ["--own_splits"]):
        for name in ("--adapt", "--dev"):
            with pytest.raises(SystemExit, match="2"):
                main([*options, *other, name, "5"])
            assert name in capsys.readouterr().err
