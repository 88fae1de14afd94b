"""lors.export.whisper and its command line, with tiny models."""

import json
import re
import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file
from whisper_files import DIMS, espnet_state, hugging_face_state, openai_state, write_hugging_face

from lors.bin import quantise
from lors.bin.export_whisper import main
from lors.checkpoint.expert import open_model
from lors.checkpoint.quantised import open_quantised, write_quantised
from tests.unit.small_experts import write_lora, write_vector

VOCABULARY = 51865


def state_of(vocabulary=VOCABULARY):
    state = openai_state()
    embedding = torch.randn(vocabulary, 8, generator=torch.Generator().manual_seed(1))
    return state | {"decoder.token_embedding.weight": embedding}


def write_pt(path, state, **dims):
    vocabulary = len(state["decoder.token_embedding.weight"])
    dims = {**DIMS, "n_vocab": vocabulary, **dims}
    torch.save({"dims": dims, "model_state_dict": state}, path)
    return path


def export(model, out, *more):
    return main(["--model", str(model), "--out", str(out), *more])


def equal(one, other):
    return list(one) == list(other) and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file of OpenAI, and the directory that it is exported to."""
    folder = tmp_path_factory.mktemp("exported")
    model = write_pt(folder / "model.pt", state_of())
    assert export(model, folder / "hf") == 0
    return model, folder / "hf"


def read(directory, name):
    return json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))


def test_weights_of_the_directory(exported):
    _, directory = exported
    state = load_file(directory / "model.safetensors")
    expected = hugging_face_state(state_of())
    assert equal(dict(sorted(state.items())), dict(sorted(expected.items())))
    assert "proj_out.weight" not in state


def test_configuration_of_the_directory(exported):
    _, directory = exported
    config = read(directory, "config")
    assert config["d_model"] == 8 and config["vocab_size"] == VOCABULARY
    assert config["encoder_ffn_dim"] == config["decoder_ffn_dim"] == 32
    assert config["encoder_attention_heads"] == config["decoder_attention_heads"] == 2
    assert (config["max_source_positions"], config["max_target_positions"]) == (6, 6)
    assert config["num_mel_bins"] == 4 and config["torch_dtype"] == "float32"
    assert read(directory, "generation_config")["alignment_heads"] == [[1, 0], [1, 1]]
    assert read(directory, "preprocessor_config")["feature_size"] == 4


def test_features_of_an_official_model(tmp_path, capsys):
    state = state_of() | {"encoder.positional_embedding": torch.ones(1500, 8)}
    model = write_pt(tmp_path / "model.pt", state, n_audio_ctx=1500)
    assert export(model, tmp_path / "hf") == 0
    config = read(tmp_path / "hf", "preprocessor_config")
    assert (config["chunk_length"], config["n_samples"]) == (30, 480000)
    assert config["nb_max_frames"] == 3000
    log = capsys.readouterr().err
    assert str(model) in log and "30 s" not in log


def test_an_encoder_for_other_lengths_is_warned_about(tmp_path, capsys):
    state = state_of() | {"encoder.positional_embedding": torch.ones(375, 8)}
    model = write_pt(tmp_path / "model.pt", state, n_audio_ctx=375)
    assert export(model, tmp_path / "hf") == 0
    assert read(tmp_path / "hf", "config")["max_source_positions"] == 375
    assert read(tmp_path / "hf", "preprocessor_config")["chunk_length"] == 7
    warning = capsys.readouterr().err
    assert "7.5 s" in warning and "120000" in warning


def test_round_trip_is_the_same_file(exported, tmp_path):
    model, directory = exported
    assert export(model, tmp_path / "direct.pt") == 0
    assert export(directory, tmp_path / "round.pt") == 0
    assert (tmp_path / "direct.pt").read_bytes() == (tmp_path / "round.pt").read_bytes()
    content = torch.load(tmp_path / "round.pt", weights_only=True)
    assert content["dims"] == {**DIMS, "n_vocab": VOCABULARY}
    assert equal(content["model_state_dict"], state_of())


def test_every_kind_of_model_is_read(exported, tmp_path):
    model, _ = exported
    state = state_of()
    assert export(model, tmp_path / "expected.pt") == 0
    sources = {
        "openai_names.pth": state,
        "espnet.pth": espnet_state(state),
        "espnet_training.pth": {"model": espnet_state(state), "reporter": {}},
    }
    for name, content in sources.items():
        (tmp_path / name).mkdir()  # none of these files has the numbers of heads
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        (tmp_path / name / "config.json").write_text(json.dumps(heads))
        torch.save(content, tmp_path / name / name)
        assert export(tmp_path / name / name, tmp_path / f"{name}.pt") == 0
    save_file(espnet_state(state), tmp_path / "espnet.pth" / "espnet.safetensors")
    assert export(tmp_path / "espnet.pth" / "espnet.safetensors", tmp_path / "flat.pt") == 0
    sharded = write_hugging_face(tmp_path / "sharded", state, shards=3, tied=True)
    assert export(sharded, tmp_path / "sharded.pt") == 0
    expected = (tmp_path / "expected.pt").read_bytes()
    written = sorted(path for path in tmp_path.glob("*.pt"))
    assert len(written) == 6 and all(path.read_bytes() == expected for path in written)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(exported, tmp_path, dtype):
    model, _ = exported
    assert export(model, tmp_path / "hf", "--dtype", dtype) == 0
    state = load_file(tmp_path / "hf" / "model.safetensors")
    assert {str(value.dtype) for value in state.values()} == {f"torch.{dtype}"}
    assert read(tmp_path / "hf", "config")["torch_dtype"] == dtype
    assert export(tmp_path / "hf", tmp_path / "back.pt", "--dtype", "float32") == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)["model_state_dict"]
    rounded = {n: value.to(getattr(torch, dtype)).float() for n, value in state_of().items()}
    assert equal(back, rounded)


def test_weights_of_several_dtypes_are_loaded_in_the_widest(tmp_path):
    state = {name: value.half() for name, value in state_of().items()}
    state["decoder.ln.weight"] = state["decoder.ln.weight"].float()
    model = write_pt(tmp_path / "model.pt", state)
    assert export(model, tmp_path / "hf") == 0
    assert read(tmp_path / "hf", "config")["torch_dtype"] == "float32"
    assert export(tmp_path / "hf", tmp_path / "back.pt") == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)["model_state_dict"]
    assert equal(back, state)


@pytest.mark.parametrize(
    "value, fact", [(1e6, "torch.float16"), (float("inf"), "infinite"), (float("nan"), "NaN")]
)
def test_a_weight_that_is_no_number_leaves_nothing_behind(tmp_path, capsys, value, fact):
    state = state_of()
    state["decoder.ln.bias"][0] = value
    model = write_pt(tmp_path / "model.pt", state)
    for out in ("hf", "out.pt"):
        assert export(model, tmp_path / out, "--dtype", "float16") == 1
        error = capsys.readouterr().err
        assert f"{model}: decoder.ln.bias" in error and fact in error
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_all_that_is_missing_or_wrong_is_listed(tmp_path, capsys):
    state = state_of()
    del state["decoder.ln.bias"]
    state["encoder.blocks.1.mlp.0.weight"] = torch.zeros(16, 8)
    state["encoder.blocks.0.attn.key.bias"] = torch.zeros(8)
    for out in ("hf", "out.pt"):
        assert export(write_pt(tmp_path / "model.pt", state, n_text_head=3), tmp_path / out) == 1
        error = capsys.readouterr().err
        [missing] = [line for line in error.splitlines() if "decoder.ln.bias" in line]
        [shape] = [line for line in error.splitlines() if "encoder.blocks.1.mlp.0.weight" in line]
        [other] = [line for line in error.splitlines() if "encoder.blocks.0.attn.key.bias" in line]
        [heads] = [line for line in error.splitlines() if "3 heads" in line]
        assert "[16, 8]" in shape and "[32, 8]" in shape and "8" in heads
        assert len({missing, shape, other, heads}) == 4


def test_models_that_are_no_whisper_are_refused(tmp_path, capsys):
    torch.save({"encoder.embed.weight": torch.zeros(2, 2)}, tmp_path / "s2t.pth")
    assert export(tmp_path / "s2t.pth", tmp_path / "hf") == 1
    told = capsys.readouterr().err
    assert "encoder.embed.weight" in told and f"where: {tmp_path / 's2t.pth'}" in told
    part = {n: value for n, value in state_of().items() if n.startswith("encoder.blocks")}
    torch.save(part, tmp_path / "part.pth")
    assert export(tmp_path / "part.pth", tmp_path / "hf") == 1
    assert "decoder.token_embedding.weight" in capsys.readouterr().err


def test_a_model_in_4_bits_is_refused_with_the_command_for_full_precision(
    exported, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    names = [name for name in state_of() if name.endswith("query.weight")]
    file = tmp_path / "quantised/model.safetensors"
    write_quantised(open_model(exported[0]), names, file)
    for out in ("hf", "out.pt"):
        for words in ([file], [file.parent], [exported[0], "--base", file.parent]):
            assert export(words[0], out, *map(str, words[1:])) == 1
            error = capsys.readouterr().err
            assert str(file) in error and "4 bits" in error
    assert [path.name for path in tmp_path.iterdir()] == ["quantised"]
    [command] = re.findall(r"lors quantise (.*)", error)
    assert quantise.main(shlex.split(command)) == 0
    expected, found = open_quantised(file), open_model("copy.pth")
    assert all(torch.equal(found.tensor(name), expected.tensor(name)) for name in expected.names())


def test_a_small_expert_without_its_base_model(exported, tmp_path, capsys):
    base = str(exported[0])
    state = state_of()
    name = "encoder.blocks.1.mlp.0.weight"
    tuned = str(write_pt(tmp_path / "tuned.pt", state | {name: state[name] + 1}))
    vector = write_vector(base, tuned, tmp_path / "v.safetensors")
    adapter = write_lora(base, tuned, tmp_path / "lora", 1)
    stem = "encoder.encoders.blocks.1.mlp.0"
    factors = {f"{stem}.lora_A": torch.ones(1, 8), f"{stem}.lora_B": torch.ones(32, 1)}
    torch.save(factors, tmp_path / "lora.pth")
    for model in (vector, adapter, tmp_path / "lora.pth"):
        assert export(model, tmp_path / "out.pt") == 1
        error = capsys.readouterr().err
        assert str(model) in error and "--base" in error and "an expert" not in error
    assert export(vector, tmp_path / "out.pt", "--base", base) == 0


@pytest.mark.parametrize("vocabulary", [51864, 100])
def test_another_vocabulary_has_no_directory(tmp_path, capsys, vocabulary):
    model = write_pt(tmp_path / "model.pt", state_of(vocabulary))
    assert export(model, tmp_path / "hf") == 1
    error = capsys.readouterr().err
    assert str(vocabulary) in error and str(model) in error and "51865" in error
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert export(model, tmp_path / "out.pt") == 0  # a file of OpenAI has no vocabulary


@pytest.mark.parametrize("name", ["out.pth", "out.safetensors", "out.PT", "out.Pth"])
def test_other_files_are_refused(exported, tmp_path, capsys, name):
    assert export(exported[0], tmp_path / name) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / name) in error and ".pt," in error


def test_nothing_is_written_over(exported, capsys):
    model, directory = exported
    before = sorted(path.name for path in directory.iterdir())
    for source, target in ((model, model), (model, directory), (directory, directory)):
        assert export(source, target) == 2
        assert str(target) in capsys.readouterr().err
    assert sorted(path.name for path in directory.iterdir()) == before


def test_a_model_that_is_not_there(tmp_path, capsys):
    assert export(tmp_path / "none.pt", tmp_path / "hf") == 1
    assert "none.pt" in capsys.readouterr().err
