"""Inference over data directories: audio in, hypothesis files out, resumable file by file."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import soundfile
from tqdm import tqdm

from lors.config import Range
from lors.datadir import read_data_dir, write_text
from lors.errors import LorsError
from lors.expdir import Pair
from lors.fileio import DoneMarker, file_digest
from lors.log import show_progress

if TYPE_CHECKING:
    from lors.models.espnet_s2t import S2TModel

SAMPLE_RATE = 16000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceConfig:
    """``conf/inference_*.yaml``.

    Attributes:
        beam_size: 1 for greedy search in batches, more for ESPnet's beam search.
        batch_size: utterances decoded together by the greedy search.
        ctc_weight: weight of the CTC prefix scores in the beam search.
        penalty: score added for each token in the beam search.
        maxlenratio: at most that many tokens for each encoder frame, which ends a hypothesis that
            repeats itself; 0 for no limit but one token a frame.
    """

    beam_size: Annotated[int, Range(1)] = 1
    batch_size: Annotated[int, Range(1)] = 64
    ctc_weight: Annotated[float, Range(0, 1)] = 0.0
    penalty: float = 0.0
    maxlenratio: Annotated[float, Range(0, 1)] = 0.0

    @property
    def is_greedy(self) -> bool:
        return self.beam_size == 1 and self.ctc_weight == 0.0


@dataclass(frozen=True)
class TestSet:
    """The audio of one data directory and what was said.

    Attributes:
        ids: utterance ids.
        waveforms: float32 arrays of shape (samples,), 16 kHz.
        references: task -> utterance id -> text.
    """

    ids: tuple[str, ...]
    waveforms: tuple[np.ndarray, ...]
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
        tuple(read_audio(u.wav) for u in utterances),
        {
            "asr": {u.id: u.text for u in utterances if u.text is not None},
            "st": {u.id: u.translations["en"] for u in utterances if "en" in u.translations},
        },
    )


def decode(
    model: S2TModel, test_set: TestSet, pair: Pair, options: InferenceConfig
) -> dict[str, str]:
    """Hypotheses of one test set, by greedy batches or, with ``beam_size`` > 1, by ESPnet's search.

    Returns:
        Utterance id -> text.
    """
    prompts = [pair] * len(test_set.ids)
    if options.is_greedy:
        texts = model.transcribe(
            test_set.waveforms, prompts, options.batch_size, options.maxlenratio
        )
    else:
        texts = model.transcribe_beam(
            test_set.waveforms,
            prompts,
            options.beam_size,
            options.ctc_weight,
            options.penalty,
            options.maxlenratio,
        )
    return dict(zip(test_set.ids, texts, strict=True))


def infer(
    work: Sequence[tuple[Pair, Path, Path]],
    dump: str | os.PathLike,
    split: str,
    options: InferenceConfig,
    device: str = "cpu",
) -> None:
    """Decode a list of (pair, model directory, hypothesis file); finished files are left alone.

    Raises:
        LorsError: a model or a data directory is missing, or a hypothesis file was made with
            other settings.
    """
    model: S2TModel | None = None
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
            out.with_name(f".{out.name}.done"),
            {
                "model": file_digest(model_file),
                "data": file_digest(directory / "utt2dur"),
                "options": dataclasses.asdict(options),
            },
        )
        if marker.is_done() and out.exists():
            continue
        if loaded != model_dir:
            # torch and ESPnet take seconds to import: only when there is something to decode.
            from lors.models.espnet_s2t import S2TModel

            model, loaded = S2TModel(model_file, device=device), model_dir
        if pair.lang not in test_sets:
            test_sets[pair.lang] = read_test_set(directory)
        write_text(out, decode(model, test_sets[pair.lang], pair, options))
        marker.mark()
        log.info("%s", out)
