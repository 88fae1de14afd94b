"""Interference of two experts beside the loss of merging them, with a stand-in for the model."""

import json

import numpy as np
import pytest
import torch
from stand_ins import use_fake_models, write_audio_dump, write_model

from lors.bin import interference
from lors.fileio import read_json
from lors.recipe.expdir import ExpDir
from lors.recipe.interference import Interference, TwoExperts, write_interference_report
from lors.tasks import Pair
from tests.refusal import refusal


@pytest.fixture
def calls(monkeypatch):
    return use_fake_models(monkeypatch)


@pytest.fixture
def words(tmp_path, calls):
    """Experts that know 7 of 8 words of their language; the base model knows 1."""
    expdir = ExpDir(tmp_path / "exp")
    write_model(expdir.base, 0)
    for seed, name in enumerate(("de_asr", "es_asr"), 1):
        write_model(expdir.expert(Pair.parse(name)), seed, {name: 7})
    write_audio_dump(tmp_path / "dump")
    (tmp_path / "conf.yaml").write_text("batch_size: 5\nmaxlenratio: 0.4\n")
    return [
        *("--expdir", str(expdir.root), "--dump", f"{tmp_path}/dump", "--langs", "de", "es"),
        *("--tasks", "asr", "--inference_config", f"{tmp_path}/conf.yaml", "--rank", "3"),
        *("--out", f"{tmp_path}/exp/INTERFERENCE.md"),
    ]


def task_vectors(root):
    def state(directory):
        return torch.load(root / "exp" / directory / "model.pth", weights_only=True)

    base = state("base")
    names = [name for name, value in base.items() if value.ndim == 2]
    for name in names:
        yield [(state(f"expert/{lang}_asr")[name] - base[name]).numpy() for lang in ("de", "es")]


def test_measures_and_loss_of_two_experts(words, tmp_path, capsys):
    assert interference.main(words) == 0
    (two,) = read_json(tmp_path / "exp/interference.json")["pairs"]
    assert (two["langs"], two["task"]) == (["de", "es"], "asr")
    # The average knows (7 + 1) / 2 of 8 words: half of what the experts gain.
    assert two["loss"] == pytest.approx(0.5)
    of_matrices = list(task_vectors(tmp_path))
    cosines = [
        (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
        for one, other in of_matrices
    ]
    assert two["cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    agreement = [np.mean(np.sign(one) == np.sign(other)) for one, other in of_matrices]
    assert two["sign_agreement"] == pytest.approx(np.mean(agreement), abs=1e-5)
    assert 0 < two["overlap"] < 1 < two["inflation"] < 2
    table = (tmp_path / "exp/INTERFERENCE.md").read_text()
    assert "| de es | asr |" in table and "| 0.50 |" in table
    assert "Spearman" not in table  # two experts have no correlation
    assert "interference" in capsys.readouterr().out.lower()


def test_a_second_call_measures_nothing(words, tmp_path, calls):
    assert interference.main(words) == 0
    calls.clear()
    assert interference.main(words) == 0 and not calls
    write_model(tmp_path / "exp/expert/es_asr", 5, {"es_asr": 5})
    assert interference.main(words) == 0 and calls


def test_other_dev_data_are_measured_again(words, tmp_path, calls):
    assert interference.main(words) == 0
    calls.clear()
    text = tmp_path / "dump/es/dev/text"
    text.write_text(text.read_text().replace("\n", " more\n", 1))
    assert interference.main(words) == 0 and calls


def test_rank_correlation_with_the_loss(tmp_path):
    pairs = [
        TwoExperts(("de", lang), "asr", k / 10, 0.5, 1 - k / 10, None, k * k / 100)
        for k, lang in enumerate(("es", "fr", "it", "ru"))
    ]
    undefined = TwoExperts(("es", "fr"), "asr", 0.9, 0.5, 0.9, None, None)
    file = tmp_path / "interference.json"
    content = Interference(5, (*pairs, undefined))
    file.write_text(json.dumps(content, default=vars))
    text = write_interference_report(file, tmp_path / "out.md", "Interference")
    assert "cosine +1.00" in text and "subspace overlap -1.00" in text
    assert "sign agreement +" not in text and "inflation +" not in text  # constant, undefined
    assert "es fr" in text and "de ru" in text


def test_a_damaged_file(tmp_path):
    file = tmp_path / "interference.json"
    file.write_text('{"rank": 5, "pairs": [{"langs": ["de", "es"], "task": "asr"}]}')
    with refusal(file, "cosine", "remove it"):
        write_interference_report(file, tmp_path / "out.md", "Interference")
    assert not (tmp_path / "out.md").exists()


def test_missing_experts(words, tmp_path, capsys):
    (tmp_path / "exp/expert/es_asr/model.pth").unlink()
    assert interference.main(words) == 1
    assert "es_asr" in capsys.readouterr().err and not (tmp_path / "exp/interference.json").exists()
