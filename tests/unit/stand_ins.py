"""Small data directories, and stand-ins for ESPnet's training and inference."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

from lors.models.espnet_s2t.family import EspnetS2T
from lors.tasks import ASR, Pair

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
QUERY = "encoder.encoders.0.self_attn.linear_q.weight"
OUTPUT_BIAS = "ctc.ctc_lo.bias"


BASE_CONFIG = {
    "token_list": ["<blank>", "<unk>", "<deu>", "<spa>", "<asr>", "<st_eng>", "<sos>", "<eos>"],
    "token_type": "bpe",
    "bpemodel": "exp/base/bpe.model",
    "normalize": "global_mvn",
    "normalize_conf": {"stats_file": "exp/base/feats_stats.npz"},
    "encoder": "transformer",
    "encoder_conf": {"output_size": 128},
    "preencoder": None,
    "model_conf": {"ctc_weight": 0.3},
    "max_epoch": 99,
    "specaug": "specaug",
    "output_dir": "elsewhere",
}


def sentence(number: int, lang: str) -> str:
    return " ".join(f"{word}{number}{lang[0]}" for word in WORDS)


def translation(number: int, lang: str) -> str:
    return f"translation of {sentence(number, lang).upper()}"


def write_dump(dump: Path, langs=("de", "es"), splits=("train", "dev"), utterances=3) -> Path:
    """Write data directories without audio files."""
    for lang in langs:
        for split in splits:
            ids = [f"spk{k}-{lang}-{split}" for k in range(utterances)]
            tables = {
                "wav.scp": [f"/audio/{lang}/{split}/{k}.flac" for k in range(utterances)],
                "utt2spk": [f"spk{k}" for k in range(utterances)],
                "utt2lang": [lang] * utterances,
                "utt2dur": [f"{1 + k}.0000" for k in range(utterances)],
                "text": [sentence(k, lang) for k in range(utterances)],
                "text.en": [translation(k, lang) for k in range(utterances)],
            }
            directory = dump / lang / split
            directory.mkdir(parents=True, exist_ok=True)
            # Not by write_data_dir: it waits for the disk, and hundreds of tests begin like this.
            for name, values in tables.items():
                lines = [f"{i} {value}\n" for i, value in zip(ids, values, strict=True)]
                (directory / name).write_text("".join(lines))
            spk2utt = "".join(f"spk{k} {i}\n" for k, i in enumerate(ids))
            (directory / "spk2utt").write_text(spk2utt)
    return dump


def write_audio_dump(dump: Path, langs=("de", "es"), splits=("dev",), utterances=3) -> Path:
    """Write data directories with audio; its first sample is the number of the sentence."""
    write_dump(dump, langs, splits, utterances)
    for lang in langs:
        for split in splits:
            scp = dump / lang / split / "wav.scp"
            lines = []
            for k, line in enumerate(scp.read_text().splitlines()):
                path = dump / lang / split / f"{k}.flac"
                soundfile.write(path, np.full(800, (k + 1) / 128, dtype=np.float32), 16000)
                lines.append(f"{line.split()[0]} {path}\n")
            scp.write_text("".join(lines))
    return dump


def write_model(directory: Path, seed: int = 0, words: dict[str, int] | None = None) -> Path:
    """Write a model directory for merging and for :class:`FakeS2TModel`.

    Args:
        words: pair -> number of words at the start of a sentence that the model gets right;
            1 for other pairs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    right = [(words or {}).get(pair, 1) for pair in FakeS2TModel.PAIRS]
    state = {
        QUERY: torch.randn(8, 8, generator=generator),
        "decoder.decoders.0.self_attn.linear_q.weight": torch.randn(8, 8, generator=generator),
        OUTPUT_BIAS: torch.tensor(right, dtype=torch.float32),
    }
    torch.save(state, directory / "model.pth")
    (directory / "config.yaml").write_text(
        "encoder: transformer\ntoken_list: [<deu>, <spa>, <asr>, <st_eng>]\n"
    )
    return directory


