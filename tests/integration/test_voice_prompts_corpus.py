"""The real packages of the voice prompts: downloaded, and prepared as its RESULTS.md assumes."""

from __future__ import annotations

import hashlib
import json

import pytest

from lors.bin import prepare_voice_prompts

pytestmark = pytest.mark.slow

CLIPS = {
    "en": (254, 59, 106),
    "es": (191, 40, 78),
    "fr": (242, 56, 96),
    "it": (243, 54, 99),
    "ru": (251, 59, 101),
}
TEXTS = "cbecb0751681df22fed5a5d475a6fa7c4d0019bd526da9b78d68c8b3f4afb944"
"""SHA-256 of all transcripts, translations and splits: trained models depend on them."""


def test_the_real_corpus_is_what_the_results_were_made_with(tmp_path, capsys):
    out = tmp_path / "data"
    arguments = ["--folder", str(tmp_path / "downloads"), "--out", str(out), "--langs", *CLIPS]
    if prepare_voice_prompts.main(arguments) != 0:
        message = capsys.readouterr().err
        assert "cannot be downloaded" in message, message
        pytest.skip("the packages cannot be downloaded here")
    digest = hashlib.sha256()
    for lang, clips in CLIPS.items():
        splits = json.loads((out / lang / "report.json").read_text())["splits"]
        assert tuple(splits[name]["clips"] for name in ("train", "dev", "test")) == clips
        assert clips[2] >= 0.2 * sum(clips)
    for path in sorted(out.glob("*/*/text*")):
        digest.update(path.relative_to(out).as_posix().encode() + path.read_bytes())
    assert digest.hexdigest() == TEXTS
