"""Training of LoRA adapters on a quantised model: what both of LoRS's ESPnet tasks share."""

from __future__ import annotations

import argparse
from typing import Any

from espnet2.layers.create_adapter import create_adapter
from espnet2.tasks.abs_task import AbsTask

from lors.checkpoint.quantised import open_quantised
from lors.errors import UsageError
from lors.models.lora_layers import convolutions_to_lora, dropout_as_function
from lors.models.nf4_layers import load_quantised


class QuantisedTask(AbsTask):
    """A mix-in for ESPnet tasks: the option ``--quantised_base`` and the model for it."""

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        super().add_task_arguments(parser)
        parser.add_argument_group(description="LoRS related").add_argument(
            "--quantised_base",
            default=None,
            help="quantised base model (.safetensors); only the adapters on it are trained",
        )

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> Any:
        """Return ESPnet's model; with ``quantised_base`` in 4 bits, frozen, with LoRA layers.

        Raises:
            UsageError: no LoRA adapters are configured.
            LorsError: the quantised model cannot be read, or is another model.
        """
        model = super().build_model(args)
        path = getattr(args, "quantised_base", None)
        if path is None:
            return model
        if not getattr(args, "use_adapter", False) or args.adapter != "lora":
            raise UsageError(
                "a quantised model can be trained by adapters only",
                where="the training configuration",
                expected="use_adapter: true, adapter: lora",
            )
        # ESPnet has no LoRA for convolutions, and leaves layers with LoRA as they are.
        convolutions_to_lora(model, **args.adapter_conf)
        create_adapter(model, args.adapter, args.adapter_conf)
        dropout_as_function(model)  # ESPnet calls create_adapter on this model again
        args.freeze_param = []  # all but the adapters is frozen; this would freeze these
        load_quantised(model, open_quantised(path))
        return model
