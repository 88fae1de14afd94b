"""Whisper's prompts and tokens."""

import pytest

from lors.errors import UsageError
from lors.models.whisper.conf import WhisperConf
from lors.models.whisper.prompts import PROMPT_LENGTH, WhisperPrompts, encode, tokenizer_of
from lors.tasks import Pair
from tests.integration.tiny_whisper import DIMS
from tests.refusal import refusal


def prompts(n_vocab=51865, **conf) -> WhisperPrompts:
    return WhisperPrompts(WhisperConf({**DIMS, "n_vocab": n_vocab}, **conf), "base/config.yaml")


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
        ("nb_asr", "<|no|><|transcribe|><|notimestamps|>"),
        ("nb-NO_st", "<|no|><|translate|><|notimestamps|>"),
        ("nn-NO_asr", "<|nn|><|transcribe|><|notimestamps|>"),
        ("jv_asr", "<|jw|><|transcribe|><|notimestamps|>"),
        ("fil_asr", "<|tl|><|transcribe|><|notimestamps|>"),
    ],
)
def test_prompts_name_the_spoken_language(pair, prompt):
    assert prompts().prompt(Pair.parse(pair)) == prompt


@pytest.mark.parametrize("lang", COVOST_SOURCES)
@pytest.mark.parametrize("task", ["asr", "st"])
def test_whisper_has_prompts_for_all_of_covost(lang, task):
    assert prompts().prompt(Pair(lang, task)).startswith(f"<|{lang[:2]}|>")


def test_prompts_of_translation_can_name_the_target():
    target = prompts(st_language="target")
    assert target.prompt(Pair("de", "st")) == "<|en|><|translate|><|notimestamps|>"
    assert target.prompt(Pair("de", "asr")) == "<|de|><|transcribe|><|notimestamps|>"


@pytest.mark.parametrize("st_language", ["source", "target"])
@pytest.mark.parametrize("lang", ["ab", "yue", "zh-HK"])
def test_language_that_whisper_does_not_know(lang, st_language):
    with refusal(f"'{lang}'", "base/config.yaml", kind=UsageError):
        prompts(st_language=st_language).language(Pair(lang, "st"))


def test_large_v3_knows_cantonese():
    large = prompts(n_vocab=51866)
    assert large.prompt(Pair("zh-HK", "asr")) == "<|yue|><|transcribe|><|notimestamps|>"


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
        # Special tokens in the text of a corpus are ordinary text.
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


def test_prompts_of_an_english_only_model():
    """Those of openai-whisper: neither a language nor a task."""
    import whisper

    dims = {**DIMS, "n_vocab": 51864}
    prompts = WhisperPrompts(WhisperConf(dims), "config.yaml")
    assert prompts.prompt(Pair("en-x-anna", "asr")) == "<|notimestamps|>"
    ids = encode("<|notimestamps|> Good morning.", prompts.tokenizer)
    model = whisper.Whisper(whisper.model.ModelDimensions(**dims))
    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False)
    decoding = whisper.decoding.DecodingTask(model, options)
    assert ids[: prompts.length] == list(decoding.initial_tokens)
    assert decoding.tokenizer.decode(ids[prompts.length : -1]) == " Good morning."
    assert ids[-1] == decoding.tokenizer.eot
    for pair in (Pair("de", "asr"), Pair("en", "st")):
        with refusal("config.yaml", str(pair), "English"):
            prompts.prompt(pair)


def test_a_line_without_a_prompt():
    with refusal("Guten Tag."):
        encode("Guten Tag.", tokenizer_of(51865))
