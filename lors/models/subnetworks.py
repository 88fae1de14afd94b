"""Sub-networks of languages in ESPnet's trainer: options, training under masks, Taylor scores."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from espnet2.torch_utils.device_funcs import to_device
from espnet2.train.trainer import TrainerOptions
from espnet2.utils.build_dataclass import build_dataclass
from torch import Tensor, nn

from lors.checkpoint.expert import open_model
from lors.checkpoint.masks import Masks
from lors.errors import LorsError
from lors.models import family_of
from lors.subnet.find import pruned_matrices, write_scores
from lors.subnet.training import SubnetworkTraining

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Options(TrainerOptions):
    """Options of ESPnet's trainer, and those of LoRS.

    Attributes:
        subnetworks: file of masks to train under; None for a training of the whole model.
        importance: file to write Taylor scores to, in place of a training.
        utt2category: ESPnet's files of the category (here: language) of each utterance.
        init_param: the model that the training begins with.
    """

    subnetworks: str | None
    importance: str | None
    utt2category: list[Path]
    init_param: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LoRS to those of an ESPnet task."""
    group = parser.add_argument_group(description="Sub-networks of languages (LoRS)")
    group.add_argument("--subnetworks", help="file of masks: train each batch under one of them")
    group.add_argument("--importance", help="write Taylor scores to this file; do not train")


def build_options(args: argparse.Namespace) -> Options:
    """Return the options of the trainer."""
    data = [args.train_data_path_and_name_and_type, args.valid_data_path_and_name_and_type]
    # Where ESPnet looks for categories when it makes batches.
    args.utt2category = [Path(of[0][0]).parent / "utt2category" for of in data if of]
    return build_dataclass(Options, args)


def start_subnetworks(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], options: Options
) -> None:
    """Let a training see and change the sub-network of each batch's language only.

    Raises:
        LorsError: the masks do not fit the model, or batches would be added up.
        UsageError: a language without a mask.
    """
    if options.accum_grad != 1:
        raise LorsError(
            "gradients of several batches cannot be added up under masks",
            where="accum_grad of the training configuration",
            expected="1: each batch changes the sub-network of its own language",
            got=options.accum_grad,
        )
    assert options.subnetworks is not None
    masks = Masks(options.subnetworks)
    language_of: dict[str, str] = {}
    for path in options.utt2category:
        for line in path.read_text().splitlines():
            utterance, lang = line.split()
            language_of[utterance] = lang
    training = SubnetworkTraining(model, masks, language_of)
    for optimizer in optimizers:
        training.guard(optimizer)
    log.info("training %d sub-networks of %s", len(masks.languages), masks.path)


def write_importance(model: nn.Module, batches: Iterable[Any], options: Options) -> None:
    """Write |w dL/dw|, summed over batches, of every matrix that the policy prunes.

    The model is in evaluation mode: no dropout and no augmentation of the features.

    Args:
        model: the model, with the weights of its base.
        batches: pairs of utterance ids and ESPnet's batch, from an iterator factory.
        options: options of the trainer; ``init_param`` is the base model, in its directory.

    Raises:
        LorsError: the base model is damaged, or of no family; or all scores are zero.
    """
    assert options.importance is not None
    path = Path(options.init_param[0])
    base, policy = open_model(path), family_of(path.parent).policy
    parameters = dict(model.named_parameters())
    matrices = {name: parameters[name] for name in pruned_matrices(base, policy)}
    scores = {name: torch.zeros_like(matrix) for name, matrix in matrices.items()}
    model.eval()
    number = 0
    for utterances, batch in batches:
        batch = to_device({**batch, "utt_id": utterances}, "cuda" if options.ngpu else "cpu")
        found = model(**batch)
        loss = found["loss"] if isinstance(found, dict) else found[0]
        gradients = torch.autograd.grad(loss, list(matrices.values()))
        for (name, matrix), gradient in zip(matrices.items(), gradients, strict=True):
            scores[name] += (matrix.detach() * gradient).abs()
        number += 1
    if not any(bool(score.any()) for score in scores.values()):
        raise LorsError(
            "all Taylor scores are zero: masks would not depend on the language",
            where=options.importance,
            expected=f"a loss that depends on the matrices of {path}",
            got=f"no gradient in {len(scores)} matrices on {number} batches",
            hint="a contrastive loss is 0 if the codebook has collapsed: see error (1.0) and "
            "perplexity of the epochs of this base model, and pre-train another one",
        )
    log.info("importance of %d matrices on %d batches", len(scores), number)
    write_scores(options.importance, base, {name: _plain(score) for name, score in scores.items()})


def _plain(score: Tensor) -> Tensor:
    return score.detach().float().cpu()
