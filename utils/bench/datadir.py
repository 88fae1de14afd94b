#!/usr/bin/env python3
"""Measure the data directory tools: wall-clock and CPU seconds, and memory.

The data directory is like those of CoVoST 2 (wav.scp, utt2spk, spk2utt, utt2lang, utt2dur, text and
text.en; 50 utterances a speaker). The tool that mends gets a shuffled copy. Every tool runs as a
process of its own.

    python utils/bench/datadir.py --dir /tmp/bench                  # a million utterances
    python utils/bench/datadir.py --dir /tmp/bench --utterances 100000
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PER_SPEAKER = 50


def make(path: Path, utterances: int) -> None:
    """Write the data directory."""
    path.mkdir(parents=True)
    speakers = [f"{number // PER_SPEAKER:012x}" for number in range(utterances)]
    ids = [f"{speaker}-de-{number:08d}" for number, speaker in enumerate(speakers)]
    values = {
        "wav.scp": (f"/corpora/cv/de/clips/common_voice_de_{key[-8:]}.mp3" for key in ids),
        "utt2spk": speakers,
        "utt2lang": ("de" for _ in ids),
        "utt2dur": ("4.5000" for _ in ids),
        "text": ("ein Satz von ganz gewöhnlicher Länge mit zehn Wörtern darin" for _ in ids),
        "text.en": ("a sentence of quite ordinary length with ten words in it" for _ in ids),
    }
    for name, column in values.items():
        with (path / name).open("w", encoding="utf-8") as handle:
            handle.writelines(f"{key} {value}\n" for key, value in zip(ids, column, strict=True))
    with (path / "spk2utt").open("w") as handle:
        for start in range(0, utterances, PER_SPEAKER):
            handle.write(f"{speakers[start]} {' '.join(ids[start : start + PER_SPEAKER])}\n")


def shuffle(source: Path, target: Path) -> None:
    """Write the files of a data directory with their lines out of order."""
    target.mkdir()
    rng = random.Random(0)
    for file in source.iterdir():
        lines = file.read_bytes().splitlines(keepends=True)
        rng.shuffle(lines)
        (target / file.name).write_bytes(b"".join(lines))


def measure(words: list[str]) -> tuple[float, float, float]:
    """Return wall-clock and CPU seconds and peak memory in MB of a command; exit if it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status:
        sys.exit(f"failed: {' '.join(words)}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="where to work; 1.5 GB")
    parser.add_argument("--utterances", type=int, default=1_000_000)
    args = parser.parse_args()
    work = args.dir / "datadir"
    shutil.rmtree(work, ignore_errors=True)
    data, shuffled = work / "data", work / "shuffled"
    make(data, args.utterances)
    shuffle(data, shuffled)
    tenth = str(args.utterances // 10)
    tools = {
        "validate": ["lors.bin.validate_data_dir", f"{data}"],
        "fix (nothing to do)": ["lors.bin.data_dir", "fix", f"{data}"],
        "fix (all out of order)": ["lors.bin.data_dir", "fix", f"{shuffled}"],
        "subset, a tenth": ["lors.bin.data_dir", "subset", f"{data}", tenth, f"{work / 'part'}"],
        "subset --speakers": [
            *("lors.bin.data_dir", "subset", "--speakers", f"{data}", tenth, f"{work / 'spk'}"),
        ],
        "split into 32": ["lors.bin.data_dir", "split", f"{data}", "32"],
        "combine 32 parts": [
            *("lors.bin.data_dir", "combine", f"{work / 'two'}"),
            *(f"{data / 'split32' / str(part)}" for part in range(1, 33)),
        ],
    }
    print("| tool | wall s | CPU s | MB |\n| :-- | --: | --: | --: |")
    for name, words in tools.items():
        wall, cpu, memory = measure(words)
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
