"""Small data directories like those of Kaldi and ESPnet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import kaldiio
import numpy as np
import soundfile

RATE = 16_000
SPLITS = ("train", "dev", "test")


def tone(number: int, seconds: float) -> np.ndarray:
    """A sound whose level tells its number."""
    return np.full(round(seconds * RATE), 0.01 * (number + 1), dtype=np.float32)


def write_ark(path: Path, sounds: Mapping[str, np.ndarray], kind: str) -> dict[str, str]:
    """Write an ark file of ``wav`` or ``flac`` by kaldiio, as ESPnet does; return id -> place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clips = {key: (RATE, np.rint(32768 * sound).astype(np.int16)) for key, sound in sounds.items()}
    flac = {"write_function": "soundfile", "write_kwargs": {"format": "flac"}}
    scp = path.with_suffix(".scp")
    kaldiio.save_ark(str(path), clips, scp=str(scp), **(flac if kind == "flac" else {}))
    return dict(line.split(maxsplit=1) for line in scp.read_text().splitlines())


def write_lines(path: Path, values: Mapping[str, str]) -> None:
    path.write_text("".join(f"{key} {value}".rstrip() + "\n" for key, value in values.items()))


def write_dir(
    path: Path,
    lang: str = "de",
    clips: int = 2,
    kind: str = "flac.ark",
    speakers: Sequence[str] = ("anna",),
    first: int = 0,
    seconds: float = 0.1,
) -> Path:
    """Write a directory like ``dump/raw/train_de``, with English translations in ``text.tc.en``.

    The paths in ``wav.scp`` begin two folders above the directory, as in the recipes of ESPnet.
    """
    path.mkdir(parents=True)
    split = path.name
    keys = [f"{speakers[k % len(speakers)]}-{split}{k}" for k in range(clips)]
    sounds = {key: tone(first + k, seconds) for k, key in enumerate(keys)}
    root = path.parents[1]
    if kind.endswith(".ark"):
        places = write_ark(path / "data/wav.ark", sounds, kind.removesuffix(".ark"))
    else:
        places = {}
        for key, samples in sounds.items():
            file = path / f"data/{key}.{kind}"
            file.parent.mkdir(exist_ok=True)
            soundfile.write(file, samples, RATE)
            places[key] = str(file)
    relative = {key: str(Path(place).relative_to(root)) for key, place in places.items()}
    write_lines(path / "wav.scp", dict(sorted(relative.items())))
    write_lines(path / "utt2spk", {key: key.split("-")[0] for key in sorted(keys)})
    write_lines(path / "text", {key: f"Satz {lang} {key}" for key in sorted(keys)})
    write_lines(path / "text.tc.en", {key: f"Sentence {key}" for key in sorted(keys)})
    write_lines(path / "utt2num_samples", {key: str(len(sounds[key])) for key in sorted(keys)})
    (path / "feats_type").write_text("raw\n")
    (path / "audio_format").write_text(f"{kind}\n")
    return path


def write_dirs(folder: Path, lang: str = "de", **options) -> list[Path]:
    """Write the directories of train, dev and test, each with a speaker of its own."""
    return [
        write_dir(folder / f"raw/{split}_{lang}", lang, speakers=[f"{lang}{split}"],
                  first=10 * number, **options)
        for number, split in enumerate(SPLITS)
    ]  # fmt: skip
