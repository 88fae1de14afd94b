"""Inference over data directories: audio in, hypothesis files out, resumable file by file."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import soundfile
from tqdm import tqdm

from lors.data.datadir import Utterance, read_data_dir, read_text, write_kaldi_text
from lors.done_marker import DoneMarker
from lors.errors import LorsError
from lors.fileio import file_digest, remove_tree
from lors.log import show_progress
from lors.models import open_recogniser
from lors.models.family import InferenceOptions, Recogniser
from lors.recipe.expdir import hypothesis_marker
from lors.tasks import TASKS, Pair, SpeechTask

SAMPLE_RATE = 16000
SHARD = 1000  # utterances between two points from which an interrupted inference can go on
log = logging.getLogger(__name__)


class AudioFiles(Sequence):
    """Waveforms that are read when they are asked for: a test set may be larger than memory.

    Args:
        paths: of mono 16 kHz audio files.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> AudioFiles: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return AudioFiles(self.paths[index])
        return read_audio(self.paths[index])


@dataclass(frozen=True)
class TestSet:
    """The audio of one data directory and what was said.

    Attributes:
        ids: utterance ids.
        waveforms: float32 arrays of shape (samples,), 16 kHz.
        references: task -> utterance id -> text.
    """

    ids: tuple[str, ...]
    waveforms: Sequence[np.ndarray]
    references: Mapping[str, Mapping[str, str]]


def read_audio(path: str | os.PathLike) -> np.ndarray:
    """Mono 16 kHz audio as float32 of shape (samples,).

    Raises:
        LorsError: the file cannot be read, or is of another sampling rate or number of channels.
    """
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


def read_test_set(directory: str | os.PathLike, limit: int | None = None) -> TestSet:
    """Read a data directory's audio and texts; with `limit`, only its first utterances."""
    utterances = read_data_dir(directory)[:limit]
    return TestSet(
        tuple(u.id for u in utterances),
        AudioFiles([u.wav for u in utterances]),
        {name: _references(utterances, task) for name, task in TASKS.items()},
    )


def _references(utterances: Sequence[Utterance], task: SpeechTask) -> dict[str, str]:
    texts = {u.id: task.reference(u.text, u.translations) for u in utterances}
    return {name: text for name, text in texts.items() if text is not None}


def decode(
    model: Recogniser,
    test_set: TestSet,
    pair: Pair,
    options: InferenceOptions,
    part: slice = slice(None),
) -> dict[str, str]:
    """Hypotheses of (a part of) one test set.

    Returns:
        Utterance id -> text, in the order of the test set.
    """
    ids, waveforms = test_set.ids[part], list(test_set.waveforms[part])
    # A batch goes on until its longest hypothesis has ended: alike lengths belong together.
    order = sorted(range(len(ids)), key=lambda i: len(waveforms[i]))
    texts = model.transcribe([waveforms[i] for i in order], pair, options)
    said = dict(zip(order, texts, strict=True))
    return {ids[i]: said[i] for i in range(len(ids))}


def infer(
    work: Sequence[tuple[Pair, Path, Path]],
    dump: str | os.PathLike,
    split: str,
    options: InferenceOptions,
    device: str = "cpu",
) -> None:
    """Decode a list of (pair, model directory, hypothesis file); finished files are left alone.

    An interrupted test set goes on after its last shard of `SHARD` utterances.

    Raises:
        LorsError: a model or a data directory is missing, or a hypothesis file was made with
            other settings.
    """
    model: Recogniser | None = None
    loaded: Path | None = None
    test_sets: dict[str, TestSet] = {}
    for pair, model_dir, out in tqdm(
        sorted(work, key=lambda unit: str(unit[1])), unit="test set", disable=not show_progress()
    ):
        model_file = model_dir / "model.pth"
        if not model_file.exists():
            raise LorsError("no model", where=model_file, hint="run the stage that makes it")
        directory = Path(dump) / pair.lang / split
        if not directory.is_dir():
            raise LorsError(
                "data directory not found", where=directory, hint="run stage 2 (format)"
            )
        marker = DoneMarker(
            hypothesis_marker(out),
            {
                "model": file_digest(model_file),
                "data": file_digest(directory / "utt2dur"),
                "options": options.settings(),
            },
        )
        if marker.is_done() and out.exists():
            continue
        with marker.work():
            if loaded != model_dir:
                model, loaded = open_recogniser(model_dir, device), model_dir
            if pair.lang not in test_sets:
                test_sets[pair.lang] = read_test_set(directory)
            _infer_one(model, test_sets[pair.lang], pair, options, out)
        log.info("%s", out)


def _infer_one(
    model: Recogniser, test_set: TestSet, pair: Pair, options: InferenceOptions, out: Path
) -> None:
    shards = out.with_name(f".{out.name}.shards")
    texts: dict[str, str] = {}
    for start in range(0, len(test_set.ids), SHARD):
        shard = shards / f"{start:09d}"
        if not shard.exists():
            write_kaldi_text(
                shard, decode(model, test_set, pair, options, slice(start, start + SHARD))
            )
        texts.update(read_text(shard))
    write_kaldi_text(out, texts)
    remove_tree(shards)
