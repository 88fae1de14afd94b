#!/usr/bin/env python3
"""Measure the speed of inference: LoRS's batched greedy search, and other programs.

    python utils/bench/inference.py --model exp/base --data dump/{es,fr,it,ru}/test \\
        --common_voice_lengths --threads 2 --out inference.json

All systems decode the same clips with the same weights by greedy search, in one process, on the
same number of threads, in float32 but for int8 and lors-fast (on a GPU: float16). Each is
warmed up with a batch; then they take turns, and the fastest of --repeats passes counts. A pass
begins with the waveforms in memory and ends with the texts. The error rate of each system on these
clips stands beside its speed: the mean over the data directories. LoRS is compared with:

- for an ESPnet S2T model: ESPnet's Speech2Text (called by espnet2.bin.s2t_inference), beam 1
- for a Whisper, whose window LoRS takes from the model's directory: LoRS in bfloat16, if the CPU
  has instructions for it (lors-fast); LoRS with 30 s (lors-30s); openai-whisper's decode, one clip
  at a time; the generate of transformers, in batches; faster-whisper without VAD, one clip at a
  time and (batched) by BatchedInferencePipeline. All of the others pad to 30 s; faster-whisper pads
  the features with zeros, which is not the silence of the others (its texts differ).

Transformers, ctranslate2 and faster-whisper are looked for in --packages, where tests/run.sh
installs them, and in the environment. A system whose package is missing is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from clips import add_work_options, language_of, write_clips
from systems import WHISPER, System, espnet_systems, whisper_systems
from threadpoolctl import threadpool_limits

from lors.log import run_main
from lors.models import family_of, open_recogniser
from lors.recipe.eval_set import read_eval_set
from lors.score.scorers import score_pair
from lors.tasks import TASKS, Pair

PACKAGES = Path(__file__).parents[2] / ".test_packages"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_work_options(parser)
    parser.add_argument("--batch_size", type=int, default=16, help="default: %(default)s")
    parser.add_argument(
        "--max_tokens", type=int, default=128, help="of a hypothesis; default: %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument(
        "--systems", nargs="+", choices=[*WHISPER], default=[*WHISPER], help="default: all"
    )
    parser.add_argument("--packages", type=Path, default=PACKAGES, help="default: .test_packages")
    parser.add_argument("--out", help="also write the figures and texts as JSON")
    return parser


@dataclass
class Clips:
    """The clips of a data directory: shortest first, as LoRS decodes a test set."""

    pair: Pair
    ids: list[str]
    waveforms: list[np.ndarray]
    references: Mapping[str, str]


@dataclass
class Result:
    """Seconds and CPU seconds of the passes of a system, and its texts for each set of clips."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)


def read_clips(args: argparse.Namespace, folder: Path) -> list[Clips]:
    sets = []
    for number, directory in enumerate(args.data):
        pair = Pair(language_of(directory), args.task)
        write_clips(args, directory, folder / str(number))
        eval_set = read_eval_set(folder / str(number))
        waveforms = [*eval_set.waveforms]
        order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
        ids = [eval_set.ids[i] for i in order]
        references = eval_set.references[args.task]
        sets.append(Clips(pair, ids, [waveforms[i] for i in order], references))
    return sets


def measure(
    systems: Mapping[str, System], sets: Sequence[Clips], args: argparse.Namespace
) -> dict[str, Result]:
    """Let the systems decode all clips in turns."""
    results = {name: Result() for name in systems}
    for system in systems.values():
        system(sets[0].waveforms[-args.batch_size :], sets[0].pair)
    for _ in range(args.repeats):
        for name, system in systems.items():
            wall, cpu = time.perf_counter(), time.process_time()
            texts = [system(clips.waveforms, clips.pair) for clips in sets]
            results[name].wall.append(time.perf_counter() - wall)
            results[name].cpu.append(time.process_time() - cpu)
            results[name].texts = [[text.strip() for text in said] for said in texts]
    return results


def rows_of(results: Mapping[str, Result], sets: Sequence[Clips]) -> list[dict]:
    """Return a row for each system; the first one is compared with the others."""
    number = sum(len(clips.ids) for clips in sets)
    ours = next(iter(results.values()))
    rows = []
    for name, result in results.items():
        scores = {}
        for clips, said in zip(sets, result.texts, strict=True):
            hypotheses = dict(zip(clips.ids, said, strict=True))
            score = score_pair(clips.pair, clips.references, hypotheses)
            scores[clips.pair.lang] = getattr(score, clips.pair.speech_task.metric.key)
        pairs = zip(chain(*ours.texts), chain(*result.texts), strict=True)
        rows.append(
            {
                "system": name,
                "utterances_per_second": number / min(result.wall),
                "cpu_seconds_per_utterance": min(result.cpu) / number,
                "times_as_fast_is_lors": min(result.wall) / min(ours.wall),
                "score": sum(scores.values()) / len(scores),
                "scores": scores,
                "same_texts": sum(a == b for a, b in pairs),
                "texts": result.texts,
            }
        )
    return rows


def work(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    logging.disable(logging.INFO)  # ESPnet's search writes ten lines for every utterance
    metric = TASKS[args.task].metric.name
    with tempfile.TemporaryDirectory() as folder:
        sets = read_clips(args, Path(folder, "data"))
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_recogniser(args.model, args.device)
            family = family_of(args.model).name
            if family == "whisper":
                model.own_window = None  # the window of trained and merged models
                systems = whisper_systems(model, args, Path(folder))
            else:
                systems = espnet_systems(model, args)
            with threadpool_limits(args.threads):  # also of the packages that are loaded by now
                results = measure(systems, sets, args)
    rows = rows_of(results, sets)
    number = sum(len(clips.ids) for clips in sets)
    window = f", window of lors: {model.prompts.conf.window}" if family == "whisper" else ""
    print(
        f"{family}{window}, {number} utterances, batches of {args.batch_size}, {args.device}, "
        f"{args.threads} thread(s)"
    )
    print(f"{'system':28s} utt./s  CPU s/utt.  LoRS is .. times as fast  {metric:>6s}  same text")
    for row in rows:
        print(
            f"{row['system']:28s} {row['utterances_per_second']:6.2f} "
            f"{row['cpu_seconds_per_utterance']:11.3f} {row['times_as_fast_is_lors']:26.2f} "
            f"{row['score']:7.1f} {row['same_texts']:10d}"
        )
    if args.out:
        content = {**vars(args), "packages": str(args.packages), "family": family, "rows": rows}
        Path(args.out).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
