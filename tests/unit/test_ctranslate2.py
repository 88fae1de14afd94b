"""lors.checkpoint.ctranslate2_*: Whisper in CTranslate2's form, whole and damaged; other models."""

import json
import re
import struct
import subprocess
import sys

import pytest
import torch

from lors.bin import export_whisper, inspect, merge
from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vocabulary import check_same_vocabulary, special_tokens_of, tokens_of
from lors.checkpoint.whisper_dims import whisper_dims
from lors.export.whisper import open_whisper
from tests.refusal import refusal
from tests.unit.ctranslate2_files import (
    PROJECTION,
    entry,
    model_bin,
    quantised,
    text,
    variables_of,
    write_ctranslate2,
    write_model_bin,
)
from tests.unit.whisper_files import DIMS, openai_state, write_openai

EMBEDDING = PROJECTION[1]
SELF = "encoder/layer_0/self_attention/linear_0"


@pytest.fixture
def state():
    return openai_state()


@pytest.fixture
def variables(state):
    return variables_of(state)


def contents(checkpoint):
    return {name: checkpoint.tensor(name) for name in checkpoint.names()}


def equal(one, other):
    return list(one) == list(other) and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_and_dims(tmp_path, state, dtype, caplog):
    directory = write_ctranslate2(tmp_path / "ct2", state, dtype)
    expected = {name: value.to(dtype) for name, value in state.items()}
    for path in (directory, directory / "model.bin"):
        opened = Checkpoint.open(path)
        assert equal(contents(opened), expected)  # also the order, which is OpenAI's
        assert opened.spec() == {n: (tuple(v.shape), v.dtype) for n, v in expected.items()}
        assert whisper_dims(opened) == DIMS
    assert not caplog.records


def test_fingerprint_is_that_of_openais_file(tmp_path, state):
    half = {name: value.half() for name, value in state.items()}
    pair = write_ctranslate2(tmp_path / "ct2", half), write_openai(tmp_path / "a.pt", half)
    one, other = (Checkpoint.open(path).fingerprint() for path in pair)
    assert one == other


@pytest.mark.parametrize(("dtype", "steps"), [(torch.int8, 127), (torch.int16, 1024)])
def test_quantised_weights_are_read_in_float32_and_warned_about(
    tmp_path, state, dtype, steps, caplog
):
    opened = Checkpoint.open(write_ctranslate2(tmp_path / "ct2", state, dtype))
    found = contents(opened)
    assert list(found) == list(state)
    for name, value in state.items():
        assert found[name].dtype == opened.dtype(name) == torch.float32
        if value.ndim == 1 or "positional" in name:
            assert torch.equal(found[name], value)
            continue
        # Half a step of a row; int16 has one scale for the matrices of a stack.
        rows = value.flatten(1).abs().amax(1) if steps == 127 else torch.tensor(5.0)
        error = (found[name] - value).flatten(1).abs().amax(1)
        assert (error <= 0.5 / steps * rows * 1.01).all()
        assert error.max() > 0
    [record] = caplog.records
    assert record.levelname == "WARNING" and str(tmp_path / "ct2") in record.getMessage()
    assert str(dtype).removeprefix("torch.") in record.getMessage()


def test_row_scales_of_a_stack_belong_to_its_rows(tmp_path, variables):
    quantised_ones = quantised(variables, torch.int8)
    rows = len(quantised_ones[f"{SELF}/weight"])
    quantised_ones[f"{SELF}/weight"] = torch.ones(rows, 8, dtype=torch.int8)
    quantised_ones[f"{SELF}/weight_scale"] = 1 / torch.arange(1.0, rows + 1)
    opened = Checkpoint.open(write_model_bin(tmp_path / "ct2", quantised_ones))
    for part, name in enumerate(("query", "key", "value")):
        found = opened.tensor(f"encoder.blocks.0.attn.{name}.weight")
        expected = torch.arange(8 * part + 1.0, 8 * part + 9)[:, None].expand(8, 8)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [None, torch.int8])
