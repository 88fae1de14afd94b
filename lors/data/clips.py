"""Audio of any format, rate and channel count to 16 kHz mono FLAC, in parallel processes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from lors.data import subset
from lors.data.datadir import Utterance, data_files, read_data_dir, read_scp, write_data_dir
from lors.done_marker import DoneMarker
from lors.errors import LorsError, UsageError
from lors.fileio import atomic_write, file_digest, hash_of, read_json, write_json
from lors.log import show_progress
from lors.processes import end_with_parent, starting_workers

SAMPLE_RATE = 16_000  # Hz; what Whisper, OWSM and the recipes' own models expect
_CHUNK = 16  # clips handed to a worker at a time: a fraction of a second of work
_USUAL_CLIP = 5.0  # seconds; a first guess at how many clips make an hour


@dataclass(frozen=True)
class ClipTask:
    """One clip to convert. Durations are in seconds."""

    id: str
    source: str
    target: Path
    min_dur: float
    max_dur: float


@dataclass(frozen=True)
class ClipResult:
    """What became of a clip: its length in seconds, or the reason for which it was dropped."""

    id: str
    duration: float = 0.0
    reason: str = ""
    detail: str = ""
    reused: bool = False


def decode(path: str | os.PathLike) -> np.ndarray:
    """Decode a sound file to 16 kHz mono: float32, shape (samples,), nominally in [-1, 1].

    Channels are averaged; rates are converted by soxr in its high quality.

    Raises:
        LorsError: the file cannot be decoded, or holds no sample.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise LorsError("cannot be decoded", where=path, got=_why(path, error)) from None
    samples = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if not len(samples):
        raise LorsError("cannot be decoded", where=path, got="no sample in it")
    return samples


def encode_flac(samples: np.ndarray) -> bytes:
    """16 kHz mono samples in [-1, 1] as 16-bit FLAC; louder samples are clipped."""
    pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def convert_clip(task: ClipTask) -> ClipResult:
    """Write one clip as FLAC, or say why not; a good FLAC file of an earlier run is kept.

    Raises:
        OSError: the FLAC file cannot be written (that is no fault of the clip).
    """
    duration = _finished_duration(task)
    reused = duration is not None
    samples = None
    if duration is None:
        try:
            samples = decode(task.source)
        except LorsError as error:
            return ClipResult(task.id, reason="undecodable", detail=str(error.got))
        duration = len(samples) / SAMPLE_RATE
    reason = (duration < task.min_dur and "too_short") or (duration > task.max_dur and "too_long")
    if reason:
        task.target.unlink(missing_ok=True)
        return ClipResult(task.id, reason=reason, detail=f"{duration:.3f} s")
    if samples is not None:
        # No fsync as in fileio.atomic_write: a hundred thousand of them would take hours, and
        # a FLAC file is decoded in full before a later run trusts it. The source's time on it
        # tells that run which source it was made from.
        task.target.parent.mkdir(parents=True, exist_ok=True)
        temporary = task.target.with_name(f".{task.target.name}.tmp")
        temporary.write_bytes(encode_flac(samples))
        source_time = Path(task.source).stat().st_mtime_ns
        os.utime(temporary, ns=(source_time, source_time))
        temporary.replace(task.target)
    return ClipResult(task.id, duration=duration, reused=reused)


@contextlib.contextmanager
def worker_pool(nj: int) -> Iterator[Executor]:
    """`nj` worker processes for :func:`format_data_dir`.

    Raises:
        UsageError: `nj` is not at least 1.
    """
    if nj < 1:
        raise UsageError("at least one worker process is needed", where="--nj", got=nj)
    pool = ProcessPoolExecutor(nj, initializer=_start_worker, initargs=(os.getpid(),))
    with starting_workers():
        pool.submit(int)  # starts them all
    try:
        yield pool
    finally:
        # On Ctrl-C the waiting clips are given up; those at work are finished.
        pool.shutdown(wait=True, cancel_futures=True)


