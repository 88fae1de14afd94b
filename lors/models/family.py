"""What a recipe has to know of a family of models, so that all families share its stages."""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from lors.config import Range
from lors.data.datadir import Utterance, read_data_dir
from lors.errors import LorsError
from lors.fileio import hash_of, write_text
from lors.tasks import Pair

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_SHOWN = 5  # utterances spelled out in an error message; the rest are only counted


@dataclass(frozen=True)
class InferenceOptions(ABC):
    """What ``conf/inference_*.yaml`` can say for every family.

    Attributes:
        beam_size: 1 for greedy search.
        batch_size: utterances decoded together by the greedy search.
    """

    beam_size: Annotated[int, Range(1)] = 1
    batch_size: Annotated[int, Range(1)] = 64

    @abstractmethod
    def greedy(self) -> InferenceOptions:
        """The same with greedy search."""

    def settings(self) -> dict[str, Any]:
        """What the hypotheses depend on: all but the size of the batches."""
        values = dataclasses.asdict(self)
        del values["batch_size"]
        return values


class Recogniser(Protocol):
    """A model for inference."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace all weights, e.g. by those of another merge of the same base.

        Raises:
            LorsError: names or shapes differ from the model's.
        """

    def transcribe(
        self, waveforms: Sequence[np.ndarray], pair: Pair, options: InferenceOptions
    ) -> list[str]:
        """Transcribe or translate 16 kHz mono float32 arrays of shape (samples,).

        Returns:
            One text an utterance, in the order given; none depends on the others.
        """


class Family(ABC):
    """A family of models, as the configuration of one of its models describes it.

    Args:
        config: ``config.yaml`` of a model, or of one that is to be trained.
        where: the file, for error messages.
    """

    name: ClassVar[str]
    train_module: ClassVar[str]
    """ESPnet's training program as LoRS has it, to be called as ``python -m``."""
    data_files: ClassVar[Mapping[str, tuple[str, str]]]
    """File of the training data -> its name and type for ESPnet."""
    model_keys: ClassVar[tuple[str, ...]]
    """What a fine-tuned model takes over from the configuration of its base."""
    inference_options: ClassVar[type[InferenceOptions]]

    def __init__(self, config: Mapping[str, Any], where: object):
        self.config, self.where = config, where

    @abstractmethod
    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """LorsError if the model has no prompt for one of these languages or tasks."""

    @abstractmethod
    def columns(self, utterance: Utterance, pair: Pair, text: str) -> dict[str, str]:
        """The training data of one utterance: file (``wav.scp`` excepted) -> its line.

        Args:
            utterance: of a data directory.
            pair: the language and the task that is trained.
            text: what the model is to say, without any prompt.
        """

    def misfit(self, utterance: Utterance, columns: Mapping[str, str]) -> str | None:
        """Why the model cannot be trained on an utterance; None if it can."""
        return None

    @abstractmethod
    def recogniser(self, directory: str | os.PathLike, device: str) -> Recogniser:
        """The model of a directory (``model.pth``, ``config.yaml``) on a torch device.

        Raises:
            LorsError: a file is missing, or not of this family.
        """


def write_training_data(
    family: Family,
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    split: str,
    out: str | os.PathLike,
    limit: int | None = None,
) -> list[str]:
    """Write the data files of several language-task pairs as one ESPnet data directory.

    Args:
        family: of the model to be trained.
        pairs: language-task pairs.
        dump: holds ``<lang>/<split>`` Kaldi data directories with 16 kHz audio.
        split: ``train`` or ``dev``.
        out: receives the files of ``family.data_files``; an utterance appears once a task, with
            the task appended to its id.
        limit: at most that many utterances of each pair, chosen by a hash of their ids.

    Returns:
        The utterance ids, sorted.

    Raises:
        LorsError: a data directory is missing or invalid, or has no transcripts, or no translation
            for an ST pair; an utterance id appears twice, or the model cannot take an utterance.
    """
    rows: dict[str, dict[str, str]] = {}
    misfits = []
    for pair in pairs:
        directory = Path(dump) / pair.lang / split
        for utterance in _chosen(read_data_dir(directory), limit):
            if utterance.text is None:
                raise LorsError("data without transcripts", where=directory / "text")
            text = pair.speech_task.reference(utterance.text, utterance.translations)
            if text is None:
                raise LorsError(
                    "no translation for a translation task",
                    where=directory / pair.speech_task.reference_file,
                    got=f"utterance {utterance.id} is not in it",
                )
            key = f"{utterance.id}-{pair.task}"
            if key in rows:
                raise LorsError(
                    "an utterance appears twice",
                    where=directory,
                    got=f"utterance {utterance.id}, task {pair.task}",
                    hint="name every pair once, and give each language its own utterance ids",
                )
            columns = family.columns(utterance, pair, text)
            misfit = family.misfit(utterance, columns)
            if misfit:
                misfits.append(f"{directory}: {utterance.id}: {misfit}")
            rows[key] = {"wav.scp": utterance.wav, **columns}
    if misfits:
        more = len(misfits) - _SHOWN
        shown = [*misfits[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise LorsError(
            "utterances that do not fit the model",
            where=family.where,
            got="\n    - ".join(["", *shown]),
            hint="remove them from the data directories of stage 1, and format again (stage 2)",
        )
    if not rows:
        raise LorsError(
            "no utterances", where=Path(dump), got=f"{split} of {', '.join(map(str, pairs))}"
        )
    ids = sorted(rows)
    for file in family.data_files:
        write_text(Path(out) / file, "".join(f"{i} {rows[i][file]}\n" for i in ids))
    return ids


def _chosen(utterances: list[Utterance], limit: int | None) -> list[Utterance]:
    if limit is None or len(utterances) <= limit:
        return utterances
    return sorted(utterances, key=lambda u: hash_of(u.id))[:limit]
