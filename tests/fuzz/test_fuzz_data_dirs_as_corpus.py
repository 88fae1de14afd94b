"""Damaged data directories and cut manifests as a corpus: each utterance is kept once or listed."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from lors.data.datadir import read_data_dir, validate_data_dir
from lors.data.manifest import prepare_manifest
from lors.data.manifest_names import Manifest
from tests.fuzz.corpora import refused_or_done, strange_text, tree
from tests.fuzz.mutate import mutated_bytes, mutated_value, seeds
from tests.unit.kaldi_dirs import SPLITS, write_dirs, write_lines
from tests.unit.test_manifest import PACKAGES

FILES = ("wav.scp", "text", "text.tc.en", "utt2spk", "utt2lang", "segments", "utt2dur",
         "spk2gender", "feats_type", "data/wav.ark")  # fmt: skip


@pytest.fixture
def dirs(folder):
    """Data directories with all files that are read; those of train have segments."""
    made = write_dirs(folder / "dump", clips=3, seconds=0.4)
    for path in made:
        keys = [line.split()[0] for line in (path / "wav.scp").read_text().splitlines()]
        write_lines(path / "utt2lang", dict.fromkeys(keys, "de"))
        write_lines(path / "utt2dur", dict.fromkeys(keys, "0.4"))
        write_lines(path / "spk2gender", {keys[0].split("-")[0]: "m"})
    lines = (made[0] / "wav.scp").read_text().splitlines()
    write_lines(made[0] / "wav.scp", {f"r{k}": line.split()[1] for k, line in enumerate(lines)})
    write_lines(
        made[0] / "segments", {line.split()[0]: f"r{k} 0 0.4" for k, line in enumerate(lines)}
    )
    return made


def changed(rng, content: bytes) -> bytes:
    """Damage bytes, or replace a value by a strange one."""
    lines = content.split(b"\n")
    if rng.random() < 0.5 or len(lines) < 2:
        return mutated_bytes(rng, content)
    number = rng.randrange(len(lines) - 1)
    value = rng.choice(
        (strange_text(rng), "x.ark:1", "sox x |", "-", "/etc/passwd", "../x", "r0 -1 nan", "9" * 99)
    )
    lines[number] = lines[number].split(b" ")[0] + b" " + value.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def check(out: Path, strict: bool) -> list[str]:
    """Check what was written; return the ids that are kept."""
    kept = []
    for path in sorted(out.glob("*/*/wav.scp")):
        assert validate_data_dir(path.parent, check_audio=False) == []
        kept += [utterance.id for utterance in read_data_dir(path.parent)]
    assert not (strict and listed(out))
    return kept


def listed(out: Path) -> str:
    """Return the details of all lines of dropped.tsv."""
    lines = [line for file in out.rglob("dropped.tsv") for line in file.read_text().splitlines()]
    return "\n".join(line.split("\t")[3] for line in lines if not line.endswith("\tdetail"))


def test_data_directories(folder, dirs, request):
    for rng in seeds(request, 300):
        path = rng.choice(dirs)
        file = path / rng.choice([name for name in FILES if (path / name).exists()])
        saved = file.read_bytes()
        file.write_bytes(changed(rng, saved))
        before, outcome, strict = tree(folder), {}, rng.random() < 0.3
        manifests = [Manifest(p, "", s) for p, s in zip(dirs, SPLITS, strict=True)]
        with refused_or_done(outcome):
            prepare_manifest(manifests, folder / "out", strict=strict)
        after = tree(folder)
        assert all(after[name] == before[name] for name in before)
        if outcome["error"]:
            assert not list((folder / "out").rglob("wav.scp"))
        else:
            kept = check(folder / "out", strict)
            whole = listed(folder / "out")
            for split in SPLITS:
                for k in range(3):
                    is_kept = any(key.endswith(f"{split}_de{k}") for key in kept)
                    is_listed = f"de{split}-{split}_de{k}" in whole or file.name in whole
                    assert is_kept or is_listed, (file, file.read_bytes(), split, k, whole)
        file.write_bytes(saved)
        shutil.rmtree(folder / "out", ignore_errors=True)


def test_cut_manifests(folder, request, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
    lhotse = pytest.importorskip("lhotse")
    manifests = []
    for split in SPLITS:
        cuts = []
        for k in range(3):
            recording = lhotse.Recording.from_file(write_sound(folder / f"wav/{split}{k}.wav"))
            cut = recording.to_cut()
            cut.supervisions = [
                lhotse.SupervisionSegment(
                    f"s{k}", recording.id, 0, cut.duration, text="Satz", language="de",
                    speaker=split, custom={"translated_text": {"en": "x"}},
                )
            ]  # fmt: skip
            cuts.append(cut.with_id(f"c{k}"))
        manifests.append(Manifest(folder / f"{split}.jsonl.gz", "", split))
        lhotse.CutSet.from_cuts(cuts).to_file(manifests[-1].path)
    file = manifests[0].path
    saved = file.read_bytes()
    records = [json.loads(line) for line in gzip.decompress(saved).splitlines()]
    for rng in seeds(request, 200):
        if rng.random() < 0.2:
            file.write_bytes(mutated_bytes(rng, saved))
            number = None
        else:
            number = rng.randrange(3)
            lines = [*records]
            lines[number] = mutated_value(rng, records[number])
            content = "".join(json.dumps(line) + "\n" for line in lines).encode()
            file.write_bytes(gzip.compress(content, 1))
        before, outcome, strict = tree(folder), {}, rng.random() < 0.3
        with refused_or_done(outcome):
            prepare_manifest(manifests, folder / "out", strict=strict)
        after = tree(folder)
        assert all(after[name] == before[name] for name in before)
        if outcome["error"]:
            assert not list((folder / "out").rglob("wav.scp"))
        elif number is not None:
            places = set(re.findall(r"train\.jsonl\.gz line (\d)", listed(folder / "out")))
            kept = check(folder / "out", strict)
            assert len(kept) + len(places) == 9
        shutil.rmtree(folder / "out", ignore_errors=True)


def write_sound(path: Path) -> Path:
    import soundfile

    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, [0.1] * 8000, 16_000)
    return path
