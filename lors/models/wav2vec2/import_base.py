"""A wav2vec 2.0 model as the base model of an experiment, with a CTC layer for its languages."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
from xxhash import xxh3_128

from lors.checkpoint.hub import local_path, origin_of
from lors.checkpoint.masks import check_unmasked
from lors.checkpoint.places import RECIPE_MODEL
from lors.checkpoint.reader import Checkpoint, bytes_of
from lors.checkpoint.writer import write_tensors
from lors.config import build, read_yaml
from lors.data.datadir import read_data_dir
from lors.done_marker import DoneMarker
from lors.errors import LorsError, shortened
from lors.fileio import atomic_directory, hash_of, read_json_object, write_text
from lors.models.wav2vec2.conf import Wav2Vec2Conf
from lors.models.wav2vec2.model import checked_config, new_model
from lors.models.wav2vec2.vocabulary import spelt, vocabulary_of

log = logging.getLogger(__name__)

CTC = ("lm_head.",)
"""Start of the names of the CTC layer."""
NEW_PARTS = (*CTC, "quantizer.", "project_hid.", "project_q.", "wav2vec2.masked_spec_embed")
"""Start of the names of tensors that a published model may lack: they begin at random."""
SEED = 0
"""Seed of new tensors, so that two imports of a model are equal."""


def import_wav2vec2(
    base_model: str, out: str | os.PathLike, langs: Sequence[str], dump: str | os.PathLike
) -> None:
    """Write a model directory: ``model.pth`` (float32, names of transformers) and ``config.yaml``.

    The vocabulary has the characters of the training transcripts of `langs`. A model of a recipe
    that knows all of them keeps its vocabulary and its CTC layer; any other CTC layer is replaced
    by a new one. ``source.yaml`` says where the weights came from, and which tensors are new.

    Args:
        base_model: a directory of transformers (``config.json`` and weights), a model directory of
            a recipe, or the name of one of these on the Hugging Face Hub
            (:mod:`lors.checkpoint.hub`).
        out: the model directory to make.
        langs: languages.
        dump: data directories ``<lang>/train``.

    Raises:
        LorsError: no such model, another kind of model, tensors that are missing or left over, or
            `out` holds another base model.
    """
    out, source = Path(out), local_path(base_model)
    conf, weights = _opened(source)
    tokens = vocabulary_of(_transcripts(langs, Path(dump)))
    if not set(tokens) <= set(conf.tokens):
        weights = {n: tensor for n, tensor in weights.items() if not n.startswith(CTC)}
        conf = dataclasses.replace(conf, tokens=tokens)
    torch.manual_seed(SEED)
    model = new_model(conf)
    state = model.state_dict()
    _check_tensors(state, weights, source)
    new = sorted(set(state) - set(weights))
    state = {name: weights.get(name, value).float() for name, value in state.items()}
    described = {"wav2vec2_conf": {**dataclasses.asdict(conf), "tokens": list(conf.tokens)}}
    digests = {name: xxh3_128(bytes_of(tensor)).hexdigest() for name, tensor in state.items()}
    inputs = {"model": hash_of(digests), "conf": hash_of(described)}
    if DoneMarker(out / ".done", inputs).is_done():
        return
    with atomic_directory(out) as folder:
        write_tensors(folder / RECIPE_MODEL, state)
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        write_text(folder / "config.yaml", text)
        where = origin_of(source) or str(source.resolve())
        origin = {"base_model": base_model, "source": where, "new tensors": new}
        write_text(folder / "source.yaml", yaml.safe_dump(origin, sort_keys=False))
        DoneMarker(folder / ".done", inputs).mark()
    log.info(
        "base model %s written to %s, %d characters; new tensors: %s",
        *(base_model, out, len(conf.tokens), shortened(new)),
    )


def _transcripts(langs: Sequence[str], dump: Path) -> Iterator[str]:
    for lang in langs:
        for utterance in read_data_dir(dump / lang / "train"):
            if utterance.text is None:
                raise LorsError("data without transcripts", where=dump / lang / "train/text")
            yield spelt(utterance.text, lang)


def _opened(base_model: Path) -> tuple[Wav2Vec2Conf, Mapping[str, Tensor]]:
    """Return the configuration and the weights of a model."""
    # The only model in a directory on the Hub is a file, and so is one that is given by its file.
    weights = base_model if base_model.is_file() else base_model / RECIPE_MODEL
    own = weights.with_name("config.yaml")
    if not base_model.is_dir() and not own.is_file():
        raise LorsError(
            "no such model directory",
            where=base_model,
            expected="a directory with config.json and weights of wav2vec 2.0, one of a recipe, or "
            "the name of one on the Hugging Face Hub",
        )
    if own.is_file():
        described = read_yaml(own)
        if "wav2vec2_conf" not in described:
            raise LorsError("a model of another family", where=own, expected="wav2vec2_conf")
        conf = build(Wav2Vec2Conf, described["wav2vec2_conf"], f"{own}: wav2vec2_conf")
        check_unmasked(weights)
        checkpoint = Checkpoint.open(weights)
        return conf, {name: checkpoint.tensor(name) for name in checkpoint.names()}
    model, found = _loaded(base_model)
    return _published_conf(base_model, model.config), found


def _loaded(base_model: Path) -> tuple[Wav2Vec2ForPreTraining, Mapping[str, Tensor]]:
    """Load a model by transformers; return it, and the weights that its files have."""
    try:
        model, report = Wav2Vec2ForPreTraining.from_pretrained(
            base_model,
            output_loading_info=True,
            dtype=torch.float32,
            weights_only=True,  # pickled weights are data too, and no code
            trust_remote_code=False,
            local_files_only=True,
        )
    except Exception as error:  # of many kinds: files, network, JSON, shapes
        raise LorsError(
            "transformers cannot load this model",
            where=base_model,
            expected="a directory with config.json and weights of wav2vec 2.0",
            got=f"{type(error).__name__}: {error}"[:1000],
        ) from None
    missing, extra = set(report["missing_keys"]), set(report["unexpected_keys"])
    wrong = [f"not a tensor of wav2vec 2.0: {n}" for n in extra if not n.startswith(CTC)]
    wrong += [f"another shape: {n}" for n in map(str, report["mismatched_keys"])]
    if model.config.model_type != "wav2vec2" or wrong:
        raise LorsError(
            "not a wav2vec 2.0 model",
            where=base_model,
            got=shortened(sorted(wrong)) or f"model_type {model.config.model_type}",
        )
    if extra:
        log.warning("%s: its CTC layer is left out: %s", base_model, ", ".join(sorted(extra)))
    return model, {n: value for n, value in model.state_dict().items() if n not in missing}


def _published_conf(base_model: Path, config: Wav2Vec2Config) -> Wav2Vec2Conf:
    """Return ``wav2vec2_conf`` of a model of transformers."""
    known = set(vars(Wav2Vec2Config()))
    names = ("transformers_version", "architectures", "dtype", "model_type", "vocab_size")
    values: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.to_diff_dict().items()
        if key in known and key not in names and not key.startswith("_")
    }
    values["mask_time_prob"] = config.mask_time_prob or Wav2Vec2Config().mask_time_prob
    checked_config(values, base_model)
    file = base_model / "preprocessor_config.json"
    normalise = True  # as all published models
    if file.is_file():
        normalise = bool(read_json_object(file).get("do_normalize", True))
    return Wav2Vec2Conf(values, (), normalise)


def _check_tensors(
    state: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: object
) -> None:
    """Check that no tensor is lost and none but those of `NEW_PARTS` is new."""
    problems = [f"{n}: missing" for n in state if n not in weights and not n.startswith(NEW_PARTS)]
    problems += [
        f"{n}: {list(value.shape)}, expected {list(state[n].shape) if n in state else 'none'}"
        for n, value in weights.items()
        if n not in state or state[n].shape != value.shape
    ]
    if problems:
        raise LorsError("weights of another model", where=where, got=shortened(problems, 20))
