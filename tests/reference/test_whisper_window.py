"""The window ``auto`` against the whole window of 30 s."""

import numpy as np
import pytest
import torch
import whisper

from lors.models import open_recogniser
from lors.models.whisper import window
from lors.models.whisper.conf import WhisperConf, WhisperOptions
from lors.models.whisper.encoder import features, log_mel, new_whisper, pad
from lors.models.whisper.import_base import import_whisper
from lors.models.whisper.inference import UnfinishedRows
from lors.models.whisper.task import WhisperESPnetModel
from lors.models.whisper.window import Window
from lors.tasks import Pair
from tests.integration.tiny_whisper import make_whisper

PAIR = Pair("de", "asr")


@pytest.fixture(scope="module")
def waveforms():
    rng = np.random.default_rng(0)
    lengths = [4000, 20000, 47990, 16000, 15000, 70000]
    return [rng.normal(size=n).astype(np.float32) * rng.uniform(0.01, 1) for n in lengths]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper") / "tiny.pt"
    make_whisper(path, seed=1, scale=3)
    return path


@pytest.fixture
def blocks_of_one(monkeypatch):
    monkeypatch.setattr(
        WhisperConf,
        "speech_window",
        property(lambda conf: Window(conf.window, conf.dims["n_audio_ctx"], block=1)),
    )


def model_of(stored, value):
    content = torch.load(stored, weights_only=True)
    model = new_whisper(WhisperConf(content["dims"], value)).eval()
    model.load_state_dict(content["model_state_dict"])
    return model


@torch.inference_mode()
def encode(model, waveforms):
    chosen = model.encoder.window
    speech, samples = pad(waveforms, chosen)
    return model.encoder(features(speech, chosen, model.dims.n_mels), samples)


def test_blocks_of_one_position_are_the_whole_window(stored, waveforms, blocks_of_one):
    whole, thin = model_of(stored, 30.0), model_of(stored, "auto")
    expected = encode(whole, waveforms)
    got = encode(thin, waveforms)
    assert got.shape == expected.shape == (len(waveforms), 1500, expected.shape[2])
    assert expected.std() > 0.5
    # The convolutions pad the very last position, which all others attend to.
    torch.testing.assert_close(got[:, :-1], expected[:, :-1], rtol=0, atol=0.03)


def test_blocks_weigh_as_many_positions_as_they_have(stored, waveforms):
    """The attention over weighted keys is that over repeated keys."""
    attention = model_of(stored, "auto").encoder.blocks[0].attn
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, 64, generator=rng) for _ in range(3))
    sizes = torch.tensor([1, 1, 7, 64, 3])
    attention.key_bias.value = sizes.float().log().expand(2, -1)
    with torch.inference_mode():
        got = attention.qkv_attention(q, k, v)[0]
        attention.key_bias.value = None
        repeated = [x.repeat_interleave(sizes, dim=1) for x in (k, v)]
        expected = attention.qkv_attention(q, *repeated)[0]
    torch.testing.assert_close(got, expected)


def test_a_row_does_not_depend_on_the_others(stored, waveforms):
    model = model_of(stored, "auto")
    together = encode(model, waveforms)
    bias = model.encoder.key_bias.value
    for row, waveform in enumerate(waveforms):
        alone = encode(model, [waveform])[0]
        assert torch.isfinite(bias[row]).sum() == len(alone)
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_texts_do_not_depend_on_the_batch(stored, tmp_path, waveforms, beam_size):
    import_whisper(str(stored), tmp_path / "base", window="auto")
    model = open_recogniser(tmp_path / "base")
    alone = WhisperOptions(beam_size, 1, max_tokens=8)
    expected = [text for w in waveforms for text in model.transcribe([w], PAIR, alone)]
    assert len(set(expected)) > 1
    together = WhisperOptions(beam_size, 32, max_tokens=8)
    assert model.transcribe(waveforms, PAIR, together) == expected
    assert model.transcribe(waveforms[::-1], PAIR, together) == expected[::-1]


@pytest.mark.parametrize("value", ["auto", 2.0])
def test_texts_that_end_leave_the_batch(stored, tmp_path, monkeypatch, value):
    rng = np.random.default_rng(3)
    waveforms = [rng.normal(size=n).astype(np.float32) for n in rng.integers(4000, 32000, 16)]
    import_whisper(str(stored), tmp_path / "base", window=value)
    model = open_recogniser(tmp_path / "base")
    with torch.no_grad():  # a text ends by chance
        model.model.decoder.token_embedding.weight[model.prompts.tokenizer.eot] *= 2.5
    expected = [
        text
        for w in waveforms
        for text in model.transcribe([w], PAIR, WhisperOptions(max_tokens=24))
    ]
    rows = []
    keep = UnfinishedRows._keep

    def spy(self, places):
        keep(self, places)
        rows.append(len(self.rows))

    monkeypatch.setattr(UnfinishedRows, "_keep", spy)
    assert model.transcribe(waveforms, PAIR, WhisperOptions(max_tokens=24)) == expected
    assert len(rows) >= 2 and min(rows) > 0, rows
    assert len({len(text) for text in expected}) >= 3


def test_blocks_of_one_give_openais_text(stored, tmp_path, waveforms, blocks_of_one):
    import_whisper(str(stored), tmp_path / "base", window="auto")
    ours = open_recogniser(tmp_path / "base")
    theirs = whisper.load_model(str(stored))
    decoding = whisper.DecodingOptions(
        language="de", without_timestamps=True, sample_len=8, fp16=False
    )
    speech = torch.from_numpy(np.stack([whisper.pad_or_trim(w) for w in waveforms]))
    expected = [result.text for result in whisper.decode(theirs, log_mel(speech, 80), decoding)]
    assert len(set(expected)) > 1
    assert ours.transcribe(waveforms, PAIR, WhisperOptions(max_tokens=8)) == expected


def test_loss_of_a_batch_is_that_of_its_rows(stored, waveforms):
    content = torch.load(stored, weights_only=True)
    model = WhisperESPnetModel(WhisperConf(content["dims"], "auto")).eval()
    model.load_state_dict(content["model_state_dict"])
    texts = [torch.tensor([50258, 50261, 50359, 50363, 440 + i, 50257]) for i in range(3)]

    def loss(rows):
        speech, samples = pad([waveforms[i] for i in rows], model.window)
        text = torch.stack([texts[i] for i in rows])
        with torch.inference_mode():
            return model(speech, samples, text, torch.full((len(rows),), 6))[0].item()

    alone = [loss([i]) for i in range(3)]
    assert max(alone) - min(alone) > 0.01
    assert loss([0, 1, 2]) == pytest.approx(np.mean(alone), rel=1e-4)


def test_layout():
    chosen = Window("auto", 1500)
    for speech in (1, 8000, 123456, 28 * 16000, 29.8 * 16000, 40 * 16000):
        samples = chosen.samples(int(speech))
        layout = chosen.layout(samples)
        assert sum(size for _, size in layout) == 1500
        positions = [position for position, _ in layout]
        assert positions == sorted(set(positions)) and positions[-1] < 1500
        head = samples // 320
        assert layout[:head] == [(i, 1) for i in range(head)]
        assert head / 50 >= min(speech / 16000 + window.MARGIN, 30)
        assert max(size for _, size in layout) <= window.BLOCK
    assert len(chosen.layout(chosen.samples(16000))) < 150
    assert Window(10.0, 1500).layout(160000) == [(i, 1) for i in range(500)]
