"""ESPnet's trainer, changed to resume with the same result after a kill at any moment.

At the end of an epoch ESPnet takes these steps: it writes ``checkpoint.pth``; then the model of the
epoch, ``<epoch>epoch.pth``; the link ``latest.pth``; and the links to the best epochs. Then it
removes the models that are not among the best. After a kill ESPnet continues with the epoch after
the checkpoint. If the kill came between two of these steps, the remaining steps would never be
done; this module repeats all steps after the checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.reporter import Reporter
from espnet2.train.trainer import Trainer, autocast_args
from torch import Tensor

from lors.checkpoint.places import TRAINING_STATE
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.torch_file import load_torch
from lors.errors import LorsError
from lors.fileio import atomic_write, locked, replace_link
from lors.models import subnetworks
from lors.models.precision import cpu_multiplies_bfloat16

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from <malloc.h>
OTHER_TRAINING_SECONDS = 60.0
"""How long to wait for a training in the same directory whose driver was killed."""


class ResumableTrainer(Trainer):
    """ESPnet's trainer, but files are written atomically and an interrupted epoch is completed."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of LoRS."""
        subnetworks.add_arguments(parser)

    @classmethod
    def build_options(cls, args: argparse.Namespace) -> subnetworks.Options:
        """Return the trainer's options."""
        return subnetworks.build_options(args)

    @classmethod
    def run(cls, **arguments: Any) -> None:
        """Run ESPnet's training loop; the arguments are those of :meth:`Trainer.run`."""
        options, distributed = arguments["trainer_options"], arguments["distributed_option"]
        out = Path(options.output_dir)
        if options.importance:
            batches = arguments["train_iter_factory"].build_iter(1)
            subnetworks.write_importance(arguments["model"], batches, options)
            return
        if getattr(options, "save_strategy", "all") == "adapter_only":
            keep_adapters_apart(arguments["model"])
        if options.subnetworks:
            subnetworks.start_subnetworks(arguments["model"], arguments["optimizers"], options)
        with contextlib.ExitStack() as stack:
            if not options.ngpu:
                keep_freed_memory()
                if options.use_amp:
                    stack.enter_context(cpu_autocast(arguments["model"]))
            elif options.use_amp:
                leave_emulated_bfloat16()
            writes = not distributed.distributed or distributed.dist_rank == 0
            if writes:
                stack.enter_context(locked(out / ".training.lock", OTHER_TRAINING_SECONDS))
                stack.enter_context(atomic_saves())
            if options.resume and (out / TRAINING_STATE).exists():
                model, reporter = read_checkpoint(out / TRAINING_STATE)
                if writes:
                    complete_epoch(out, model, reporter, options)
                if has_stopped_early(reporter, options):
                    # ESPnet checks this after an epoch only: it would train one more.
                    options = dataclasses.replace(options, max_epoch=reporter.get_epoch())
                del model
            super().run(**{**arguments, "trainer_options": options})


class ResumableTask(AbsTask):
    """A mix-in for ESPnet tasks: the trainer of LoRS, and training of adapters alone."""

    trainer = ResumableTrainer

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> list[torch.optim.Optimizer]:
        """Return ESPnet's optimisers; what is not saved with an adapter is frozen before."""
        if args.use_adapter and args.save_strategy == "adapter_only":
            train_adapters_alone(model, args.adapter)
        return super().build_optimizers(args, model)


def cpu_autocast(model: torch.nn.Module) -> contextlib.AbstractContextManager:
    """Return the context of mixed precision on a CPU; ESPnet's ``use_amp`` concerns GPUs only.

    Matrices are multiplied in bfloat16 if the CPU has instructions for it: training Whisper-base
    then takes 0.6 times as long. Weights, their updates and the loss stay in float32.

    Args:
        model: the model that is trained. Each of its forward passes converts the weights anew.
    """
    if not cpu_multiplies_bfloat16():
        log.info("use_amp: this CPU has no bfloat16; training in float32")
        return contextlib.nullcontext()
    log.info("use_amp: training in bfloat16 and float32")
    # ESPnet's context for GPUs, inside this one, turns the cache of converted weights on. Only the
    # end of the outermost context empties it: all steps would compute with the first weights.
    model.register_forward_pre_hook(lambda *_: torch.clear_autocast_cache())
    return torch.autocast("cpu", dtype=torch.bfloat16)


