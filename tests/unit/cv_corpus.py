"""A small corpus in the exact layout of Common Voice 4 and CoVoST 2, for tests to damage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

CV_HEADER = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent")
COVOST_HEADER = ("path", "translation", "split")


@dataclass
class Row:
    """One clip: its rows in both tables. Without a `split` it is not in the table of CoVoST 2."""

    name: str
    sentence: str = "Ein Satz"
    translation: str = "A sentence"
    split: str | None = "train"
    client: str = "client"
    gender: str = ""
    audio: bytes | None = b"not decoded in stage 1"


@dataclass
class Corpus:
    root: Path
    lang: str = "de"
    target: str = "en"
    rows: list[Row] = field(default_factory=list)

    @property
    def common_voice(self) -> Path:
        return self.root / "cv-corpus-4-2019-12-10"

    @property
    def covost2(self) -> Path:
        return self.root / "covost2"

    @property
    def clips(self) -> Path:
        return self.common_voice / self.lang / "clips"

    @property
    def validated(self) -> Path:
        return self.common_voice / self.lang / "validated.tsv"

    @property
    def covost_tsv(self) -> Path:
        return self.covost2 / f"covost_v2.{self.lang}_{self.target}.tsv"

    def write(self) -> Corpus:
        self.clips.mkdir(parents=True, exist_ok=True)
        self.covost2.mkdir(exist_ok=True)
        speech = [CV_HEADER] + [
            (row.client, row.name, row.sentence, "2", "0", "", row.gender, "") for row in self.rows
        ]
        translations = [COVOST_HEADER] + [
            (row.name, row.translation, row.split) for row in self.rows if row.split is not None
        ]
        for path, table in ((self.validated, speech), (self.covost_tsv, translations)):
            path.write_text("".join("\t".join(line) + "\n" for line in table), encoding="utf-8")
        for row in self.rows:
            if row.audio is not None and "/" not in row.name:
                (self.clips / row.name).write_bytes(row.audio)
        return self


def small_corpus(root: Path, lang: str = "de", per_split: int = 4, audio: bytes = b"x") -> Corpus:
    """Make `per_split` good clips of each split; all clients and sentences differ."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [
        Row(
            f"common_voice_{lang}_{100 * number + k}.mp3",
            f"Satz {number} {k}",
            f"Sentence {number} {k}",
            split,
            f"client-{lang}-{number}-{k}",
            audio=audio,
        )
        for number, split in enumerate(("train", "dev", "test"), 1)
        for k in range(per_split)
    ]
    return Corpus(root, lang, rows=rows)


def tone(rate: int, seconds: float, hertz: float = 440.0, channels: int = 1) -> np.ndarray:
    """Return a sine of amplitude 0.5, shape (samples,) or (samples, channels)."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)
    return (wave if channels == 1 else np.stack([wave] * channels, axis=1)).astype(np.float32)


def write_mp3(path: Path, samples: np.ndarray, rate: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, format="MP3")
    return path
