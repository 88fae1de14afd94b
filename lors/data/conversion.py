"""Audio of any format, rate and channel count to 16 kHz mono FLAC, in worker processes."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from lors.data.audio_source import file_of
from lors.data.clips import SAMPLE_RATE, ClipConversion, ConvertedClip
from lors.data.pieces import agree
from lors.data.sound import SoundError, read_clip
from lors.errors import LorsError
from lors.fileio import full_disk_names
from lors.log import show_progress
from lors.processes import end_with_parent, starting_workers

_CHUNK = 16  # clips handed to a worker at a time: a fraction of a second of work
_USUAL_CLIP = 5.0  # seconds; a first guess of the number of clips in an hour


def encode_flac(samples: np.ndarray, comment: str = "") -> bytes:
    """Encode 16 kHz mono samples in [-1, 1] as 16-bit FLAC; louder samples are clipped."""
    pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        if comment:
            file.comment = comment
        file.write(pcm)
    return buffer.getvalue()


def convert_clip(clip: ClipConversion) -> ConvertedClip:
    """Write one clip as FLAC, or return why not; a good FLAC file of an earlier run is kept.

    Raises:
        OSError: the FLAC file cannot be written (the clip itself is not at fault).
    """
    duration = _finished_duration(clip)
    reused = duration is not None
    samples = None
    if duration is None:
        try:
            samples = read_clip(clip.source, clip.piece)
        except SoundError as error:
            clip.target.unlink(missing_ok=True)
            return ConvertedClip(clip.id, reason=error.reason, detail=str(error.got))
        duration = len(samples) / SAMPLE_RATE
    reason, detail = _length_problem(clip, duration)
    if reason:
        clip.target.unlink(missing_ok=True)
        return ConvertedClip(clip.id, reason=reason, detail=detail)
    if samples is not None:
        _write_flac(clip, samples)
    return ConvertedClip(clip.id, duration=duration, reused=reused)


def _length_problem(clip: ClipConversion, duration: float) -> tuple[str, str]:
    """Return why a clip of this length is dropped, in one word and in more; or empty strings."""
    if clip.declared is not None and not agree(clip.declared, duration):
        return "wrong_duration", f"{duration:.3f} s, declared as {clip.declared:.3f} s"
    if duration < clip.min_dur:
        return "too_short", f"{duration:.3f} s"
    return ("too_long", f"{duration:.3f} s") if duration > clip.max_dur else ("", "")


@contextlib.contextmanager
def worker_pool(nj: int) -> Iterator[Executor]:
    """Start `nj` worker processes for :func:`convert_clips` and :func:`convert_hours`."""
    pool = ProcessPoolExecutor(nj, initializer=_start_worker, initargs=(os.getpid(),))
    with starting_workers():
        pool.submit(int)  # starts all workers
    try:
        yield pool
    finally:
        # On Ctrl-C waiting clips are cancelled; those at work are finished.
        pool.shutdown(wait=True, cancel_futures=True)


def convert_clips(
    clips: Sequence[ClipConversion], pool: Executor, description: str
) -> list[ConvertedClip]:
    """Convert clips in the worker processes; return the results in the same order.

    Args:
        clips: the clips.
        pool: of :func:`worker_pool`.
        description: for the progress bar and error messages.

    Raises:
        LorsError: a worker process died.
    """
    try:
        return list(
            tqdm(
                pool.map(convert_clip, clips, chunksize=_CHUNK),
                total=len(clips),
                desc=description,
                unit="clip",
                disable=not show_progress(),
            )
        )
    except BrokenProcessPool:
        raise LorsError(
            "a worker process died",
            where=description,
            hint="was the machine out of memory? Run the same command again, with a smaller --nj; "
            "finished clips are used again",
        ) from None


def convert_hours(
    clips: Sequence[ClipConversion], pool: Executor, description: str, hours: float
) -> list[ConvertedClip]:
    """Convert clips in their order until there are enough hours; return the results so far."""
    results: list[ConvertedClip] = []
    seconds, wanted = 0.0, hours * 3600
    while seconds < wanted and len(results) < len(clips):
        mean = seconds / len(results) if seconds else _USUAL_CLIP
        count = max(_CHUNK, math.ceil((wanted - seconds) / mean))
        batch = clips[len(results) : len(results) + count]
        for clip, result in zip(batch, convert_clips(batch, pool, description), strict=True):
            if seconds < wanted:
                results.append(result)
                seconds += result.duration
            else:
                clip.target.unlink(missing_ok=True)
    return results


def _start_worker(parent: int) -> None:
    end_with_parent(parent)
    # A worker inherits the parent's handler.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The C code of the mp3 decoder writes warnings to stderr, into the progress bar. Errors come
    # back in a ConvertedClip.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _write_flac(clip: ClipConversion, samples: np.ndarray) -> None:
    """Write the FLAC file, with the time of its source, by which a later run knows the source.

    A piece of a longer file also names its place in it, in the comment of the FLAC file.

    There is no fsync as in fileio.atomic_write: for 100,000 files it would take hours, and a later
    run decodes a FLAC file in full before it uses it again.
    """
    clip.target.parent.mkdir(parents=True, exist_ok=True)
    temporary = clip.target.with_name(f".{clip.target.name}.tmp")
    try:
        with full_disk_names(clip.target):
            temporary.write_bytes(encode_flac(samples, clip.origin))
        source_time = Path(file_of(clip.source)).stat().st_mtime_ns
        os.utime(temporary, ns=(source_time, source_time))
        temporary.replace(clip.target)
    finally:
        temporary.unlink(missing_ok=True)


def _finished_duration(clip: ClipConversion) -> float | None:
    """Return the length of the FLAC file if an earlier run left a good one, else None."""
    try:
        if clip.target.stat().st_mtime_ns != Path(file_of(clip.source)).stat().st_mtime_ns:
            return None
        with soundfile.SoundFile(clip.target) as flac:
            if flac.comment != clip.origin:
                return None
            expected = (SAMPLE_RATE, 1, flac.frames)
            found = (flac.samplerate, flac.channels, len(flac.read(dtype="int16")))
    except (OSError, soundfile.SoundFileError):
        return None
    return found[2] / SAMPLE_RATE if found == expected and found[2] else None