def write_base(directory: Path) -> Path:
    """Write the directory of a base model that can be fine-tuned by :func:`fake_espnet`."""
    directory.mkdir()
    (directory / "config.yaml").write_text(yaml.safe_dump(BASE_CONFIG))
    (directory / "model.pth").write_bytes(b"base weights")
    return directory


class FakeS2TModel:
    """Stand-in for :class:`lors.models.espnet_s2t.inference.S2TModel` without ESPnet.

    The weights set how many words of a sentence are right, so that a merge can be good or bad.
    `calls` keeps all calls.
    """

    PAIRS = ("de_asr", "es_asr", "de_st", "es_st")
    calls: list[tuple] = []  # noqa: RUF012 - shared on purpose; tests empty it

    def __init__(self, directory, device="cpu"):
        self.load_state(torch.load(directory / "model.pth", weights_only=True))
        self.calls[-1] = ("load", str(directory / "model.pth"), device)

    def load_state(self, state):
        self.calls.append(("load_state",))
        self.right = dict(zip(self.PAIRS, state[OUTPUT_BIAS].tolist(), strict=True))

    def transcribe(self, waveforms, pair, options):
        if options.is_greedy:
            self.calls.append(("greedy", len(waveforms), options.batch_size, options.maxlenratio))
        else:
            settings = (options.beam_size, options.ctc_weight, options.penalty, options.maxlenratio)
            self.calls.append(("beam", len(waveforms), *settings))
        return [self._say(waveform, pair) for waveform in waveforms]

    def _say(self, waveform: np.ndarray, pair: Pair) -> str:
        number = round(float(waveform[0]) * 128) - 1
        text = (sentence if pair.task == ASR.name else translation)(number, pair.lang)
        words = text.split()
        right = round(self.right[str(pair)])
        return " ".join(words[:right] + ["wrong"] * (right - len(words)))


def use_fake_models(monkeypatch) -> list[tuple]:
    """Let all inference load :class:`FakeS2TModel` until the test ends; returns its `calls`."""
    monkeypatch.setattr("lors.models.espnet_s2t.inference.S2TModel", FakeS2TModel)
    monkeypatch.setattr(FakeS2TModel, "calls", [])
    return FakeS2TModel.calls


TRAIN = """
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
options = [(words[i][2:], words[i + 1]) for i in range(0, len(words), 2)]
of = dict(options)
out = Path(of["output_dir"])
with open(out / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(options) + "\\n")
if os.environ.get("FAIL"):
    print("\\n".join(f"line {n}" for n in range(40)))
    print(os.environ["FAIL"])
    sys.exit(3)
if of.get("collect_stats") == "true":
    for split in ("train", "valid"):
        (out / split).mkdir(exist_ok=True)
        keys = Path(of[f"{split}_shape_file"]).read_text().split()[::2]
        for name in ("speech_shape", "text_shape"):
            (out / split / name).write_text("".join(f"{k} {len(k)},80\\n" for k in keys))
    (out / "train" / "feats_stats.npz").write_bytes(b"statistics")
elif not os.environ.get("NO_MODEL"):
    (out / "config.yaml").write_text("encoder: transformer\\n")
    (out / "4epoch.pth").write_bytes(b"weights")
    (out / "valid.acc.best.pth").unlink(missing_ok=True)
    (out / "valid.acc.best.pth").symlink_to("4epoch.pth")
"""


def fake_espnet(directory: Path, monkeypatch) -> None:
    """Replace ESPnet's training program by one that notes its options and makes its files."""
    directory.mkdir(parents=True)
    (directory / "fake_training.py").write_text(TRAIN)
    monkeypatch.setattr(EspnetS2T, "train_module", "fake_training")
    path = os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)


def calls_of(out: Path) -> list[list[tuple[str, str]]]:
    """Return the options (name, value) of every training by :func:`fake_espnet` in `out`."""
    path = out / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [[tuple(option) for option in json.loads(line)] for line in lines]