def test_equal_variables_are_aliases(tmp_path, variables, dtype):
    """The converter writes equal arrays once, such as the norms of a new model."""
    pairs = [
        ("encoder/layer_1/self_attention/layer_norm/beta", "decoder/layer_norm/beta"),
        ("encoder/layer_1/ffn/linear_0/weight", "decoder/layer_0/ffn/linear_0/weight"),
    ]
    # An alias of an alias, as CTranslate2 reads it.
    pairs.append(("decoder/layer_1/ffn/linear_0/weight", pairs[1][0]))
    if dtype is not None:
        variables = quantised(variables, dtype)
    kept = {n: v for n, v in variables.items() if n.removesuffix("_scale") not in dict(pairs)}
    opened = Checkpoint.open(write_model_bin(tmp_path / "ct2", kept, (PROJECTION, *pairs)))
    assert whisper_dims(opened) == DIMS and len(opened.names()) == len(openai_state())
    for one, other in (
        ("encoder.blocks.1.attn_ln.bias", "decoder.ln.bias"),
        ("encoder.blocks.1.mlp.0.weight", "decoder.blocks.0.mlp.0.weight"),
        ("decoder.blocks.1.mlp.0.weight", "decoder.blocks.0.mlp.0.weight"),
    ):
        assert torch.equal(opened.tensor(one), opened.tensor(other))


@pytest.mark.parametrize("dtype", [None, torch.int8])
def test_a_projection_that_repeats_the_embedding(tmp_path, variables, dtype):
    variables = variables | {PROJECTION[0]: variables[EMBEDDING].clone()}
    if dtype is not None:
        variables = quantised(variables, dtype)
    opened = Checkpoint.open(write_model_bin(tmp_path / "ct2", variables, ()))
    assert len(opened.names()) == len(openai_state())
    variables[PROJECTION[0]][1, 2] += 1
    with refusal(tmp_path / "other", *PROJECTION):
        Checkpoint.open(write_model_bin(tmp_path / "other", variables, ()))


def test_heads_of_the_official_width_where_the_file_does_not_tell(tmp_path, variables):
    del variables["encoder/num_heads"]
    opened = Checkpoint.open(write_model_bin(tmp_path / "ct2", variables))
    with refusal(opened.path, "8 and 8"):
        whisper_dims(opened)


def test_unknown_name(tmp_path, state):
    opened = Checkpoint.open(write_ctranslate2(tmp_path / "ct2", state))
    for name in ("nothing", "encoder.blocks.0.attn.key.bias", EMBEDDING):
        for method in (opened.shape, opened.dtype, opened.tensor):
            with pytest.raises(KeyError):
                method(name)


def test_tensors_are_copies(tmp_path, state):
    opened = Checkpoint.open(write_ctranslate2(tmp_path / "ct2", state))
    opened.tensor("decoder.ln.weight").zero_()
    assert torch.equal(opened.tensor("decoder.ln.weight"), state["decoder.ln.weight"])


def test_values_stay_on_disk_until_asked_for(tmp_path, state):
    """Opening 128 MB does not allocate them; measured in a new process."""
    state["decoder.token_embedding.weight"] = torch.zeros(4_000_000, 8)
    directory = write_ctranslate2(tmp_path / "ct2", state)
    code = (
        "import re, sys; from lors.checkpoint.reader import Checkpoint\n"
        "def anonymous():\n"
        "    status = open('/proc/self/status').read()\n"
        "    return int(re.search(r'RssAnon:\\s+(\\d+)', status)[1]) / 1024\n"
        "before = anonymous(); opened = Checkpoint.open(sys.argv[1])\n"
        "opened.spec(); opened.tensor('decoder.ln.bias').sum()\n"
        "print(anonymous() - before)"
    )
    command = [sys.executable, "-c", code, str(directory)]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(grown) < 30


