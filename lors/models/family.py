"""A model family: one class with everything that the recipes need to know about one kind of model.

A family is registered by :func:`register`. The families of LoRS are imported by ``lors.models``. A
family of another package is found by an entry point of the group ``lors.model_families``, whose
value is the module with the class (``my_family = "my_package.family"``).
"""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeVar

from lors.config import Range
from lors.data.datadir import Utterance
from lors.tasks import TASKS, Pair

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class InferenceOptions(ABC):
    """Options of ``conf/inference_*.yaml`` that every family has.

    Attributes:
        beam_size: 1 for greedy search.
        batch_size: number of utterances that greedy search decodes together.
    """

    beam_size: Annotated[int, Range(1)] = 1
    batch_size: Annotated[int, Range(1)] = 64

    @abstractmethod
    def greedy(self) -> InferenceOptions:
        """Return the same options with greedy search."""

    def settings(self) -> dict[str, Any]:
        """Return the options that can change a hypothesis: all but the batch size."""
        values = dataclasses.asdict(self)
        del values["batch_size"]
        return values


Options = TypeVar("Options", bound=InferenceOptions, contravariant=True)


class Recogniser(Protocol[Options]):
    """A model that is ready for inference, with the options of its family."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace all weights, e.g. by those of another merge of the same base model.

        Raises:
            LorsError: names or shapes differ from the model's.
        """

    def adapt(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add an adapter to a quantised model; only the models of such families have this.

        Args:
            factors: name of a weight -> factors (B, A), scale included.
        """

    def transcribe(
        self, waveforms: Sequence[np.ndarray], pair: Pair, options: Options
    ) -> list[str]:
        """Transcribe or translate 16 kHz mono float32 arrays of shape (samples,).

        Returns:
            One text for each waveform, in the same order. A text does not depend on the other
            waveforms.
        """


class Family(ABC):
    """A model family. An instance belongs to the configuration of one model.

    Args:
        config: ``config.yaml`` of a model, or the configuration of a model to be trained.
        where: the file of `config`, for error messages.
    """

    name: ClassVar[str]
    """Value of the recipes' option ``--model_family``."""
    policy: ClassVar[str]
    """Policy for merging: a name in ``lors/merge/policies``, or the path of a policy file."""
    train_module: ClassVar[str]
    """Training program: a module for ``python -m`` that takes the options of an ESPnet task."""
    data_files: ClassVar[Mapping[str, tuple[str, str]]]
    """File of the training data -> its name and its type for ESPnet."""
    model_keys: ClassVar[tuple[str, ...]]
    """Keys of the base model's configuration that a fine-tuned model takes over."""
    inference_options: ClassVar[type[InferenceOptions]]
    defaults: ClassVar[Mapping[str, str]]
    """Defaults of the recipes' options ``base_model`` (empty: it must be given), ``base_config``,
    ``train_config`` and ``inference_config``."""
    tasks: ClassVar[Sequence[str]] = tuple(TASKS)
    """Names of the tasks that models of this family can have."""
    quantised: ClassVar[Sequence[str]] = ()
    """Names of the weights that are quantised to 4 bits; ``*`` matches any text, dots included.
    Empty: models of this family cannot be quantised."""
    uploadable: ClassVar[bool] = False
    """Whether another program loads the files that the recipes upload of a merged model."""
    import_options: ClassVar[Mapping[str, str]] = {}
    """Options of the recipes that :meth:`import_base` takes -> their help."""

    def __init__(self, config: Mapping[str, Any], where: object):
        self.config, self.where = config, where

    @classmethod
    @abstractmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        """Return whether `config` describes a model of this family."""

    @classmethod
    @abstractmethod
    def check_options(cls, options: Mapping[str, str]) -> None:
        """Check the options of a recipe before its first stage, without corpus and models.

        Args:
            options: values of the recipe's options by name, as they were typed. ``base_model`` is
                among them only if this run imports a base model.

        Raises:
            UsageError: a value that this family cannot use.
        """

    @classmethod
    @abstractmethod
    def import_base(
        cls, base_model: str, out: str | os.PathLike, options: Mapping[str, str]
    ) -> None:
        """Make a model directory (``model.pth``, ``config.yaml``) of a published base model.

        Args:
            base_model: value of the option ``--base_model``.
            out: the model directory to make.
            options: the given options of :attr:`import_options`, as they were typed.

        Raises:
            LorsError: the model cannot be used, or `out` holds another one.
            UsageError: there is no such model, or a wrong value of an option.
        """

    @abstractmethod
    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """Check that the model has a prompt for every pair.

        Raises:
            LorsError: the model does not know a language or a task.
        """

    @abstractmethod
    def training_fields(self, utterance: Utterance, pair: Pair, text: str) -> dict[str, str]:
        """Return the training data of an utterance: file of :attr:`data_files` -> text of its line.

        The line of ``wav.scp`` is not among them.

        Args:
            utterance: an utterance of a data directory.
            pair: the language and the task that are trained.
            text: the reference text, without a prompt.
        """

    def why_unusable(self, utterance: Utterance, fields: Mapping[str, str]) -> str | None:
        """Return why the model cannot be trained on an utterance, or validated; None if it can.

        Args:
            fields: the utterance's training data, from :meth:`training_fields`.
        """
        return None

    @abstractmethod
    def recogniser(self, directory: str | os.PathLike, device: str) -> Recogniser:
        """Load the model of a directory (``model.pth``, ``config.yaml``) on a torch device.

        Raises:
            LorsError: a file is missing, or the weights are not those of such a model.
        """


FAMILIES: dict[str, type[Family]] = {}
"""All registered families by name."""

F = TypeVar("F", bound=type[Family])


def register(family: F) -> F:
    """Add a family to `FAMILIES` (a class decorator).

    Raises:
        ValueError: another family has the same name.
    """
    if FAMILIES.setdefault(family.name, family) is not family:
        raise ValueError(f"two model families are called {family.name}")
    return family
