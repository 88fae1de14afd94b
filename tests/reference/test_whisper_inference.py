"""Batched inference of Whisper against openai-whisper, one utterance at a time."""

import dataclasses

import numpy as np
import pytest
import torch
import whisper

from lors.errors import UsageError
from lors.models import open_recogniser
from lors.models.whisper.conf import WhisperOptions
from lors.models.whisper.encoder import log_mel, pad
from lors.models.whisper.import_base import import_whisper
from lors.models.whisper.window import Window
from lors.tasks import Pair
from tests.integration.tiny_whisper import make_whisper
from tests.refusal import refusal

PAIRS = [Pair("de", "asr"), Pair("sv-SE", "st")]
LANGUAGES = {"de": "de", "sv-SE": "sv"}
TASKS = {"asr": "transcribe", "st": "translate"}


@pytest.fixture(scope="module")
def waveforms():
    rng = np.random.default_rng(0)
    lengths = [4000, 9000, 16000, 31999, 32000, 12345, 20000, 8000, 27000]
    return [rng.normal(size=n).astype(np.float32) * rng.uniform(0.01, 1) for n in lengths]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two models: another number of mels and languages, as large-v3 has them."""
    directory = tmp_path_factory.mktemp("whisper")
    # Large matrices: with small ones the text is the same for any speech.
    make_whisper(directory / "v2.pt", seed=1, scale=3)
    make_whisper(directory / "v3.pt", seed=2, scale=3, n_mels=128, n_vocab=51866)
    return directory


@pytest.mark.parametrize("n_mels", [80, 128])
def test_features_are_openais(waveforms, n_mels):
    speech = pad(waveforms, Window(2.0, 1500))[0]
    assert speech.shape == (len(waveforms), 32000)
    expected = torch.stack([whisper.log_mel_spectrogram(row, n_mels) for row in speech])
    torch.testing.assert_close(log_mel(speech, n_mels), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["v2", "v3"])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_equals_openai_whisper(files, tmp_path, waveforms, name, beam_size):
    import_whisper(str(files / f"{name}.pt"), tmp_path / "base")
    ours = open_recogniser(tmp_path / "base")
    theirs = whisper.load_model(str(files / f"{name}.pt"))
    waveforms = waveforms[:4] if beam_size > 1 else waveforms
    said = set()
    for pair in PAIRS:
        decoding = whisper.DecodingOptions(
            task=TASKS[pair.task],
            language=LANGUAGES[pair.lang],
            without_timestamps=True,
            beam_size=beam_size if beam_size > 1 else None,
            sample_len=8,
            fp16=False,
        )
        expected = []
        for waveform in waveforms:
            speech = whisper.pad_or_trim(torch.from_numpy(waveform))
            mel = whisper.log_mel_spectrogram(speech, theirs.dims.n_mels)
            expected.append(whisper.decode(theirs, mel, decoding).text)
        said.update(expected)
        for batch_size in (1, 3, 32):
            options = WhisperOptions(beam_size, batch_size, max_tokens=8)
            assert ours.transcribe(waveforms, pair, options) == expected
    assert len(said) > 1, "a model that always says the same tests nothing"


@pytest.mark.parametrize("beam_size", [1, 3])
def test_longest_text_goes_with_the_length_of_the_speech(files, tmp_path, waveforms, beam_size):
    """Each text is that of openai-whisper with its own `sample_len`."""
    import_whisper(str(files / "v2.pt"), tmp_path / "base")
    ours = open_recogniser(tmp_path / "base")
    theirs = whisper.load_model(str(files / "v2.pt"))
    waveforms, expected = waveforms[:5], []
    for waveform, most in zip(waveforms, (4, 5, 6, 9, 9), strict=True):  # 3 * (seconds + 1)
        decoding = whisper.DecodingOptions(
            language="de",
            without_timestamps=True,
            beam_size=beam_size if beam_size > 1 else None,
            sample_len=most,
            fp16=False,
        )
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(waveform)))
        expected.append(whisper.decode(theirs, mel, decoding).text)
    for batch_size in (1, 32):
        options = WhisperOptions(beam_size, batch_size, max_tokens=12, max_tokens_per_second=3)
        assert ours.transcribe(waveforms, PAIRS[0], options) == expected
    longer = WhisperOptions(beam_size, 32, max_tokens=12)
    assert ours.transcribe(waveforms, PAIRS[0], longer) != expected


def test_shorter_window_uses_the_first_positions(files, tmp_path, waveforms):
    """The result is that of a Whisper with only these positions."""
    import_whisper(str(files / "v2.pt"), tmp_path / "base", window=2.0)
    stored = torch.load(files / "v2.pt", weights_only=True)
    dims = {**stored["dims"], "n_audio_ctx": 100}
    model = whisper.Whisper(whisper.model.ModelDimensions(**dims))
    state = dict(stored["model_state_dict"])
    state["encoder.positional_embedding"] = state["encoder.positional_embedding"][:100]
    model.load_state_dict(state)
    mel = torch.stack(
        [whisper.log_mel_spectrogram(row) for row in pad(waveforms, Window(2.0, 1500))[0]]
    )
    decoding = whisper.DecodingOptions(
        language="de", without_timestamps=True, sample_len=8, fp16=False
    )
    expected = [whisper.decode(model, one, decoding).text for one in mel]
    assert len(set(expected)) > 1
    ours = open_recogniser(tmp_path / "base")
    assert ours.transcribe(waveforms, PAIRS[0], WhisperOptions(max_tokens=8)) == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_norms_in_float32(files, tmp_path, waveforms, dtype):
    import_whisper(str(files / "v2.pt"), tmp_path / "base", window=2.0)
    options = WhisperOptions(max_tokens=4)
    single = open_recogniser(tmp_path / "base").transcribe(waveforms, PAIRS[0], options)
    model = open_recogniser(tmp_path / "base")
    rounded = dataclasses.replace(options, dtype=dtype)
    half = model.transcribe(waveforms, PAIRS[0], rounded)
    kinds = {m.weight.dtype for m in model.model.modules() if isinstance(m, torch.nn.LayerNorm)}
    assert kinds == {torch.float32}
    assert model.model.encoder.conv1.weight.dtype == getattr(torch, dtype)
    # Rounding can turn a few close decisions.
    assert sum(a == b for a, b in zip(half, single, strict=True)) > len(half) / 2
    with pytest.raises(ValueError, match="rounded"):
        model.transcribe(waveforms, PAIRS[0], options)


def test_audio_beyond_the_window_is_told(files, tmp_path, waveforms, caplog):
    import_whisper(str(files / "v2.pt"), tmp_path / "base", window=1.0)
    model = open_recogniser(tmp_path / "base")
    options = WhisperOptions(max_tokens=4)
    whole = model.transcribe(waveforms, PAIRS[0], options)
    assert "4 of 9" in caplog.text and "de_asr" in caplog.text
    caplog.clear()
    assert model.transcribe([w[:16000] for w in waveforms], PAIRS[0], options) == whole
    assert caplog.text == ""


def test_symbols_are_suppressed_unless_wanted(files, tmp_path, waveforms):
    import_whisper(str(files / "v2.pt"), tmp_path / "base", window=2.0)
    model = open_recogniser(tmp_path / "base")
    state = {name: value.clone() for name, value in model.model.state_dict().items()}
    # Everything looks like an opening bracket now.
    bracket = model.prompts.tokenizer.encode("(")[0]
    embedding = state["decoder.token_embedding.weight"]
    state["decoder.ln.weight"].zero_()
    state["decoder.ln.bias"] = embedding[bracket] * 100
    model.load_state(state)
    options = WhisperOptions(max_tokens=3)
    assert "(" not in model.transcribe(waveforms[:1], PAIRS[0], options)[0]
    wanted = dataclasses.replace(options, suppress_symbols=False)
    assert model.transcribe(waveforms[:1], PAIRS[0], wanted) == ["((("]


def test_weights_of_another_model_and_languages_it_does_not_know(files, tmp_path, waveforms):
    import_whisper(str(files / "v2.pt"), tmp_path / "base")
    model = open_recogniser(tmp_path / "base")
    state = dict(model.model.state_dict())
    del state["decoder.ln.bias"]
    with refusal("decoder.ln.bias", tmp_path / "base"):
        model.load_state(state)
    with refusal("'xx'", kind=UsageError):
        model.transcribe(waveforms[:1], Pair("xx", "asr"), WhisperOptions())
