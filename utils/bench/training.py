#!/usr/bin/env python3
"""Measure the speed of training: LoRS's training program, and the Seq2SeqTrainer of transformers.

    python utils/bench/training.py --model exp/base --data dump/{es,fr,it,ru}/train \\
        --common_voice_lengths --utterances 16 --threads 2 --out training.json

All train the same Whisper on the same clips and texts in float32, on the same number of threads,
with AdamW, the same learning rate, weight decay and clipping of gradients, without augmentation,
without reading data in other processes. A training is one pass over the clips, in a process of its
own. It is measured from the end of the first step to the end of the last one: reading of data,
forward and backward pass, optimiser. Start, validation and checkpoints are not measured. The
programs take turns; for each, the fastest of --rounds trainings counts.

- lors-WINDOW-BATCHES: ESPnet's trainer with LoRS's task, by the program of the recipes with the
  settings of --train_config, except those named in SETTINGS. It computes the features in every
  step. WINDOW is auto or 30 s. BATCHES: `unsorted` has --batch_size clips of any length in a batch;
  `numel` clips of similar lengths, and --batch_size on average.
- transformers: Seq2SeqTrainer with 30 s, as in Hugging Face's guide to the fine-tuning of Whisper,
  on the batches of lors-30-unsorted. The features are computed before the training, as there; this
  is not measured. Unlike there, no activations are computed again to save memory.

The loss of the first step shows that the programs do the same work: that of lors-30-unsorted and
that of transformers are to be equal on the tokens after the prompt. (The loss that transformers
trains has the prompt's tokens as well.) The memory is the peak of the process.

Transformers is looked for in --packages, where tests/run.sh installs it; without it, LoRS is
measured alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from clips import add_work_options, language_of, write_clips

from lors.config import read_yaml
from lors.data.datadir import read_scp, read_text
from lors.errors import LorsError, UsageError
from lors.export.whisper import export_whisper
from lors.fileio import write_json, write_text
from lors.log import run_main
from lors.models import family_of
from lors.models.whisper.family import Whisper
from lors.models.whisper.prompts import encode
from lors.processes import end_with_parent
from lors.recipe.eval_set import read_audio
from lors.recipe.training_config import fine_tuning_config
from lors.recipe.training_data import SPLITS, data_options, write_data
from lors.tasks import Pair

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("training_child.py")
RATE, DECAY, CLIP = 1e-5, 0.01, 1.0
SETTINGS = {
    "specaug": None,
    "use_amp": False,
    "accum_grad": 1,
    "num_iters_per_epoch": None,
    "max_epoch": 1,
    "optim": "adamw",
    "scheduler": None,
    "grad_clip": CLIP,
    "num_workers": 0,
    "seed": 1,
}
"""Settings of LoRS's training that differ from those of the recipe."""
TRANSFORMERS, SAME = "transformers", "lors-30-unsorted"
SYSTEMS = ("lors-auto-unsorted", "lors-auto-numel", SAME, TRANSFORMERS)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_work_options(parser)
    parser.add_argument("--batch_size", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help=f"default: all; with {SAME}"
    )
    parser.add_argument(
        "--train_config",
        type=Path,
        default=ROOT / "conf" / "train_whisper_full.yaml",
        help="default: conf/train_whisper_full.yaml",
    )
    parser.add_argument(
        "--packages", type=Path, default=ROOT / ".test_packages", help="default: .test_packages"
    )
    parser.add_argument("--out", help="also write the figures as JSON")
    return parser


@dataclass
class Work:
    """Settings that all trainings share.

    Attributes:
        args: the options.
        folder: temporary files; the clips are in ``dump/<lang>/{train,dev}``.
        pairs: language and task of each data directory.
    """

    args: argparse.Namespace
    folder: Path
    pairs: list[Pair]

    def total(self) -> int:
        """Return the number of clips: whole batches."""
        total = sum(
            len(read_scp(self.folder / "dump" / pair.lang / "train" / "wav.scp"))
            for pair in self.pairs
        )
        return total - total % self.args.batch_size


def lors_settings(work: Work, window: str, batches: str, out: Path) -> dict[str, Any]:
    """Write the data and the configuration of a training; return the settings of its process."""
    args = work.args
    config = fine_tuning_config(args.model, read_yaml(args.train_config), work.pairs)
    conf = {**config["whisper_conf"], "window": window if window == "auto" else float(window)}
    config |= {**SETTINGS, "whisper_conf": conf, "batch_type": batches}
    config["optim_conf"] = {
        **config.get("optim_conf", {}),
        "lr": RATE,
        "weight_decay": DECAY,
    }
    for name in ("specaug_conf", "scheduler_conf"):
        config.pop(name, None)
    family = Whisper(config, args.model)
    ids = write_data(family, work.pairs, work.folder / "dump", out, dev=1)
    # At random, as in the recipes; whole batches.
    order = np.random.default_rng(SETTINGS["seed"]).permutation(len(ids["train"]))
    ids["train"] = [ids["train"][i] for i in order[: work.total()]]
    shapes, mean = write_shapes(family, ids, out / "data")
    if batches == "numel":
        # ESPnet closes a batch with the clip that exceeds the limit.
        config["batch_bins"] = round(mean * (args.batch_size - 0.5))
    else:
        config["batch_size"] = args.batch_size
    write_text(out / "train.yaml", yaml.safe_dump(config, allow_unicode=True))
    options = ["--config", str(out / "train.yaml"), "--output_dir", str(out)]
    options += [*data_options(family, out / "data"), *shapes, "--use_preprocessor", "true"]
    options += ["--ngpu", "0", "--multiprocessing_distributed", "false"]
    return {"program": "lors", "options": options, "utterances": work.total()}


