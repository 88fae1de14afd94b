#!/usr/bin/env python3
"""Measure the speed of inference: LoRS's batched greedy search, and other programs.

    python utils/bench/inference.py --model exp/base --data dump/de/test --pair de_asr

All systems decode the same utterances by greedy search, in one process, on the same threads. Each
is warmed up first; the fastest of --repeats passes counts. LoRS is compared with:

- for an ESPnet S2T model: ESPnet's Speech2Text (called by espnet2.bin.s2t_inference), beam 1
- for a Whisper: openai-whisper's decode, one utterance at a time; and the generate of
  transformers with the same batches, if transformers is installed
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
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from lors.log import run_main
from lors.models import family_of, open_recogniser
from lors.recipe.eval_set import read_eval_set
from lors.tasks import Pair

System = Callable[[Sequence[np.ndarray]], list[str]]


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model directory (config.yaml, model.pth)")
    parser.add_argument("--data", required=True, help="data directory, e.g. dump/de/test")
    parser.add_argument("--pair", required=True, help="language and task, e.g. de_asr")
    parser.add_argument("--utterances", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--batch_size", type=int, default=32, help="default: %(default)s")
    parser.add_argument(
        "--max_tokens", type=int, default=40, help="limit of a hypothesis; default: %(default)s"
    )
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--out", help="also write the figures as JSON")
    return parser


def espnet_systems(model, pair: Pair, args: argparse.Namespace) -> dict[str, System]:
    """Return LoRS's search and ESPnet's; `model` is a S2TModel."""
    from espnet2.bin.s2t_inference import Speech2Text

    from lors.models.espnet_s2t.prompts import S2TOptions, prompt_symbols

    frames = model._encode([np.zeros(1, dtype=np.float32)]).size(1)
    ratio = min(1.0, args.max_tokens / frames)
    options = S2TOptions(batch_size=args.batch_size, maxlenratio=ratio)
    search = Speech2Text(
        str(model.config),
        str(model.model_file),
        beam_size=1,
        ctc_weight=0.0,
        maxlenratio=ratio,
        device=args.device,
    )
    language, task, _ = prompt_symbols(pair)
    return {
        "lors": lambda waveforms: model.transcribe(waveforms, pair, options),
        "espnet, one by one": lambda waveforms: [
            search(w, lang_sym=language, task_sym=task)[0][3] for w in waveforms
        ],
    }


def whisper_systems(model, pair: Pair, args: argparse.Namespace) -> dict[str, System]:
    """Return the searches of LoRS, openai-whisper and transformers; `model` is a WhisperModel."""
    import whisper

    from lors.models.whisper.conf import WhisperOptions
    from lors.models.whisper.inference import log_mel, pad
    from lors.models.whisper.prompts import TASK_NAMES

    window = model.prompts.conf.window
    half = args.device != "cpu"
    options = WhisperOptions(batch_size=args.batch_size, max_tokens=args.max_tokens)
    language, task = model.prompts.language(pair), TASK_NAMES[pair.task]
    decoding = whisper.DecodingOptions(
        task=task,
        language=language,
        without_timestamps=True,
        sample_len=args.max_tokens,
        fp16=half,
    )

    def one_by_one(waveforms: Sequence[np.ndarray]) -> list[str]:
        mels = (
            log_mel(pad([w], window).to(args.device), model.model.dims.n_mels) for w in waveforms
        )
        return [whisper.decode(model.model, mel, decoding)[0].text for mel in mels]

    systems: dict[str, System] = {
        "lors": lambda waveforms: model.transcribe(waveforms, pair, options),
        "openai-whisper, one by one": one_by_one,
    }
    with contextlib.suppress(ImportError):
        systems["transformers"] = _transformers(model, language, task, args)
    return systems


def _transformers(model, language: str, task: str, args: argparse.Namespace) -> System:
    from transformers import WhisperForConditionalGeneration

    from lors.models.whisper.inference import log_mel, pad

    if model.prompts.conf.window != model.model.dims.n_audio_ctx / 50:
        print("transformers takes whole windows only: left out", file=sys.stderr)
        raise ImportError
    from lors.export.whisper import export_whisper

    with tempfile.TemporaryDirectory() as directory:
        export_whisper(model.model_file, Path(directory) / "model")
        theirs = WhisperForConditionalGeneration.from_pretrained(Path(directory) / "model")
    theirs = theirs.eval().to(args.device)
    if args.device != "cpu":
        theirs = theirs.half()
    tokenizer = model.prompts.tokenizer

    def generate(waveforms: Sequence[np.ndarray]) -> list[str]:
        texts = []
        for start in range(0, len(waveforms), args.batch_size):
            speech = pad(waveforms[start : start + args.batch_size], model.prompts.conf.window)
            mel = log_mel(speech.to(args.device), model.model.dims.n_mels).to(theirs.dtype)
            said = theirs.generate(
                mel, language=language, task=task, max_new_tokens=args.max_tokens, num_beams=1
            )
            for ids in said.tolist():
                texts.append(tokenizer.decode([i for i in ids if i < tokenizer.eot]).strip())
        return texts

    return generate


def measure(system: System, waveforms: Sequence[np.ndarray], args) -> tuple[float, list[str]]:
    """Return the seconds of the fastest pass, and the texts."""
    system(waveforms[: args.batch_size])
    seconds, texts = [], []
    for _ in range(args.repeats):
        if args.device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        texts = system(waveforms)
        if args.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds), texts


def work(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    logging.disable(logging.INFO)  # ESPnet's search writes ten lines for every utterance
    pair = Pair.parse(args.pair)
    test_set = read_eval_set(args.data, args.utterances)
    # Shortest first, as LoRS decodes a test set.
    waveforms = sorted(test_set.waveforms, key=len)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = open_recogniser(args.model, args.device)
        family = family_of(args.model).name
        make = {"espnet_s2t": espnet_systems, "whisper": whisper_systems}[family]
        results = {
            name: measure(system, waveforms, args)
            for name, system in make(model, pair, args).items()
        }
    ours, texts = results["lors"]
    rows = [
        {
            "system": name,
            "utterances_per_second": len(waveforms) / seconds,
            "times_as_fast_is_lors": seconds / ours,
            "same_texts": sum(a == b for a, b in zip(texts, said, strict=True)),
        }
        for name, (seconds, said) in results.items()
    ]
    print(f"{family}, {len(waveforms)} utterances, batches of {args.batch_size}, {args.device}")
    for row in rows:
        print(
            f"{row['system']:28} {row['utterances_per_second']:9.2f} utterances/s   LoRS is "
            f"{row['times_as_fast_is_lors']:6.2f} times as fast   same text: "
            f"{row['same_texts']} of {len(waveforms)}"
        )
    if args.out:
        Path(args.out).write_text(json.dumps({**vars(args), "family": family, "rows": rows}))


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
