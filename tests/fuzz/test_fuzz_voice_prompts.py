"""Damaged packages and strange lists of voice prompts: refused, or every prompt used or listed."""

from __future__ import annotations

import gzip
import re
import shutil
from dataclasses import replace

import yaml

from lors.data.datadir import read_data_dir, validate_data_dir
from lors.data.voice_prompts.archives import unpack
from lors.data.voice_prompts.corpus import prepare_voice_prompts
from lors.data.voice_prompts.packages import Release, load_release
from lors.data.voice_prompts.transcripts import is_prompt_name
from lors.errors import LorsError
from tests.fuzz.corpora import strange_text
from tests.fuzz.mutate import mutated_bytes, seeds
from tests.prompt_packages import VOICES, deb, sha256, small_prompts, tar, write_packages

SPLITS = ("train", "dev", "test")


def test_damaged_packages(request, folder):
    package, target = folder / "x.deb", folder / "deep" / "target"
    good = deb(tar({"usr/a": b"a" * 500, "usr/b": b"b" * 500}))
    for rng in seeds(request, 400):
        name = rng.choice(("usr/a", "../a", "/a", "usr/../../a", "a" * 300, "é"))
        content = good if rng.random() < 0.7 else deb(tar({"fine": b"", name: b"x"}))
        package.write_bytes(mutated_bytes(rng, content))
        shutil.rmtree(target.parent, ignore_errors=True)
        try:
            unpack(package, target)
        except (LorsError, OSError):  # the system refuses a name that is too long
            assert not target.exists()
        outside = [p for p in folder.rglob("*") if p.is_file() and target not in p.parents]
        assert outside == [package]


def pinned(release, text):
    """The release with another list in Italian."""
    voice = release.languages["it"]
    transcripts = replace(voice.transcripts, contents=sha256(text))
    return Release({**release.languages, "it": replace(voice, transcripts=transcripts)})


def strange_line(rng, names):
    """A line of a list: mostly of a prompt, now and then of none."""
    name = rng.choice(names) if rng.random() < 0.7 else strange_text(rng)
    text = strange_text(rng) if rng.random() < 0.6 else "ein [x] Text (mit) <y> ... ? ja"
    return rng.choice((f"{name}: {text}", f"{name}:{text}", f"{name} {text}", f"; {text}"))


def test_strange_lists(request, folder):
    names = ["activated", "vm-saved", "digits/1", "letters/a", "vm-message"]
    prompts = small_prompts()
    prompts.seconds["it"] |= dict(zip(names, (0, 0.1, 0.5, 1, 20), strict=True))
    release = load_release(write_packages(folder / "in", prompts))
    for package in (folder / "in").glob("*.deb"):
        unpack(package, folder / "one")
        shutil.copytree(folder / "one", folder / "root", dirs_exist_ok=True)
        shutil.rmtree(folder / "one")
    [path] = (folder / "root").rglob("core-sounds-it.txt.gz")
    out = folder / "out"
    for rng in seeds(request, 60):
        lines = [strange_line(rng, names) for _ in range(rng.randrange(30))]
        text = "\n".join([*prompts.lists["it"], *lines]).encode("utf-8", "ignore")
        path.write_bytes(gzip.compress(text, 1))
        shutil.rmtree(out, ignore_errors=True)
        try:
            [report] = prepare_voice_prompts(folder / "root", ["it"], out, pinned(release, text))
        except LorsError:
            assert not list(out.glob("it/*/wav.scp"))
            continue
        dropped = (out / "it" / "dropped.tsv").read_text(encoding="utf-8").splitlines()[1:]
        used = [utt for split in SPLITS for utt in read_data_dir(out / "it" / split)]
        listed = sum(row["listed"] for row in report["splits"].values())
        assert listed + report["malformed_lines"] == len(used) + len(dropped)
        assert set(prompts.seconds["it"]) <= {line.split("\t")[1] for line in dropped} | {
            utt.wav.split(VOICES["it"][0] + "/")[1].removesuffix(".g722") for utt in used
        }
        for split in SPLITS:
            assert validate_data_dir(out / "it" / split, check_audio=True) == []
        for utt in used:
            assert re.search(r"[^\W\d_]{2}", utt.text) and not set('"…*#') & set(utt.text)


def test_strange_names(request):
    for rng in seeds(request, 2000):
        name = strange_text(rng) + rng.choice(("", "/", "/..", "a/b", "\n"))
        if is_prompt_name(name):
            assert name.isascii() and not set(name.split("/")) & {"", ".", ".."}


def test_strange_lists_of_packages(request, folder):
    path = write_packages(folder / "in", small_prompts())
    good = path.read_bytes()
    for rng in seeds(request, 300):
        path.write_bytes(mutated_bytes(rng, good))
        try:
            release = load_release(path)
        except LorsError:
            continue
        for voice in release.languages.values():
            for package in (voice.transcripts, voice.recordings):
                assert "/" not in package.file and ".." not in package.folder.split("/")
    assert yaml.safe_load(good)["languages"].keys() == VOICES.keys()
