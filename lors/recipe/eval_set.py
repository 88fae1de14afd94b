"""Test and dev sets for inference: audio and references of a data directory."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from lors.data.clips import SAMPLE_RATE
from lors.data.datadir import Utterance, read_data_dir
from lors.errors import LorsError
from lors.fileio import file_digest, hash_of
from lors.models.family import InferenceOptions, Recogniser
from lors.tasks import TASKS, Pair, SpeechTask

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class EvalSet:
    """Audio and references of one data directory.

    Attributes:
        ids: utterance ids.
        waveforms: float32 arrays of shape (samples,), 16 kHz.
        references: task -> utterance id -> text.
    """

    ids: tuple[str, ...]
    waveforms: Sequence[np.ndarray]
    references: Mapping[str, Mapping[str, str]]

    def subset(self, ids: Collection[str]) -> EvalSet:
        """Return these utterances, in the order of the set."""
        wanted = frozenset(ids)
        places = [index for index, name in enumerate(self.ids) if name in wanted]
        return EvalSet(
            tuple(self.ids[index] for index in places),
            [self.waveforms[index] for index in places],
            {
                task: {name: text for name, text in of.items() if name in wanted}
                for task, of in self.references.items()
            },
        )


class AudioFiles(Sequence):
    """Waveforms that are read at each access, because a test set may be larger than memory.

    Args:
        paths: mono 16 kHz audio files.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> AudioFiles: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | AudioFiles:
        if isinstance(index, slice):
            return AudioFiles(self.paths[index])
        return read_audio(self.paths[index])


def read_audio(path: str | os.PathLike) -> np.ndarray:
    """Read mono 16 kHz audio as float32 of shape (samples,).

    Raises:
        LorsError: the file cannot be read, or has another sampling rate or number of channels.
    """
    import soundfile  # slow to import, and a finished recipe reads no audio

    try:
        waveform, rate = soundfile.read(str(path), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise LorsError("cannot read audio", where=path, got=str(error)) from None
    if rate != SAMPLE_RATE or waveform.ndim != 1:
        channels = 1 if waveform.ndim == 1 else waveform.shape[1]
        raise LorsError(
            "audio of the wrong form",
            where=path,
            expected=f"{SAMPLE_RATE} Hz, 1 channel",
            got=f"{rate} Hz, {channels} channels",
            hint="run stage 2 (format)",
        )
    return waveform


def chosen(utterances: Sequence[Utterance], limit: int | None) -> list[Utterance]:
    """Return at most `limit` utterances, chosen by a hash of their ids, in their order.

    Ids begin with the speaker: the first utterances would be those of a few speakers.
    """
    if limit is None or len(utterances) <= limit:
        return [*utterances]
    kept = {u.id for u in sorted(utterances, key=lambda u: hash_of(u.id))[:limit]}
    return [u for u in utterances if u.id in kept]


def recorded_limit(limit: int | None) -> dict[str, Any]:
    """Return the entries of a done marker for the choice of utterances by :func:`chosen`.

    Earlier versions took the first utterances and recorded the limit alone.
    """
    return {"limit": limit, **({} if limit is None else {"chosen_by": "a hash of the id"})}


def read_eval_set(directory: str | os.PathLike, limit: int | None = None) -> EvalSet:
    """Read a data directory's audio and texts; with `limit`, only some (:func:`chosen`)."""
    utterances = chosen(read_data_dir(directory), limit)
    return EvalSet(
        tuple(u.id for u in utterances),
        AudioFiles([u.wav for u in utterances]),
        {name: _references(utterances, task) for name, task in TASKS.items()},
    )


def digests_of(directory: Path) -> dict[str, str]:
    """Return the digests of a data directory's references and durations, which stand for the audio.

    Returns:
        Name of a file that is there -> digest.
    """
    names = ["utt2dur", *(task.reference_file for task in TASKS.values())]
    files = [directory / name for name in names]
    return {path.name: file_digest(path) for path in files if path.exists()}


def _references(utterances: Sequence[Utterance], task: SpeechTask) -> dict[str, str]:
    texts = {u.id: task.reference(u.text, u.translations) for u in utterances}
    return {name: text for name, text in texts.items() if text is not None}


def hypotheses_of(
    model: Recogniser,
    eval_set: EvalSet,
    pair: Pair,
    options: InferenceOptions,
    part: slice = slice(None),
) -> dict[str, str]:
    """Run inference on an evaluation set, or on a part of it.

    Returns:
        Utterance id -> hypothesis, in the order of the set.
    """
    ids, waveforms = eval_set.ids[part], list(eval_set.waveforms[part])
    # A batch takes as long as its longest hypothesis: put utterances of similar length together.
    order = sorted(range(len(ids)), key=lambda i: len(waveforms[i]))
    texts = model.transcribe([waveforms[i] for i in order], pair, options)
    text_at = dict(zip(order, texts, strict=True))
    return {ids[i]: text_at[i] for i in range(len(ids))}
