"""The benchmark of stages 1 and 2 on a dump of ESPnet, with a few utterances."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("audio_format", ["flac.ark", "wav.ark"])
def test_a_dump_is_measured(tmp_path, audio_format):
    words = ["--dir", tmp_path, "--utterances", "12", "--nj", "1", "--audio_format", audio_format]
    done = subprocess.run(
        [sys.executable, ROOT / "utils/bench/dump.py", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "de/train: 12 clips" in done.stderr and "(12 of an earlier run)" in done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| stage")]
    assert [row[1].strip() for row in rows] == [
        "stage 1", "stage 2", "stage 2, finished", "stage 2, again after an interruption",
    ]  # fmt: skip
    assert all(float(value) > 0 for row in rows for value in row[2:5])
    assert list(tmp_path.iterdir()) == []
