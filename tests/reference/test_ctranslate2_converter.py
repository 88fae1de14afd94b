"""Whisper in CTranslate2's form, against the real converter of the ctranslate2 package.

The models are tiny and random; nothing is downloaded.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import whisper

from lors.bin.export_whisper import main
from lors.checkpoint.ctranslate2_file import CTranslate2File
from lors.checkpoint.ctranslate2_whisper import ARCHITECTURE
from lors.checkpoint.vocabulary import special_tokens_of, tokens_of
from lors.export.whisper import open_whisper
from tests.integration.tiny_whisper import make_whisper
from tests.unit.ctranslate2_files import write_ctranslate2

PACKAGES = Path(__file__).parents[2] / ".test_packages"
"""Packages that tests/run.sh installs apart, so that ESPnet does not import them."""
FLOATS = ("float32", "float16", "bfloat16")
INTEGERS = ("int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16")
# As ct2-transformers-converter does it, but in one process: transformers needs long to start.
CONVERTER = """
import sys
from ctranslate2.converters import TransformersConverter
for kind in sys.argv[2:]:
    half = kind in ("float16", "int8_float16")
    converter = TransformersConverter(sys.argv[1], load_as_float16=half)
    converter.convert(f"{sys.argv[1]}.{kind}", quantization=None if kind == "unchanged" else kind)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A state dict with OpenAI's names, and the Hugging Face directory that it is exported to."""
    folder = tmp_path_factory.mktemp("exported")
    # Encoder and decoder with different numbers of layers and heads.
    path = make_whisper(folder / "model.pt", n_text_layer=1, n_audio_head=4)
    content = torch.load(path, weights_only=True)
    state = content["model_state_dict"]
    # A new model has equal norms and biases, which the converter writes once: keep one such pair.
    generator = torch.Generator().manual_seed(0)
    kept = ("decoder.ln.bias", "encoder.blocks.0.mlp_ln.bias")
    for name, value in state.items():
        if value.ndim == 1 and name not in kept:
            value += torch.randn(value.shape, generator=generator)
    torch.save(content, path)
    assert main(["--model", str(path), "--out", str(folder / "hf")]) == 0
    return state, folder / "hf"


@pytest.fixture(scope="module")
def converted(exported):
    """The state dict, and kind of quantisation -> directory of CTranslate2."""
    if not (PACKAGES / "ctranslate2").is_dir():
        pytest.skip("ctranslate2 is not installed: ./tests/run.sh does that")
    state, directory = exported
    kinds = ("unchanged", *FLOATS, *INTEGERS)
    run(CONVERTER, directory, *kinds)
    return state, {kind: directory.with_name(f"hf.{kind}") for kind in kinds}


def run(program, *arguments):
    paths = os.pathsep.join([*sys.path, str(PACKAGES)])
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
    subprocess.run(command, check=True, env=environment)


@pytest.mark.parametrize("kind", ["unchanged", *FLOATS])
def test_the_tensors_are_those_of_hugging_face_in_this_dtype(exported, converted, kind):
    """HF -> CTranslate2 -> here is bit for bit HF -> here, rounded."""
    _, directory = exported
    _, directories = converted
    dtype = torch.float32 if kind == "unchanged" else getattr(torch, kind)
    found, dims = open_whisper(directories[kind])
    expected, expected_dims = open_whisper(directory)
    assert dims == expected_dims and (dims["n_audio_head"], dims["n_text_head"]) == (4, 2)
    assert set(found.names()) == set(expected.names())
    for name in expected.names():
        tensor = found.tensor(name)
        assert tensor.dtype == found.dtype(name) == dtype
        assert torch.equal(tensor, expected.tensor(name).to(dtype)), name


