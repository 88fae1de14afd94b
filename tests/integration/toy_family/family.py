"""The toy family's registered class; an entry point names this module."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from lors.errors import LorsError, UsageError
from lors.models.family import Family, InferenceOptions, register


@dataclass(frozen=True)
class ToyOptions(InferenceOptions):
    """Options of the toy family's inference."""

    def greedy(self):
        return dataclasses.replace(self, beam_size=1)


@register
class Toy(Family):
    """Models that know words by their loudness."""

    name = "toy"
    policy = str(Path(__file__).with_name("policy.yaml"))
    train_module = "tests.integration.toy_family.train"
    data_files = {"wav.scp": ("speech", "sound"), "text": ("text", "text")}  # noqa: RUF012
    model_keys = ("toy_conf",)
    inference_options = ToyOptions
    defaults = {  # noqa: RUF012
        "base_model": "toy_base",
        "base_config": "conf/toy_base.yaml",
        "train_config": "conf/toy.yaml",
        "inference_config": "conf/toy_inference.yaml",
    }
    import_options = {"window": "words of a clip, for the toy family: 1"}  # noqa: RUF012

    @classmethod
    def matches(cls, config):
        return "toy_conf" in config

    @classmethod
    def check_options(cls, options):
        if options.get("window", "1") != "1":
            raise UsageError(
                "unknown window", where="--window", expected="1", got=options["window"]
            )

    @classmethod
    def import_base(cls, base_model, out, options):
        cls.check_options(options)
        shutil.copytree(base_model, out)

    def check_pairs(self, pairs):
        unknown = [pair.lang for pair in pairs if pair.lang not in self.config["toy_conf"]["langs"]]
        if unknown:
            raise LorsError("unknown languages", where=self.where, got=unknown)

    def training_fields(self, utterance, pair, text):
        return {"text": f"{pair.lang} {text}"}

    def recogniser(self, directory, device):
        return ToyModel(directory, self.config["toy_conf"])


class ToyModel:
    """A toy model for inference."""

    def __init__(self, directory, conf):
        import torch

        from tests.integration.toy_family.model import new_model

        self.conf, self.model = conf, new_model(conf)
        self.load_state(torch.load(Path(directory) / "model.pth", weights_only=True))

    def load_state(self, state):
        self.model.load_state_dict(state)

    def transcribe(self, waveforms, pair, options):
        from tests.integration.toy_family.model import features

        heard = features(waveforms, [pair.lang] * len(waveforms), self.conf["langs"])
        best = self.model["words"](heard).argmax(dim=1)
        return [self.conf["words"][index] for index in best.tolist()]
