#!/usr/bin/env python3
"""Measure stages 1 and 2 on a dump of ESPnet: wall-clock and CPU seconds, and memory.

The dump is like ``dump/raw/{train,dev,test}_de``: utterances of 1 to 4 seconds, 5000 in an ark file
written by kaldiio, with transcripts and translations. Stage 2 is called three times: at first; for
a finished result; and without its markers, as after an interruption, when it checks the FLAC files
that are there and uses them again. Every call is a process of its own.

    python utils/bench/dump.py --dir /tmp/bench                     # 100,000 utterances, 16 GB
    python utils/bench/dump.py --dir /tmp/bench --utterances 300    # seconds, to try the script
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import kaldiio
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RATE = 16_000
PER_ARK, PER_SPEAKER, AT_ONCE = 5000, 50, 500
SHARES = {"train": 0.98, "dev": 0.01, "test": 0.01}
WRITERS = {
    "flac.ark": {"write_function": "soundfile", "write_kwargs": {"format": "flac"}},
    "wav.ark": {},
}


def sounds(rng: np.random.Generator) -> list[np.ndarray]:
    """Return 64 sounds with the spectrum of noise through a low-pass filter, of 1 to 4 seconds."""
    made = []
    for seconds in rng.uniform(1, 4, 64):
        noise = np.cumsum(rng.standard_normal(round(seconds * RATE)))
        noise -= np.convolve(noise, np.ones(400) / 400, mode="same")
        made.append((3000 * noise / noise.std()).clip(-32768, 32767).astype(np.int16))
    return made


def make(path: Path, utterances: int, audio_format: str, rng: np.random.Generator) -> float:
    """Write a directory of the dump; return its hours."""
    path.mkdir(parents=True)
    speakers = [f"{path.name}{number // PER_SPEAKER:06d}" for number in range(utterances)]
    ids = [f"{speaker}-{number:08d}" for number, speaker in enumerate(speakers)]
    scp, samples, variants = path / "wav.scp", 0, sounds(rng)
    for first in range(0, utterances, AT_ONCE):
        clips = {
            key: (RATE, variants[number % len(variants)])
            for number, key in enumerate(ids[first : first + AT_ONCE], first)
        }
        samples += sum(len(clip) for _, clip in clips.values())
        ark = path / f"data_wav.{first // PER_ARK}.ark"
        kaldiio.save_ark(str(ark), clips, str(scp), append=True, **WRITERS[audio_format])
    values = {
        "utt2spk": speakers,
        "text": ("ein Satz von ganz gewöhnlicher Länge" for _ in ids),
        "text.tc.en": ("A sentence of quite ordinary length." for _ in ids),
    }
    for name, column in values.items():
        with (path / name).open("w", encoding="utf-8") as handle:
            handle.writelines(f"{key} {value}\n" for key, value in zip(ids, column, strict=True))
    (path / "feats_type").write_text("raw\n")
    return samples / RATE / 3600


def measure(words: list[str]) -> tuple[float, float, float]:
    """Return wall-clock and CPU seconds of a command and its workers, and the largest memory of one
    process in MB; exit if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *words],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wall = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"failed: {' '.join(words)}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="where to work")
    parser.add_argument("--utterances", type=int, default=100_000)
    parser.add_argument("--audio_format", choices=WRITERS, default="flac.ark")
    parser.add_argument("--nj", type=int, default=2, help="processes of stage 2 (%(default)s)")
    args = parser.parse_args()
    work = args.dir / "dump_of_espnet"
    shutil.rmtree(work, ignore_errors=True)
    rng = np.random.default_rng(1)
    dirs = {split: work / f"dump/raw/{split}_de" for split in SHARES}
    hours = sum(
        make(path, max(1, round(SHARES[split] * args.utterances)), args.audio_format, rng)
        for split, path in dirs.items()
    )
    data, dump = str(work / "data"), work / "formatted"
    prepare = ["lors.bin.prepare_manifest", "--out", data, "--manifest", *map(str, dirs.values())]
    convert = ["lors.bin.format_audio", "--data", data, "--dump", str(dump), "--langs", "de"]
    convert += ["--nj", str(args.nj)]
    print(f"{args.utterances} utterances, {hours:.2f} hours, {args.audio_format}, {args.nj} jobs\n")
    print("| call | wall s | CPU s | MB |\n| :-- | --: | --: | --: |")
    for name, words in (
        ("stage 1", prepare),
        ("stage 2", convert),
        ("stage 2, finished", convert),
        ("stage 2, again after an interruption", convert),
    ):
        if "interruption" in name:
            for marker in dump.glob("de/*/.done"):
                marker.unlink()
        wall, cpu, memory = measure(words)
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