def write_shapes(
    family: Whisper, ids: Mapping[str, Sequence[str]], data: Path
) -> tuple[list[str], float]:
    """Write the shapes of speech and text, from which ESPnet makes its batches.

    Returns:
        The options that name the files, and the mean number of elements of a training utterance.
    """
    options, elements = [], []
    for split, option in SPLITS.items():
        wavs, lines = read_scp(data / split / "wav.scp"), read_text(data / split / "text")
        speech, text = {}, {}
        for key in ids[split]:
            speech[key] = family.conf.speech_window.samples(len(read_audio(wavs[key])))
            text[key] = len(encode(lines[key], family.prompts.tokenizer))
        for name, shapes in (("speech_shape", speech), ("text_shape", text)):
            write_text(data / split / name, "".join(f"{key} {n}\n" for key, n in shapes.items()))
            options += [f"--{option}_shape_file", str(data / split / name)]
        if split == "train":
            elements = [speech[key] + text[key] for key in ids[split]]
    return options, statistics.mean(elements)


def transformers_settings(work: Work, order: Sequence[str], data: Path, out: Path) -> dict:
    """Return the settings of the process of transformers.

    Args:
        work: what all trainings share.
        order: ids of the clips in the order of another training.
        data: data of that training.
        out: folder for features.
    """
    family = family_of(work.args.model)
    wavs, lines = read_scp(data / "wav.scp"), read_text(data / "text")
    clips = [
        {"wav": wavs[key], "labels": encode(lines[key], family.prompts.tokenizer)} for key in order
    ]
    model = work.folder / "huggingface"
    if not model.exists():
        export_whisper(Path(work.args.model) / "model.pth", model)
    return {
        "program": TRANSFORMERS,
        "model": str(model),
        "folder": str(out),
        "clips": clips,
        "batch_size": work.args.batch_size,
        "arguments": {"learning_rate": RATE, "weight_decay": DECAY, "max_grad_norm": CLIP},
        "utterances": len(clips),
    }


def run_child(args: argparse.Namespace, settings: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Run a training in a process of its own; return its figures.

    Raises:
        LorsError: the training failed.
    """
    write_json(out / "settings.json", {**settings, "out": str(out / "figures.json")})
    paths = [str(ROOT), *([str(args.packages)] if settings["program"] == TRANSFORMERS else [])]
    number = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    # ESPnet would import transformers if it were on the path.
    environment = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", **number}
    done = subprocess.run(
        [sys.executable, str(CHILD), str(out / "settings.json")],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(end_with_parent, os.getpid()),
    )
    if done.returncode:
        raise LorsError("a training failed", where=settings["program"], got=done.stdout[-3000:])
    return json.loads((out / "figures.json").read_text())


def one_round(work: Work, number: int, systems: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run each training once."""
    figures = {}
    for system in systems:
        out = work.folder / f"{number}-{system}"
        out.mkdir()
        if system == TRANSFORMERS:
            data = work.folder / f"{number}-{SAME}" / "data" / "train"
            settings = transformers_settings(work, figures[SAME]["ids"], data, out)
        else:
            settings = lors_settings(work, *system.split("-")[1:], out)
        figures[system] = run_child(work.args, settings, out)
    return figures


def show(rounds: Sequence[Mapping[str, Mapping[str, Any]]], args: argparse.Namespace) -> None:
    """Print a line for each system: the fastest round, and the rest from the first round."""
    rates = {s: max(r[s]["utterances_per_second"] for r in rounds) for s in rounds[0]}
    slowest = rates.get(TRANSFORMERS, rates[SAME])
    print(
        f"{args.threads} thread(s), {rounds[0][SAME]['steps']} steps of {args.batch_size}; "
        f"ratio to {TRANSFORMERS if TRANSFORMERS in rates else SAME}"
    )
    print(f"{'system':20s} utt./s  ratio  CPU s/utt.  utt./step  first loss  (text)  peak MB")
    for system, first in rounds[0].items():
        cpu = min(r[system]["cpu_seconds_per_utterance"] for r in rounds)
        print(
            f"{system:20s} {rates[system]:6.2f} {rates[system] / slowest:6.2f} {cpu:11.3f} "
            f"{statistics.mean(first['utterances']):10.1f} {first['first_loss']:11.4f} "
            f"{first['first_text_loss']:7.4f} {first['peak_megabytes']:8.0f}"
        )


def work(args: argparse.Namespace) -> None:
    pairs = [Pair(language_of(directory), args.task) for directory in args.data]
    if len(set(pairs)) < len(pairs):
        named = ", ".join(pair.lang for pair in pairs)
        raise UsageError("a language with two data directories", where="--data", got=named)
    # Transformers takes the batches of SAME.
    systems = [s for s in SYSTEMS if s in (*args.systems, SAME)]
    if TRANSFORMERS in systems and not (args.packages / TRANSFORMERS).is_dir():
        systems.remove(TRANSFORMERS)
        print(f"{TRANSFORMERS} is left out: not in {args.packages}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for pair, directory in zip(pairs, args.data, strict=True):
            place = Path(folder, "dump", pair.lang)
            write_clips(args, directory, place / "train")
            (place / "dev").symlink_to("train")
        shared = Work(args, Path(folder), pairs)
        if shared.total() < 2 * args.batch_size:
            raise UsageError(
                "too few clips: the first step is not measured",
                where="--data",
                expected=f"two batches of {args.batch_size} or more",
                got=f"{shared.total()} in whole batches",
            )
        rounds = [one_round(shared, number, systems) for number in range(args.rounds)]
    show(rounds, args)
    if args.out:
        Path(args.out).write_text(json.dumps(rounds, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
