"""The model family ``espnet_s2t``: OWSM and other models of ESPnet's S2T task."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lors.checkpoint.hub import hub_name
from lors.data.datadir import Utterance
from lors.errors import LorsError, UsageError
from lors.models.espnet_s2t.import_base import MODEL_KEYS, import_espnet_s2t
from lors.models.espnet_s2t.prompts import (
    ISO_639_3,
    S2TOptions,
    language_symbol,
    prompt_symbols,
    task_symbol,
)
from lors.models.family import Family, register
from lors.tasks import Pair

if TYPE_CHECKING:
    from lors.models.espnet_s2t.inference import S2TModel


@register
class EspnetS2T(Family):
    """Models of ESPnet's S2T task."""

    name = "espnet_s2t"
    policy = "espnet_s2t"
    train_module = "lors.bin.s2t_train"
    data_files = {  # noqa: RUF012 - a constant, as the base class says
        "wav.scp": ("speech", "sound"),
        "text": ("text", "text"),
        "text_prev": ("text_prev", "text"),
        "text_ctc": ("text_ctc", "text"),
    }
    model_keys = MODEL_KEYS
    uploadable = True  # as a package of ESPnet
    inference_options = S2TOptions
    defaults = {  # noqa: RUF012 - a constant, as the base class says
        "base_model": "base",
        "base_config": "conf/train_base.yaml",
        "train_config": "conf/train_expert.yaml",
        "inference_config": "conf/inference_greedy.yaml",
    }

    quantised = (  # the counterparts of what PQM (arXiv 2309.09136) quantises in Whisper
        *("*attn.linear_q.weight", "*attn.linear_k.weight", "*attn.linear_v.weight"),
        *("*attn.linear_out.weight", "*.feed_forward*.w_*.weight", "encoder.embed.*.weight"),
        *("*.conv_module.*conv*.weight", "*.cgmlp.channel_proj*.weight", "*.merge_proj.weight"),
        *("decoder.embed.0.weight", "decoder.output_layer.weight", "ctc.ctc_lo.weight"),
    )

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        return "token_list" in config

    @classmethod
    def check_options(cls, options: Mapping[str, str]) -> None:
        base_model = options.get("base_model")
        if base_model and not Path(base_model).is_dir() and hub_name(base_model) is None:
            raise UsageError(
                "there is no such directory of an ESPnet S2T model",
                where="--base_model",
                got=base_model,
                hint="give the directory of a model, its name on the Hugging Face Hub, "
                "or train one: egs/mini_covost/lors1/local/train_base.sh",
            )

    @classmethod
    def import_base(
        cls, base_model: str, out: str | os.PathLike, options: Mapping[str, str]
    ) -> None:
        import_espnet_s2t(base_model, out)

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """Check that the vocabulary has the prompts of `pairs`.

        Sentencepiece would spell an unknown prompt letter by letter, without an error.

        Raises:
            LorsError: symbols are missing; all of them are named.
        """
        tokens = set(self.config.get("token_list") or [])
        symbols = {s for p in pairs for s in (language_symbol(p.lang), task_symbol(p.task))}
        missing = sorted(symbols - tokens)
        if missing:
            known = [lang for lang in ISO_639_3 if language_symbol(lang) in tokens]
            raise LorsError(
                f"the base model does not know {' '.join(missing)}",
                where=self.where,
                expected=f"languages among {' '.join(known)}",
                hint="choose such languages, or train a base model of your own: "
                "egs/mini_covost/lors1/local/train_base.sh",
            )

    def training_fields(self, utterance: Utterance, pair: Pair, text: str) -> dict[str, str]:
        if utterance.text is None:
            raise ValueError(f"{utterance.id} has no transcript")
        prompt = "".join(prompt_symbols(pair))
        # The CTC branch is trained on the transcript, for translation too.
        return {"text": f"{prompt} {text}", "text_prev": "<na>", "text_ctc": utterance.text}

    def recogniser(self, directory: str | os.PathLike, device: str) -> S2TModel:
        from lors.models.espnet_s2t.inference import S2TModel  # torch and ESPnet are slow to import

        return S2TModel(directory, device)
