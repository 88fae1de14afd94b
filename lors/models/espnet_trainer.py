"""ESPnet's trainer, so that it can be killed at any moment and goes on as if it had not been.

At the end of an epoch ESPnet writes, in this order: ``checkpoint.pth``, from which it resumes; the
epoch's model, ``<epoch>epoch.pth``; the link ``latest.pth``; the links to the best epochs; and it
removes the models of epochs that are not among the best. It resumes after the epoch of the
checkpoint, so what was still to be done for that epoch would never be done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from espnet2.train.reporter import Reporter
from espnet2.train.trainer import Trainer
from torch import Tensor

from lors.checkpoint.torch_file import SAFE_GLOBALS
from lors.errors import LorsError
from lors.fileio import atomic_write, locked, replace_link

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pth"
OTHER_TRAINING_SECONDS = 60.0
"""How long to wait for another training in the same directory, whose driver was killed."""


class ResumableTrainer(Trainer):
    """The trainer with whole files only, which first makes up for what a kill has cut off."""

    @classmethod
    def run(cls, **arguments: Any) -> None:
        """ESPnet's training loop; the arguments are those of :meth:`Trainer.run`."""
        options, distributed = arguments["trainer_options"], arguments["distributed_option"]
        out = Path(options.output_dir)
        if getattr(options, "save_strategy", "all") == "adapter_only":
            keep_adapters_apart(arguments["model"])
        with contextlib.ExitStack() as stack:
            writes = not distributed.distributed or distributed.dist_rank == 0
            if writes:
                stack.enter_context(locked(out / ".training.lock", OTHER_TRAINING_SECONDS))
                stack.enter_context(atomic_saves())
            if options.resume and (out / CHECKPOINT).exists():
                model, reporter = read_checkpoint(out / CHECKPOINT)
                if writes:
                    complete_epoch(out, model, reporter, options)
                if has_stopped_early(reporter, options):
                    # The loop would train one epoch more before it looks again.
                    options = dataclasses.replace(options, max_epoch=reporter.get_epoch())
                del model
            super().run(**{**arguments, "trainer_options": options})


def keep_adapters_apart(model: torch.nn.Module) -> None:
    """Tell LoRA's layers that their adapters are not part of their weights.

    ESPnet makes the layers in evaluation mode, in which loralib adds an adapter, still zero, to the
    weight. The weights and an adapter that are loaded afterwards, to go on or from another model,
    are apart; taken for added up, the adapter would be subtracted when the training begins.
    """
    for module in model.modules():
        if hasattr(module, "lora_A") and hasattr(module, "merged"):
            module.merged = False


@contextlib.contextmanager
def atomic_saves() -> Iterator[None]:
    """Let ``torch.save`` to a path write beside it, and rename the file when it is whole."""
    save = torch.save

    def atomic_save(value: Any, target: Any, *args: Any, **options: Any) -> None:
        if isinstance(target, str | os.PathLike):
            with atomic_write(target, "wb") as handle:
                save(value, handle, *args, **options)
        else:
            save(value, target, *args, **options)

    torch.save = atomic_save
    try:
        yield
    finally:
        torch.save = save


def read_checkpoint(path: Path) -> tuple[Mapping[str, Tensor], Reporter]:
    """The model of a ``checkpoint.pth``, as the epoch's own file has it, and all epochs' scores.

    Raises:
        LorsError: it cannot be read, or holds more than data.
    """
    # ESPnet itself unpickles it as code; what is refused here does not get there.
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            states = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        reporter = Reporter()
        reporter.load_state_dict(states["reporter"])
        return states["model"], reporter
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError) as error:
        raise LorsError(
            "the training cannot go on from its checkpoint",
            where=path,
            expected="a checkpoint of ESPnet that holds tensors, numbers and texts",
            got=str(error).splitlines()[0],
            hint="remove the file to start this training over",
        ) from None


def complete_epoch(
    out: Path, model: Mapping[str, Tensor], reporter: Reporter, options: Any
) -> None:
    """Do again what ESPnet does with the files of an epoch once it has written the checkpoint.

    Args:
        out: the training's directory.
        model, reporter: of the checkpoint.
        options: of ESPnet's trainer.
    """
    epoch = reporter.get_epoch()
    # Whatever of it is there: the file may be half of one, or that of a training before this.
    with atomic_write(out / _model(epoch), "wb") as handle:
        torch.save(model, handle)
    replace_link(out / "latest.pth", _model(epoch))
    kept = options.keep_nbest_models
    number = max([kept] if isinstance(kept, int) else [*kept] or [1])
    best: set[int] = set()
    for phase, score, mode in options.best_model_criterion:
        if reporter.has(phase, score):
            order = reporter.sort_epochs(phase, score, mode)
            replace_link(out / f"{phase}.{score}.best.pth", _model(order[0]))
            best.update(order[:number])
    for earlier in range(1, epoch):
        if earlier not in best:
            (out / _model(earlier)).unlink(missing_ok=True)
    log.info("going on after epoch %d", epoch)


def has_stopped_early(reporter: Reporter, options: Any) -> bool:
    """Whether ESPnet ended the training after the reporter's epoch, for want of improvement."""
    return options.patience is not None and reporter.check_early_stopping(
        options.patience, *options.early_stopping_criterion
    )


def _model(epoch: int) -> str:
    return f"{epoch}epoch.pth"
