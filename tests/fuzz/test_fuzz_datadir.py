"""Damaged Kaldi data directories: every tool keeps lines as they are, or refuses."""

from __future__ import annotations

import contextlib
import shutil
from types import SimpleNamespace

import pytest

from lors.data import conversion
from lors.data.datadir import read_data_dir, validate_data_dir
from lors.data.datadir_subset import RULES, subset_by_number
from lors.data.datadir_tools import combine_data, fix_data_dir, split_data
from lors.data.formatting import FormatOptions, format_data_dir
from lors.errors import LorsError
from tests.fuzz.corpora import refused_or_done, strange_text, tree
from tests.fuzz.mutate import mutated_bytes, seeds
from tests.unit.test_manifest import write_wav

SOURCES = (
    "touch ran |",
    "| touch ran",
    "-",
    "/dev/zero",
    "none.wav",
    "x.ark:3",
    "..",
    "a\0b",
    "x" * 300,
)
SEGMENTS = (
    "r0 0 -1",
    "r0 0.02 0.05",
    "r0 5 9",
    "r9 0 1",
    "r0 0.05 0.02",
    "r0 nan 1",
    "r0 0",
    "r0 0 1e999",
)


@contextlib.contextmanager
def no_processes(nj):
    """The worker pool of stage 2, without worker processes."""
    yield SimpleNamespace(map=lambda work, clips, chunksize: map(work, clips))


@pytest.fixture
def place(folder, monkeypatch):
    monkeypatch.setattr(conversion, "worker_pool", no_processes)
    for number in range(3):
        write_wav(folder / f"audio/r{number}.wav", 0.1)
    return folder


def data_dir(rng, folder, prefix="s"):
    """The files of a valid data directory, as lists of lines."""
    ids = [
        f"{prefix}{speaker}-{number}" for speaker in range(3) for number in range(rng.randint(1, 3))
    ]
    wavs = [str(folder / f"audio/r{number % 3}.wav") for number in range(len(ids))]
    files = {
        "utt2spk": [f"{key} {key[:2]}" for key in ids],
        "text": [f"{key} Satz {key}" for key in ids],
        "utt2dur": [f"{key} 0.1" for key in ids],
        "spk2gender": [f"{prefix}{number} f" for number in range(3)],
        "wav.scp": [f"{key} {wav}" for key, wav in zip(ids, wavs, strict=True)],
    }
    files["spk2utt"] = [
        f"{s} {' '.join(k for k in ids if k[:2] == s)}" for s in sorted({k[:2] for k in ids})
    ]
    if rng.random() < 0.5:
        files["wav.scp"] = [f"r{number} {folder}/audio/r{number}.wav" for number in range(3)]
        pieces = ("0 -1", "0 0.1")
        files["segments"] = [f"{k} r{n % 3} {rng.choice(pieces)}" for n, k in enumerate(ids)]
        if len(ids) < 3:
            files["wav.scp"] = files["wav.scp"][: len(ids)]
    if rng.random() < 0.3:
        files["ctm"] = [f"{key} 1 0.0 0.1 Wort{number}" for key in ids for number in range(2)]
    if rng.random() < 0.3:
        del files[rng.choice(("text", "utt2dur", "spk2gender"))]
    return files


def damage(rng, files):
    """Change lines of some files; return their bytes."""
    for name, lines in files.items():
        while rng.random() < 0.2:
            change = rng.choice(("remove", "repeat", "swap", "value", "id", "blank"))
            at = rng.randrange(len(lines)) if lines else 0
            if change == "remove":
                del lines[at : at + 1]
            elif change == "repeat" and lines:
                lines.insert(rng.randrange(len(lines)), lines[at])
            elif change == "swap":
                rng.shuffle(lines)
            elif change == "value" and lines:
                values = {"wav.scp": SOURCES, "segments": SEGMENTS}.get(
                    name, (strange_text(rng), "", "0")
                )
                lines[at] = f"{lines[at].split(' ')[0]} {rng.choice(values)}"
            elif change == "id" and lines:
                lines[at] = f"{strange_text(rng)}{lines[at]}"
            else:
                lines.insert(at, rng.choice(("", " ", "\t")))
    content = as_bytes(files)
    if rng.random() < 0.3:
        name = rng.choice(list(content))
        content[name] = mutated_bytes(rng, content[name])
    if rng.random() < 0.1:
        name = rng.choice(list(content))
        content[name] = b"\xef\xbb\xbf" + content[name]
    if rng.random() < 0.1:
        del content[rng.choice(list(content))]
    return content


def as_bytes(files):
    return {name: "".join(f"{x}\n" for x in lines).encode() for name, lines in files.items()}


def write(path, content):
    path.mkdir()
    for name, data in content.items():
        (path / name).write_bytes(data)


def lines_in(path, name):
    """The lines of a file without those that are blank, and without a byte order mark."""
    if not (path / name).is_file():
        return []
    lines = (path / name).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line for line in lines if line.split()]


def unchanged_lines(source, target):
    """Every line of the target's files is one of the source's, and none is there twice."""
    for file in target.iterdir():
        if file.is_file() and file.name != "spk2utt":
            lines = lines_in(target, file.name)
            assert set(lines) <= set(lines_in(source, file.name)), file.name
            assert file.name == "ctm" or len({line.split()[0] for line in lines}) == len(lines)