def format_data_dir(
    source: str | os.PathLike,
    target: str | os.PathLike,
    pool: Executor,
    min_dur: float = 0.0,
    max_dur: float = float("inf"),
    max_bad_audio: float = 0.1,
    hours: float | None = None,
    clips: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Make `target` the data directory `source` with its audio as 16 kHz mono FLAC.

    `target` gets the FLAC files under ``audio/``, ``utt2dur``, ``dropped.tsv`` (id, reason,
    detail) and ``report.json``. Nothing is done if `target` is finished; after an interruption
    the FLAC files that are good and made from the same source are used again.

    Args:
        source: a valid data directory.
        target: the data directory to make.
        pool: the worker processes, of :func:`worker_pool`.
        min_dur: shortest clip to keep, in seconds.
        max_dur: longest clip to keep, in seconds.
        max_bad_audio: largest share (0 to 1) of clips that may fail to decode.
        hours: take a subset with that much speech (:mod:`lors.data.subset`), and no more than one
            clip beyond; only what it may need is decoded. All clips, with a warning, if there is
            less.
        clips: take the clips of these names.

    Returns:
        the report, as written to ``report.json``.

    Raises:
        LorsError: `source` is not valid, or lacks one of `clips`; `target` was made from something
            else; more clips fail than allowed (``dropped.tsv`` is written all the same); no clip is
            left.
    """
    source, target = Path(source), Path(target)
    # Without marker.work(): what an unfinished run left is checked file by file, so that a
    # source that was mended after a refusal can be formatted into the same directory.
    inputs = _inputs(source, min_dur, max_dur)
    if hours is not None:
        inputs["hours"] = hours
    if clips is not None:
        inputs["clips"] = hash_of(sorted(clips))
    marker = DoneMarker(target / ".done", inputs)
    if marker.is_done():
        return read_json(target / "report.json")
    with marker.alone():
        utterances = everything = read_data_dir(source)
        if clips is not None:
            utterances = subset.listed(utterances, clips, source)
        elif hours is not None:
            utterances = subset.in_order(utterances)
        tasks = [
            ClipTask(utt.id, utt.wav, flac_path(target, utt.id), min_dur, max_dur)
            for utt in utterances
        ]
        name = "/".join(target.parts[-2:])
        if hours is None:
            results = _convert_all(tasks, pool, name)
        else:
            results = _convert_hours(tasks, pool, name, hours)
        _write_drops(target / "dropped.tsv", results)
        # A subset by hours ends before all tasks are done.
        kept = [
            replace(utt, wav=str(task.target), duration=result.duration)
            for utt, task, result in zip(utterances, tasks, results, strict=False)
            if not result.reason
        ]
        report = _report(kept, results, len(everything))
        _check_losses(report, target, max_bad_audio)
        if hours is not None and report["hours"] < hours:
            logging.warning(
                "%s: %g hours were asked for, there are no more than %.2f",
                target,
                hours,
                report["hours"],
            )
        write_data_dir(target, kept)
        write_json(target / "report.json", report)
        marker.mark()
    reused = sum(result.reused for result in results)
    logging.info(
        "%s: %d clips, %.2f hours%s",
        target,
        report["clips"],
        report["hours"],
        f" ({reused} of an earlier run)" if reused else "",
    )
    return report


def flac_path(target: Path, utterance_id: str) -> Path:
    """Where an utterance's FLAC file lies: in one of 256 folders, by a hash of its id.

    Raises:
        LorsError: the id cannot be a file name.
    """
    if "/" in utterance_id or "\0" in utterance_id:
        raise LorsError("an utterance id that cannot be a file name", got=repr(utterance_id))
    shard = hashlib.sha256(utterance_id.encode()).hexdigest()[:2]
    return target.resolve() / "audio" / shard / f"{utterance_id}.flac"


def _start_worker(parent: int) -> None:
    end_with_parent(parent)
    # Not the parent's handler, which a worker has from its start.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The mp3 decoder's C code writes notes about odd files to stderr, into the progress bar.
    # What matters of them comes back as a ClipResult.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _why(path: str | os.PathLike, error: soundfile.SoundFileError) -> str:
    """The cause of a decoding error; libsndfile calls every unknown content a missing file."""
    if not Path(path).is_file():
        return "no such file"
    message = str(error)
    return "not a known sound format" if message.startswith("Error opening") else message


def _finished_duration(task: ClipTask) -> float | None:
    """Length of the clip's FLAC file if an earlier run left a good one, else None."""
    try:
        if task.target.stat().st_mtime_ns != Path(task.source).stat().st_mtime_ns:
            return None
        with soundfile.SoundFile(task.target) as flac:
            expected = (SAMPLE_RATE, 1, flac.frames)
            found = (flac.samplerate, flac.channels, len(flac.read(dtype="int16")))
    except (OSError, soundfile.SoundFileError):
        return None
    return found[2] / SAMPLE_RATE if found == expected and found[2] else None


def _inputs(source: Path, min_dur: float, max_dur: float) -> dict[str, Any]:
    """Everything that the formatted directory depends on."""
    audio = []
    for key, wav in read_scp(source / "wav.scp").items():
        try:
            state = os.stat(wav)  # noqa: PTH116  (half the time of Path.stat)
            audio.append((key, state.st_size, state.st_mtime_ns))
        except OSError:
            audio.append((key, 0, 0))
    return {
        "sample_rate": SAMPLE_RATE,
        "min_dur": min_dur,
        "max_dur": str(max_dur),
        "audio files": hash_of(audio),
        **{name: file_digest(source / name)[:16] for name in data_files(source)},
    }


def _convert_all(tasks: Sequence[ClipTask], pool: Executor, description: str) -> list[ClipResult]:
    try:
        return list(
            tqdm(
                pool.map(convert_clip, tasks, chunksize=_CHUNK),
                total=len(tasks),
                desc=description,
                unit="clip",
                disable=not show_progress(),
            )
        )
    except BrokenProcessPool:
        raise LorsError(
            "a worker process died",
            where=description,
            hint="was the machine out of memory? Run again, with a smaller --nj; "
            "what is finished will be used",
        ) from None


def _convert_hours(
    tasks: Sequence[ClipTask], pool: Executor, description: str, hours: float
) -> list[ClipResult]:
    """Convert clips in their order until there are enough hours; the results of these."""
    results: list[ClipResult] = []
    seconds, wanted = 0.0, hours * 3600
    while seconds < wanted and len(results) < len(tasks):
        mean = seconds / len(results) if seconds else _USUAL_CLIP
        count = max(_CHUNK, math.ceil((wanted - seconds) / mean))
        batch = tasks[len(results) : len(results) + count]
        for task, result in zip(batch, _convert_all(batch, pool, description), strict=True):
            if seconds < wanted:
                results.append(result)
                seconds += result.duration
            else:
                task.target.unlink(missing_ok=True)
    return results


def _report(kept: list[Utterance], results: list[ClipResult], source_clips: int) -> dict[str, Any]:
    dropped = Counter(result.reason for result in results if result.reason)
    if source_clips > len(results):
        dropped["not_in_subset"] = source_clips - len(results)
    return {
        "source_clips": source_clips,
        "clips": len(kept),
        "hours": round(sum(utt.duration for utt in kept) / 3600, 4),
        "speakers": len({utt.speaker for utt in kept}),
        "dropped": dict(sorted(dropped.items())),
    }


def _check_losses(report: Mapping[str, Any], target: Path, max_bad_audio: float) -> None:
    bad = report["dropped"].get("undecodable", 0)
    tried = report["source_clips"] - report["dropped"].get("not_in_subset", 0)
    if bad > max_bad_audio * tried:
        raise LorsError(
            f"{bad} of {tried} clips cannot be decoded",
            where=target / "dropped.tsv",
            expected=f"at most {max_bad_audio:.0%}",
            hint="is the archive damaged, or an error page saved under its name? "
            "--max_bad_audio raises the limit if you know that the loss is right",
        )
    if not report["clips"]:
        raise LorsError("no clip is left", where=target / "dropped.tsv", got=report["dropped"])


def _write_drops(path: Path, results: list[ClipResult]) -> None:
    with atomic_write(path) as handle:
        handle.write("utterance\treason\tdetail\n")
        handle.writelines(
            f"{result.id}\t{result.reason}\t{' '.join(result.detail.split())}\n"
            for result in results
            if result.reason
        )
