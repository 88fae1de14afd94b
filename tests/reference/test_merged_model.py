"""A merged ESPnet model: its weights against float64 numpy, and loaded by ESPnet itself."""

import re

import numpy as np
import pytest
import torch
import yaml
from test_merge_reference import reference

from lors.merge.plan import MergePlan
from lors.merge.run import run_merge
from tests.integration.tiny_s2t import make_model

pytestmark = pytest.mark.espnet
PRUNED = re.compile(r"(attn\.linear_(q|k|v|out)|feed_forward\.w_[12])\.weight$")
SETTINGS = {
    "average": {"scaling_coef": 1.0},
    "task_arithmetic": {"scaling_coef": 0.4},
    "lors": {"rank": 3, "density": 0.2, "scaling_coef": 0.7},
}


def state_of(directory):
    return torch.load(directory / "model.pth", weights_only=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny base model and three perturbed copies of it."""
    root = tmp_path_factory.mktemp("models")
    base = make_model(root / "base")
    state = state_of(base)
    experts = []
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        directory = root / f"expert{number}"
        directory.mkdir()
        moved = {
            name: value + 0.1 * torch.randn(value.shape, generator=generator)
            for name, value in state.items()
            if value.is_floating_point() and not name.startswith("frontend.")
        }
        torch.save({**state, **moved}, directory / "model.pth")
        experts.append(directory)
    return base, experts


@pytest.mark.parametrize("method", SETTINGS)
def test_espnet_loads_the_model_of_the_formula(models, tmp_path, method):
    from espnet2.bin.s2t_inference import Speech2Text

    base, experts = models
    params = SETTINGS[method]
    files = [str(directory / "model.pth") for directory in (base, *experts)]
    out = tmp_path / "merged"
    run_merge(MergePlan(files[0], tuple(files[1:]), method, params), out / "model.pth")

    models_in_espnet = [
        Speech2Text(
            s2t_train_config=directory / "config.yaml",
            s2t_model_file=directory / "model.pth",
            beam_size=1,
        ).s2t_model
        for directory in (base, out)
    ]
    of_base, merged = (model.state_dict() for model in models_in_espnet)
    plain = {name: value.double().numpy() for name, value in of_base.items()}
    taus = {
        name: [state_of(e)[name].double().numpy() - plain[name] for e in experts] for name in plain
    }
    moved = [name for name in plain if np.any(taus[name])]
    pruned = [name for name in plain if PRUNED.search(name)]
    # 2 encoder layers with one attention, 2 decoder layers with two; 4 and 2 matrices a layer
    assert len(pruned) == 2 * (4 + 2) + 2 * (8 + 2) and set(pruned) < set(moved)
    assert set(plain) - set(moved) == {"frontend.logmel.melmat"}
    for name, start in plain.items():
        delta = reference(method, taus[name], name in pruned, params) if name in moved else 0
        expected = start + params["scaling_coef"] * delta
        got = merged[name].double().numpy()
        assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected), name
        assert (name in moved) == bool(np.any(got != start)), name

    speech = torch.randn(1, 32000, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        encoded = [model.encode(speech, torch.tensor([32000]))[0] for model in models_in_espnet]
    assert torch.isfinite(encoded[1]).all() and not torch.allclose(*encoded, rtol=1e-2)


def test_a_merged_model_transcribes(models, tmp_path):
    """It has the configuration of the base model and gives another text."""
    from lors.models import open_recogniser
    from lors.models.espnet_s2t.prompts import S2TOptions
    from lors.tasks import Pair

    base, experts = models
    files = [str(directory / "model.pth") for directory in (base, *experts)]
    plan = MergePlan(files[0], tuple(files[1:]), "lors", {"rank": 4, "density": 0.5})
    run_merge(plan, tmp_path / "merged" / "model.pth")
    of_base, of_merged = (
        yaml.safe_load((d / "config.yaml").read_text()) for d in (base, tmp_path / "merged")
    )
    assert of_merged == of_base
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(size=9000).astype(np.float32) * 0.1 for _ in range(4)]
    texts = [
        open_recogniser(directory).transcribe(waveforms, Pair("de", "asr"), S2TOptions())
        for directory in (base, tmp_path / "merged")
    ]
    assert texts[0] != texts[1] and all(isinstance(text, str) for text in texts[1])
