#!/usr/bin/env python3
"""Train a Whisper on windows as long as its clips, with a margin drawn at random for every clip.

    python utils/bench/random_window.py --expert exp/expert/es_asr --out exp/random_window/es_asr
    python utils/bench/window.py --model exp/random_window/es_asr --data dump/es/test \
        --windows 30 auto auto:0.2:0 auto:0.5:0 auto:1:0 auto:2:0 auto:3:0

The training is that of an expert with the window auto, but for the windows. The margin is uniform
from 0 to 3 s, and no silence follows it: the question is whether this training makes short windows
safe.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from unittest import mock

import yaml
from window import WithoutSilence

from lors.bin.whisper_train import get_parser
from lors.config import read_yaml
from lors.fileio import replace_link, write_text
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
    parser, config = get_parser(), read_yaml(args.expert / "config.yaml")
    known = {action.dest for action in parser._actions} - {"config"}
    # ESPnet's record of a training has keys beside the options.
    options = {name: value for name, value in config.items() if name in known}
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "train.yaml"
    write_text(file, yaml.safe_dump({**options, "output_dir": str(args.out)}))
    options = parser.parse_args(["--config", str(file)])
    with mock.patch("lors.models.whisper.conf.Window", RandomWindow):
        random.seed(options.seed)
        WhisperTask.main(options)
    replace_link(args.out / "model.pth", "valid.acc.best.pth")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--expert", type=Path, required=True, help="directory of the expert")
    parser.add_argument("--out", type=Path, required=True, help="directory of the new model")
    return run_main(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
