"""lors.checkpoint.vocabulary: tokens of a model, and the check that experts have them too."""

import json

import pytest
import torch

from lors.checkpoint.vocabulary import check_same_vocabulary, tokens_of
from lors.merge.run import MergePlan, open_inputs
from tests.refusal import refusal

TOKENS = ["<blank>", "<unk>", "▁a", "b: c", "<sos/eos>"]


@pytest.fixture
def espnet(tmp_path):
    """Makes a model directory of ESPnet and returns its model file."""

    def make(name, tokens):
        lines = "".join(f"- {token}\n" for token in tokens)
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(
            f"optim: adam\ntoken_list:\n{lines}init: null\nmodel_conf:\n    token_list: x\n"
        )
        torch.save({"a": torch.zeros(2)}, tmp_path / name / "model.pth")
        return tmp_path / name / "model.pth"

    return make


def test_tokens_of_espnet(espnet):
    assert tokens_of(espnet("base", TOKENS)) == TOKENS


def test_tokens_of_hugging_face(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"b": 1, "a": 0, "c": 2}))
    assert tokens_of(tmp_path) == tokens_of(tmp_path / "model.safetensors") == ["a", "b", "c"]


@pytest.mark.parametrize("content", [["a", "b"], {"a": 1, "b": "2"}, {"a": None}, 3])
def test_vocabularies_of_another_form(tmp_path, content):
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    with refusal(tmp_path / "vocab.json") as caught:
        tokens_of(tmp_path)
    assert caught.value.hint


def test_it_does_not_matter_where_hugging_face_lists_special_tokens(tmp_path):
    for name, more in (("a", {}), ("b", {"<|endoftext|>": 2})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").write_text(json.dumps({"b": 1, "a": 0} | more))
    check_same_vocabulary(tmp_path / "a", tmp_path / "b")


def test_where_nothing_is_known_nothing_is_checked(espnet, tmp_path):
    base = espnet("base", TOKENS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("token_list: data/tokens.txt\n")
    assert tokens_of(tmp_path / "other" / "model.pth") is None
    check_same_vocabulary(base, tmp_path / "other" / "model.pth")
    check_same_vocabulary(base, tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("tokens", "facts"),
    [
        ([*TOKENS[:2], "x", *TOKENS[3:]], ["5 tokens", "number 2 is 'x'", "▁a"]),
        (TOKENS[:-1], ["4 tokens", "number 4 is missing", "<sos/eos>"]),
        ([*TOKENS, "y"], ["6 tokens", "number 5 is 'y'", "missing"]),
        ([*TOKENS, "(none)"], ["6 tokens", "number 5 is '(none)'"]),
        ([*TOKENS, "None"], ["6 tokens", "number 5 is 'None'"]),
    ],
)
def test_a_merge_of_different_vocabularies_is_refused(espnet, tokens, facts):
    base, expert = espnet("base", TOKENS), espnet("expert", tokens)
    with refusal(base, expert, *facts):
        open_inputs(MergePlan(str(base), (str(expert),), "average"))
