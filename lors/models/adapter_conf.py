"""ESPnet's options of a training that leaves an adapter (LoRA) and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lors.errors import UsageError

ADAPTER_ALONE = {"use_adapter": True, "adapter": "lora", "save_strategy": "adapter_only"}
ESPNET_DEFAULTS = {"use_adapter": False, "adapter": "lora", "save_strategy": "all"}
"""ESPnet's defaults of the keys of `ADAPTER_ALONE`."""


def check_alone(config: Mapping[str, Any], where: str) -> None:
    """Check that a training on a quantised model leaves an adapter and nothing else.

    Raises:
        UsageError: it leaves no adapter, or more than an adapter; or an option has no effect.
    """
    check_effect(config, where)
    problems = not_alone(config)
    if frozen := config.get("freeze_param"):
        problems.append(f"freeze_param: {frozen}, expected none: all but the adapters is frozen")
    if problems:
        raise UsageError(
            "a quantised model can be trained by adapters only, which are saved alone",
            where=where,
            got=problems,
            hint="target_modules in adapter_conf names the layers with adapters",
        )


def check_effect(config: Mapping[str, Any], where: str) -> None:
    """Check the option of adapters that ESPnet takes and does not use: their biases.

    Raises:
        UsageError: it is set, and has no effect.
    """
    given = config.get("adapter_conf")
    bias_type = given.get("bias_type") if isinstance(given, Mapping) else None
    if config.get("use_adapter") and bias_type not in (None, "none"):
        raise UsageError(
            "an option without effect",
            where=where,
            got=f"adapter_conf.bias_type: {bias_type}, expected none: adapters have no biases",
        )


def not_alone(config: Mapping[str, Any]) -> list[str]:
    """Return why a training with `config` leaves no adapter, or more than an adapter.

    Returns:
        A line ``save_strategy: all, expected adapter_only`` for each option.
    """
    found = {key: config.get(key, default) for key, default in ESPNET_DEFAULTS.items()}
    return [
        f"{key}: {found[key]}, expected {str(wanted).lower()}"
        for key, wanted in ADAPTER_ALONE.items()
        if found[key] != wanted
    ]
