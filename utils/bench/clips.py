"""Clips for the benchmarks of Whisper: those of data directories, or joined to other lengths."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import NormalDist

import numpy as np
import soundfile

from lors.data.clips import SAMPLE_RATE
from lors.data.datadir import Utterance, one_line, read_data_dir, write_data_dir
from lors.recipe.eval_set import read_audio
from lors.tasks import TASKS

MEDIAN, SIGMA = 4.5, 0.35
"""Log-normal lengths of clips in seconds, as in Common Voice: 90 % of them last 2.5 to 8 s."""
LONGEST = 30.0
"""Seconds that every system takes; longer clips are left out."""
SEED = 1


def add_work_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about model, clips and threads, which the benchmarks share."""
    parser.add_argument("--model", required=True, help="model directory (config.yaml, model.pth)")
    parser.add_argument("--task", choices=[*TASKS], default="asr", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--data", required=True, nargs="+", help="DUMPDIR/<lang>/<split>, ...")
    parser.add_argument(
        "--utterances", type=int, default=32, help="of each data directory; default: %(default)s"
    )
    parser.add_argument(
        "--common_voice_lengths",
        action="store_true",
        help=f"join whole clips of a speaker until their lengths are those of Common Voice (median "
        f"{MEDIAN} s); their texts are joined too",
    )


def language_of(directory: str | Path) -> str:
    """Return the language of a data directory ``DUMPDIR/<lang>/<split>``."""
    return Path(directory).resolve().parent.name


def write_clips(args: argparse.Namespace, directory: str | Path, out: Path) -> list[Utterance]:
    """Write the clips of a benchmark as a data directory, and print the quantiles of their lengths.

    Args:
        args: the options of :func:`add_work_options`.
        directory: one of ``args.data``.
        out: the new data directory; it also receives the audio of joined clips.

    Returns:
        The clips: at most `args.utterances`, sorted by id.
    """
    given = [replace(u, duration=seconds_of(u)) for u in read_data_dir(directory)]
    clips = [u for u in given if u.duration <= LONGEST]
    if len(clips) < len(given):
        left_out = f"{len(given) - len(clips)} clips of more than {LONGEST:g} s left out"
        print(f"{directory}: {left_out}", file=sys.stderr)
    chosen = groups(clips) if args.common_voice_lengths else [[clip] for clip in clips]
    # At random: the first ids of a corpus may have similar texts.
    order = np.random.default_rng(SEED).permutation(len(chosen))[: args.utterances]
    clips = sorted((join(chosen[i], out / "audio") for i in order), key=lambda u: u.id)
    write_data_dir(out, clips)
    lengths = [u.duration for u in clips]
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    shown = "  ".join(f"{share:.0%} {np.quantile(lengths, share):.1f}" for share in shares)
    print(f"{directory}: {len(clips)} clips, {sum(lengths):.0f} s, quantiles in s: {shown}")
    return clips


def seconds_of(utterance: Utterance) -> float:
    return soundfile.info(utterance.wav).duration


def groups(clips: Sequence[Utterance]) -> list[list[Utterance]]:
    """Return the clips to join: each group of one speaker, no clip twice.

    The lengths of a speaker's groups are to be the quantiles of the log-normal distribution. For
    each, the longest first, the clip nearest to the missing length is added as long as that brings
    the group nearer to it.

    Args:
        clips: with their durations.
    """
    made = []
    by_speaker = sorted(clips, key=lambda u: u.speaker)  # stable
    for _, of_speaker in groupby(by_speaker, lambda u: u.speaker):
        left = list(of_speaker)
        for length in reversed(quantiles(sum(u.duration for u in left))):
            group, missing = [], length
            while left:
                nearest = min(left, key=lambda u: abs(u.duration - missing))
                if group and nearest.duration >= 2 * missing:
                    break
                left.remove(nearest)
                group.append(nearest)
                missing -= nearest.duration
            made += [group] if group else []
    return made


def quantiles(seconds: float) -> list[float]:
    """Return quantiles of the log-normal distribution at equal distances, the shortest first.

    Args:
        seconds: their sum, roughly.
    """
    number = max(1, round(seconds / MEDIAN / math.exp(SIGMA**2 / 2)))
    normal = NormalDist(math.log(MEDIAN), SIGMA)
    return [math.exp(normal.inv_cdf((i + 0.5) / number)) for i in range(number)]


def join(clips: Sequence[Utterance], folder: Path) -> Utterance:
    """Join clips of one speaker, and their texts."""
    first = clips[0]
    if len(clips) == 1:
        return first
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{len(list(folder.iterdir()))}.wav"
    audio = np.concatenate([read_audio(u.wav) for u in clips])
    soundfile.write(path, audio, SAMPLE_RATE, subtype="PCM_16")
    texts = [u.text for u in clips]
    return replace(
        first,
        id=f"{first.id}-{len(clips)}",
        wav=str(path),
        text=None if None in texts else one_line(" ".join(texts)),
        translations={
            lang: one_line(" ".join(u.translations[lang] for u in clips))
            for lang in first.translations
        },
        duration=len(audio) / SAMPLE_RATE,
    )
