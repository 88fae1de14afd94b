"""lors.checkpoint.whisper_dims: the dimensions of a Whisper from its weights and its files."""

import json

import pytest
import safetensors.torch
import torch

from lors.checkpoint.expert import open_model
from lors.checkpoint.whisper_dims import whisper_dims, whisper_shapes
from tests.refusal import refusal
from tests.unit.whisper_files import (
    DIMS,
    FORMS,
    espnet_state,
    hugging_face_state,
    openai_state,
    write_hugging_face,
)


def write_pt(path, dims):
    torch.save({"dims": dims, "model_state_dict": openai_state()}, path)
    return path


def test_the_shapes_are_those_of_the_official_model():
    state = openai_state()
    assert whisper_shapes(DIMS) == {name: tuple(value.shape) for name, value in state.items()}
    assert list(whisper_shapes(DIMS)) == list(state)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "espnet"])
def test_dims_of_every_form_that_has_the_numbers_of_heads(tmp_path, form):
    assert whisper_dims(open_model(FORMS[form](tmp_path / "m", openai_state()))) == DIMS


def test_heads_in_the_config_of_a_recipe(tmp_path):
    torch.save(espnet_state(openai_state()), tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(f"whisper_conf: {{dims: {json.dumps(DIMS)}}}\n")
    assert whisper_dims(open_model(tmp_path / "model.pth")) == DIMS


def test_heads_of_official_width(tmp_path):
    state = {"decoder.token_embedding.weight": torch.zeros(5, 128)}
    state |= {
        f"{side}.positional_embedding": torch.zeros(4, 128) for side in ("encoder", "decoder")
    }
    state |= {f"{side}.blocks.0.attn_ln.bias": torch.zeros(128) for side in ("encoder", "decoder")}
    state["encoder.conv1.weight"] = torch.zeros(128, 80, 3)
    torch.save(state, tmp_path / "m.pth")
    dims = whisper_dims(open_model(tmp_path / "m.pth"))
    assert dims["n_audio_head"] == dims["n_text_head"] == 2 and dims["n_mels"] == 80
    assert dims["n_audio_layer"] == dims["n_text_layer"] == 1


def test_heads_that_are_not_known(tmp_path):
    path = FORMS["espnet"](tmp_path / "m", openai_state())
    with refusal(path, "8 and 8", 64):
        whisper_dims(open_model(path))


@pytest.mark.parametrize(
    ("change", "expected", "got"),
    [
        ({"n_audio_head": None}, "n_audio_head and n_text_head", "missing and 2"),
        ({"n_text_head": "two"}, "n_audio_head and n_text_head", "2 and two"),
        ({"n_mels": 128}, "n_mels 4", "n_mels 128"),
        (
            {"n_text_layer": 3, "n_vocab": None},
            "n_vocab 12, n_text_layer 2",
            "n_vocab missing, n_text_layer 3",
        ),
    ],
)
def test_dims_that_are_not_those_of_the_weights(change, expected, got, tmp_path):
    dims = {name: value for name, value in {**DIMS, **change}.items() if value is not None}
    path = write_pt(tmp_path / "damaged.pt", dims)
    with refusal() as caught:
        whisper_dims(open_model(path))
    assert caught.value.expected.endswith(expected) and caught.value.got == got
    assert caught.value.where == path and caught.value.hint


def test_damaged_numbers_of_heads_of_hugging_face(tmp_path):
    directory = write_hugging_face(tmp_path / "m", openai_state())
    config = {"encoder_attention_heads": "two", "decoder_attention_heads": 2}
    (directory / "config.json").write_text(json.dumps(config))
    with refusal("two and 2") as caught:
        whisper_dims(open_model(directory))
    assert caught.value.where == directory / "config.json"


def test_models_that_are_not_complete(tmp_path):
    state = hugging_face_state(openai_state())
    del state["model.encoder.conv1.weight"]
    state["model.decoder.embed_positions.weight"] = torch.zeros(3)
    safetensors.torch.save_file(state, tmp_path / "m.safetensors")
    with refusal(
        tmp_path / "m.safetensors", "encoder.conv1.weight", "decoder.positional_embedding"
    ):
        whisper_dims(open_model(tmp_path / "m.safetensors"))
