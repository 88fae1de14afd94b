#!/usr/bin/env python3
"""Measure error rate and CPU time of one Whisper at several windows.

    python utils/bench/window.py --model exp/base --data dump/es/dev dump/fr/dev \
        --windows 30 10 auto auto:0.2:32 auto:0.5:0

A window is a number of seconds, `auto`, or `auto:MARGIN:BLOCK` with other constants than those of
lors/models/whisper/window.py. A block of 0 leaves out the silence after the margin, so that the
window is as long as the clip. All windows decode the same clips by greedy search, in one process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch

from lors.data.datadir import read_text
from lors.log import run_main
from lors.models import family_of
from lors.models.whisper.conf import WhisperConf, WhisperOptions
from lors.models.whisper.inference import WhisperModel
from lors.models.whisper.prompts import WhisperPrompts
from lors.models.whisper.window import AUTO, Window
from lors.recipe.eval_set import read_eval_set
from lors.score.asr import score_asr
from lors.tasks import ASR, Pair


class WithoutSilence(Window):
    """A window as long as the clip and the margin."""

    def layout(self, samples: int) -> list[tuple[int, int]]:
        return [(position, size) for position, size in super().layout(samples) if size == 1]


def conf_with(conf: WhisperConf, window: str) -> WhisperConf:
    """Return the configuration of a model with another window, in the form of the command line."""
    value, *constants = window.split(":")
    value = value if value == AUTO else float(value)
    made = Window(value, conf.dims["n_audio_ctx"])
    if constants:
        margin, block = float(constants[0]), int(constants[1])
        # Blocks of two or more positions, which WithoutSilence leaves out.
        cls, block = (Window, block) if block else (WithoutSilence, 2)
        made = cls(AUTO, made.positions, margin, block)

    class Conf(WhisperConf):
        speech_window = made

    return Conf(**{**dataclasses.asdict(conf), "window": value})


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model directory (config.yaml, model.pth)")
    parser.add_argument("--data", required=True, nargs="+", help="DUMPDIR/<lang>/<split>, ...")
    parser.add_argument("--windows", required=True, nargs="+", metavar="WINDOW")
    parser.add_argument("--utterances", type=int, help="of each data directory (default: all)")
    parser.add_argument("--batch_size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--out", help="also write the figures as JSON")
    return parser


def work(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    directories = [Path(data) for data in args.data]
    sets = [read_eval_set(directory, args.utterances) for directory in directories]
    prompts = family_of(args.model).prompts
    options = WhisperOptions(batch_size=args.batch_size)
    langs = [directory.parent.name for directory in directories]
    print(f"{'window':14s} " + " ".join(f"{lang:>6s}" for lang in langs) + "   mean  CPU s/clip")
    rows = []
    for window in args.windows:
        conf = conf_with(prompts.conf, window)
        model = WhisperModel(args.model, WhisperPrompts(conf, prompts.where))
        began, rates = time.process_time(), []
        for lang, directory, eval_set in zip(langs, directories, sets, strict=True):
            texts = model.transcribe(eval_set.waveforms, Pair(lang, ASR.name), options)
            hypotheses = dict(zip(eval_set.ids, texts, strict=True))
            references = read_text(directory / ASR.reference_file)
            references = {i: references[i] for i in eval_set.ids}
            rates.append(score_asr(references, hypotheses, lang).wer)
        seconds = (time.process_time() - began) / sum(len(s.ids) for s in sets)
        mean = sum(rates) / len(rates)
        shown = " ".join(f"{rate:6.1f}" for rate in rates)
        print(f"{window:14s} {shown} {mean:6.1f}  {seconds:10.2f}", flush=True)
        rows.append(
            {"window": window, "wer": dict(zip(langs, rates, strict=True)), "cpu_seconds": seconds}
        )
    if args.out:
        Path(args.out).write_text(json.dumps(rows, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
