"""Training of LoRA adapters on a quantised model: what both of LoRS's ESPnet tasks share."""

from __future__ import annotations

import argparse
from typing import Any

from espnet2.layers.create_adapter import create_adapter
from espnet2.tasks.abs_task import AbsTask
from loralib import LoRALayer
from torch import nn

from lors.checkpoint.quantised import open_quantised
from lors.errors import UsageError, shortened
from lors.models.adapter_conf import check_alone
from lors.models.lora_layers import convolutions_to_lora, dropout_as_function
from lors.models.nf4_layers import Nf4Weight, load_quantised


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
            UsageError: another training than that of LoRA adapters, or adapters of layers that
                compute without them.
            LorsError: the quantised model cannot be read, or is another model.
        """
        model = super().build_model(args)
        path = getattr(args, "quantised_base", None)
        if path is None:
            return model
        check_alone(vars(args), "the training configuration")
        # ESPnet has no LoRA for convolutions, and leaves layers with LoRA as they are.
        convolutions_to_lora(model, **args.adapter_conf)
        create_adapter(model, args.adapter, args.adapter_conf)
        dropout_as_function(model)  # ESPnet calls create_adapter on this model again
        load_quantised(model, open_quantised(path))
        _check_layers(model)
        return model


def _check_layers(model: nn.Module) -> None:
    """Check that every layer with an adapter is one to which inference can add it.

    Raises:
        UsageError: the weight of a layer is not in 4 bits, or the layer is an embedding.
    """
    adapted = [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, LoRALayer)
    ]
    others = [
        name
        for name, layer in adapted
        if not isinstance(layer, Nf4Weight) or isinstance(layer, nn.Embedding)
    ]
    if others:
        raise UsageError(
            "adapters of layers that a quantised model cannot have",
            where="target_modules in the adapter_conf of the training configuration",
            expected="linear layers and convolutions whose weights are in 4 bits",
            got=shortened(others, 20),
            hint="name other layers; all names that end with one of target_modules are meant",
        )
