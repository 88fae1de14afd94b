"""The synthetic corpus as files: layout, splits, determinism, resumption, refusals."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from lors.bin import make_espeak_corpus
from lors.config import read_yaml
from lors.data.espeak import audio, corpus, grammar, plan, voices
from tests.refusal import refusal

SIZE = {"num_train": 34, "num_dev": 6, "num_test": 8}
HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"


def settings(out, *languages, condition="domain", **changes):
    return plan.Settings(out, languages, condition, **{**SIZE, **changes})


def files(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def rows(path):
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    names = lines[0].split("\t")
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of two languages, made by two processes."""
    out = tmp_path_factory.mktemp("corpus")
    corpus.make_corpus(settings(out, "de", "sv-SE"), nj=2)
    return out


@pytest.fixture(scope="module")
def german(made):
    directory = made / "cv-corpus-4-2019-12-10" / "de"
    return {path.stem: rows(path) for path in directory.glob("*.tsv")}


def test_layout(made):
    for language in ("de", "sv-SE"):
        directory = made / "cv-corpus-4-2019-12-10" / language
        names = {path.name for path in directory.iterdir()} - {".done"}
        splits = ("validated", "train", "dev", "test", "invalidated", "other", "reported")
        assert names == {"clips", *(f"{split}.tsv" for split in splits)}
        for split in splits[:-1]:
            header = (directory / f"{split}.tsv").read_text(encoding="utf-8").split("\n")[0]
            assert header == HEADER
        reported = (directory / "reported.tsv").read_text(encoding="utf-8")
        assert reported == "sentence\tsentence_id\tlocale\treason\n"
        for clip in (directory / "clips").iterdir():
            assert re.fullmatch(rf"common_voice_{language}_\d{{8,}}\.mp3", clip.name)
    covost = sorted(path.name for path in (made / "covost2").iterdir())
    assert covost == ["covost_v2.de_en.tsv", "covost_v2.sv-SE_en.tsv"]


def test_rows_and_clips_belong_together(made, german):
    clips = {path.name for path in (made / plan.COMMON_VOICE / "de" / "clips").iterdir()}
    listed = [row["path"] for name in ("validated", "other", "invalidated") for row in german[name]]
    assert len(listed) == len(set(listed)) and set(listed) == clips
    assert len(german["other"]) >= 1 and len(german["invalidated"]) >= 1


def test_splits_lie_in_validated_and_are_disjoint(german):
    validated = {row["path"]: row for row in german["validated"]}
    parts = {split: german[split] for split in ("train", "dev", "test")}
    for part in parts.values():
        assert all(validated[row["path"]] == row for row in part)
    assert len(validated) > sum(map(len, parts.values()))
    for column in ("path", "sentence", "client_id"):
        seen = [{row[column] for row in part} for part in parts.values()]
        assert sum(map(len, seen)) == len(set.union(*seen)), column


def test_covost_table(made, german):
    table = rows(made / "covost2" / "covost_v2.de_en.tsv")
    assert list(table[0]) == ["path", "translation", "split"]
    validated = {row["path"]: row["sentence"] for row in german["validated"]}
    counts = {}
    for row in table:
        assert row["path"] in validated
        counts[row["split"]] = counts.get(row["split"], 0) + 1
    assert counts["train"] + counts["train_covost"] == SIZE["num_train"]
    assert counts["train_covost"] >= 1
    assert (counts["dev"], counts["test"]) == (SIZE["num_dev"], SIZE["num_test"])
    own_train = {row["path"] for row in german["train"]}
    assert not own_train & {row["path"] for row in table if row["split"] == "train_covost"}
    assert len({row["path"] for row in table}) == len(table)


def test_sentences_and_translations(made, german):
    """A sentence that begins with a time has a translation that begins with the same time."""
    table = rows(made / "covost2" / "covost_v2.de_en.tsv")
    validated = {row["path"]: row["sentence"] for row in german["validated"]}
    source, english = grammar.load("de"), grammar.load("en")
    day = {
        source.words["times"][key]: english.words["times"][key] for key in english.words["times"]
    }
    checked = 0
    for row in table:
        sentence, translation = validated[row["path"]], row["translation"]
        for text in (sentence, translation):
            assert re.fullmatch(r"[^\W\d_][^\t\n\"{}.]+\.", text) and text[0].isupper()
        for words, meaning in day.items():
            if sentence.lower().startswith(words.lower() + " "):
                assert translation.lower().startswith(meaning.lower() + " ")
                checked += 1
    assert checked > 5


