"""Prompts and tokens of Whisper, and what it cannot be trained on."""

import pytest
from stand_ins import write_dump

from lors.config import load_config
from lors.data.datadir import Utterance, read_data_dir, read_text, write_data_dir
from lors.errors import LorsError, UsageError
from lors.models import family_from
from lors.models.family import write_training_data
from lors.models.whisper.family import (
    PROMPT_LENGTH,
    Whisper,
    WhisperOptions,
    check_dims,
    encode,
    tokenizer_of,
)
from lors.tasks import Pair
from tests.integration.tiny_whisper import DIMS


def family(**conf) -> Whisper:
    return family_from({"whisper_conf": {"dims": DIMS, **conf}}, "base/config.yaml")


COVOST_SOURCES = """
ar ca cy de es et fa fr id it ja lv mn nl pt ru sl sv-SE ta tr zh-CN
""".split()  # noqa: SIM905


@pytest.mark.parametrize(
    ("pair", "prompt"),
    [
        ("de_asr", "<|de|><|transcribe|><|notimestamps|>"),
        ("de_st", "<|de|><|translate|><|notimestamps|>"),
        ("sv-SE_asr", "<|sv|><|transcribe|><|notimestamps|>"),
        ("zh-CN_st", "<|zh|><|translate|><|notimestamps|>"),
    ],
)
def test_prompts_name_the_spoken_language(pair, prompt):
    assert family().prompt(Pair.parse(pair)) == prompt


def test_chinese_of_hong_kong_is_cantonese():
    of = family(dims={**DIMS, "n_vocab": 51866})
    assert of.prompt(Pair("zh-HK", "asr")) == "<|yue|><|transcribe|><|notimestamps|>"
    with pytest.raises(UsageError, match="unknown language 'zh-HK'"):
        family().check_pairs([Pair("zh-HK", "asr")])


@pytest.mark.parametrize("lang", COVOST_SOURCES)
@pytest.mark.parametrize("task", ["asr", "st"])
def test_whisper_has_prompts_for_all_of_covost(lang, task):
    assert family().prompt(Pair(lang, task)).startswith(f"<|{lang[:2]}|>")


def test_prompts_of_translation_can_name_the_target():
    of = family(st_language="target")
    assert of.prompt(Pair("de", "st")) == "<|en|><|translate|><|notimestamps|>"
    assert of.prompt(Pair("de", "asr")) == "<|de|><|transcribe|><|notimestamps|>"


def test_language_that_whisper_does_not_know():
    with pytest.raises(UsageError, match="unknown language 'ab'") as caught:
        family().check_pairs([Pair("de", "asr"), Pair("ab", "asr")])
    assert "base/config.yaml" in str(caught.value)
    with pytest.raises(UsageError, match="unknown language 'yue'"):
        family().check_pairs([Pair("yue", "asr")])  # large-v3 only
    large = family(dims={**DIMS, "n_vocab": 51866})
    assert large.prompt(Pair("zh-HK", "asr")).startswith("<|yue|>")


@pytest.mark.parametrize(
    ("key", "value"), [("window", 31.0), ("window", 0.0), ("st_language", "english"), ("x", 1)]
)
def test_wrong_whisper_conf(key, value):
    with pytest.raises(UsageError, match="problem"):
        family(**{key: value})


# --- tokens


