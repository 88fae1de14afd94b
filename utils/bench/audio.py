#!/usr/bin/env python3
"""Measure data preparation: decoding and resampling against ffmpeg pipes, and joining tables.

    python utils/bench/audio.py audio --clips downloads/cv-corpus-4-2019-12-10/de/clips --nj 2
    python utils/bench/audio.py tables --rows 100000

audio: stage 2 (mp3 to 16 kHz mono FLAC in worker processes) against the usual pipes of a wav.scp,
``ffmpeg -i clip -ac 1 -ar 16000 -f wav - |``, one program a clip. The WAV of the pipe is read and
written as FLAC as in stage 2. Both use --nj processes; they take turns, and the fastest of
--repeats passes counts. Afterwards all samples are compared.

tables: stage 1 (lors.data.covost2) reads and joins CoVoST 2 and Common Voice tables with --rows
rows each. Then the whole stage is measured: it also checks the audio of each clip (here files of
one byte), and writes and validates the data directories. On a machine with other work, wall-clock
and CPU seconds differ. The memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import io
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from lors.data.conversion import encode_flac
from lors.data.covost2 import join, read_tables, write_covost2_splits
from lors.data.datadir import Utterance, write_data_dir
from lors.data.formatting import FormatOptions, format_data_dir
from lors.errors import LorsError
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("audio", "tables"))
    parser.add_argument("--clips", type=Path, help="audio: folder of clips")
    parser.add_argument("--limit", type=int, default=400, help="audio: clips (%(default)s)")
    parser.add_argument("--nj", type=int, default=2, help="audio: processes (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="passes (%(default)s)")
    parser.add_argument("--ffmpeg", default="ffmpeg", help="audio: the program (%(default)s)")
    parser.add_argument("--rows", type=int, default=100_000, help="tables: rows (%(default)s)")
    return parser


def pipe_clip(ffmpeg: str, folder: Path, clip: Path) -> float:
    """Decode one clip with a pipe from ffmpeg and write it as FLAC; return its seconds."""
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", clip, "-ac", "1", "-ar", "16000"]
    wav = subprocess.run([*command, "-f", "wav", "-"], capture_output=True, check=True).stdout
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    (folder / f"{clip.stem}.flac").write_bytes(encode_flac(samples))
    return len(samples) / rate


def bench_audio(args: argparse.Namespace) -> None:
    """Print clips per second of both ways, and the lowest correlation of their samples."""
    if shutil.which(args.ffmpeg) is None:
        raise LorsError("ffmpeg is not installed", where="--ffmpeg", got=args.ffmpeg)
    clips = sorted(path for path in args.clips.iterdir() if path.is_file())[: args.limit]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        utterances = [Utterance(c.stem, str(c.resolve()), c.stem, text="") for c in clips]
        write_data_dir(root / "data", utterances)
        for number in range(args.repeats):
            began = time.perf_counter()
            options = FormatOptions(args.nj)
            report = format_data_dir(root / "data", root / f"ours{number}", options)
            ours.append(time.perf_counter() - began)
            piped = root / f"theirs{number}"
            piped.mkdir()
            began = time.perf_counter()
            # Threads suffice: they only wait for programs.
            with ThreadPoolExecutor(args.nj) as pool:
                list(pool.map(partial(pipe_clip, args.ffmpeg, piped), clips))
            theirs.append(time.perf_counter() - began)
        flacs = {path.stem: path for path in (root / "ours0/audio").glob("*/*.flac")}
        correlations = [
            correlation(
                soundfile.read(flacs[c.stem])[0], soundfile.read(piped / f"{c.stem}.flac")[0]
            )
            for c in clips
        ]
        size = sum(path.stat().st_size for path in flacs.values())
    fastest = {"lors": min(ours), "ffmpeg": min(theirs)}
    print(f"{len(clips)} clips, {report['hours']:.3f} hours, {args.nj} processes")
    for system, seconds in fastest.items():
        print(f"{system:7} {len(clips) / seconds:8.1f} clips/s  ({seconds:.2f} s)")
    print(f"lors is {fastest['ffmpeg'] / fastest['lors']:.2f} times as fast")
    print(f"least correlation of a clip's samples: {min(correlations):.6f}")
    print(f"FLAC: {size / 1e6 / report['hours']:.0f} MB an hour")


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two decodings of a clip, whose ends may differ by 16 samples."""
    length = min(len(first), len(second))
    if max(len(first), len(second)) - length > 16:
        raise LorsError("lengths differ", got=f"{len(first)} and {len(second)} samples")
    return float(np.corrcoef(first[:length], second[:length])[0, 1])


def bench_tables(args: argparse.Namespace) -> None:
    """Print seconds and peak memory of reading and joining, and of the whole stage 1."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_tables(root, args.rows)
        parts = {
            "read and joined": lambda: join(*read_tables(root / "cv", root / "covost2", "de")),
            "all of stage 1": lambda: write_covost2_splits(
                root / "cv", root / "covost2", "de", root / "data"
            ),
        }
        print(f"{args.rows} rows in each table")
        for part, call in parts.items():
            times = [measure(call) for _ in range(args.repeats)]
            wall, cpu = (min(column) for column in zip(*times, strict=True))
            print(f"{part:16} {wall:6.2f} s, CPU {cpu:6.2f} s")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory      {memory:6.0f} MB")


def measure(call: Callable[[], object]) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of a call in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def write_tables(root: Path, rows: int) -> None:
    """Write the tables of `rows` clips, with ten clips a speaker, and audio files of one byte."""
    clips = root / "cv/de/clips"
    clips.mkdir(parents=True)
    (root / "covost2").mkdir()
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\n"
    with (
        (root / "cv/de/validated.tsv").open("w", encoding="utf-8") as speech,
        (root / "covost2/covost_v2.de_en.tsv").open("w", encoding="utf-8") as covost,
    ):
        speech.write(header)
        covost.write("path\ttranslation\tsplit\n")
        for k in range(rows):
            clip, client = f"common_voice_de_{k}.mp3", f"{k % (rows // 10):0128x}"
            (clips / clip).write_bytes(b"x")
            said = f'Der Satz Nummer {k} hat "ungefähr" so viele Wörter wie ein echter.'
            speech.write(f"{client}\t{clip}\t{said}\t2\t0\ttwenties\tmale\t\n")
            split = ("dev", "test")[k // 10 % 2] if k % 10 == 0 else "train"
            covost.write(f"{clip}\tSentence number {k} is about as long as a real one.\t{split}\n")


def work(args: argparse.Namespace) -> None:
    logging.disable(logging.INFO)
    {"audio": bench_audio, "tables": bench_tables}[args.what](args)


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
