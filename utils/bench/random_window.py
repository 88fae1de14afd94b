#!/usr/bin/env python3
"""Train a Whisper on windows as long as its clips, with a margin drawn at random for every clip.

    python utils/bench/random_window.py --config exp/expert/es_asr/config.yaml \
        --output_dir exp/random_window/es_asr
    python utils/bench/window.py --model exp/random_window/es_asr --data dump/es/test \
        --windows 30 auto auto:0.2:0 auto:0.5:0 auto:1:0 auto:2:0 auto:3:0

The options are those of lors.bin.whisper_train; the configuration is that of an expert that was
trained with the window auto. The margin is uniform from 0 to 3 s, and no silence follows it: the
question is whether this training makes short windows safe.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from unittest import mock

from window import WithoutSilence

from lors.bin.whisper_train import get_parser
from lors.fileio import replace_link
from lors.log import run_main
from lors.models.whisper.task import WhisperTask

LONGEST_MARGIN = 3.0
"""Seconds."""


class RandomWindow(WithoutSilence):
    """A window as long as the clip and a random margin."""

    def samples(self, speech: int) -> int:
        margin = random.uniform(0, LONGEST_MARGIN)
        return WithoutSilence(self.value, self.positions, margin, block=2).samples(speech)


def work(args: argparse.Namespace) -> None:
    with mock.patch("lors.models.whisper.conf.Window", RandomWindow):
        random.seed(args.seed)
        WhisperTask.main(args)
    replace_link(Path(args.output_dir) / "model.pth", "valid.acc.best.pth")


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