@pytest.mark.parametrize(
    ("line", "decoded"),
    [
        ("<|de|><|transcribe|><|notimestamps|> Guten Tag.", " Guten Tag."),
        ("<|de|><|translate|><|notimestamps|> Good day.", " Good day."),
        # Languages without spaces have none at the beginning either; their translations do.
        ("<|ja|><|transcribe|><|notimestamps|> こんにちは", "こんにちは"),
        ("<|ja|><|translate|><|notimestamps|> Hello", " Hello"),
        ("<|de|><|transcribe|><|notimestamps|> ", ""),
        ("<|de|><|transcribe|><|notimestamps|>", ""),
        # What looks like a special token in a corpus is text.
        ("<|de|><|transcribe|><|notimestamps|> <|endoftext|> x", " <|endoftext|> x"),
    ],
)
def test_tokens_of_a_line(line, decoded):
    tokenizer = tokenizer_of(51865)
    ids = encode(line, tokenizer)
    assert ids[0] == tokenizer.sot and ids[-1] == tokenizer.eot
    prompt = "".join(tokenizer.encoding.decode([i]) for i in ids[1:PROMPT_LENGTH])
    assert line.startswith(prompt) and prompt.endswith("<|notimestamps|>")
    words = ids[PROMPT_LENGTH:-1]
    assert all(i < tokenizer.eot for i in words)
    assert tokenizer.decode(words) == decoded


def test_frequent_words_are_single_tokens():
    """Old versions of openai-whisper's tokenizer, loaded by others, lost the first merge."""
    ids = encode("<|de|><|translate|><|notimestamps|> the cat", tokenizer_of(51865))
    assert len(ids) == PROMPT_LENGTH + 2 + 1


# --- training data


def test_training_data_of_two_tasks(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"])
    pairs = [Pair("de", "asr"), Pair("de", "st")]
    ids = write_training_data(family(), pairs, dump, "train", tmp_path / "out")
    text = read_text(tmp_path / "out" / "text")
    assert list(text) == ids and len(ids) == 6
    assert text["spk0-de-train-asr"].startswith("<|de|><|transcribe|><|notimestamps|> one0d")
    assert text["spk0-de-train-st"].startswith("<|de|><|translate|><|notimestamps|> translation")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["text", "wav.scp"]


def test_audio_longer_than_the_window(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"], utterances=9)  # 1, 2, ... 9 seconds
    with pytest.raises(LorsError, match="do not fit the model") as caught:
        write_training_data(
            family(window=3.0), [Pair("de", "asr")], dump, "train", tmp_path / "out"
        )
    assert "spk3-de-train: 4 s of audio in a window of 3 s" in caught.value.got
    assert "and 1 more" in caught.value.got and not (tmp_path / "out").exists()
    write_training_data(family(window=9.0), [Pair("de", "asr")], dump, "train", tmp_path / "out")


def test_text_longer_than_the_decoder(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"], utterances=1)
    directory = dump / "de" / "train"
    for words, fits in ((443, True), (444, True), (445, False)):
        text = " ".join(["the"] * words)
        rows = [Utterance(**{**vars(u), "text": text}) for u in read_data_dir(directory)]
        write_data_dir(directory, rows)
        work = (family(), [Pair("de", "asr")], dump, "train", tmp_path / "out")
        if fits:
            write_training_data(*work)
        else:
            with pytest.raises(LorsError, match="do not fit") as caught:
                write_training_data(*work)
            assert "450 tokens for a decoder of 448" in caught.value.got


# --- models that LoRS cannot use


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_vocab": 51864}, "English-only"),
        ({"n_vocab": 50000}, "not the vocabulary"),
        ({"n_mels": 64}, "not the vocabulary or the features"),
    ],
)
def test_models_that_are_refused(change, message):
    with pytest.raises(LorsError, match=message) as caught:
        check_dims({**DIMS, **change}, "model.pt")
    assert caught.value.where == "model.pt"


def test_official_dimensions():
    for mels, vocabulary in ((80, 51865), (128, 51866), (80, 51866)):
        check_dims({**DIMS, "n_mels": mels, "n_vocab": vocabulary}, "model.pt")


# --- options of inference


def test_options(tmp_path):
    path = tmp_path / "inference.yaml"
    path.write_text("beam_size: 5\nlength_penalty: 0.6\npatience: 2.0\n")
    options = load_config(WhisperOptions, path)
    assert options.greedy() == WhisperOptions()
    assert "batch_size" not in options.settings() and options.settings()["beam_size"] == 5
    path.write_text("maxlenratio: 0.5\n")
    with pytest.raises(UsageError, match="maxlenratio: unknown"):
        load_config(WhisperOptions, path)
