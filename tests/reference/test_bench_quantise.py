"""The benchmark of sizes in utils/bench, on a tiny random model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.tiny_s2t import make_model

ROOT = Path(__file__).parents[2]


@pytest.mark.espnet
@pytest.mark.slow
def test_sizes_of_a_tiny_model(tmp_path):
    make_model(tmp_path / "base")
    program = [sys.executable, str(ROOT / "utils/bench/quantise.py")]
    options = ["--model", str(tmp_path / "base"), "--out", str(tmp_path / "sizes.json")]
    done = subprocess.run(program + options, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sizes.json").read_text())["rows"]
    assert [row["weights"] for row in rows] == ["float32", "nf4", "nf4, double"]
    full, plain, double = rows
    assert full["smaller_disk"] == full["smaller_memory"] == 1
    assert 6.5 < plain["smaller_in_4_bits"] < double["smaller_in_4_bits"] < 8
    assert double["memory"] < plain["memory"] < full["memory"]
    assert "smaller_in_4_bits" in done.stdout