# --- other kinds of models ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "facts"),
    [
        ({"version": 7}, ["version 6", "version 7"]),
        ({"version": 5}, ["version 6", "version 5"]),
        ({"version": 0x67676D6C}, []),  # a file of whisper.cpp
        ({"spec": "TransformerSpec"}, ["WhisperSpec", "TransformerSpec"]),
        ({"spec": "MoonshineSpec", "revision": 1}, ["WhisperSpec", "MoonshineSpec"]),
        ({"revision": 4}, ["revision 3", "revision 4"]),
        ({"revision": 2}, ["revision 3", "revision 2"]),
    ],
)
def test_other_versions_and_architectures(tmp_path, variables, head, facts):
    directory = write_model_bin(tmp_path / "ct2", variables, **head)
    with refusal(directory / "model.bin", *facts) as caught:
        Checkpoint.open(directory)
    assert caught.value.hint


def test_a_file_of_torch_save_under_this_name(tmp_path, state):
    for new in (True, False):
        torch.save(state, tmp_path / "model.bin", _use_new_zipfile_serialization=new)
        opened = Checkpoint.open(tmp_path)
        assert all(torch.equal(opened.tensor(name), state[name]) for name in state)


def replaced(name, value):
    return lambda variables: variables | {name: value}


def without(*names):
    return lambda variables: {n: v for n, v in variables.items() if n not in names}


def with_bias_of_keys(variables):
    variables[f"{SELF}/bias"][8] = 1e-6
    return variables