def test_clips_are_mp3_of_the_right_length_and_level(made):
    rates = set()
    for path in (made / plan.COMMON_VOICE).rglob("*.mp3"):
        samples, rate = soundfile.read(path)
        assert soundfile.info(path).format == "MP3" and samples.ndim == 1
        assert audio.MIN_SECONDS <= len(samples) / rate <= 5.0
        assert 0.01 < abs(samples).max() <= 1.0
        rates.add(rate)
    assert rates == {32000, 48000}


def test_same_bytes_with_one_process_and_for_a_part_of_the_languages(made, tmp_path):
    corpus.make_corpus(settings(tmp_path, "sv-SE"), nj=1)
    directory = Path(plan.COMMON_VOICE) / "sv-SE"
    assert files(tmp_path / directory) == files(made / directory)
    assert files(tmp_path / "covost2").items() <= files(made / "covost2").items()


def test_another_seed_is_another_corpus(german, tmp_path):
    chosen = settings(tmp_path, "de", seed=1)
    clips = plan.plan(chosen, "de", voices.load_condition("domain", "de"))
    assert not {clip.speaker.client_id for clip in clips} & {
        row["client_id"] for row in german["validated"]
    }
    assert not {clip.candidates[0].path.name for clip in clips} & {
        row["path"] for row in german["validated"]
    }


def test_a_sentence_has_one_split_in_every_corpus():
    sets = {}
    for seed in range(3):
        for language, condition in (("de", "pool"), ("fr", "domain")):
            chosen = settings(Path("x"), language, condition=condition, seed=seed)
            settled = voices.load_condition(condition, language)
            drawn = plan.draw_sentences(
                chosen, language, settled, {"train": 60, "dev": 60, "test": 60}
            )
            for split, lists in drawn.items():
                texts = {translation for clip in lists for _, translation in clip}
                assert len(texts) > 100
                sets.setdefault(split, set()).update(texts)
    assert not sets["train"] & sets["test"] and not sets["train"] & sets["dev"]
    assert not sets["dev"] & sets["test"]


def test_pool_lacks_words_that_the_domain_has():
    def words(condition, holdout):
        settled = voices.load_condition(condition, "de", vocab_holdout=holdout)
        chosen = settings(Path("x"), "de", condition=condition)
        drawn = plan.draw_sentences(chosen, "de", settled, {"train": 700, "dev": 1, "test": 1})
        texts = [sentence for clip in drawn["train"] for sentence, _ in clip]
        return {word.strip(".").lower() for text in texts for word in text.split()}

    pool, domain = words("pool", 0.2), words("domain", 0.0)
    assert 0.1 < len(domain - pool) / len(domain) < 0.3
    assert len(pool - domain) / len(pool) < 0.05


def test_long_sentences_give_way_to_shorter_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(audio, "MAX_SECONDS", 2.6)
    corpus.make_corpus(settings(tmp_path, "de", num_train=10), nj=1)
    lengths = [soundfile.info(path).duration for path in tmp_path.rglob("*.mp3")]
    assert max(lengths) <= 2.7
    monkeypatch.setattr(audio, "MAX_SECONDS", 0.7)
    with refusal("0.7 s", "rate_wpm"):
        corpus.make_corpus(settings(tmp_path / "b", "de"), nj=1)


