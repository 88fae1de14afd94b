"""The programs whose inference the benchmark compares, all with the weights of one model.

Every system is a function (waveforms, pair) -> texts, and decodes by greedy search without
timestamps, as a user calls it for many short clips whose language and task are known. On a GPU all
compute in float16, except the int8 systems.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from lors.export.whisper import export_whisper
from lors.export.whisper_audio import SAMPLING_RATE
from lors.models import open_recogniser
from lors.models.whisper.conf import WhisperOptions
from lors.models.whisper.import_base import import_whisper
from lors.models.whisper.prompts import TASK_NAMES
from lors.tasks import Pair

System = Callable[[Sequence[np.ndarray], Pair], list[str]]


def espnet_systems(model, args: argparse.Namespace) -> dict[str, System]:
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

    def one_by_one(waveforms: Sequence[np.ndarray], pair: Pair) -> list[str]:
        language, task, _ = prompt_symbols(pair)
        return [search(w, lang_sym=language, task_sym=task)[0][3] for w in waveforms]

    return {
        "lors": lambda waveforms, pair: model.transcribe(waveforms, pair, options),
        "espnet": one_by_one,
    }


@dataclass
class Whisper:
    """A Whisper and its files in the forms of the other programs.

    Attributes:
        model: the WhisperModel of LoRS.
        args: the options of the benchmark.
        folder: receives the files.
    """

    model: object
    args: argparse.Namespace
    folder: Path

    @property
    def on_gpu(self) -> bool:
        return self.args.device != "cpu"

    def prompt(self, pair: Pair) -> dict[str, str]:
        """Return the language and task in the words that all programs share."""
        return {"language": self.model.prompts.language(pair), "task": TASK_NAMES[pair.task]}

    def openai_file(self) -> Path:
        path = self.folder / "model.pt"
        if not path.exists():
            weights = self.model.model.state_dict()
            torch.save({"dims": self.model.prompts.conf.dims, "model_state_dict": weights}, path)
        return path

    def hugging_face(self) -> Path:
        path = self.folder / "huggingface"
        if not path.exists():
            export_whisper(self.openai_file(), path, torch.float32)
        return path

    def ctranslate2(self) -> Path:
        from ctranslate2.converters import TransformersConverter  # ct2-transformers-converter

        path = self.folder / "ctranslate2"
        if not path.exists():
            files = ["tokenizer.json", "preprocessor_config.json"]
            TransformersConverter(str(self.hugging_face()), copy_files=files).convert(str(path))
        return path


def lors(whisper: Whisper) -> System:
    return _batches(whisper.model, whisper.args)


def lors_30(whisper: Whisper) -> System:
    """The same with the whole window."""
    directory = whisper.folder / "window30"
    language = whisper.model.prompts.conf.st_language
    import_whisper(str(whisper.openai_file()), directory, 30.0, language)
    return _batches(open_recogniser(directory, whisper.args.device), whisper.args)


def lors_fast(whisper: Whisper) -> System:
    """The same in bfloat16 on a CPU that has instructions for it."""
    return _batches(copy.deepcopy(whisper.model), whisper.args, "fast")


def _batches(model, args: argparse.Namespace, dtype: str = "auto") -> System:
    options = WhisperOptions(batch_size=args.batch_size, max_tokens=args.max_tokens, dtype=dtype)
    return lambda waveforms, pair: model.transcribe(waveforms, pair, options)


def openai_whisper(whisper: Whisper) -> System:
    """One clip at a time: OpenAI's program has no batches of clips."""
    import whisper as openai

    args = whisper.args
    model = openai.load_model(str(whisper.openai_file()), device=args.device)

    def one_by_one(waveforms: Sequence[np.ndarray], pair: Pair) -> list[str]:
        options = openai.DecodingOptions(
            **whisper.prompt(pair),
            without_timestamps=True,
            sample_len=args.max_tokens,
            fp16=whisper.on_gpu,
        )
        texts = []
        for waveform in waveforms:
            speech = openai.pad_or_trim(waveform)
            mel = openai.log_mel_spectrogram(speech, model.dims.n_mels, device=args.device)
            texts.append(openai.decode(model, mel, options).text)
        return texts

    return one_by_one