INT8 = torch.zeros(24, 8, dtype=torch.int8)
CHANGES = {
    "missing": (without("encoder/conv2/bias"), ["encoder/conv2/bias: missing"]),
    "several missing": (
        without(f"{SELF}/bias", EMBEDDING),
        [f"{SELF}/bias: missing", f"{EMBEDDING}: missing"],
    ),
    "another variable": (replaced("encoder/conv3/weight", torch.ones(2)), ["encoder/conv3/weight"]),
    "a layer of its own": (replaced("decoder/layer_9/x", torch.ones(2)), ["decoder/layer_9/x"]),
    "activation": (replaced("decoder/activation", torch.tensor(0)), ["decoder/activation", "3"]),
    "post-norm": (replaced("decoder/pre_norm", torch.tensor(0)), ["decoder/pre_norm"]),
    "alibi": (replaced("decoder/alibi", torch.tensor(1)), ["decoder/alibi"]),
    "an unknown setting": (replaced("encoder/glu", torch.tensor(1)), ["encoder/glu"]),
    "a setting that is NaN": (replaced("encoder/x", torch.tensor(float("nan"))), ["encoder/x"]),
    "biased keys": (with_bias_of_keys, ["encoder.blocks.0.attn.key.bias"]),
    "rows not in threes": (replaced(f"{SELF}/weight", torch.ones(25, 8)), [f"{SELF}/weight", "25"]),
    "a number": (replaced("encoder/conv1/bias", torch.tensor(1.0)), ["encoder/conv1/bias"]),
    "no rows": (replaced("encoder/conv1/bias", torch.ones(0)), ["encoder/conv1/bias"]),
    "int8 without a scale": (replaced(f"{SELF}/weight", INT8), [f"{SELF}/weight"]),
    "int32": (replaced(f"{SELF}/weight", INT8.int()), [f"{SELF}/weight", "int32"]),
    "a scale without int8": (
        replaced(f"{SELF}/weight_scale", torch.ones(24)),
        [f"{SELF}/weight"],
    ),
    "a scale of other rows": (
        lambda v: v | {f"{SELF}/weight": INT8, f"{SELF}/weight_scale": torch.ones(23)},
        [f"{SELF}/weight_scale", "23"],
    ),
    "a scale in int32": (
        lambda v: v | {f"{SELF}/weight": INT8, f"{SELF}/weight_scale": torch.ones(24).int()},
        [f"{SELF}/weight_scale", "int32"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_models_that_are_no_whisper(tmp_path, variables, change):
    changed, facts = CHANGES[change]
    variables = changed(variables)
    variables = {n: v.int() if v.dtype == torch.int64 else v for n, v in variables.items()}
    aliases = (PROJECTION,) if EMBEDDING in variables else ()
    directory = write_model_bin(tmp_path / "ct2", variables, aliases)
    with refusal(directory / "model.bin", *facts) as caught:
        Checkpoint.open(directory)
    assert caught.value.hint


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_scales(tmp_path, variables, value):
    variables = quantised(variables, torch.int8)
    variables[f"{SELF}/weight_scale"][17] = value
    opened = Checkpoint.open(write_model_bin(tmp_path / "ct2", variables))
    opened.tensor("encoder.blocks.0.attn.query.weight")
    with refusal(opened.path, f"{SELF}/weight"):
        opened.tensor("encoder.blocks.0.attn.value.weight")


# --- damaged files ------------------------------------------------------------------------------


def refused(tmp_path, content):
    (tmp_path / "model.bin").write_bytes(content)
    with refusal(tmp_path / "model.bin") as caught:
        Checkpoint.open(tmp_path)
    assert caught.value.hint
    return caught.value


def test_truncated_anywhere(tmp_path, variables):
    whole = model_bin(variables)
    for length in [*range(40), *range(40, len(whole), 997), *range(len(whole) - 60, len(whole))]:
        refused(tmp_path, whole[:length])


def test_more_bytes_than_the_model(tmp_path, variables):
    refused(tmp_path, model_bin(variables) + b"\0")


HEAD = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3)
NAME = text("encoder/conv1/bias")
HUGE = 2**32 - 1


@pytest.mark.parametrize(
    "rest",
    [
        struct.pack("<I", HUGE),  # variables
        struct.pack("<I", 5001) + b"".join(entry(f"x{n}", torch.ones(1)) for n in range(5001)),
        struct.pack("<I", 1) + struct.pack("<H", 2**16 - 1) + b"a" * 2**16,  # a long name
        struct.pack("<I", 1) + struct.pack("<H", 0),
        struct.pack("<I", 1) + struct.pack("<H", 1) + b"\0",
        struct.pack("<I", 1) + struct.pack("<H", 3) + b"abc",  # without its final zero
        struct.pack("<I", 1) + struct.pack("<H", 4) + b"a\0c\0",
        struct.pack("<I", 1) + struct.pack("<H", 4) + b"\xff\xfe\xfd\0",
        struct.pack("<I", 1) + NAME + struct.pack("<B", 255) + bytes(255 * 4 + 10),  # axes
        struct.pack("<I", 1) + NAME + struct.pack("<B8IBI", 8, *[HUGE] * 8, 0, 4) + bytes(4),
        struct.pack("<I", 1) + NAME + struct.pack("<BIBI", 1, 2**30, 0, 0),  # 2**32 bytes
        struct.pack("<I", 1) + NAME + struct.pack("<BIBI", 1, HUGE, 1, HUGE) + bytes(8),
        struct.pack("<I", 1) + NAME + struct.pack("<BIBI", 1, 2, 6, 8) + bytes(8),  # dtype
        struct.pack("<I", 1) + entry("a", torch.ones(2)) + struct.pack("<I", HUGE),  # aliases
        struct.pack("<I", 2) + 2 * entry("a", torch.ones(2)) + struct.pack("<I", 0),
    ],
)
def test_impossible_indices(tmp_path, rest):
    refused(tmp_path, HEAD + rest)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("x", "nothing"), ("x", "x"), ("encoder/conv1/bias", EMBEDDING), (PROJECTION[0], EMBEDDING)],
)
def test_impossible_aliases(tmp_path, variables, alias, name):
    refused(tmp_path, model_bin(variables, (PROJECTION, (alias, name))))


# --- everywhere a Whisper is read ---------------------------------------------------------------


