import pytest
import sentencepiece
import yaml
from stand_ins import write_dump

from lors.bin import train_tokenizer as command
from lors.errors import UsageError
from lors.models.espnet_s2t.prompts import special_symbols
from lors.models.espnet_s2t.tokens import train_tokenizer
from tests.refusal import refusal

TEXTS = [
    "the quick brown fox jumps",
    "der schnelle braune Fuchs springt über Bäume",
    "den snabba bruna räven",
    "быстрая лиса",
]
OPTIONS = {"langs": ["de", "sv-SE"], "speech_length": 2.0, "speech_resolution": 0.5}
SYMBOLS = special_symbols(["de", "sv-SE"], 2.0, 0.5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("tokens")
    train_tokenizer(TEXTS, out, vocab_size=60, **OPTIONS)
    return out


@pytest.fixture
def pieces_of(directory):
    return sentencepiece.SentencePieceProcessor(
        model_file=str(directory / "bpe.model")
    ).encode_as_pieces


def tokens_in(directory):
    return (directory / "tokens.txt").read_text(encoding="utf-8").splitlines()


def test_vocabulary(directory):
    tokens = tokens_in(directory)
    assert tokens[: 2 + len(SYMBOLS)] == ["<blank>", "<unk>", *SYMBOLS]
    assert tokens[-2:] == ["<sos>", "<eos>"]
    assert len(tokens) == len(set(tokens)) == 2 + len(SYMBOLS) + 60 + 2
    assert not {"<s>", "</s>"} & set(tokens)


def test_text_round_trip(directory, pieces_of):
    model = sentencepiece.SentencePieceProcessor(model_file=str(directory / "bpe.model"))
    tokens = set(tokens_in(directory))
    for text in TEXTS:
        pieces = pieces_of(text)
        assert set(pieces) <= tokens  # every character of the training text is in the vocabulary
        assert model.decode_pieces(pieces) == text
    assert not set(pieces_of("漢")) <= tokens


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_symbols_are_single_pieces(pieces_of, symbol):
    assert pieces_of(symbol) == ["▁", symbol]


def test_prompt_as_espnet_reads_it(pieces_of):
    """ESPnet drops the first piece of a text; the prompt must start at the second."""
    pieces = pieces_of("<deu><asr><notimestamps> der Fuchs")
    assert pieces[:4] == ["▁", "<deu>", "<asr>", "<notimestamps>"]
    assert "".join(pieces[4:]) == "▁der▁Fuchs"
    pieces = pieces_of("<swe><st_eng><notimestamps> the fox")
    assert pieces[:4] == ["▁", "<swe>", "<st_eng>", "<notimestamps>"]
    assert pieces_of("<deu><asr><notimestamps>") == ["▁", "<deu>", "<asr>", "<notimestamps>"]


def test_same_texts_same_vocabulary(directory, tmp_path):
    train_tokenizer(iter(TEXTS), tmp_path, vocab_size=60, **OPTIONS)
    for name in ("tokens.txt", "bpe.model"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


@pytest.mark.parametrize(("texts", "size"), [(TEXTS, 5000), (TEXTS, 3), ([], 60)])
def test_impossible_vocabulary(tmp_path, texts, size):
    with refusal(size):
        train_tokenizer(texts, tmp_path / "out", vocab_size=size, **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_unknown_language(tmp_path):
    with refusal("'xx'", kind=UsageError):
        train_tokenizer(TEXTS, tmp_path, vocab_size=60, **{**OPTIONS, "langs": ["xx"]})


def command_line(tmp_path, preprocessor_conf):
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump({"preprocessor_conf": preprocessor_conf}))
    dump = write_dump(tmp_path / "dump")
    options = ["--langs", "de", "es", "--vocab_size", "40", "--out", str(tmp_path / "out")]
    return ["--dump", str(dump), "--config", str(config), *options]


def test_command_reads_transcripts_and_translations_of_train(tmp_path):
    conf = {"speech_length": 4.0, "speech_resolution": 1.0}
    assert command.main(command_line(tmp_path, conf)) == 0
    tokens = tokens_in(tmp_path / "out")
    assert tokens[2:7] == ["<na>", "<notimestamps>", "<sop>", "<deu>", "<spa>"]
    assert tokens[9:14] == ["<0.00>", "<1.00>", "<2.00>", "<3.00>", "<4.00>"]
    characters = set("".join(tokens[14:-2]))
    assert "d" in characters  # in the transcripts only: the suffix of German words
    assert "l" in characters  # in the translations only


def test_command_needs_the_length_of_speech(tmp_path, capsys):
    assert command.main(command_line(tmp_path, {"speech_length": 4.0})) == 2
    error = capsys.readouterr().err
    assert "preprocessor_conf" in error and "speech_resolution" in error


def test_command_needs_transcripts(tmp_path, capsys):
    """sentencepiece alone would end with an error of C++, and name no file."""
    line = command_line(tmp_path, {"speech_length": 4.0, "speech_resolution": 1.0})
    (tmp_path / "dump/es/train/text").unlink()
    assert command.main(line) == 1
    assert str(tmp_path / "dump/es/train/text") in capsys.readouterr().err