def test_rerun_does_nothing_and_needs_no_espeak(made, monkeypatch, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    monkeypatch.setenv("PATH", str(tmp_path))
    corpus.make_corpus(settings(made, "de", "sv-SE"), nj=2)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_other_settings_are_refused(made):
    with refusal("num_train: 34 -> 35", "--out"):
        corpus.make_corpus(settings(made, "de", num_train=35), nj=1)
    with refusal("condition: 'domain' -> 'pool'"):
        corpus.make_corpus(settings(made, "de", condition="pool"), nj=1)


def test_a_real_corpus_is_not_written_over(tmp_path):
    directory = tmp_path / plan.COMMON_VOICE / "de"
    directory.mkdir(parents=True)
    (directory / "train.tsv").write_text("precious\n", encoding="utf-8")
    with refusal(directory, "--out"):
        corpus.make_corpus(settings(tmp_path, "de"), nj=1)
    assert (directory / "train.tsv").read_text(encoding="utf-8") == "precious\n"


def test_interrupted_run_goes_on_to_the_same_result(tmp_path):
    command = [
        *(sys.executable, "-m", "lors.bin.make_espeak_corpus", "--out", str(tmp_path / "a")),
        *("--langs", "de", "--condition", "pool", "--nj", "2"),
        *("--num_train", "60", "--num_dev", "20", "--num_test", "20"),
    ]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    clips = tmp_path / "a" / plan.COMMON_VOICE / "de" / "clips"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if clips.exists() and len(list(clips.glob("common*"))) >= 5:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 130, message
    assert "Traceback" not in message
    some = files(clips)
    assert 5 <= len(some) < 100 and not [name for name in some if name.endswith(".tmp")]
    assert not (clips.parent / ".done").exists()

    with refusal("num_train: 60 -> 61"):
        corpus.make_corpus(plan.Settings(tmp_path / "a", ("de",), "pool", 61, 20, 20), nj=1)
    same = {"condition": "pool", "num_train": 60, "num_dev": 20, "num_test": 20}
    corpus.make_corpus(settings(tmp_path / "a", "de", **same), nj=2)
    finished = files(tmp_path / "a")
    assert files(clips).items() >= some.items()
    assert len(files(clips)) == sum(plan.clip_counts(settings(tmp_path, **same)).values())
    assert ".done" in {Path(name).name for name in finished}


def run(capsys, *arguments):
    with contextlib.suppress(SystemExit):
        code = make_espeak_corpus.main(list(map(str, arguments)))
        return code, capsys.readouterr().err
    return 2, capsys.readouterr().err


def test_command_line(tmp_path, capsys):
    size = ["--num_train", 3, "--num_dev", 1, "--num_test", 1, "--nj", 1]
    arguments = ["--out", tmp_path, "--langs", "es", "--condition", "pool", *size]
    code, message = run(capsys, *arguments)
    assert code == 0, message
    covost = rows(tmp_path / "covost2" / "covost_v2.es_en.tsv")
    assert [row["split"] for row in covost] == ["train"] * 3 + ["dev", "test"]
    before = files(tmp_path)
    code, message = run(capsys, *arguments)
    assert code == 0, message
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "code", "fact"),
    [
        (["--langs", "de", "xx"], 2, "'xx'"),
        (["--langs", "sv"], 2, "did you mean sv-SE"),
        (["--langs", "en"], 2, "'en'"),
        (["--condition", "pond"], 2, "'pond'"),
        (["--num_dev", "0"], 2, "--num_dev"),
        (["--nj", "0"], 2, "--nj"),
        (["--vocab_holdout", "0.9"], 2, "--vocab_holdout"),
    ],
)
def test_wrong_options(tmp_path, capsys, change, code, fact):
    arguments = ["--out", tmp_path, "--langs", "de", "--condition", "pool", *change]
    got, message = run(capsys, *arguments)
    assert got == code and fact in message
    assert not any(tmp_path.iterdir())


def test_no_espeak(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "out"
    code, message = run(capsys, "--out", out, "--langs", "de", "--condition", "pool")
    assert code == 1 and "apt-get install espeak-ng" in message
    assert not out.exists()


def test_start_up_is_light():
    """The program answers at once: no large library is imported."""
    code = "import sys, lors.bin.make_espeak_corpus; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "scipy", "espnet2"} & set(done.stdout.split())


def test_conditions_file_has_every_language_with_a_grammar():
    data = read_yaml(voices.CONDITIONS_FILE)
    assert set(data["voices"]) == set(grammar.languages())
    assert set(data["domain"]) == {"all", *grammar.languages()}
