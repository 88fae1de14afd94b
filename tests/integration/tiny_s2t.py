"""A tiny ESPnet S2T model with random weights, made on the spot for tests."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from lors.data.datadir import read_data_dir
from lors.models.espnet_s2t.tokens import train_tokenizer
from tests.integration.recipe import LANGS, Recipe

TEXTS = ["the quick brown fox", "der schnelle braune Fuchs", "el zorro marrón", "le renard brun"]
CONFIG = {
    "token_type": "bpe",
    "input_size": None,
    "init": None,
    "specaug": None,
    "preencoder": None,
    "postencoder": None,
    "frontend": "default",
    "frontend_conf": {"n_fft": 512, "hop_length": 400, "n_mels": 20, "fs": 16000},
    "normalize": "utterance_mvn",
    "normalize_conf": {},
    "encoder": "transformer",
    "encoder_conf": {
        "input_layer": "conv1d2",
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2,
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 2},
    "ctc_conf": {},
    "model": "espnet",
    "model_conf": {"ctc_weight": 0.3},
    "preprocessor": "s2t",
    "preprocessor_conf": {
        "text_prev_name": "text_prev",
        "text_ctc_name": "text_ctc",
        "fs": 16000,
        "na_symbol": "<na>",
        "speech_resolution": 0.5,
        "speech_init_silence": 0.1,
        "text_prev_apply_prob": 0.0,
        "time_apply_prob": 1.0,
        "notime_symbol": "<notimestamps>",
        "first_time_symbol": "<0.00>",
    },
}


def make_model(
    directory: Path, seed: int = 0, texts=TEXTS, vocab_size=30, speech_length=2.0, **changes
) -> Path:
    """Write ``config.yaml``, ``model.pth`` and ``bpe.model`` into `directory`; returns it."""
    from espnet2.tasks.s2t import S2TTask

    directory.mkdir(parents=True, exist_ok=True)
    conf = {
        **CONFIG["preprocessor_conf"],
        "speech_length": speech_length,
        "last_time_symbol": f"<{speech_length:.2f}>",
    }
    train_tokenizer(
        texts,
        directory,
        langs=["de", "es"],
        vocab_size=vocab_size,
        speech_length=speech_length,
        speech_resolution=conf["speech_resolution"],
    )
    config = {
        **CONFIG,
        "preprocessor_conf": conf,
        "token_list": (directory / "tokens.txt").read_text(encoding="utf-8").splitlines(),
        "bpemodel": str(directory / "bpe.model"),
        **changes,
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    torch.manual_seed(seed)
    model, _ = S2TTask.build_model_from_file(directory / "config.yaml", None, "cpu")
    # Larger weights than the initial ones: a new model gives the same text for any speech.
    state = {
        name: value * 3 if value.ndim == 2 else value for name, value in model.state_dict().items()
    }
    torch.save(state, directory / "model.pth")
    return directory


def make_base_of(recipe: Recipe) -> None:
    """Write ``tiny_base`` into a recipe directory after stage 2: it knows the words of the corpus.

    Whole words are single pieces, so that a few dozen steps of training change WER and BLEU: where
    they did not, normalised performance would be undefined.
    """
    texts = [
        text
        for lang in LANGS
        for utterance in read_data_dir(recipe / f"dump/{lang}/train")
        for text in (utterance.text, utterance.translations["en"])
    ]
    size = {"texts": texts, "vocab_size": 250, "speech_length": 4.0}
    counting = {"ctc_weight": 0.3, "report_cer": False, "report_wer": False}
    make_model(recipe / "tiny_base", **size, model_conf=counting)
