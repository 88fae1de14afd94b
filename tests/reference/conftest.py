"""The package peft, and a small Whisper of Hugging Face, for tests of adapters."""

import sys
from pathlib import Path

import pytest
import torch

PACKAGES = Path(__file__).parents[2] / ".test_packages"  # of tests/run.sh


@pytest.fixture(scope="module")
def packages():
    """Let the packages of the tests alone be imported."""
    sys.path.append(str(PACKAGES))
    yield
    sys.path.remove(str(PACKAGES))


@pytest.fixture(scope="module")
def peft(packages):
    return pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture(scope="module")
def small_whisper(peft):
    """A small Whisper of transformers with random weights."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    sizes = {f"{side}_layers": 2 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1)
    ids |= {"decoder_start_token_id": 2}
    config = WhisperConfig(
        **(sizes | ids),
        d_model=16, vocab_size=50, num_mel_bins=4, max_source_positions=6, max_target_positions=6,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config)
