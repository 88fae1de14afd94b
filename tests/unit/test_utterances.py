"""Texts and counts of utterances, and their files."""

import json

import numpy as np
import pytest

from lors.bin import score as score_main
from lors.data.datadir import write_kaldi_text
from lors.score import SCORERS
from lors.score.utterances import UTTERANCES
from lors.tasks import ASR, ST, TASKS
from tests.refusal import refusal
from tests.unit.score_trees import references, spoilt

GERMAN = {"u2": "Guten Morgen, wie geht's?", "u1": "null", "u3": "eins zwei", "u4": "..."}
HEARD = {"u2": "guten morgen wie gehts", "u1": "", "u3": "eins und zwei", "u4": "ja nein"}


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def utterances(task):
    refs = references(task)
    return SCORERS[task].score(refs, spoilt(refs, 0.3, task), "de")[1]


@pytest.fixture
def path(tmp_path, utterances):
    path = tmp_path / "x.tsv"
    path.write_text("".join(utterances.lines()), encoding="utf-8")
    return path


def test_counts_of_recognition_by_hand():
    score, found = SCORERS["asr"].score(GERMAN, HEARD, "de")
    assert found.ids == ("u1", "u2", "u3", "u4")
    assert found.references == ("null", "guten morgen wie geht s", "eins zwei", "")
    # words, substitutions, deletions, insertions; characters, wrong ones
    assert found.counts.tolist() == [
        [1, 0, 1, 0, 4, 4],
        [5, 1, 1, 0, 23, 1],
        [2, 0, 0, 1, 9, 4],
        [0, 0, 0, 2, 0, 7],
    ]
    assert found.alignments == ("D", "CCCDS", "CIC", "II")
    assert (score.sentence_errors, score.ref_words, score.insertions) == (4, 8, 3)
    assert score.wer == found.score(ASR.metric) == pytest.approx(100 * 6 / 8)


def test_statistics_of_translation_by_hand():
    _, found = SCORERS["st"].score({"u": "a  b c"}, {"u": "a b d"}, "en")
    assert (found.references, found.hypotheses) == (("a b c",), ("a b d",))
    bleu = found.counts[0, found.columns["bleu"]].tolist()
    assert bleu == [3, 3, 2, 1, 0, 0, 3, 2, 1, 0]
    # "abc" and "abd": n-grams of each side, and matches
    assert found.counts[0, found.columns["chrf"]].tolist()[:9] == [3, 3, 2, 2, 2, 1, 1, 1, 0]


def test_a_file_is_read_as_it_was_written(path, task, utterances):
    read = UTTERANCES[task].read(path)
    assert (read.ids, read.references) == (utterances.ids, utterances.references)
    assert read.hypotheses == utterances.hypotheses
    assert (read.counts == utterances.counts).all()
    assert [*read.lines()] == path.read_text(encoding="utf-8").splitlines(keepends=True)
    for metric in TASKS[task].metrics:
        assert read.score(metric) == utterances.score(metric)


def test_the_digest_is_that_of_ids_and_references(path, task, utterances):
    read = UTTERANCES[task].read(path)
    assert read.references_digest == utterances.references_digest
    other = SCORERS[task].score(references("other"), references("other"), "de")[1]
    assert read.references_digest != other.references_digest


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line + "\tmore",
        lambda line: line.replace("\t", " ", 1),
        lambda line: line.replace("\t", "\t-", 1),
        lambda line: line.split("\t")[0],
        lambda line: "\t".join([*line.split("\t")[:1], "½", *line.split("\t")[2:]]),
        lambda line: "",
    ],
)
def test_bad_lines_are_named(path, task, change):
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[4] = change(lines[4])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with refusal(path, "line 5"):
        UTTERANCES[task].read(path)


def test_words_that_do_not_fit_their_alignment_are_named(tmp_path):
    _, found = SCORERS["asr"].score(GERMAN, HEARD, "de")
    path = tmp_path / "x.tsv"
    path.write_text("".join(found.lines()).replace("CIC", "CCI").replace("CCCDS", "CCCS"))
    with refusal(path, "line 3"):
        UTTERANCES["asr"].read(path)


@pytest.mark.parametrize("content", ["", "no head\n", "utterance\twords\n"])
def test_other_files_are_refused(path, task, content):
    path.write_text(content)
    with refusal(path, "reference", "hypothesis"):
        UTTERANCES[task].read(path)


def test_files_without_lines_or_with_an_id_twice_are_refused(path, task):
    head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for wrong in ([], lines[:1] * 2, lines[::-1]):
        path.write_text("".join([head, *wrong]), encoding="utf-8")
        with refusal(path):
            UTTERANCES[task].read(path)
    path.write_bytes(b"\xff")
    with refusal(path):
        UTTERANCES[task].read(path)
    path.unlink()
    with refusal(path):
        UTTERANCES[task].read(path)


def test_all_empty_references_of_a_sample_have_a_rate():
    rows = [[[0, 0, 0, 2]], [[4, 1, 0, 1]]]
    rates = [UTTERANCES["asr"].scores(ASR.metric, np.array(row)) for row in rows]
    assert [rate.tolist() for rate in rates] == [[200.0], [50.0]]


# --- the command lors.bin.score


@pytest.fixture
def files(tmp_path):
    for name, texts in (("ref", GERMAN), ("hyp", HEARD)):
        write_kaldi_text(tmp_path / name, texts)
    return ["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "hyp")]


def score_of(files, tmp_path, lang, task="asr"):
    out = tmp_path / "out.json"
    return out, score_main.main([*files, "--task", task, "--lang", lang, "--out", str(out)])


def test_command_writes_the_utterances_beside_the_score(files, tmp_path):
    for task in TASKS:
        out, code = score_of(files, tmp_path, "de", task)
        assert code == 0
        read = UTTERANCES[task].read(tmp_path / "out.utterances.tsv")
        metric = TASKS[task].metric
        assert read.score(metric) == json.loads(out.read_text())[metric.key]
    assert read.score(ST.metric) >= 0


@pytest.mark.parametrize("lang, near", [("thai", "tha"), ("germ", ""), ("xx", "")])
def test_command_warns_of_an_unknown_language(files, tmp_path, capsys, lang, near):
    assert score_of(files, tmp_path, lang)[1] == 0
    message = capsys.readouterr().err
    assert f"'{lang}'" in message and near in message


@pytest.mark.parametrize("lang", ["de", "tha", "de-AT", "zh-CN", "nan-tw", "lzh", "srd", "pms"])
def test_command_knows_languages_with_and_without_region(files, tmp_path, capsys, lang):
    assert score_of(files, tmp_path, lang)[1] == 0
    assert "unknown" not in capsys.readouterr().err
