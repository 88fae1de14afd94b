"""Exported Whisper models in transformers, CTranslate2 and faster-whisper, against openai-whisper.

The models are tiny and random; nothing is downloaded.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper

from lors.bin.export_whisper import main
from lors.checkpoint.whisper_dims import whisper_shapes
from lors.export.whisper_tokenizer import byte_letters

PACKAGES = Path(__file__).parents[2] / ".test_packages"
"""Packages that tests/run.sh installs apart, so that ESPnet does not import them."""
LANGUAGES = {51865: 99, 51866: 100}
TEXTS = [
    "Das ist der Weg, nicht wahr? Größer, Straße",
    "¿Qué tal? ¡Olé, señor!",
    "L'été, s'il vous plaît ? « Oui », dit-elle.",
    " the",
    "the the  the   the",
    "I'll say you're it's we've didn't I'd I'm 'S 'LL",
    "你好，世界。二〇二五年",
    "こんにちは、世界。カタカナ漢字",
    "مرحبا بالعالم، كيف الحال؟",
    "Привет, мир! Ёлка",
    "வணக்கம் உலகம்",
    "नमस्ते दुनिया, สวัสดีชาวโลก",
    "1 23 456 7890 3.14 1,000,000 ٣٤٥ ½ x²",
    "🎉 👩‍👩‍👧‍👦 🇩🇪 ♪ ♪♪ 「ok」",
    "  leading and trailing   ",
    "tab\tline\nend\r\n\n",
    "e\u0301 zero\u200bwidth \u00a0nbsp \ufeff",
    "<|notatoken|> <html> {a: [1]} http://x.y/z?q=1#2 foo_bar-baz",
    "",
]
ROOM = 24
"""Number of tokens to generate."""


@pytest.fixture(scope="module", autouse=True)
def packages():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
        yield


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*_):
        raise AssertionError("a connection to another machine")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def installed(name):
    return pytest.importorskip(
        name, reason=f"{name} is not installed: ./tests/run.sh does that", exc_type=ImportError
    )


@pytest.fixture(scope="module")
def transformers(packages):
    return installed("transformers")


@pytest.fixture(scope="module")
def ctranslate2(packages):
    return installed("ctranslate2")


@pytest.fixture(scope="module")
def faster_whisper(packages):
    return installed("faster_whisper")


def random_model(vocabulary, positions, seed=0):
    """Return a model of openai-whisper whose greedy search gives many different tokens."""
    dims = whisper.ModelDimensions(
        n_mels=80 if vocabulary == 51865 else 128,
        n_audio_ctx=positions,
        n_audio_state=32,
        n_audio_head=2,
        n_audio_layer=2,
        n_vocab=vocabulary,
        n_text_ctx=448,
        n_text_state=32,
        n_text_head=4,
        n_text_layer=2,
    )
    torch.manual_seed(seed)
    model = whisper.model.Whisper(dims).eval()
    for name, parameter in model.named_parameters():
        # Large positional embeddings: otherwise the search repeats one token.
        std = 3.0 if name == "decoder.positional_embedding" else 0.3
        torch.nn.init.normal_(parameter, std=std)
    return model


@pytest.fixture(scope="module", params=[(51865, 1500), (51866, 90)])
def exported(request, tmp_path_factory):
    """A model of openai-whisper, and the directory that it is exported to."""
    model = random_model(*request.param)
    folder = tmp_path_factory.mktemp("exported")
    content = {"dims": vars(model.dims), "model_state_dict": model.state_dict()}
    torch.save(content, folder / "model.pt")
    assert main(["--model", str(folder / "model.pt"), "--out", str(folder / "hf")]) == 0
    return model, folder / "hf"


@pytest.fixture(scope="module")
def converted(exported, transformers, ctranslate2):
    """The same model, and the directory that the converter of CTranslate2 makes from the export."""
    model, directory = exported
    out = f"{directory}.ct2"
    # The main function of ct2-transformers-converter.
    program = "from ctranslate2.converters.transformers import main; main()"
    options = ["--model", str(directory), "--output_dir", out]
    options += ["--copy_files", "tokenizer.json", "preprocessor_config.json"]
    subprocess.run(
        [sys.executable, "-c", program, *options],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return model, out


def tokenizer_of(model, **options):
    return whisper.tokenizer.get_tokenizer(
        multilingual=True, num_languages=LANGUAGES[model.dims.n_vocab], **options
    )


def features_of(model, seed=0):
    shape = (model.dims.n_mels, 2 * model.dims.n_audio_ctx)
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def test_the_weights_are_those_that_openai_names(exported):
    model, directory = exported
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert whisper_shapes(vars(model.dims)) == shapes and [*whisper_shapes(vars(model.dims))] == [
        *shapes
    ]
    back = directory.with_name("back.pt")
    assert main(["--model", str(directory), "--out", str(back)]) == 0
    loaded = whisper.load_model(str(back), device="cpu")
    assert loaded.dims == model.dims
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_logits_of_transformers(exported, transformers):
    model, directory = exported
    theirs, report = transformers.WhisperForConditionalGeneration.from_pretrained(
        directory, output_loading_info=True
    )
    assert not any(report.values())
    features, sot = features_of(model), tokenizer_of(model).sot
    tokens = torch.tensor([[sot, sot + 3, 50359, 264, 13, 9000, 50257]])
    with torch.no_grad():
        expected = model(features, tokens)
        got = theirs.eval()(features, decoder_input_ids=tokens).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_greedy_search_of_transformers(exported, transformers):
    model, directory = exported
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(directory).eval()
    features = features_of(model)
    options = {"language": "de", "task": "translate"}
    got = theirs.generate(features, **options, max_new_tokens=ROOM, num_beams=1)
    expected = greedy_tokens(model, features, **options)
    # Some versions also return the prompt and the end token.
    got = [token for token in got[0].tolist() if token < 50257]
    assert got == expected and len(set(got)) > 2


def greedy_tokens(model, features, **options):
    decoding = whisper.DecodingOptions(
        **options, without_timestamps=True, fp16=False, sample_len=ROOM
    )
    return whisper.decode(model, features[0], decoding).tokens


def test_pipeline_of_transformers(exported, transformers):
    """The directory alone is enough: pipeline() finds model, tokenizer and features in it."""
    model, directory = exported
    if model.dims.n_audio_ctx != 1500:
        pytest.skip("pipeline() gives every Whisper 30 s")
    recogniser = transformers.pipeline(
        "automatic-speech-recognition", model=str(directory), device="cpu"
    )
    audio = np.random.default_rng(0).standard_normal(16000).astype(np.float32) / 10
    options = {"language": "de", "task": "transcribe"}
    greedy = {"max_new_tokens": ROOM, "num_beams": 1}  # pipeline() has five beams
    got = recogniser(audio.copy(), generate_kwargs={**options, **greedy})["text"]
    features = recogniser.feature_extractor(audio, sampling_rate=16000, return_tensors="pt")
    tokens = greedy_tokens(model, features.input_features, **options)
    assert got.strip() == tokenizer_of(model).decode(tokens).strip() and len(set(tokens)) > 2


def test_what_the_converter_of_whisper_cpp_reads(exported):
    """models/convert-h5-to-ggml.py of whisper.cpp: its files, its keys, and the order of tokens."""
    model, directory = exported
    config = json.loads((directory / "config.json").read_text())
    sizes = ("d_model", "vocab_size", "num_mel_bins", "max_source_positions")
    sizes += ("max_target_positions", "encoder_layers", "encoder_attention_heads")
    sizes += ("decoder_layers", "decoder_attention_heads")
    dims = model.dims
    assert [config[name] for name in sizes] == [
        *(dims.n_audio_state, dims.n_vocab, dims.n_mels, dims.n_audio_ctx, dims.n_text_ctx),
        *(dims.n_audio_layer, dims.n_audio_head, dims.n_text_layer, dims.n_text_head),
    ]
    assert json.loads((directory / "added_tokens.json").read_text())
    # It writes tokens as bytes in the order of their numbers, which it leaves out.
    vocabulary = json.loads((directory / "vocab.json").read_text())
    del vocabulary["<|endoftext|>"]
    assert sorted(vocabulary.values()) == [*range(tokenizer_of(model).eot)]
    letters = {letter: byte for byte, letter in enumerate(byte_letters())}
    bytes_of = tokenizer_of(model).encoding.decode_single_token_bytes
    for token, number in vocabulary.items():
        assert bytes(map(letters.__getitem__, token)) == bytes_of(number)


@pytest.mark.parametrize("kind", ["WhisperTokenizer", "WhisperTokenizerFast", "AutoTokenizer"])
def test_tokens_of_transformers(exported, transformers, kind):
    model, directory = exported
    ours, theirs = tokenizer_of(model), getattr(transformers, kind).from_pretrained(directory)
    for text in TEXTS:
        expected = ours.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == expected, text
        assert theirs.decode(expected) == ours.decode(expected) == text
    assert len(theirs(" the", add_special_tokens=False).input_ids) == 1
    numbers = theirs.convert_tokens_to_ids([*ours.special_tokens])
    assert numbers == [*ours.special_tokens.values()]
    assert len(theirs) == model.dims.n_vocab


def test_random_text_has_the_same_tokens(exported, transformers):
    model, directory = exported
    ours = tokenizer_of(model)
    theirs = transformers.WhisperTokenizerFast.from_pretrained(directory)
    generator = np.random.default_rng(0)
    for high in (0x80, 0x250, 0x600, 0x3100, 0x9FFF):
        for _ in range(40):
            # Repeated letters, where the order of merges matters.
            letters = np.repeat(generator.integers(32, high, 30), generator.integers(1, 6, 30))
            text = "".join(map(chr, letters))
            assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text), text
    for _ in range(100):
        tokens = generator.integers(0, 50256, 30).tolist()
        text = ours.decode(tokens)
        assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text), text


def test_prompts_and_timestamps_of_transformers(exported, transformers):
    model, directory = exported
    processor = transformers.WhisperProcessor.from_pretrained(directory)
    theirs = processor.tokenizer
    end, no_timestamps = tokenizer_of(model).eot, tokenizer_of(model).no_timestamps
    sot = tokenizer_of(model).sot
    assert theirs("the").input_ids == [sot, no_timestamps, 3322, end]
    for language in whisper.tokenizer.LANGUAGES if model.dims.n_vocab == 51866 else ["de", "ta"]:
        ours = tokenizer_of(model, language=language, task="translate")
        prompt = list(ours.sot_sequence_including_notimestamps)
        theirs.set_prefix_tokens(language=language, task="translate", predict_timestamps=False)
        assert theirs("the").input_ids == [*prompt, 3322, end]
    assert theirs.decode([*prompt, 3322, end], skip_special_tokens=True) == "the"
    timed = [no_timestamps + 1, 3322, no_timestamps + 61]
    assert theirs.decode(timed, decode_with_timestamps=True) == "<|0.00|>the<|1.20|>"


def test_features_of_transformers(exported, transformers):
    model, directory = exported
    processor = transformers.WhisperProcessor.from_pretrained(directory)
    seconds = model.dims.n_audio_ctx / 50
    audio = np.random.default_rng(0).standard_normal(int(16000 * seconds)).astype(np.float32)
    got = processor(
        audio[: len(audio) // 2],
        sampling_rate=16000,
        return_tensors="pt",
        max_length=None if seconds.is_integer() else len(audio),
    ).input_features
    audio[len(audio) // 2 :] = 0
    expected = whisper.log_mel_spectrogram(audio, model.dims.n_mels)
    assert got.shape == features_of(model).shape
    torch.testing.assert_close(got[0], expected, atol=1e-4, rtol=0)


def test_generation_config_has_the_official_facts(exported):
    model, directory = exported
    ours = tokenizer_of(model)
    after = LANGUAGES[model.dims.n_vocab] - 99
    config = json.loads((directory / "generation_config.json").read_text())
    # The values of whisper-small and whisper-large-v3.
    assert config["no_timestamps_token_id"] == 50363 + after
    assert config["task_to_id"] == {"transcribe": 50359 + after, "translate": 50358 + after}
    assert config["begin_suppress_tokens"] == [220, 50257]
    assert config["prev_sot_token_id"] == 50361 + after
    assert config["decoder_start_token_id"] == 50258
    assert {config[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")} == {50257}
    assert config["max_length"] == 448 and config["max_initial_timestamp_index"] == 50
    assert config["is_multilingual"] is True and config["return_timestamps"] is False
    languages = [*whisper.tokenizer.LANGUAGES][: 99 + after]
    assert config["lang_to_id"] == {f"<|{code}|>": 50259 + n for n, code in enumerate(languages)}
    own = [50258, *(number + after for number in range(50358, 50363))]
    assert config["suppress_tokens"] == [*ours.non_speech_tokens, *own]
    assert config["suppress_tokens"][:8] == [1, 2, 7, 8, 9, 10, 14, 25]
    assert len(config["suppress_tokens"]) == 88
    # openai-whisper suppresses the same tokens.
    task = whisper.decoding.DecodingTask(model, whisper.DecodingOptions(language="de", fp16=False))
    assert config["suppress_tokens"] == [*task._get_suppress_tokens()]
    heads = model.alignment_heads.indices().T.tolist()
    assert config["alignment_heads"] == heads


def test_greedy_search_of_ctranslate2(converted, ctranslate2):
    model, directory = converted
    theirs = ctranslate2.models.Whisper(directory, device="cpu", compute_type="float32")
    assert theirs.is_multilingual and theirs.n_mels == model.dims.n_mels
    assert theirs.num_languages == LANGUAGES[model.dims.n_vocab]
    for seed, language in enumerate(["de", "ta", "fr"]):
        features = features_of(model, seed)
        options = {"language": language, "task": "transcribe"}
        prompt = list(tokenizer_of(model, **options).sot_sequence_including_notimestamps)
        got = theirs.generate(
            ctranslate2.StorageView.from_array(features.numpy()),
            [prompt],
            beam_size=1,
            max_length=2 * ROOM,  # CTranslate2 reserves one half for the previous text
        )
        expected = greedy_tokens(model, features, **options)
        assert got[0].sequences_ids[0] == expected and len(set(expected)) > 2


def test_faster_whisper(converted, faster_whisper):
    model, directory = converted
    theirs = faster_whisper.WhisperModel(
        directory, device="cpu", compute_type="float32", cpu_threads=1
    )
    ours = tokenizer_of(model)
    assert theirs.feature_extractor.mel_filters.shape[0] == model.dims.n_mels
    assert [theirs.hf_tokenizer.encode(text).ids[2:-1] for text in TEXTS] == [
        ours.encode(text) for text in TEXTS
    ]
    if model.dims.n_audio_ctx != 1500:
        return  # faster-whisper always gives the encoder 30 s
    audio = np.random.default_rng(0).standard_normal(16000).astype(np.float32) / 10
    segments, info = theirs.transcribe(
        audio, language="de", beam_size=1, temperature=0, max_new_tokens=ROOM
    )
    texts = [segment.text for segment in segments]
    assert info.language == "de" and info.duration == 1 and "".join(texts)
