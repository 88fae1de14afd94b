"""The model family ``whisper``: OpenAI's multi-lingual Whisper models."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lors.checkpoint.places import OWN_INFERENCE
from lors.config import build, load_config, parse_assignments
from lors.data.datadir import Utterance
from lors.errors import unknown_name
from lors.export.whisper_tokenizer import LANGUAGES
from lors.models.family import Family, register
from lors.models.whisper.conf import (
    ImportOptions,
    OwnInference,
    WhisperConf,
    WhisperOptions,
    check_base_model,
)
from lors.models.whisper.prompts import WhisperPrompts, encode, language_code, tokenizer_of
from lors.tasks import Pair, spoken

if TYPE_CHECKING:
    from lors.models.whisper.inference import WhisperModel


@register
class Whisper(Family):
    """Whisper, fine-tuned by ESPnet's trainer."""

    name = "whisper"
    policy = "whisper"
    train_module = "lors.bin.whisper_train"
    data_files = {  # noqa: RUF012 - a constant, as the base class says
        "wav.scp": ("speech", "sound"),
        "text": ("text", "text"),
    }
    model_keys = ("whisper_conf",)
    uploadable = True  # as a directory of Hugging Face
    inference_options = WhisperOptions
    defaults = {  # noqa: RUF012 - a constant, as the base class says
        "base_model": "",
        "base_config": "conf/train_whisper_base.yaml",
        "train_config": "conf/train_whisper_full.yaml",
        "inference_config": "conf/inference_whisper.yaml",
    }
    quantised = (  # as in the authors' code of PQM (arXiv 2309.09136)
        *("*attn.query.weight", "*attn.key.weight", "*attn.value.weight", "*attn.out.weight"),
        *("*.mlp.0.weight", "*.mlp.2.weight", "encoder.conv*.weight"),
        "decoder.token_embedding.weight",  # the output layer, too
    )
    import_options = {  # noqa: RUF012 - a constant, as the base class says
        "window": "seconds that Whisper pads speech to: at most 30 (default); or auto",
        "st_language": "language in Whisper's prompt of a translation: source (default) or target",
        "base_window": "seconds for the base model itself, untrained (default: those of --window)",
    }

    def __init__(self, config: Mapping[str, Any], where: object):
        super().__init__(config, where)
        conf = build(WhisperConf, config["whisper_conf"], f"{where}: whisper_conf")
        self.prompts = WhisperPrompts(conf, where)

    @property
    def conf(self) -> WhisperConf:
        return self.prompts.conf

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        return "whisper_conf" in config

    @classmethod
    def check_options(cls, options: Mapping[str, str]) -> None:
        cls._import_options(options)
        # With the larger vocabulary: the vocabulary of the base model is not known yet.
        codes = tokenizer_of(max(LANGUAGES)).all_language_codes
        langs = options.get("langs", "").split()
        unknown = [lang for lang in langs if language_code(lang) not in codes]
        if unknown:
            raise unknown_name("language", unknown, codes, where="--langs")
        if "base_model" in options:
            check_base_model(options["base_model"], all(spoken(lang) == "en" for lang in langs))

    @classmethod
    def import_base(
        cls, base_model: str, out: str | os.PathLike, options: Mapping[str, str]
    ) -> None:
        from lors.models.whisper.import_base import import_whisper  # torch is slow to import

        checked = cls._import_options(options)
        import_whisper(base_model, out, **dataclasses.asdict(checked))

    @classmethod
    def _import_options(cls, options: Mapping[str, str]) -> ImportOptions:
        given = [f"{name}={options[name]}" for name in cls.import_options if options.get(name)]
        where = " ".join(f"--{name}" for name in cls.import_options)
        return build(ImportOptions, parse_assignments(given, where), where)

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        for pair in pairs:
            self.prompts.language(pair)

    def training_fields(self, utterance: Utterance, pair: Pair, text: str) -> dict[str, str]:
        return {"text": f"{self.prompts.prompt(pair)} {text}"}

    def why_unusable(self, utterance: Utterance, fields: Mapping[str, str]) -> str | None:
        window = self.conf.speech_window.longest
        if utterance.duration is not None and utterance.duration > window:
            return f"{utterance.duration:g} s of audio in a window of {window:g} s"
        tokens = len(encode(fields["text"], self.prompts.tokenizer))
        context = self.conf.dims["n_text_ctx"]
        # The decoder reads all tokens but the last.
        if tokens - 1 > context:
            return f"{tokens} tokens for a decoder of {context}"
        return None

    def recogniser(self, directory: str | os.PathLike, device: str) -> WhisperModel:
        from lors.models.whisper.inference import WhisperModel  # torch is slow to import

        path = Path(directory) / OWN_INFERENCE
        own = load_config(OwnInference, path) if path.exists() else None
        return WhisperModel(directory, self.prompts, device, own)