def transformers(whisper: Whisper) -> System:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    args, directory = whisper.args, whisper.hugging_face()
    dtype = torch.float16 if whisper.on_gpu else torch.float32
    model = WhisperForConditionalGeneration.from_pretrained(directory, dtype=dtype)
    model = model.eval().to(args.device)
    processor = WhisperProcessor.from_pretrained(directory)

    def generate(waveforms: Sequence[np.ndarray], pair: Pair) -> list[str]:
        texts = []
        for start in range(0, len(waveforms), args.batch_size):
            batch = list(waveforms[start : start + args.batch_size])
            inputs = processor(batch, sampling_rate=SAMPLING_RATE, return_tensors="pt")
            said = model.generate(
                inputs.input_features.to(args.device, dtype),
                **whisper.prompt(pair),
                max_new_tokens=args.max_tokens,
            )
            texts += processor.batch_decode(said, skip_special_tokens=True)
        return texts

    return generate


def faster_whisper(whisper: Whisper, int8: bool = False, batched: bool = False) -> System:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    args = whisper.args
    kind = ("int8_float16" if int8 else "float16") if whisper.on_gpu else None
    model = WhisperModel(
        str(whisper.ctranslate2()),
        device="cuda" if whisper.on_gpu else "cpu",
        compute_type=kind or ("int8" if int8 else "float32"),
        cpu_threads=args.threads,
    )
    options = {
        "beam_size": 1,
        "temperature": 0.0,  # greedy search, without another try by sampling
        "without_timestamps": True,
        "condition_on_previous_text": False,
        "no_speech_threshold": None,  # no clip is taken for silence: no other system does so
        "vad_filter": False,
        # CTranslate2 keeps one half of the length for an earlier text.
        "max_new_tokens": min(2 * args.max_tokens, 448) - 4,
    }

    def one_by_one(waveforms: Sequence[np.ndarray], pair: Pair) -> list[str]:
        texts = []
        for waveform in waveforms:
            segments, _ = model.transcribe(waveform, **whisper.prompt(pair), **options)
            texts.append("".join(segment.text for segment in segments))
        return texts

    def in_batches(waveforms: Sequence[np.ndarray], pair: Pair) -> list[str]:
        """Give all clips as one recording with the limits of each clip."""
        ends = [end / SAMPLING_RATE for end in accumulate(map(len, waveforms))]
        starts = [0.0, *ends[:-1]]
        segments, _ = BatchedInferencePipeline(model).transcribe(
            np.concatenate(waveforms),
            **whisper.prompt(pair),
            **options,
            batch_size=args.batch_size,
            clip_timestamps=[{"start": s, "end": e} for s, e in zip(starts, ends, strict=True)],
        )
        texts = [""] * len(waveforms)
        for segment in segments:
            texts[bisect_right(starts, segment.start + 0.01) - 1] += segment.text
        return texts

    return in_batches if batched else one_by_one


WHISPER: Mapping[str, Callable[[Whisper], System]] = {
    "lors": lors,
    "lors-fast": lors_fast,
    "lors-30s": lors_30,
    "openai-whisper": openai_whisper,
    "transformers": transformers,
    "faster-whisper": faster_whisper,
    "faster-whisper-int8": lambda whisper: faster_whisper(whisper, int8=True),
    "faster-whisper-batched": lambda whisper: faster_whisper(whisper, batched=True),
    "faster-whisper-batched-int8": lambda whisper: faster_whisper(whisper, True, True),
}
"""Name of a system -> the function that makes it. The first is compared with the others."""


def whisper_systems(model, args: argparse.Namespace, folder: Path) -> dict[str, System]:
    """Return the systems of `args.systems` whose packages are installed; name the others.

    Args:
        model: the WhisperModel of LoRS.
        args: the options of the benchmark.
        folder: receives the model in other forms.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.append(str(args.packages))
    whisper = Whisper(model, args, folder)
    systems = {}
    for name, make in WHISPER.items():
        if name in (*args.systems, "lors"):
            try:
                systems[name] = make(whisper)
            except ImportError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
    return systems
