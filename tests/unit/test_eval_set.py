"""Reading of audio and evaluation sets."""

import numpy as np
import pytest
import soundfile
from stand_ins import sentence, write_audio_dump

from lors.data.datadir import Utterance, read_data_dir, write_data_dir
from lors.recipe.eval_set import chosen, read_audio, read_eval_set
from tests.refusal import refusal


@pytest.fixture
def dump(tmp_path):
    return write_audio_dump(tmp_path / "dump", splits=["test"])


def test_audio_is_float32_of_one_dimension(tmp_path):
    samples = np.array([0.0, 0.5, -0.25], dtype=np.float32)
    soundfile.write(tmp_path / "a.flac", samples, 16000)
    read = read_audio(tmp_path / "a.flac")
    assert read.dtype == np.float32 and read.tolist() == samples.tolist()


@pytest.mark.parametrize(
    ("shape", "rate", "got"),
    [((800,), 8000, "8000 Hz, 1 channel"), ((800, 2), 16000, "16000 Hz, 2 channels")],
)
def test_audio_of_the_wrong_form(tmp_path, shape, rate, got):
    soundfile.write(tmp_path / "a.flac", np.zeros(shape, dtype=np.float32), rate)
    with refusal(tmp_path / "a.flac", got, "stage 2"):
        read_audio(tmp_path / "a.flac")


@pytest.mark.parametrize("content", [None, b"", b"not audio"])
def test_audio_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "a.flac"
    if content is not None:
        path.write_bytes(content)
    with refusal(path):
        read_audio(path)


def test_eval_set(dump):
    eval_set = read_eval_set(dump / "de" / "test")
    assert eval_set.ids == tuple(f"spk{k}-de-test" for k in range(3))
    assert [round(float(w[0]) * 128) for w in eval_set.waveforms] == [1, 2, 3]
    assert eval_set.references["asr"] == {f"spk{k}-de-test": sentence(k, "de") for k in range(3)}
    assert eval_set.references["st"]["spk1-de-test"].startswith("translation of ")
    some = read_eval_set(dump / "de" / "test", limit=2)
    assert len(some.ids) == len(some.waveforms) == len(some.references["asr"]) == 2
    assert [name for name in eval_set.ids if name in some.ids] == list(some.ids)
    assert read_eval_set(dump / "de" / "test", limit=9).ids == eval_set.ids


def test_limit_takes_utterances_of_all_speakers():
    speakers = [f"spk{number:02}" for number in range(20)]
    some = [
        Utterance(f"{speaker}-{clip:02}", f"{clip}.flac", speaker, "de")
        for speaker in speakers
        for clip in range(20)
    ]
    found = chosen(some, 100)
    assert len(found) == 100 and [u for u in some if u in found] == found
    assert {u.speaker for u in found} == set(speakers)
    assert chosen(some[::-1], 100) == found[::-1]
    assert chosen(some, None) == chosen(some, 400) == some
    assert set(map(id, chosen(some, 50))) <= set(map(id, found))


def test_eval_set_without_texts(dump):
    directory = dump / "de" / "test"
    rows = [
        Utterance(**{**vars(u), "text": None, "translations": {}}) for u in read_data_dir(directory)
    ]
    write_data_dir(directory, rows)
    assert read_eval_set(directory).references == {"asr": {}, "st": {}}


def test_audio_is_read_when_it_is_asked_for(dump):
    eval_set = read_eval_set(dump / "de" / "test")
    (dump / "de" / "test" / "1.flac").unlink()
    assert len(eval_set.waveforms[2:]) == 1 and len(eval_set.waveforms[0]) == 800
    with refusal(dump / "de" / "test" / "1.flac"):
        eval_set.waveforms[1]
