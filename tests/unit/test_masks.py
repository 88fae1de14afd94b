"""Files of masks: masks alone, a model with masks, a packed sub-network; damage and misuse."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lors.bin import pack_subnets, quantise
from lors.checkpoint.masks import Masks, write_masks, write_model_with_masks, write_subnetwork
from lors.checkpoint.quantised import open_quantised
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.safetensors_file import HEADER
from lors.errors import UsageError
from lors.export.espnet import pack_espnet
from lors.export.whisper import export_whisper
from lors.merge import MergePlan, open_inputs
from lors.models.quantise import quantise_directory
from lors.models.whisper.import_base import import_whisper
from lors.subnet.find import find_masks
from tests.integration.tiny_whisper import make_whisper
from tests.refusal import refusal
from tests.unit.checkpoint_files import file_names
from tests.unit.merge_models import model

NAMES = [
    "encoder.encoders.0.self_attn.linear_q.weight",  # 64 entries
    "decoder.decoders.0.self_attn.linear_q.weight",  # 48
]
SETTINGS = {"criterion": "taylor", "rate": 30, "scope": "matrix"}


@pytest.fixture
def base(tmp_path):
    state = model(0)
    # A shape whose bits do not end with a byte.
    state[NAMES[1]] = torch.randn(7, 5, generator=torch.Generator().manual_seed(9))
    torch.save(state, tmp_path / "base.pth")
    return Checkpoint.open(tmp_path / "base.pth")


@pytest.fixture
def given(base):
    generator = torch.Generator().manual_seed(1)
    return {
        lang: {name: torch.rand(base.shape(name), generator=generator) > 0.4 for name in NAMES}
        for lang in ("de", "es", "sv-SE")
    }


@pytest.fixture
def path(tmp_path, base, given):
    write_masks(tmp_path / "masks.safetensors", base, NAMES, given, SETTINGS)
    return tmp_path / "masks.safetensors"


def assert_masks(found, given):
    assert found.languages == list(given)
    for lang, of in given.items():
        for name, mask in of.items():
            assert found.mask(lang, name).dtype == torch.bool
            assert torch.equal(found.mask(lang, name), mask)


def test_masks_come_back(path, base, given):
    found = Masks(path)
    assert_masks(found, given)
    assert found.settings == SETTINGS and found.base == base.fingerprint()
    kept = sum(int(mask.sum()) for mask in given["es"].values())
    assert found.density("es") == kept / (64 + 35)
    # A bit for an entry: 13 bytes a language, and the header.
    assert path.stat().st_size < 3 * 13 + 1000


def test_equal_masks_give_equal_files(path, tmp_path, base, given):
    write_masks(tmp_path / "again.safetensors", base, NAMES, given, SETTINGS)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_restricted_model_is_zero_outside(path, base, given):
    state = Masks(path).restricted(base, "de")
    for name in base.names():
        expected = base.tensor(name)
        if name in NAMES:
            expected = torch.where(given["de"][name], expected, torch.tensor(0.0))
        assert torch.equal(state[name], expected)


def test_model_with_all_masks_in_one_file(path, base, given, tmp_path):
    out = tmp_path / "all.safetensors"
    write_model_with_masks(out, base, Masks(path))
    assert_masks(Masks(out), given)
    opened = Checkpoint.open(out)
    assert set(opened.names()) == set(base.names())
    assert opened.fingerprint() == base.fingerprint()


def test_dtype_of_all_packed_files(path, base, given, tmp_path):
    trained, out = tmp_path / "trained", tmp_path / "packed"
    trained.mkdir()
    torch.save(base_state(base), trained / "model.pth")
    (trained / "masks.safetensors").write_bytes(path.read_bytes())
    words = ["--model", str(trained), "--out", str(out), "--langs", "de", "--dtype", "float16"]
    assert pack_subnets.main(words) == 0
    assert_masks(Masks(out / "all/subnetwork.safetensors"), given)
    for name in ("de", "all"):
        opened = Checkpoint.open(out / name / "subnetwork.safetensors")
        for tensor in base.names():
            value = base.tensor(tensor)
            if name == "de" and tensor in NAMES:
                value = value.masked_fill(~given["de"][tensor], 0)
            expected = value.half() if value.is_floating_point() else value
            assert torch.equal(opened.tensor(tensor), expected), (name, tensor)
            assert opened.dtype(tensor) == expected.dtype


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_packed_subnetwork_is_a_model(path, base, given, tmp_path, dtype):
    out = tmp_path / "es.safetensors"
    write_subnetwork(out, base, Masks(path), "es", dtype)
    opened, expected = Checkpoint.open(out), Masks(path).restricted(base, "es")
    assert set(opened.names()) == set(expected)
    for name, value in expected.items():
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        assert opened.shape(name) == tuple(value.shape) and opened.dtype(name) == value.dtype
        assert torch.equal(opened.tensor(name), value)
    assert Masks(out).languages == ["es"]
    with pytest.raises(KeyError):
        opened.tensor("mask/es")


def test_language_without_a_mask(path, base, tmp_path):
    with refusal("fr", "de, es, sv-SE", path, kind=UsageError):
        Masks(path).restricted(base, "fr")
    with refusal("fr", "de, es, sv-SE", kind=UsageError):
        write_subnetwork(tmp_path / "fr.safetensors", base, Masks(path), "fr")
    assert not (tmp_path / "fr.safetensors").exists()


def test_masks_of_another_base(path, base, tmp_path):
    torch.save(model(1), tmp_path / "other.pth")
    other = Checkpoint.open(tmp_path / "other.pth")
    with refusal(path, base.fingerprint(), other.fingerprint(), "other.pth"):
        Masks(path).check_base(other)
    Masks(path).check_base(base)
    with refusal(path, NAMES[1], [8, 6], [7, 5]):
        Masks(path).check_structure(other)


def test_masks_are_no_model_and_a_model_has_no_masks(path, base, tmp_path):
    with refusal(path):
        Checkpoint.open(path)
    save_file(base_state(base), tmp_path / "model.safetensors")
    for other in ("model.safetensors", "nowhere.safetensors", "base.pth"):
        with refusal(other):
            Masks(tmp_path / other)
    with refusal("--out", "masks.bin", kind=UsageError):
        write_masks(tmp_path / "masks.bin", base, NAMES, {}, SETTINGS)
    assert "masks.bin" not in file_names(tmp_path)


@pytest.fixture
def masked(tmp_path):
    """A Whisper with the masks of two languages, and its packed files."""
    directory = tmp_path / "s3net_taylor_50"
    import_whisper(str(make_whisper(tmp_path / "tiny.pt")), directory, window=2.0)
    model = Checkpoint.open(directory / "model.pth")
    scores = {"de": model.tensor, "es": lambda name: -model.tensor(name)}
    find_masks(directory / "masks.safetensors", model, scores, "taylor", 50)
    words = ["--model", str(directory), "--out", str(tmp_path / "packed/s3net_taylor_50")]
    assert pack_subnets.main(words) == 0
    return directory


@pytest.mark.parametrize("name", ["model.pth", "all/subnetwork.safetensors"])
def test_a_model_whose_masks_would_be_lost(masked, tmp_path, name):
    file = (masked if name == "model.pth" else tmp_path / "packed/s3net_taylor_50") / name
    facts = (file, "de, es", "exp/packed/<system>/<lang>")
    with refusal(*facts):
        export_whisper(file, tmp_path / "out.pt")
    with refusal(*facts):
        import_whisper(str(file), tmp_path / "base", window=2.0)
    for plan in ({"base": str(file)}, {"experts": (str(file),)}, {"onto": str(file)}):
        given = {"base": str(tmp_path / "tiny.pt"), "experts": (str(tmp_path / "tiny.pt"),)}
        with refusal(*facts):
            open_inputs(MergePlan(**{**given, **plan}, method="task_arithmetic"))
    with refusal(*facts):
        quantise_directory(file.parent, tmp_path / "quantised")
    if name == "model.pth":
        with refusal(*facts):
            pack_espnet(masked, masked, tmp_path / "out.zip")
    assert not {"out.pt", "base", "quantised", "out.zip"} & {p.name for p in tmp_path.iterdir()}


def test_a_packed_subnetwork_is_exported_and_quantised(masked, tmp_path):
    packed, masks = tmp_path / "packed/s3net_taylor_50/de", Masks(masked / "masks.safetensors")
    export_whisper(packed / "subnetwork.safetensors", tmp_path / "de.pt")
    words = ["--model", str(packed / "subnetwork.safetensors"), "--out", str(tmp_path / "4bit")]
    assert quantise.main(words) == 0
    whole = Checkpoint.open(masked / "model.pth")
    exported = Checkpoint.open(tmp_path / "de.pt")
    quantised = open_quantised(tmp_path / "4bit/model.safetensors")
    for name, expected in masks.restricted(whole, "de").items():
        assert torch.equal(exported.tensor(name), expected), name
        if name in masks.shapes:
            assert not quantised.tensor(name)[~masks.mask("de", name)].any(), name


def base_state(base):
    return {name: base.tensor(name) for name in base.names()}


def test_damaged_bits(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the bits of one of the languages
    path.write_bytes(content)
    with refusal(path):
        for lang in Masks(path).languages:
            Masks(path).mask(lang, NAMES[0])


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_truncated_file(path, size):
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with refusal(path):
        Masks(path)


@pytest.mark.parametrize(
    "change",
    [
        *({"shapes": {NAMES[0]: [8, 9]}}, {"shapes": {NAMES[0]: [8, -8]}}, {"shapes": []}),
        *({"shapes": {NAMES[0]: [2**50, 2]}}, {"shapes": {NAMES[0]: [1] * 100_000}}),
        *({"languages": {}}, {"languages": {"de": 7}}, {"languages": {"it": "0"}}, {"base": None}),
        *({"packed": True}, {"packed": 1}, {"settings": None}, {"shapes": {NAMES[0]: [True, 8]}}),
    ],
)
def test_damaged_header(path, change):
    tensors, header = load_file(path), json.loads(header_of(path))
    save_file(tensors, path, metadata={HEADER: json.dumps({**header, **change})})
    with refusal(path):
        found = Masks(path)
        found.mask("de", NAMES[0])


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"base": "x"}'])
def test_no_header(path, text):
    save_file(load_file(path), path, metadata={HEADER: text})
    with refusal(path):
        Masks(path)


def header_of(path):
    size = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"][HEADER]


def test_packed_values_of_another_mask(path, base, tmp_path):
    out = tmp_path / "es.safetensors"
    write_subnetwork(out, base, Masks(path), "es")
    tensors = load_file(out)
    tensors[NAMES[0]] = tensors[NAMES[0]][:-1].clone()
    save_file(tensors, out, metadata={HEADER: header_of(out)})
    with refusal(out, NAMES[0]):
        Checkpoint.open(out).tensor(NAMES[0])
