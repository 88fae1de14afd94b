"""lors.export.whisper_vocabulary: which of Whisper's vocabularies a model has."""

import json

import pytest
import torch

from lors.bin.export_whisper import main as export
from lors.checkpoint.vocabulary import check_same_vocabulary, special_tokens_of
from lors.export.whisper_tokenizer import WhisperTokens, tokenizer_files
from lors.export.whisper_vocabulary import whisper_tokens
from lors.models.whisper.import_base import import_whisper
from tests.integration.tiny_whisper import make_whisper
from tests.refusal import refusal

FILES = (
    *("added_tokens.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"),
    "vocab.json",
)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Directories as LoRS exports them, without weights: 99 and 100 languages; one token added."""
    folder = tmp_path_factory.mktemp("directories")
    for name, size in (("99", 51865), ("100", 51866), ("added", 51865)):
        (folder / name).mkdir()
        tokens = WhisperTokens(size)
        if name == "added":
            tokens.special["<|new|>"] = 51865
        generation = {
            "lang_to_id": tokens.languages,
            "task_to_id": tokens.tasks,
            "no_timestamps_token_id": tokens.no_timestamps,
        }
        files = {"generation_config.json": generation, **tokenizer_files(tokens, 448)}
        for file in FILES:
            (folder / name / file).write_text(json.dumps(files[file]))
    return folder


def dims_of(tokens, mels):
    return {"n_vocab": tokens, "n_mels": mels}


@pytest.mark.parametrize(("tokens", "mels"), [(51865, 80), (51866, 128)])
def test_official_models_without_files(tmp_path, tokens, mels):
    found = whisper_tokens(dims_of(tokens, mels), tmp_path / "model.pt")
    assert len(found.languages) == tokens - 51766
    with refusal(tmp_path / "model.pt", tokens, 208 - mels):
        whisper_tokens(dims_of(tokens, 208 - mels), tmp_path / "model.pt")


@pytest.mark.parametrize("only", [None, *FILES[:-1]])
@pytest.mark.parametrize("name", ["99", "100", "added"])
def test_files_beside_the_model(directories, tmp_path, name, only):
    for file in FILES if only is None else [only]:
        (tmp_path / file).write_text((directories / name / file).read_text())
    size = 51865 if name == "99" else 51866
    for mels in (80, 128):
        if name == "added":
            with refusal(tmp_path / "model.pt", "<|transcribe|>: number 50359", 50360):
                whisper_tokens(dims_of(size, mels), tmp_path / "model.pt")
        else:
            found = whisper_tokens(dims_of(size, mels), tmp_path / "model.pt")
            assert found.tasks["transcribe"] == 50359 + (name == "100")


def test_names_of_special_tokens_in_older_directories(directories, tmp_path):
    text = (directories / "99" / "added_tokens.json").read_text()
    (tmp_path / "added_tokens.json").write_text(text.replace("nospeech", "nocaptions"))
    whisper_tokens(dims_of(51865, 80), tmp_path / "model.pt")


def test_a_token_in_the_place_of_a_language(directories, tmp_path):
    text = (directories / "99" / "added_tokens.json").read_text()
    (tmp_path / "added_tokens.json").write_text(text.replace("<|su|>", "<|gsw|>"))
    with refusal("<|gsw|>", 50357):
        whisper_tokens(dims_of(51865, 80), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("added_tokens.json", ["<|de|>"]),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<|de|>"}}}),
        ("generation_config.json", {"lang_to_id": {"<|de|>": None}}),
        ("tokenizer.json", {"added_tokens": [{"id": 1}]}),
        ("tokenizer.json", {"added_tokens": 3}),
    ],
)
def test_damaged_files(tmp_path, file, content):
    (tmp_path / file).write_text(json.dumps(content))
    with refusal(tmp_path / file) as caught:
        special_tokens_of(tmp_path)
    assert caught.value.hint


def test_a_model_with_an_added_token_is_not_imported_or_exported(tmp_path, capsys):
    path = make_whisper(tmp_path / "added.pt", n_vocab=51866)
    with refusal(path, "51866 tokens, 80 mels"):
        import_whisper(str(path), tmp_path / "base")
    assert export(["--model", str(path), "--out", str(tmp_path / "hf")]) == 1
    assert str(path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["added.pt"]


def test_experts_with_other_added_tokens(directories, tmp_path):
    for name in ("99", "100", "added"):
        check_same_vocabulary(directories / name, directories / name, tmp_path)
    added = json.loads((directories / "added" / "added_tokens.json").read_text())
    added["<|other|>"] = added.pop("<|new|>")
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    torch.save({}, tmp_path / "model.pth")
    with refusal(tmp_path / "model.pth", 51865, "<|other|>", "<|new|>"):
        check_same_vocabulary(directories / "added", tmp_path / "model.pth")
    with refusal(directories / "100", 50358, "<|yue|>", "<|translate|>"):
        check_same_vocabulary(directories / "99", directories / "100")
