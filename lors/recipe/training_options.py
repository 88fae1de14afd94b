"""Options of ESPnet for a training, checked before any model is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from lors.config import read_yaml
from lors.errors import UsageError
from lors.models.adapter_conf import check_effect

KEPT_MODELS = 1
"""``keep_nbest_models`` of all trainings; ESPnet's default is 10, and their average."""


def read_training_options(path: str | os.PathLike) -> dict[str, Any]:
    """Read a training configuration.

    Args:
        path: a YAML file with ESPnet's options.

    Raises:
        UsageError: the file is missing or malformed; an option is not a number (``.nan``) or has
            no effect; the schedule onecyclelr is not as long as the training; or an average of
            epochs is asked for, which would not be used.
    """
    config = read_yaml(path)
    if bad := [*_not_a_number(config)]:
        raise UsageError("values that are not a number", where=path, got=bad)
    _check_schedule(config, path)
    _check_kept_models(config, path)
    check_effect(config, str(path))
    return config


def _not_a_number(value: Any, name: str = "") -> Iterator[str]:
    """Yield the names of options that are NaN, e.g. ``optim_conf.lr``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_a_number(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _not_a_number(inner, f"{name}[{index}]")
    elif isinstance(value, float) and math.isnan(value):
        yield name


def _check_schedule(config: Mapping[str, Any], where: object) -> None:
    """Check that the schedule onecyclelr is as long as the training.

    ESPnet steps the optimiser and the scheduler once for ``accum_grad`` batches of an epoch; the
    batches that remain make no step. The joint model has more batches in an epoch, and would have
    more steps than its schedule.
    """
    schedule = config.get("scheduler_conf")
    numbers: list[Any] = [config.get(key) for key in ("num_iters_per_epoch", "max_epoch")]
    numbers += [config.get("accum_grad", 1)]
    numbers += [schedule.get("total_steps") if isinstance(schedule, Mapping) else None]
    if config.get("scheduler") != "onecyclelr" or not all(
        type(number) is int and number > 0 for number in numbers
    ):
        return  # nothing to compare; wrong values are refused by ESPnet
    batches, epochs, together, total = numbers
    if batches % together or batches * epochs // together != total:
        raise UsageError(
            "the schedule and the training have different lengths",
            where=f"scheduler_conf of {where}",
            expected="total_steps = num_iters_per_epoch * max_epoch / accum_grad, and "
            "num_iters_per_epoch a multiple of accum_grad",
            got=f"total_steps: {total}, num_iters_per_epoch: {batches}, max_epoch: {epochs}, "
            f"accum_grad: {together}",
            hint="num_iters_per_epoch counts batches, total_steps counts updates of the model: "
            "twice the accum_grad needs twice the num_iters_per_epoch",
        )


def _check_kept_models(config: Mapping[str, Any], where: object) -> None:
    """Check that a configuration does not ask for an average of epochs: the best one is taken."""
    kept = config.get("keep_nbest_models", KEPT_MODELS)
    numbers = kept if isinstance(kept, list) else [kept]
    if any(type(number) is int and number > 1 for number in numbers):
        raise UsageError(
            "ESPnet's average of the best epochs would not be used",
            where=f"keep_nbest_models of {where}",
            expected="1: a trained model is that of its best epoch",
            got=str(kept),
        )