def test_merge_of_directories(tmp_path, state):
    base = write_ctranslate2(tmp_path / "base", state)
    experts = [write_ctranslate2(tmp_path / f"e{n}", openai_state(n)) for n in (1, 2)]
    out = tmp_path / "merged" / "model.pt"
    options = ["--method", "average", "--base", str(base), "--out", str(out)]
    assert merge.main([*options, "--experts", *map(str, experts)]) == 0
    content = torch.load(out, weights_only=True)
    assert content["dims"] == DIMS
    for name, value in content["model_state_dict"].items():
        expected = (openai_state(1)[name] + openai_state(2)[name]) / 2
        torch.testing.assert_close(value, expected)
    again = tmp_path / "again" / "model.pt"
    assert merge.main(["--config", str(out.parent / "merge.yaml"), "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_no_output_takes_the_place_of_an_input(tmp_path, state, name):
    base = write_ctranslate2(tmp_path / "base", state)
    expert = write_openai(tmp_path / "e.pt", openai_state(1))
    options = ["--method", "average", "--base", str(base), "--experts", str(expert)]
    before = (base / "model.bin").read_bytes()
    assert merge.main([*options, "--out", str(base / name)]) == 2
    assert (base / "model.bin").read_bytes() == before
    assert sorted(path.name for path in base.iterdir()) == ["config.json", "model.bin"]


def test_inspection(tmp_path, state, capsys):
    base = write_ctranslate2(tmp_path / "base", state, torch.float16)
    experts = [str(write_ctranslate2(tmp_path / f"e{n}", openai_state(n))) for n in (1, 2)]
    assert inspect.main(["--base", str(base), "--experts", *experts]) == 0
    assert "e1" in capsys.readouterr().out


def test_an_expert_that_is_no_whisper_is_named(tmp_path, state):
    base = open_model(write_openai(tmp_path / "base.pt", state))
    directory = write_model_bin(tmp_path / "de", variables_of(state), spec="TransformerSpec")
    with refusal(directory, "TransformerSpec"):
        open_expert(base, directory)


def test_export_for_openai_and_back(tmp_path, state):
    directory = write_ctranslate2(tmp_path / "ct2", state, torch.float16)
    out = tmp_path / "out.pt"
    assert export_whisper.main(["--model", str(directory), "--out", str(out)]) == 0
    content = torch.load(out, weights_only=True)
    assert content["dims"] == DIMS
    assert equal(content["model_state_dict"], {n: v.half() for n, v in state.items()})


def test_a_whisper_of_uneven_shapes_is_not_exported(tmp_path, variables):
    variables["encoder/conv2/bias"] = torch.ones(9)
    directory = write_model_bin(tmp_path / "ct2", variables)
    with refusal(directory, "encoder.conv2.bias"):
        open_whisper(directory)


# --- vocabulary ---------------------------------------------------------------------------------

TOKENS = ["!", "\u0120the", "<|", "<|endoftext|>", "<|startoftranscript|>"]


def write_vocabulary(directory, name, tokens):
    directory.mkdir(exist_ok=True)
    lines = json.dumps(tokens) if name.endswith(".json") else "".join(f"{t}\n" for t in tokens)
    (directory / name).write_text(lines, encoding="utf-8")
    return directory


@pytest.mark.parametrize("name", ["vocabulary.json", "vocabulary.txt"])
def test_vocabulary(tmp_path, name):
    directory = write_vocabulary(tmp_path / "ct2", name, TOKENS)
    assert tokens_of(directory / "model.bin") == TOKENS[:3]
    expected = {("<|endoftext|>", 3), ("<|startoftranscript|>", 4)}
    assert special_tokens_of(directory) == expected
    numbers = {token: number for number, token in enumerate(TOKENS)}
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "vocab.json").write_text(json.dumps(numbers))
    check_same_vocabulary(directory, tmp_path / "hf")
    other = write_vocabulary(tmp_path / "other", name, [*TOKENS[:3], "<|de|>", *TOKENS[3:]])
    with refusal(other, "<|endoftext|>"):
        check_same_vocabulary(directory, other)
    other = write_vocabulary(tmp_path / "words", name, ["?", *TOKENS[1:]])
    with refusal(other, "'?'"):
        check_same_vocabulary(directory, other)


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", "[", '["a", null]'])
def test_damaged_vocabulary(tmp_path, content):
    (tmp_path / "vocabulary.json").write_text(content)
    with refusal(tmp_path / "vocabulary.json"):
        tokens_of(tmp_path)


def test_the_error_of_a_damaged_file_is_short(tmp_path):
    message = str(refused(tmp_path, HEAD + struct.pack("<IH", 1, 200) + b"\x80" * 200))
    assert len(message) < 1000 and re.search(r"at \d+", message)
