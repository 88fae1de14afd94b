"""Whisper's tokens, and its vocabulary in Hugging Face's files: lors.export.whisper_tokenizer."""

import importlib.util
import subprocess
import sys

import pytest

from lors import whisper_package
from lors.export.whisper_tokenizer import WhisperTokens, byte_letters, merges_of, tokenizer_files
from lors.whisper_package import whisper_part
from tests.refusal import refusal


@pytest.fixture(scope="module")
def tokens():
    return WhisperTokens(51865)


@pytest.fixture(scope="module")
def files(tokens):
    return tokenizer_files(tokens, 448)


def test_every_byte_has_a_letter_of_its_own():
    letters = byte_letters()
    assert len(set(letters)) == 256 and all(letter.isprintable() for letter in letters)
    assert [letters[ord(c)] for c in "aZ~ \n"] == ["a", "Z", "~", "Ġ", "Ċ"]


def test_merges_of_a_small_vocabulary():
    # "abc" is ab + c, because ab has a lower rank than bc; "bcab" is bc + ab.
    ranks = {token: rank for rank, token in enumerate([b"a", b"b", b"c", b"ab", b"bc", b"abc"])}
    ranks[b"bcab"] = 6
    assert merges_of(ranks) == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"bc", b"ab")]


def test_ranks_that_are_no_merges_are_refused():
    with pytest.raises(ValueError):
        merges_of({b"a": 0, b"b": 1, b"c": 2, b"abc": 3})


def test_no_merge_is_lost(files):
    header, *merges, last = files["merges.txt"].split("\n")
    assert header.startswith("#version") and last == ""
    assert merges == files["tokenizer.json"]["model"]["merges"]
    assert merges[:3] == ["Ġ t", "Ġ a", "Ġt h"]  # " the" needs the first and the third
    assert len(merges) == 50257 - 256 - 1  # all tokens except the bytes and the empty token


def test_vocabulary_has_every_number_once(tokens, files):
    numbers = dict(files["vocab.json"])
    assert numbers["<|endoftext|>"] == 50257 and numbers["Ġthe"] == 264
    numbers |= files["added_tokens.json"]
    assert sorted(numbers.values()) == list(range(51865))
    assert {entry["id"] for entry in files["tokenizer.json"]["added_tokens"]} == set(
        range(50257, 51865)
    )


@pytest.mark.parametrize(
    "n_vocab, languages, last, after", [(51865, 99, "<|su|>", 0), (51866, 100, "<|yue|>", 1)]
)
def test_special_tokens(n_vocab, languages, last, after):
    tokens = WhisperTokens(n_vocab)
    assert (tokens.eot, tokens.sot) == (50257, 50258)
    assert list(tokens.languages.values()) == list(range(50259, 50259 + languages))
    assert [*tokens.languages][:2] == ["<|en|>", "<|zh|>"] and [*tokens.languages][-1] == last
    assert tokens.tasks == {"transcribe": 50359 + after, "translate": 50358 + after}
    assert (tokens.sot_prev, tokens.no_timestamps) == (50361 + after, 50363 + after)
    assert tokens.special["<|0.00|>"] == 50364 + after
    assert tokens.special["<|30.00|>"] == n_vocab - 1
    assert tokens.blank == [220, 50257]


def test_only_timestamps_are_not_special(files):
    config = files["tokenizer_config.json"]
    plain = [e["content"] for e in config["added_tokens_decoder"].values() if not e["special"]]
    assert plain == [f"<|{step * 0.02:.2f}|>" for step in range(1501)]
    # Hugging Face takes the number after the last of these as that of <|0.00|>.
    assert config["additional_special_tokens"][-1] == "<|notimestamps|>"


@pytest.mark.parametrize(("n_vocab", "hint"), [(51864, True), (32000, False)])
def test_other_vocabularies_are_refused(n_vocab, hint):
    with refusal("some/model.pt", n_vocab, "51865 or 51866") as error:
        WhisperTokens(n_vocab, where="some/model.pt")
    assert (".en" in (error.value.hint or "")) == hint


def test_neither_torch_nor_whisper_is_imported():
    code = (
        "import sys; from lors.export.whisper_tokenizer import WhisperTokens; "
        "WhisperTokens(51865); print(sorted({'torch', 'numba', 'whisper'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_of_whisper_is_named(monkeypatch):
    real = importlib.util.find_spec("whisper")
    private = whisper_package.PRIVATE_NAME.format("tokenizer")
    monkeypatch.delitem(sys.modules, private, raising=False)
    monkeypatch.setitem(sys.modules, "tiktoken", None)  # its import fails
    assert real is not None
    with refusal("tiktoken", "pip install"):
        whisper_part("tokenizer")
    assert private not in sys.modules
