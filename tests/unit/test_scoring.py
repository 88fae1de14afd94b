"""Scores of an experiment, and which of them are computed again."""

import json
import os
import time

import pytest
from stand_ins import sentence, translation, write_dump

from lors.bin.score_expdir import main as score_expdir_main
from lors.data.datadir import write_kaldi_text
from lors.recipe import scoring
from lors.recipe.expdir import ExpDir, utterances_file
from lors.recipe.score_tree import read_scores
from lors.recipe.scoring import score_expdir
from lors.tasks import Pair, pairs_of
from tests.refusal import refusal

PAIRS = pairs_of(["de", "es"], ["asr", "st"])
SYSTEMS = ["base", "lors.langs"]


@pytest.fixture
def dump(tmp_path):
    return write_dump(tmp_path / "dump", splits=["test"])


@pytest.fixture
def expdir(tmp_path):
    expdir = ExpDir(tmp_path / "exp")
    for pair in PAIRS:
        text = sentence if pair.task == "asr" else translation
        for system in SYSTEMS:
            said = {f"spk{k}-{pair.lang}-test": text(k, pair.lang) for k in range(3)}
            write_kaldi_text(expdir.hypothesis("test", system, pair), said)
    return expdir


@pytest.fixture
def scored(monkeypatch):
    """The pairs that are scored."""
    pairs, real = [], scoring.score_files

    def counted(task, lang, ref, *rest):
        pairs.append(Pair(ref.parts[-3], task))
        return real(task, lang, ref, *rest)

    monkeypatch.setattr(scoring, "score_files", counted)
    return pairs


def run(expdir, dump, *normaliser):
    score_expdir(expdir, dump, "test", SYSTEMS, PAIRS, *normaliser)


def test_every_system_and_pair_is_scored_once(expdir, dump, scored):
    run(expdir, dump)
    assert scored == [pair for pair in PAIRS for _ in SYSTEMS]
    for pair in PAIRS:
        content = json.loads(expdir.score("test", "base", pair).read_text())
        assert (content["task"], content["lang"]) == (pair.task, pair.lang)
        assert content["hyp"] == str(expdir.hypothesis("test", "base", pair))
        reference = {"asr": "text", "st": "text.en"}[pair.task]
        assert content["ref"] == str(dump / pair.lang / "test" / reference)
        assert content[{"asr": "wer", "st": "bleu"}[pair.task]] == pytest.approx(
            {"asr": 0, "st": 100}[pair.task]
        )
    scored.clear()
    run(expdir, dump)
    assert scored == []


def changed_hypothesis(expdir, dump, monkeypatch):
    path = expdir.hypothesis("test", "base", PAIRS[0])
    path.write_text(path.read_text().replace("one0d", "uno"))


def hypothesis_made_again(expdir, dump, monkeypatch):
    later = time.time() + 60
    os.utime(expdir.hypothesis("test", "base", PAIRS[0]), (later, later))


def removed_score(expdir, dump, monkeypatch):
    expdir.score("test", "base", PAIRS[0]).unlink()


def removed_utterances(expdir, dump, monkeypatch):
    utterances_file(expdir.score("test", "base", PAIRS[0])).unlink()


def damaged_score(expdir, dump, monkeypatch):
    expdir.score("test", "base", PAIRS[0]).write_text("{}")


@pytest.mark.parametrize(
    "change",
    [changed_hypothesis, hypothesis_made_again, removed_score, removed_utterances, damaged_score],
)
def test_a_score_is_computed_again_after_a_change(expdir, dump, scored, monkeypatch, change):
    run(expdir, dump)
    scored.clear()
    change(expdir, dump, monkeypatch)
    run(expdir, dump)
    assert scored == [PAIRS[0]]
    assert json.loads(expdir.score("test", "base", PAIRS[0]).read_text())["utterances"] == 3
    assert utterances_file(expdir.score("test", "base", PAIRS[0])).exists()


def test_all_scores_of_a_changed_reference_or_package_are_computed_again(
    expdir, dump, scored, monkeypatch
):
    run(expdir, dump)
    scored.clear()
    reference = dump / "de" / "test" / "text"
    reference.write_text(reference.read_text().replace("one0d", "uno"))
    run(expdir, dump)
    assert scored == [Pair("de", "asr")] * 2
    scored.clear()
    monkeypatch.setattr("lors.score.scorers.installed_version", lambda package: f"new {package}")
    run(expdir, dump)
    assert len(scored) == len(PAIRS) * len(SYSTEMS)


def test_recognition_is_scored_again_with_another_normaliser(expdir, dump, scored):
    run(expdir, dump)
    scored.clear()
    run(expdir, dump, "whisper")
    assert scored == [pair for pair in PAIRS if pair.task == "asr" for _ in SYSTEMS]
    content = json.loads(expdir.score("test", "base", PAIRS[0]).read_text())
    assert content["normaliser"] == "whisper-basic"


def test_files_of_different_utterances_are_named(expdir, dump):
    path = expdir.hypothesis("test", "lors.langs", PAIRS[0])
    write_kaldi_text(path, {"spk0-de-test": "one"})
    with refusal(path, dump / "de/test/text", "spk1-de-test"):
        run(expdir, dump)


def test_an_unknown_language_is_scored_with_a_warning(expdir, dump, capsys):
    (dump / "de").rename(dump / "german")
    for system in SYSTEMS:
        folder = expdir.hypothesis("test", system, PAIRS[0]).parent
        (folder / "de_asr").rename(folder / "german_asr")
    arguments = ["--expdir", str(expdir.root), "--dump", str(dump), "--tasks", "asr"]
    assert score_expdir_main([*arguments, "--systems", "base", "--langs", "german", "es"]) == 0
    warning = capsys.readouterr().err
    assert "'german'" in warning and "'es'" not in warning


def test_missing_hypotheses_are_named(expdir, dump):
    path = expdir.hypothesis("test", "base", PAIRS[0])
    path.unlink()
    with refusal(path):
        run(expdir, dump)


def test_a_test_set_without_words_does_not_keep_the_others_from_scores(expdir, dump):
    ids = [f"spk{k}-de-test" for k in range(3)]
    write_kaldi_text(dump / "de/test/text", dict.fromkeys(ids, "…"))
    left = [expdir.hypothesis("test", system, Pair("de", "asr")) for system in SYSTEMS]
    with refusal(*left):
        run(expdir, dump)
    table = read_scores([expdir.root])
    assert set(table.pairs) == set(PAIRS) - {Pair("de", "asr")}
    assert set(table.systems) == set(SYSTEMS)
