"""The common part of LoRS's own ESPnet tasks: speech and text as data, options of a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection

from espnet2.train.class_choices import ClassChoices
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str2bool

from lors.models.espnet_trainer import ResumableTask

PADDING = -1
"""Pads the token ids of a batch."""


class SpeechTextTask(ResumableTask):
    """An ESPnet task of speech and text, trained by LoRS's trainer.

    Attributes:
        conf_options: names of the options that hold a configuration -> their help.
    """

    num_optimizers: int = 1
    class_choices_list: list[ClassChoices] = []  # noqa: RUF012 - as ESPnet has it
    conf_options: dict[str, str] = {}  # noqa: RUF012 - a constant of each task

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group(description="Task related")
        for name, text in cls.conf_options.items():
            group.add_argument(f"--{name}", action=NestedDictAction, default={}, help=text)
        group.add_argument(
            "--use_preprocessor", type=str2bool, default=True, help="ESPnet's option; always true"
        )
        for choices in cls.class_choices_list:
            choices.add_arguments(group)

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> Callable:
        return CommonCollateFn(float_pad_value=0.0, int_pad_value=PADDING)

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> Collection[str]:
        return ("speech",) if inference else ("speech", "text")

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> Collection[str]:
        return ()