def only_in(folder, before, *targets):
    after = tree(folder)
    changed = {name for name in after if before.get(name) != after[name]}
    assert all(name.startswith(targets) for name in changed), changed
    assert before.keys() <= after.keys()
    assert not [name for name in changed if name.endswith((".tmp", ".lock"))]


def test_validate_and_fix(place, request):
    for rng in seeds(request, 300):
        path, old = place / "d", place / "old"
        write(path, damage(rng, data_dir(rng, place)))
        shutil.copytree(path, old)
        before, outcome, problems = tree(place), {}, None
        with refused_or_done(outcome):
            problems = validate_data_dir(path, check_audio=True)
        assert tree(place) == before
        if problems == []:
            assert len(read_data_dir(path)) == len(lines_in(path, "utt2spk"))
        elif problems and validate_data_dir(path):
            with pytest.raises(LorsError):
                read_data_dir(path)
        with refused_or_done(outcome):
            fix_data_dir(path)
        if outcome["error"]:
            assert tree(place) == before
        else:
            unchanged_lines(old, path)
            only_in(place, before, "d/")
            again = tree(path)
            notes = fix_data_dir(path)
            assert all("do not start with" in note for note in notes) and tree(path) == again
        shutil.rmtree(path)
        shutil.rmtree(old)


def test_subset_split_and_combine(place, request):
    for rng in seeds(request, 200):
        path, part, outcome = place / "d", place / "part", {}
        files = data_dir(rng, place)
        write(path, damage(rng, files) if rng.random() < 0.6 else as_bytes(files))
        before = tree(place)
        rule, number = rng.choice(list(RULES)), rng.choice((1, 2, 5, 0, 10**12))
        with refused_or_done(outcome):
            subset_by_number(path, part, number, rule)
        only_in(place, before, "part/")
        if outcome["error"]:
            assert not part.exists()
        else:
            unchanged_lines(path, part)
        parts = []
        with refused_or_done(outcome):
            parts = split_data(path, rng.choice((1, 2, 3, 10**9)), rng.random() < 0.5)
        only_in(place, before, "part/", "d/split")
        if parts:
            check_parts(path, parts, place / "all")
        for name in ("d", "part", "all"):
            shutil.rmtree(place / name, ignore_errors=True)


def check_parts(path, parts, joined):
    """Every utterance is in one part; the parts together are the directory."""
    ids = [line.split()[0] for part in parts for line in lines_in(part, "utt2spk")]
    assert sorted(ids) == sorted(line.split()[0] for line in lines_in(path, "utt2spk"))
    for part in parts:
        unchanged_lines(path, part)
    if not all((part / "wav.scp").exists() for part in parts):
        return  # the directory lacks the audio of all utterances of a part
    left_out = combine_data(joined, parts)
    assert "utt2spk" not in left_out
    for name in {"utt2spk", "text", "segments", "ctm"} - set(left_out):
        assert sorted(lines_in(joined, name)) == sorted(
            line for part in parts for line in lines_in(part, name)
        )


def test_combine_different_directories(place, request):
    for rng in seeds(request, 100):
        write(place / "a", damage(rng, data_dir(rng, place, "a")))
        write(place / "b", as_bytes(data_dir(rng, place, rng.choice("ab"))))
        before, outcome = tree(place), {}
        with refused_or_done(outcome):
            combine_data(place / "all", [place / "a", place / "b"])
        only_in(place, before, "all/")
        if outcome["error"]:
            assert not (place / "all").exists()
        else:
            both = lines_in(place / "a", "utt2spk") + lines_in(place / "b", "utt2spk")
            assert sorted(lines_in(place / "all", "utt2spk")) == sorted(both)
        for name in ("a", "b", "all"):
            shutil.rmtree(place / name, ignore_errors=True)


def test_format(place, request, monkeypatch):
    monkeypatch.chdir(place)
    for rng in seeds(request, 150):
        path, dump, outcome, report = place / "d", place / "dump", {}, {}
        files = data_dir(rng, place)
        for name, values in (("wav.scp", SOURCES), ("segments", SEGMENTS)):
            if name in files and rng.random() < 0.3:
                lines, at = files[name], rng.randrange(len(files[name]))
                lines[at] = f"{lines[at].split(' ')[0]} {rng.choice(values)}"
        if rng.random() < 0.2:
            files["utt2dur"] = [
                f"{line.split(' ')[0]} {rng.choice('013')}" for line in files["utt2spk"]
            ]
        write(path, damage(rng, files) if rng.random() < 0.3 else as_bytes(files))
        before = tree(place)
        with refused_or_done(outcome):
            report = format_data_dir(
                path, dump, FormatOptions(max_bad_audio=rng.choice((0.1, 1.0)))
            )
        only_in(place, before, "dump/")
        assert not (place / "ran").exists()
        if outcome["error"]:
            assert not (dump / "wav.scp").exists() and not (dump / ".done").exists()
        else:
            assert report["source_clips"] == report["clips"] + sum(report["dropped"].values())
            assert report["source_clips"] == len(lines_in(path, "utt2spk"))
            assert validate_data_dir(dump, check_audio=True) == []
            texts = {u.id: u.text for u in read_data_dir(path)}
            assert all(utt.text == texts[utt.id] for utt in read_data_dir(dump))
        shutil.rmtree(path)
        shutil.rmtree(dump, ignore_errors=True)
