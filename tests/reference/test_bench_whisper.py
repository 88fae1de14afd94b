"""The benchmarks of Whisper in utils/bench, on a tiny random model and a few clips."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lors.data.datadir import Utterance, read_data_dir, write_data_dir
from lors.errors import UsageError
from lors.models.whisper.conf import WhisperConf
from lors.models.whisper.import_base import import_whisper
from tests.integration.tiny_whisper import DIMS, make_whisper
from tests.refusal import refusal

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "utils" / "bench"
PACKAGES = ROOT / ".test_packages"
sys.path.insert(0, str(BENCH))
import clips  # noqa: E402
import systems  # noqa: E402
import training  # noqa: E402
import window  # noqa: E402

sys.path.remove(str(BENCH))  # utils/bench/jobs.py is not utils/jobs.py

LENGTHS = (0.5, 0.8, 1.1, 1.4)
needs_packages = pytest.mark.skipif(
    not (PACKAGES / "transformers").is_dir(),
    reason="transformers is not installed: ./tests/run.sh does that",
)


def data_dir(path, lang, lengths):
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    rows = []
    for number, seconds in enumerate(lengths):
        wav = path / f"{number:03}.wav"
        soundfile.write(wav, rng.normal(size=round(16000 * seconds)) * 0.1, 16000)
        speaker = f"{lang}{number % 2}"
        text, english = f"Wort {number}.", {"en": f"word {number}"}
        rows.append(
            Utterance(f"{speaker}-{number:03}", str(wav), speaker, lang, text, english, seconds)
        )
    write_data_dir(path, rows)
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A model with the window auto, and data of two languages."""
    root = tmp_path_factory.mktemp("project")
    import_whisper(str(make_whisper(root / "tiny.pt", scale=3)), root / "base", window="auto")
    for lang in ("de", "es"):
        data_dir(root / "dump" / lang / "train", lang, LENGTHS)
    return root


