"""Prepare LibriSpeech (https://www.openslr.org/12) as Kaldi data directories.

``<corpus>/<subset>/<speaker>/<chapter>/`` holds ``<speaker>-<chapter>-<number>.flac`` and
``<speaker>-<chapter>.trans.txt``; ``SPEAKERS.TXT`` has the speakers' genders.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lors.data.datadir import Utterance, read_text, write_data_dir
from lors.errors import LorsError, shortened

LANGUAGE = "en"
SPEAKERS = "SPEAKERS.TXT"


def prepare_librispeech(
    corpus: str | os.PathLike, subsets: Sequence[str], out: str | os.PathLike
) -> int:
    """Write ``out/en/train`` with all speakers of some subsets.

    Args:
        corpus: the folder ``LibriSpeech``.
        subsets: its folders, such as ``train-clean-360``.
        out: receives the data directory.

    Returns:
        The number of utterances.

    Raises:
        LorsError: a folder is missing or has no transcripts; or transcripts and recordings do not
            belong together (all are listed).
    """
    corpus = Path(corpus)
    if missing := [str(corpus / name) for name in subsets if not (corpus / name).is_dir()]:
        raise LorsError(
            "the corpus is not there",
            where=corpus,
            expected=f"folders of LibriSpeech: {' '.join(subsets)}",
            got=missing,
            hint="get it from https://www.openslr.org/12 and name its folder in db.sh",
        )
    genders = _genders(corpus / SPEAKERS)
    utterances, problems = [], []
    for subset in subsets:
        for path in sorted((corpus / subset).glob("*/*/*.trans.txt")):
            speaker = path.parts[-3]
            texts = read_text(path)
            sounds = {sound.stem: sound for sound in path.parent.glob("*.flac")}
            problems += [f"{path}: no recording of {key}" for key in sorted(texts.keys() - sounds)]
            problems += [f"{sounds[key]}: no transcript" for key in sorted(sounds.keys() - texts)]
            utterances += [
                Utterance(
                    key,
                    str(sounds[key].resolve()),
                    speaker,
                    LANGUAGE,
                    text.lower(),
                    gender=genders.get(speaker),
                )
                for key, text in texts.items()
                if key in sounds
            ]
    if problems or not utterances:
        raise LorsError(
            "transcripts and recordings do not belong together",
            where=corpus,
            got=shortened(problems, 20) or "no transcripts",
            hint="unpack the archives of the corpus again",
        )
    write_data_dir(Path(out) / LANGUAGE / "train", utterances)
    return len(utterances)


def _genders(path: Path) -> dict[str, str]:
    """Return speaker -> ``m`` or ``f``; empty without the file."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = (line.split("|") for line in lines if not line.startswith(";"))
    return {
        row[0].strip(): row[1].strip().lower()
        for row in rows
        if len(row) > 1 and row[1].strip() in ("M", "F")
    }
