"""Batched greedy search against ESPnet's own Speech2Text with beam 1, utterance by utterance."""

import numpy as np
import pytest

from lors.models import open_recogniser
from lors.models.espnet_s2t.prompts import S2TOptions, language_symbol, task_symbol
from lors.tasks import Pair
from tests.integration.tiny_s2t import CONFIG, make_model
from tests.refusal import refusal

pytestmark = pytest.mark.espnet
PAIRS = [Pair("de", "asr"), Pair("de", "st"), Pair("es", "asr"), Pair("es", "st")]


@pytest.fixture(scope="module")
def waveforms():
    rng = np.random.default_rng(0)
    lengths = [4000, 9000, 16000, 31999, 32000, 40000, 12345, 20000, 8000, 27000]
    return [rng.normal(size=n).astype(np.float32) * rng.uniform(0.01, 1) for n in lengths]


@pytest.mark.parametrize(
    ("seed", "maxlenratio"), [(0, 0.0), (1, 0.0), (2, 0.0), (1, 0.25), (2, 0.75)]
)
def test_equals_espnet_beam_1(tmp_path, waveforms, seed, maxlenratio):
    from espnet2.bin.s2t_inference import Speech2Text

    directory = make_model(tmp_path / "model", seed)
    ours = open_recogniser(directory)
    theirs = Speech2Text(
        s2t_train_config=directory / "config.yaml",
        s2t_model_file=directory / "model.pth",
        beam_size=1,
        ctc_weight=0.0,
        maxlenratio=maxlenratio,
    )
    said = set()
    for pair in PAIRS:
        symbols = {"lang_sym": language_symbol(pair.lang), "task_sym": task_symbol(pair.task)}
        expected = [theirs(waveform, **symbols)[0][3] for waveform in waveforms]
        said.update(expected)
        for batch_size in (1, 3, 64):
            options = S2TOptions(batch_size=batch_size, maxlenratio=maxlenratio)
            assert ours.transcribe(waveforms, pair, options) == expected
    assert len(said) > 1, "a model that always says the same tests nothing"


def test_beam_search_is_espnets(tmp_path, waveforms):
    from espnet2.bin.s2t_inference import Speech2Text

    directory = make_model(tmp_path / "model")
    theirs = Speech2Text(
        s2t_train_config=directory / "config.yaml",
        s2t_model_file=directory / "model.pth",
        beam_size=3,
    )
    expected = [theirs(w, lang_sym="<spa>", task_sym="<asr>")[0][3] for w in waveforms[:3]]
    options = S2TOptions(beam_size=3)
    ours = open_recogniser(directory)
    assert ours.transcribe(waveforms[:3], Pair("es", "asr"), options) == expected


@pytest.mark.parametrize("change", [{"normalize_before": False}, {"concat_after": True}])
def test_decoders_that_the_batched_search_does_not_know(tmp_path, change):
    directory = make_model(tmp_path / "model", decoder_conf={**CONFIG["decoder_conf"], **change})
    with refusal(directory / "config.yaml", "TransformerDecoder", "espnet2.bin.s2t_inference"):
        open_recogniser(directory)


def test_unknown_language_and_weights_of_another_model(tmp_path, waveforms):
    model = open_recogniser(make_model(tmp_path / "model"))
    with refusal("<fra>", tmp_path / "model"):
        model.transcribe(waveforms[:1], Pair("fr", "asr"), S2TOptions())
    state = model.model.state_dict()
    state.pop("ctc.ctc_lo.bias")
    with refusal("ctc.ctc_lo.bias", tmp_path / "model"):
        model.load_state(state)
