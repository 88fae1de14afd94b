"""Configuration of a Whisper model: dimensions, window and inference."""

import pytest
import whisper

from lors.config import load_config
from lors.errors import LorsError, UsageError
from lors.models.whisper.conf import (
    ENGLISH,
    OFFICIAL,
    WhisperOptions,
    check_base_model,
    check_dims,
)
from lors.models.whisper.family import Whisper
from tests.integration.tiny_whisper import DIMS
from tests.refusal import refusal


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"n_vocab": 51864}, ["51864 tokens", "51865 or 51866 tokens"]),
        ({"n_vocab": 50000}, ["50000 tokens", "51865 or 51866 tokens"]),
        ({"n_mels": 64}, ["64 mels", "80 or 128 mels"]),
    ],
)
def test_dimensions_that_are_refused(change, facts):
    with refusal("model.pt", *facts, kind=LorsError):
        check_dims({**DIMS, **change}, "model.pt")


def test_official_dimensions():
    for mels, vocabulary in ((80, 51865), (128, 51866)):
        check_dims({**DIMS, "n_mels": mels, "n_vocab": vocabulary}, "model.pt")


def test_official_names_are_openais():
    assert set(OFFICIAL) == {n for n in whisper.available_models() if not n.endswith(".en")}


@pytest.mark.parametrize("name", ["smal", "small.en", "nonsense", ""])
def test_names_that_are_refused(name):
    with refusal("--base_model", name, kind=UsageError) as caught:
        check_base_model(name)
    assert "large-v3" in caught.value.expected and ".en" not in caught.value.expected
    assert ("small" in (caught.value.hint or "")) == name.startswith("smal")


def test_options_of_inference(tmp_path):
    path = tmp_path / "inference.yaml"
    path.write_text("beam_size: 5\nlength_penalty: 0.6\npatience: 2.0\n")
    options = load_config(WhisperOptions, path)
    assert options.greedy() == WhisperOptions()
    assert "batch_size" not in options.settings() and options.settings()["beam_size"] == 5
    path.write_text("maxlenratio: 0.5\n")
    with refusal(path, "maxlenratio", kind=UsageError):
        load_config(WhisperOptions, path)


def test_english_only_models_for_english_alone():
    check_base_model("base.en", english=True)
    check_dims({**DIMS, "n_vocab": 51864}, "model.pt", english=True)
    with refusal("smal.en", "base.en", kind=UsageError):
        check_base_model("smal.en", english=True)
    assert {*OFFICIAL, *ENGLISH} == set(whisper.available_models())
    options = {"base_model": "base.en", "langs": "en en-x-anna"}
    Whisper.check_options(options)
    with refusal("--base_model", "base.en", kind=UsageError):
        Whisper.check_options({**options, "langs": "en de"})
