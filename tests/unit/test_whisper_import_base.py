"""A Whisper of any form becomes an experiment's base model."""

import json

import pytest
import safetensors.torch
import torch
import yaml
from whisper_files import espnet_state, hugging_face_state

from lors.bin import import_base
from lors.errors import UsageError
from lors.models import family_of, open_recogniser
from lors.models.quantise import quantise_directory
from lors.models.whisper.conf import WhisperOptions
from lors.models.whisper.import_base import import_whisper
from lors.models.whisper.window import Window
from lors.tasks import Pair
from tests.integration.tiny_whisper import DIMS, make_whisper
from tests.refusal import refusal
from tests.unit.ctranslate2_files import write_ctranslate2


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return make_whisper(tmp_path_factory.mktemp("official") / "tiny.pt")


@pytest.fixture(scope="module")
def state(official):
    return torch.load(official, weights_only=True)["model_state_dict"]


def imported(out):
    return torch.load(out / "model.pth", weights_only=True)


def same(first, second):
    return set(first) == set(second) and all(torch.equal(first[n], second[n]) for n in first)


def test_openais_file(official, state, tmp_path):
    import_whisper(str(official), tmp_path / "base", window=10.0)
    assert same(imported(tmp_path / "base"), state)
    config = yaml.safe_load((tmp_path / "base" / "config.yaml").read_text())
    assert config == {"whisper_conf": {"dims": DIMS, "window": 10.0, "st_language": "source"}}
    assert family_of(tmp_path / "base").conf.dims == DIMS


def test_half_precision_becomes_float32(state, tmp_path):
    half = {name: value.half() for name, value in state.items()}
    torch.save({"dims": DIMS, "model_state_dict": half}, tmp_path / "half.pt")
    import_whisper(str(tmp_path / "half.pt"), tmp_path / "base")
    assert same(imported(tmp_path / "base"), {n: v.float() for n, v in half.items()})


def test_directory_of_hugging_face(state, tmp_path):
    directory = tmp_path / "whisper-tiny"
    directory.mkdir()
    theirs = hugging_face_state(state)
    theirs["proj_out.weight"] = theirs["model.decoder.embed_tokens.weight"].clone()
    safetensors.torch.save_file(theirs, directory / "model.safetensors")
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    (directory / "config.json").write_text(json.dumps({"model_type": "whisper", **heads}))
    import_whisper(str(directory), tmp_path / "base")
    assert same(imported(tmp_path / "base"), state)
    assert family_of(tmp_path / "base").conf.dims == DIMS


def test_model_of_espnet(state, tmp_path):
    wide = make_whisper(tmp_path / "wide.pt", n_audio_state=128, n_text_state=128)
    wide = torch.load(wide, weights_only=True)["model_state_dict"]
    torch.save(espnet_state(wide), tmp_path / "espnet.pth")
    import_whisper(str(tmp_path / "espnet.pth"), tmp_path / "base")
    assert same(imported(tmp_path / "base"), wide)  # two heads, as all official models of 128


def test_source_of_a_file(official, tmp_path):
    import_whisper(str(official), tmp_path / "base")
    source = yaml.safe_load((tmp_path / "base" / "source.yaml").read_text())
    assert source == {"base_model": str(official), "source": str(official.resolve())}


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.int8])
def test_directory_of_ctranslate2(state, tmp_path, dtype, caplog):
    directory = write_ctranslate2(tmp_path / "ct2", state, dtype)
    import_whisper(str(directory), tmp_path / "base")
    found = imported(tmp_path / "base")
    if dtype == torch.int8:
        assert "int8" in caplog.text and found.keys() == state.keys()
        assert all(torch.allclose(found[n], state[n], atol=0.02) for n in state)
    else:
        assert same(found, {n: v.to(dtype or v.dtype).float() for n, v in state.items()})
    assert family_of(tmp_path / "base").conf.dims == DIMS


def test_the_dtype_of_the_file_makes_no_other_base_model(state, tmp_path):
    half = {name: value.half() for name, value in state.items()}
    float32 = {name: value.float() for name, value in half.items()}
    for name, values in (("half", half), ("float32", float32)):
        torch.save({"dims": DIMS, "model_state_dict": values}, tmp_path / f"{name}.pt")
        import_whisper(str(tmp_path / f"{name}.pt"), tmp_path / "base")


def test_name_that_is_refused_before_any_download(tmp_path, monkeypatch):
    monkeypatch.setattr("whisper._download", lambda *_, **__: pytest.fail("a download"))
    with refusal("smal", "small", kind=UsageError):
        import_whisper("smal", tmp_path / "base")


