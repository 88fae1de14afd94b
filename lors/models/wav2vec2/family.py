"""The model family ``wav2vec2``: wav2vec 2.0 and XLSR with a CTC layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lors.config import build
from lors.data.datadir import Utterance
from lors.errors import LorsError, UsageError
from lors.models.family import Family, register
from lors.models.wav2vec2.conf import (
    SAMPLING_RATE,
    TrainingConf,
    Wav2Vec2Conf,
    Wav2Vec2Options,
    check_transformers,
)
from lors.models.wav2vec2.vocabulary import frames_needed, spelt
from lors.tasks import ASR, Pair

if TYPE_CHECKING:
    from lors.models.wav2vec2.inference import Wav2Vec2Model


@register
class Wav2Vec2(Family):
    """wav2vec 2.0, pre-trained and fine-tuned by ESPnet's trainer."""

    name = "wav2vec2"
    policy = "wav2vec2"
    train_module = "lors.bin.wav2vec2_train"
    data_files = {  # noqa: RUF012 - a constant, as the base class says
        "wav.scp": ("speech", "sound"),
        "text": ("text", "text"),
    }
    model_keys = ("wav2vec2_conf",)
    tasks = (ASR.name,)
    inference_options = Wav2Vec2Options
    defaults = {  # noqa: RUF012 - a constant, as the base class says
        "base_model": "",
        "base_config": "conf/train_wav2vec2_base.yaml",
        "train_config": "conf/train_wav2vec2.yaml",
        "inference_config": "conf/inference_wav2vec2.yaml",
    }
    import_options = {  # noqa: RUF012 - a constant, as the base class says
        "langs": "languages, for the characters of wav2vec2",
        "dumpdir": "data directories <lang>/train with the characters of wav2vec2",
    }

    def __init__(self, config: Mapping[str, Any], where: object):
        super().__init__(config, where)
        self.conf = build(Wav2Vec2Conf, config["wav2vec2_conf"], f"{where}: wav2vec2_conf")
        settings = config.get("model_conf") or {}
        self.training = build(TrainingConf, settings, f"{where}: model_conf")

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        return "wav2vec2_conf" in config

    @classmethod
    def check_options(cls, options: Mapping[str, str]) -> None:
        check_transformers()
        if "base_model" in options and not options["base_model"]:
            raise UsageError(
                "no wav2vec 2.0 model",
                where="--base_model",
                expected="a directory of transformers (config.json, model.safetensors), a model "
                "directory of a recipe, or a name on the Hugging Face Hub, such as "
                "facebook/wav2vec2-xls-r-300m",
                hint="without any, train a small one: egs/mini_covost/lors1/local/train_base.sh "
                "--model_family wav2vec2",
            )

    @classmethod
    def import_base(
        cls, base_model: str, out: str | os.PathLike, options: Mapping[str, str]
    ) -> None:
        check_transformers()
        if missing := [f"--{name}" for name in cls.import_options if not options.get(name)]:
            raise UsageError(
                "the vocabulary of a wav2vec 2.0 model is made from training data",
                where="lors.bin.import_base",
                expected=" ".join(f"--{name}" for name in cls.import_options),
                got=f"without {' and '.join(missing)}",
            )
        from lors.models.wav2vec2.import_base import import_wav2vec2  # torch is slow to import

        import_wav2vec2(base_model, out, options["langs"].split(), options["dumpdir"])

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        wrong = [str(pair) for pair in pairs if pair.task not in self.tasks]
        if wrong or not self.conf.tokens:
            raise LorsError(
                "wav2vec 2.0 recognises speech only" if wrong else "a model without a CTC layer",
                where=self.where,
                expected="recognition (asr), and a model with a vocabulary",
                got=wrong or "no tokens in wav2vec2_conf",
                hint="import the model as a base model: stage base adds the vocabulary",
            )

    def training_fields(self, utterance: Utterance, pair: Pair, text: str) -> dict[str, str]:
        return {"text": spelt(text, pair.lang)}

    def why_unusable(self, utterance: Utterance, fields: Mapping[str, str]) -> str | None:
        if utterance.duration is None:
            return None
        frames = self.conf.frames(round(utterance.duration * SAMPLING_RATE))
        if self.training.objective == "ctc":
            if not fields["text"]:
                return "no letter or digit in the transcript"
            needed, reason = frames_needed(fields["text"]), "the characters of its transcript"
        else:
            config = {**self.conf.config, **self.training.config}
            needed, reason = config.get("mask_time_length", 10) + 1, "a masked span"
        return None if frames >= needed else f"{frames} frames, {needed} needed for {reason}"

    def recogniser(self, directory: str | os.PathLike, device: str) -> Wav2Vec2Model:
        from lors.models.wav2vec2.inference import Wav2Vec2Model  # torch is slow to import

        return Wav2Vec2Model(directory, self.conf, device)