def leave_emulated_bfloat16() -> None:
    """Let ESPnet train in float16 on a GPU that only emulates bfloat16, such as a V100 or T4.

    torch calls an emulated dtype supported, and ESPnet would take it, without any gain in speed.
    """
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        autocast_args.pop("dtype", None)


def keep_freed_memory() -> None:
    """Let malloc keep the memory that this process frees, for the next step; only with glibc.

    By default glibc gives large blocks back to the system at once. Every step then gets its
    gradients and activations page by page again: on a virtual machine a tenth of the CPU time of
    training Whisper-base.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


def train_adapters_alone(model: torch.nn.Module, adapter: str) -> None:
    """Freeze all that is not saved with an adapter, running means and variances too.

    ESPnet trains every parameter that ``freeze_param`` does not name, and saves the adapter: what
    the others have learnt would be lost, and the adapter would not fit the base model.

    Args:
        model: the model with its adapters.
        adapter: ``lora`` or ``houlsby``, as in ESPnet.
    """
    saved = "lora_" if adapter == "lora" else "adapter"
    for name, parameter in model.named_parameters():
        if saved not in name:
            parameter.requires_grad = False
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0


def keep_adapters_apart(model: torch.nn.Module) -> None:
    """Mark LoRA's adapters as not added to the weights.

    ESPnet makes the layers in evaluation mode: loralib then adds the adapter (zero at first) to the
    weight and marks it as added. The weights that are loaded later do not contain the adapter, but
    the mark stays, and loralib would subtract the adapter when training begins.
    """
    for module in model.modules():
        if hasattr(module, "lora_A") and hasattr(module, "merged"):
            # torch declares tensors and modules as the only attributes of a module.
            module.merged = False  # type: ignore[assignment]


@contextlib.contextmanager
def atomic_saves() -> Iterator[None]:
    """Make ``torch.save`` to a path atomic: write a temporary file, then rename it."""
    save = torch.save

    def atomic_save(obj: object, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, str | os.PathLike):
            with atomic_write(f, "wb") as handle, _errors_of_writing():
                save(obj, handle, *args, **kwargs)
        else:
            save(obj, f, *args, **kwargs)

    torch.save = atomic_save
    try:
        yield
    finally:
        torch.save = save


@contextlib.contextmanager
def _errors_of_writing() -> Iterator[None]:
    """Raise the error of write() that ``torch.save`` replaces by one of its zip archive."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def read_checkpoint(path: Path) -> tuple[Mapping[str, Tensor], Reporter]:
    """Return the model in a ``checkpoint.pth`` and the scores of all epochs.

    Raises:
        LorsError: the file is damaged, or holds code.
    """
    # ESPnet unpickles the file, which may run code; a file that is refused here is not unpickled.
    try:
        checkpoint = Checkpoint.open(path)
        model = {name: checkpoint.tensor(name) for name in checkpoint.names()}
        reporter = Reporter()
        reporter.load_state_dict(load_torch(path).content["reporter"])
        return model, reporter
    except (LorsError, KeyError, TypeError) as error:
        problem = f"{error.what}: {error.got}" if isinstance(error, LorsError) else error
        raise LorsError(
            "the training cannot resume from its checkpoint",
            where=path,
            expected="ESPnet's checkpoint of tensors, numbers and texts",
            got=f"{type(error).__name__}: {problem}",
            hint="remove the file to start this training over",
        ) from None


def complete_epoch(
    out: Path, model: Mapping[str, Tensor], reporter: Reporter, options: Any
) -> None:
    """Repeat the steps that ESPnet takes after it has written the checkpoint of an epoch.

    Args:
        out: the training's directory.
        model, reporter: content of the checkpoint.
        options: options of ESPnet's trainer.
    """
    epoch = reporter.get_epoch()
    # Written even if it exists: it may be incomplete, or from an earlier training.
    with atomic_write(out / _model(epoch), "wb") as handle, _errors_of_writing():
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
    log.info("resuming after epoch %d", epoch)


def has_stopped_early(reporter: Reporter, options: Any) -> bool:
    """Return whether ESPnet stopped the training early at the reporter's epoch."""
    return options.patience is not None and reporter.check_early_stopping(
        options.patience, *options.early_stopping_criterion
    )


def _model(epoch: int) -> str:
    return f"{epoch}epoch.pth"