def bench(name, project, *options):
    """Run a benchmark on the project; return its table and its JSON."""
    out = project / f"{name}.json"
    command = [sys.executable, str(BENCH / f"{name}.py"), "--model", str(project / "base")]
    command += ["--data", *(str(project / "dump" / lang / "train") for lang in ("de", "es"))]
    done = subprocess.run(
        [*command, "--out", str(out), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done, json.loads(out.read_text())


def options(utterances=1000, joined=True):
    return argparse.Namespace(utterances=utterances, common_voice_lengths=joined)


def test_lengths_of_common_voice(tmp_path):
    lengths = np.random.default_rng(1).uniform(0.5, 2.5, 200)
    given = read_data_dir(data_dir(tmp_path / "de" / "test", "de", lengths.round(2)))
    made = clips.write_clips(options(), tmp_path / "de" / "test", tmp_path / "out")
    assert read_data_dir(tmp_path / "out") == made
    got = np.quantile([u.duration for u in made], (0.1, 0.5, 0.9))
    np.testing.assert_allclose(got, 4.5 * np.exp(0.35 * np.array([-1.2816, 0, 1.2816])), atol=0.3)
    texts = {u.text: u for u in given}
    used = []
    for clip in made:
        parts = [texts[f"{part}."] for part in clip.text.removesuffix(".").split(". ")]
        assert clip.translations["en"] == " ".join(u.translations["en"] for u in parts)
        assert {u.speaker for u in parts} == {clip.speaker}
        audio = np.concatenate([soundfile.read(u.wav)[0] for u in parts])
        np.testing.assert_array_equal(soundfile.read(clip.wav)[0], audio)
        used += [u.id for u in parts]
    assert len(used) == len(set(used)) > 195


def test_a_part_of_the_clips_is_always_the_same(tmp_path, capsys):
    directory = data_dir(tmp_path / "de" / "test", "de", [*LENGTHS, 31.0])
    chosen = [
        clips.write_clips(options(3, joined=False), directory, tmp_path / name) for name in "ab"
    ]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 3
    assert all(u.duration < 30 for u in chosen[0])
    assert "1 clips of more than 30 s" in capsys.readouterr().err


def test_window_of_a_benchmark():
    conf = WhisperConf(DIMS, "auto", "target")
    five = window.conf_with(conf, "5").speech_window
    assert five.layout(five.samples(16000)) == [(i, 1) for i in range(250)]
    assert window.conf_with(conf, "auto").speech_window == conf.speech_window
    other = window.conf_with(conf, "auto:0.2:100")
    assert (other.dims, other.window, other.st_language) == (DIMS, "auto", "target")
    # 1.2 s are rounded up to 1.5 s.
    layout = other.speech_window.layout(other.speech_window.samples(16000))
    assert layout[:75] == [(i, 1) for i in range(75)]
    assert [size for _, size in layout[75:]] == [100] * 14 + [25]
    without = window.conf_with(conf, "auto:1:0").speech_window
    assert without.layout(without.samples(16000)) == [(i, 1) for i in range(100)]
    with pytest.raises(ValueError):
        window.conf_with(conf, "none")


def test_windows(project):
    done, rows = bench("window", project, "--windows", "auto", "auto:0.2:0", "--utterances", "2")
    assert [row["window"] for row in rows] == ["auto", "auto:0.2:0"]
    for row in rows:
        assert set(row["wer"]) == {"de", "es"} and row["cpu_seconds"] > 0
        assert row["window"] in done.stdout


@needs_packages
def test_inference(project):
    same, other = ["openai-whisper", "transformers"], ["faster-whisper", "faster-whisper-batched"]
    ours = ["lors-fast", "lors-30s"]
    asked = ("--systems", *ours, *same, *other, "--batch_size", "2", "--utterances", "2")
    done, content = bench("inference", project, *asked, "--repeats", "1", "--max_tokens", "6")
    rows = {row["system"]: row for row in content["rows"]}
    assert set(rows) == {"lors", *ours, *same, *other}
    for name in (*same, other[1]):
        # The silence of faster-whisper is another one.
        expected = rows["lors-30s" if name in same else other[0]]
        assert rows[name]["texts"] == expected["texts"], name
        assert all(text for texts in expected["texts"] for text in texts)
        assert rows[name]["score"] == expected["score"] > 0
    for name, row in rows.items():
        assert name in done.stdout and row["utterances_per_second"] > 0
    assert rows["lors"]["same_texts"] == 4 and rows["lors"]["times_as_fast_is_lors"] == 1


def test_a_missing_package_is_named(monkeypatch, capsys, tmp_path):
    def missing(_):
        raise ImportError("no such package")

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(systems, "WHISPER", {"lors": str, "transformers": missing, "other": str})
    args = argparse.Namespace(systems=["transformers"], packages=tmp_path)
    assert [*systems.whisper_systems(None, args, tmp_path)] == ["lors"]
    assert "transformers is left out: no such package" in capsys.readouterr().err


@needs_packages
@pytest.mark.espnet
@pytest.mark.slow
def test_training(project):
    asked = ("--systems", "lors-auto-numel", "transformers")
    done, [figures] = bench("training", project, "--batch_size", "2", "--rounds", "1", *asked)
    assert list(figures) == ["lors-auto-numel", "lors-30-unsorted", "transformers"]
    for system, row in figures.items():
        assert sum(row["utterances"]) == 2 * len(LENGTHS) and row["steps"] > 1
        assert row["utterances_per_second"] > 0 and row["peak_megabytes"] > 100
        assert system in done.stdout
    ours, theirs = figures["lors-30-unsorted"], figures["transformers"]
    assert ours["utterances"] == theirs["utterances"] == [2] * 4
    assert ours["first_text_loss"] == pytest.approx(theirs["first_text_loss"], rel=1e-4)
    assert sorted(figures["lors-auto-numel"]["ids"]) == sorted(ours["ids"])


def test_training_needs_two_batches(project):
    asked = ["--model", str(project / "base"), "--batch_size", "8", "--packages", str(project)]
    args = training.get_parser().parse_args([*asked, "--data", str(project / "dump/de/train")])
    with refusal("8", "--data", kind=UsageError):
        training.work(args)