@pytest.mark.parametrize(
    ("dims", "fact"), [({"n_vocab": 51860}, "51860 tokens"), ({"n_mels": 40}, "40 mels")]
)
def test_models_that_are_refused(dims, fact, tmp_path):
    path = make_whisper(tmp_path / "other.pt", **dims)
    with refusal(path, fact):
        import_whisper(str(path), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_an_english_only_model(tmp_path):
    """It is imported, and knows no other pair than recognition of English."""
    path = make_whisper(tmp_path / "tiny.en.pt", n_vocab=51864)
    import_whisper(str(path), tmp_path / "base")
    family = family_of(tmp_path / "base")
    family.check_pairs([Pair("en", "asr"), Pair("en-x-anna", "asr")])
    with refusal("de_asr", "English"):
        family.check_pairs([Pair("de", "asr")])


def test_no_whisper_at_all(tmp_path):
    torch.save({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "model.pth")
    path = tmp_path / "model.pth"
    with refusal("encoder.weight", "openai", f"where: {path}", "--model_family"):
        import_whisper(str(path), tmp_path / "base")


def test_window_longer_than_the_model(tmp_path):
    path = make_whisper(tmp_path / "short.pt", n_audio_ctx=500)
    with refusal("--window", "10 s", "30 s", path, kind=UsageError):
        import_whisper(str(path), tmp_path / "base")
    with refusal("--base_window", "20 s", "10 s", path, kind=UsageError):
        import_whisper(str(path), tmp_path / "base", 10.0, base_window=20.0)
    import_whisper(str(path), tmp_path / "base", window=10.0)


def test_window_of_the_base_model_alone(official, tmp_path):
    out = tmp_path / "base"
    import_whisper(str(official), out, "auto", base_window=10.0)
    import_whisper(str(official), tmp_path / "short", window=10.0)
    base, short = open_recogniser(out), open_recogniser(tmp_path / "short")
    assert base.window(8000) == short.window(8000) == Window(10.0, DIMS["n_audio_ctx"])
    generator = torch.Generator().manual_seed(0)
    waveforms = [torch.randn(size, generator=generator).numpy() for size in (8000, 20000)]
    pair, options = Pair("de", "asr"), WhisperOptions(max_tokens=8)
    assert base.transcribe(waveforms, pair, options) == short.transcribe(waveforms, pair, options)
    # Longer speech has the window of config.yaml: nothing is cut off.
    long = torch.randn(12 * 16000, generator=generator).numpy()
    import_whisper(str(official), tmp_path / "auto", "auto")
    whole = open_recogniser(tmp_path / "auto").transcribe([long], pair, options)
    mixed = [waveforms[0], long, waveforms[1]]
    assert base.window(len(long)).is_auto and short.transcribe([long], pair, options) != whole
    expected = short.transcribe(waveforms, pair, options)
    assert base.transcribe(mixed, pair, options) == [expected[0], *whole, expected[1]]
    # A model that is trained or merged has the window of config.yaml.
    base.load_state(imported(out))
    assert base.window(8000).is_auto and family_of(out).conf.window == "auto"
    with refusal(out, "base_window: 10.0 -> 5.0"):
        import_whisper(str(official), out, "auto", base_window=5.0)


def test_window_of_the_base_model_in_4_bits(official, tmp_path):
    out, quantised = tmp_path / "base", tmp_path / "quantised"
    import_whisper(str(official), out, "auto", base_window=10.0)
    quantise_directory(out, quantised)
    recogniser = open_recogniser(quantised)
    assert recogniser.window(8000).value == 10.0
    recogniser.adapt({})
    assert recogniser.window(8000).is_auto


@pytest.mark.parametrize("window", ["-3", "0", "40", "nan"])
def test_window_that_no_training_accepts(window, tmp_path, capsys):
    path = make_whisper(tmp_path / "long.pt", n_audio_ctx=3000)
    options = ["--base_model", str(path), "--out", str(tmp_path / "base")]
    options += ["--model_family", "whisper"]
    assert import_base.main([*options, "--window", window]) == 2
    error = capsys.readouterr().err
    assert "--window" in error and window in error
    assert not (tmp_path / "base").exists()


def test_failed_import_leaves_nothing(official, state, tmp_path):
    broken = {**state, "decoder.ln.bias": torch.full((32,), float("nan"))}
    torch.save({"dims": DIMS, "model_state_dict": broken}, tmp_path / "nan.pt")
    with refusal(tmp_path / "nan.pt", "NaN", "decoder.ln.bias") as caught:
        import_whisper(str(tmp_path / "nan.pt"), tmp_path / "base")
    assert "--dtype" not in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["nan.pt"]
    import_whisper(str(official), tmp_path / "base")


def test_link_to_another_disk(official, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "base").symlink_to("disk")
    import_whisper(str(official), tmp_path / "base")
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {
        ".done",
        "config.yaml",
        "model.pth",
        "source.yaml",
    }


def test_import_is_not_repeated_and_not_mixed(official, tmp_path):
    out = tmp_path / "base"
    import_whisper(str(official), out)
    before = (out / "model.pth").stat().st_mtime_ns
    import_whisper(str(official), out)
    assert (out / "model.pth").stat().st_mtime_ns == before
    other = make_whisper(tmp_path / "large-v3.pt", n_mels=128, n_vocab=51866)
    with refusal(out, "n_mels: 80 -> 128"):
        import_whisper(str(other), out)


def test_command_line(official, tmp_path, capsys):
    options = ["--base_model", str(official), "--out", str(tmp_path / "base")]
    assert import_base.main([*options, "--window", "5"]) == 2
    error = capsys.readouterr().err
    assert "--window" in error and "espnet_s2t" in error
    options += ["--model_family", "whisper", "--window", "5", "--st_language", "target"]
    options += ["--base_window", "4"]
    assert import_base.main(options) == 0
    assert yaml.safe_load((tmp_path / "base/inference.yaml").read_text()) == {"window": 4.0}
    conf = family_of(tmp_path / "base").conf
    assert (conf.window, conf.st_language) == (5.0, "target")