@pytest.mark.parametrize("kind", INTEGERS)
def test_quantised_weights_differ_by_half_a_step(converted, kind, caplog):
    state, directories = converted
    found, _ = open_whisper(directories[kind])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    rest = getattr(torch, kind.split("_")[1] if "_" in kind else "float32")
    for name, value in state.items():
        tensor = found.tensor(name)
        if value.ndim == 1 or "positional" in name:
            assert torch.equal(tensor, value.to(rest)), name
            continue
        assert tensor.dtype == torch.float32
        largest = value.flatten(1).abs().amax(1)
        if kind == "int16":  # one scale for a stack of matrices
            largest = largest.max() * 2
        # The converter reads the model in float16 for int8_float16: half a unit in its last place.
        lost = largest * 2**-11 if kind == "int8_float16" else 0
        step = largest / (1024 if kind == "int16" else 127)
        error = (tensor - value).flatten(1).abs().amax(1)
        assert (error <= 0.51 * step + lost).all(), name
        assert error.max() > 0


def test_ctranslate2_encodes_as_the_model_that_is_read_here(converted, tmp_path):
    """In int8, so that scales are used as CTranslate2 uses them."""
    _, directories = converted
    assert main(["--model", str(directories["int8"]), "--out", str(tmp_path / "out.pt")]) == 0
    model = whisper.load_model(str(tmp_path / "out.pt"), device="cpu").eval()
    features = torch.randn(1, model.dims.n_mels, 3000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.encoder(features)
    np.save(tmp_path / "features.npy", features.numpy())
    program = (
        "import sys, numpy, ctranslate2\n"
        "model = ctranslate2.models.Whisper(sys.argv[1], compute_type='float32')\n"
        "features = ctranslate2.StorageView.from_array(numpy.load(sys.argv[2]))\n"
        "numpy.save(sys.argv[3], numpy.array(model.encode(features)))\n"
    )
    run(program, directories["int8"], tmp_path / "features.npy", tmp_path / "found.npy")
    found = torch.from_numpy(np.load(tmp_path / "found.npy"))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_back_to_the_other_programs(exported, converted, tmp_path):
    """A directory of CTranslate2 is exported to OpenAI's file and to Hugging Face's directory."""
    _, directory = exported
    state, directories = converted
    source = str(directories["float16"])
    assert main(["--model", source, "--out", str(tmp_path / "a.pt")]) == 0
    loaded = whisper.load_model(str(tmp_path / "a.pt"), device="cpu")
    half = {name: value.half().float() for name, value in state.items()}
    assert all(torch.equal(value, half[name]) for name, value in loaded.state_dict().items())
    assert main(["--model", source, "--out", str(tmp_path / "hf"), "--dtype", "float32"]) == 0
    files = {path.name for path in directory.iterdir()}
    assert {path.name for path in (tmp_path / "hf").iterdir()} == files
    for name in files - {"model.safetensors"}:
        assert (tmp_path / "hf" / name).read_bytes() == (directory / name).read_bytes()
    found = safetensors.torch.load_file(tmp_path / "hf" / "model.safetensors")
    expected = safetensors.torch.load_file(directory / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].half().float()) for name in expected)


def test_the_vocabulary_is_that_of_hugging_face(exported, converted):
    _, directory = exported
    _, directories = converted
    assert tokens_of(directories["float16"]) == tokens_of(directory)
    assert special_tokens_of(directories["float16"]) == special_tokens_of(directory)


@pytest.mark.parametrize("kind", [*FLOATS, "int8", "int16"])
def test_the_unit_tests_write_what_the_converter_writes(converted, tmp_path, kind):
    state, directories = converted
    directory = write_ctranslate2(tmp_path / "ours", state, getattr(torch, kind))
    ours, theirs = (
        CTranslate2File(folder / "model.bin", ARCHITECTURE)
        for folder in (directory, directories[kind])
    )
    arrays = {name for name, variable in theirs.variables.items() if variable.shape}
    assert arrays == {name for name, variable in ours.variables.items() if variable.shape}
    assert theirs.scales.keys() == ours.scales.keys()
    heads = ("encoder/num_heads", "decoder/num_heads")  # of the usual tiny model
    for name in ours.variables.keys() - set(heads):
        one, other = (file.values(file.variables[name]) for file in (ours, theirs))
        assert one.dtype == other.dtype and torch.equal(one, other), name
