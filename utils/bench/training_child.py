"""One training of the benchmark utils/bench/training.py, in a process of its own.

    python utils/bench/training_child.py SETTINGS.json

The settings name the program, ``lors`` or ``transformers``, its options, and the number of
utterances after which the training ends. Both programs are measured by the same hooks of torch:
after each forward pass of the model, and after each step of the optimiser. The figures go to the
file ``out`` of the settings.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

PROMPT_TARGETS = 3
"""Tokens of the prompt among the labels of transformers: language, task, no timestamps."""


class EnoughError(Exception):
    """Ends a training after its last measured step: no validation, no checkpoint."""


class Recorder:
    """Figures of every step.

    Attributes:
        utterances: number of utterances in each step.
        ids: their ids, if the program knows them.
        losses: losses of the steps.
        first_text_loss: loss of the first step on the tokens after the prompt.
        ends: wall-clock and CPU seconds at the end of each step.
    """

    def __init__(self, total: int):
        self.total = total
        self.utterances, self.ids, self.losses, self.ends = [], [], [], []
        self.first_text_loss = None
        register_optimizer_step_post_hook(self.after_step)

    def after_lors(self, model, args, batch, output) -> None:
        self.ids += batch["utt_id"]
        self._record(len(batch["speech"]), output[0])
        # The loss of LoRS is that of the text alone.
        self.first_text_loss = self.losses[0]

    def after_transformers(self, model, args, batch, output) -> None:
        self._record(len(batch["input_features"]), output.loss)
        if self.first_text_loss is None:
            labels = batch["labels"][:, PROMPT_TARGETS:]
            logits = output.logits.detach()[:, PROMPT_TARGETS:]
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels)
            self.first_text_loss = loss.item()

    def _record(self, utterances: int, loss: torch.Tensor) -> None:
        self.utterances.append(utterances)
        self.losses.append(loss.item())

    def after_step(self, *_) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))
        if sum(self.utterances) >= self.total:
            raise EnoughError

    def figures(self) -> dict:
        """Return the figures; the first step, in which memory is allocated, is not measured."""
        limits = zip(self.ends[0], self.ends[-1], strict=True)
        wall, cpu = (last - first for first, last in limits)
        measured = sum(self.utterances[1:])
        return {
            "utterances_per_second": measured / wall,
            "cpu_seconds_per_utterance": cpu / measured,
            "steps": len(self.ends),
            "utterances": self.utterances,
            "ids": self.ids,
            "first_loss": self.losses[0],
            "first_text_loss": self.first_text_loss,
            "last_loss": self.losses[-1],
            "peak_megabytes": peak_megabytes(),
        }


def peak_megabytes() -> float:
    """Return the peak memory of this process; ru_maxrss would include that of its parent."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def lors(settings: dict, recorder: Recorder) -> None:
    """Run the training program of LoRS, which is ESPnet's with a task of LoRS."""
    from lors.models.whisper.task import WhisperTask

    class Task(WhisperTask):
        @classmethod
        def build_model(cls, args):
            model = super().build_model(args)
            model.register_forward_hook(recorder.after_lors, with_kwargs=True)
            return model

    with contextlib.suppress(EnoughError):
        Task.main(cmd=settings["options"])


class Dataset(torch.utils.data.Dataset):
    """Features, computed beforehand and read from disk, and labels."""

    def __init__(self, folder: Path, processor, clips: list[dict]):
        import soundfile

        self.paths, self.labels = [], [clip["labels"] for clip in clips]
        for number, clip in enumerate(clips):
            waveform, rate = soundfile.read(clip["wav"], dtype="float32")
            made = processor.feature_extractor(waveform, sampling_rate=rate, return_tensors="pt")
            self.paths.append(folder / f"{number}.pt")
            torch.save(made.input_features[0].clone(), self.paths[-1])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> dict:
        features = torch.load(self.paths[number], weights_only=True)
        return {"input_features": features, "labels": self.labels[number]}


class Collator:
    """Pads the labels of a batch; the model puts the start token before them itself."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        inputs = [{"input_features": row["input_features"]} for row in rows]
        batch = self.processor.feature_extractor.pad(inputs, return_tensors="pt")
        labels = self.processor.tokenizer.pad(
            [{"input_ids": row["labels"]} for row in rows], return_tensors="pt"
        )
        padding = labels.attention_mask.ne(1)
        batch["labels"] = labels.input_ids.masked_fill(padding, -100)[:, 1:]
        return batch


def transformers(settings: dict, recorder: Recorder) -> None:
    """Train by Seq2SeqTrainer, as Hugging Face's guide to the fine-tuning of Whisper does."""
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

    model = WhisperForConditionalGeneration.from_pretrained(settings["model"])
    processor = WhisperProcessor.from_pretrained(settings["model"])
    model.register_forward_hook(recorder.after_transformers, with_kwargs=True)
    folder = Path(settings["folder"])
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=settings["batch_size"],
            max_steps=-(-len(settings["clips"]) // settings["batch_size"]),
            **settings["arguments"],
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Dataset(folder, processor, settings["clips"]),
        data_collator=Collator(processor),
        processing_class=processor,
    )
    with contextlib.suppress(EnoughError):
        trainer.train()


def main() -> int:
    settings = json.loads(Path(sys.argv[1]).read_text())
    recorder = Recorder(settings["utterances"])
    {"lors": lors, "transformers": transformers}[settings["program"]](settings, recorder)
    Path(settings["out"]).write_text(json.dumps(recorder.figures()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
