#!/usr/bin/env python3
"""Measure the size of a model in 4 bits, on disk and in memory, and the CPU time of its use.

    python utils/bench/quantise.py --model exp/base --data dump/es/dev --utterances 8

The model is quantised plainly and with double quantisation in a temporary folder. Memory is that of
all parameters and buffers. With --data, the same clips are decoded by greedy search in full
precision and in 4 bits, in one process: CPU time and error rate.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lors.checkpoint.nf4 import bitsandbytes_dequantise
from lors.checkpoint.places import RECIPE_MODEL, RECIPE_VECTOR
from lors.checkpoint.quantised import open_quantised
from lors.data.datadir import read_text
from lors.log import run_main
from lors.models import family_of, open_recogniser
from lors.models.nf4_layers import bytes_in_memory
from lors.models.quantise import quantise_directory
from lors.recipe.eval_set import read_eval_set
from lors.score.asr import score_asr
from lors.tasks import ASR, Pair


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--data", type=Path, help="data directory <lang>/<split>")
    parser.add_argument("--utterances", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def measure(model: Path, data: Path | None, utterances: int) -> list[dict[str, Any]]:
    """Return a row for full precision and for each kind of quantisation."""
    full = {
        "weights": "float32",
        "disk": (model / RECIPE_MODEL).stat().st_size,
        "memory": bytes_in_memory(open_recogniser(model).model),
    }
    rows = [{**full, **decoded(model, data, utterances)}]
    with tempfile.TemporaryDirectory() as folder:
        for name, double in (("nf4", False), ("nf4, double", True)):
            directory = Path(folder) / name.replace(", ", "_")
            began = time.process_time()
            quantise_directory(model, directory, double)
            seconds = time.process_time() - began
            file = open_quantised(directory)
            packed = [file.nf4(tensor) for tensor in file.quantised_names()]
            numel = sum(part.dequantised().numel() for part in packed)
            in_4_bits = sum(part.nbytes for part in packed)
            rows.append(
                {
                    "weights": name,
                    "disk": (directory / RECIPE_VECTOR).stat().st_size,
                    "memory": bytes_in_memory(open_recogniser(directory).model),
                    "in_4_bits": in_4_bits,
                    "smaller_in_4_bits": 4 * numel / in_4_bits,
                    "bits": 8 * in_4_bits / numel,
                    "quantising_cpu_s": seconds,
                    **decoded(directory, data, utterances),
                }
            )
    for row in rows:
        row["smaller_disk"] = full["disk"] / row["disk"]
        row["smaller_memory"] = full["memory"] / row["memory"]
    return rows


def decoded(directory: Path, data: Path | None, utterances: int) -> dict[str, float]:
    """Return CPU time and WER of greedy search."""
    if data is None:
        return {}
    pair = Pair(data.parent.name, ASR.name)
    clips = read_eval_set(data, utterances)
    recogniser = open_recogniser(directory)
    options = family_of(directory).inference_options(batch_size=utterances)
    began = time.process_time()
    texts = recogniser.transcribe(list(clips.waveforms), pair, options)
    seconds = time.process_time() - began
    references = read_text(data / ASR.reference_file)
    of_clips = {name: references[name] for name in clips.ids}
    score = score_asr(of_clips, dict(zip(clips.ids, texts, strict=True)), pair.lang)
    return {"cpu_s": seconds, "wer": score.wer}


def work(args: argparse.Namespace) -> None:
    rows = measure(args.model, args.data, args.utterances)
    backend = "torch" if bitsandbytes_dequantise("cpu") is None else "bitsandbytes"
    print(f"{args.model}, dequantised by {backend}")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    for key in keys:
        values = [row.get(key, "-") for row in rows]
        shown = [f"{v:14.3f}" if isinstance(v, float) else f"{v!s:>14}" for v in values]
        print(f"{key:18}", *shown)
    if args.out:
        args.out.write_text(json.dumps({"backend": backend, "rows": rows}, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
