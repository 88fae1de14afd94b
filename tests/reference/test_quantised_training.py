"""Training of adapters on a quantised Whisper through ESPnet: kills, and weights that stay."""

import pytest
import torch
import yaml

from lors.bin import quantise, train
from lors.checkpoint.quantised import open_quantised
from lors.config import read_yaml
from lors.fileio import file_digest
from lors.models.nf4_layers import PARTS, Nf4Weight
from lors.models.whisper.import_base import import_whisper
from lors.models.whisper.task import WhisperTask
from lors.recipe import train as training
from tests.integration.recipe import ROOT
from tests.integration.tiny_whisper import make_whisper
from tests.reference.small_trainings import (
    assert_same_training,
    keep_checkpoints,
    kill_and_resume,
    run_here,
    write_noise,
)
from tests.threads import one_thread

pytestmark = pytest.mark.espnet

CONF = ROOT / "egs/voice_prompts/pqm1/conf"
OTHERS, SPEAKER = "de_asr", "de-x-anna_asr"
SMALL = {"num_iters_per_epoch": 6, "max_epoch": 3, "num_workers": 0}
BATCHES = {
    "train_sat": {"batch_bins": 100_000},  # three clips, padded to the window
    "train_speaker": {"batch_bins": 100_000},
    "train_whisper_pqm_conv": {"batch_size": 3},
}
STARTS = {"train_speaker": "sat", "train_whisper_pqm_conv": None}
"""Configurations of the recipe, and the adapter that the training of a speaker begins with."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Let this process and those that it starts add up numbers in one order."""
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(training, "run_training", run_here)
        keep_checkpoints(patch)
        yield


@pytest.fixture(scope="module")
def project(_one_thread, tmp_path_factory):
    """A quantised base model, data of a speaker and of others, and the adapter of the others."""
    root = tmp_path_factory.mktemp("quantised")
    import_whisper(str(make_whisper(root / "tiny.pt", scale=3)), root / "base", window=2.0)
    assert quantise.main(["--model", f"{root}/base", "--out", f"{root}/quantised"]) == 0
    write_noise(root, [pair.removesuffix("_asr") for pair in (OTHERS, SPEAKER)], clips=6)
    for name, batches in BATCHES.items():
        config = read_yaml(CONF / f"{name}.yaml") | SMALL | batches
        if "scheduler_conf" in config:
            config["scheduler_conf"] |= {"total_steps": 18, "max_lr": 0.01}
        else:
            config["optim_conf"] |= {"lr": 0.01}
        (root / f"{name}.yaml").write_text(yaml.safe_dump(config))
    words = options(root, "train_sat", OTHERS, SPEAKER)
    assert train.main([*words, "--collect_stats", "--out", f"{root}/stats"]) == 0
    words = options(root, "train_sat", OTHERS)
    assert train.main([*words, "--stats", f"{root}/stats", "--out", f"{root}/sat"]) == 0
    return root


def options(root, config, *pairs):
    """Return the options that the recipe gives to all its trainings."""
    words = ["--base", f"{root}/quantised", "--pairs", *pairs, "--dump", f"{root}/dump"]
    return [*words, "--config", f"{root}/{config}.yaml"]


def of_speaker(root, config, out):
    """Return the options of the recipe's stage adapt."""
    adapter = STARTS[config]
    words = [*options(root, config, SPEAKER), "--stats", f"{root}/stats", "--seed", "1"]
    words += ["--adapter", f"{root}/{adapter}"] if adapter else []
    return [*words, "--only", "1", "--out", f"{root}/{out}"]


@pytest.fixture(scope="module", params=STARTS)
def trained(request, project):
    """Configuration, directory and model of a training that nothing interrupted."""
    built, build_model = [], WhisperTask.build_model

    def build(args):
        built.append(build_model(args))
        return built[-1]

    before = file_digest(project / "quantised/model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhisperTask, "build_model", staticmethod(build))
        out = f"whole_{request.param}"
        assert train.main(of_speaker(project, request.param, out)) == 0
    assert file_digest(project / "quantised/model.safetensors") == before
    [model] = built
    return request.param, project / out / SPEAKER, model


def load(path):
    return torch.load(path, weights_only=True)


def test_only_adapters_are_trained(project, trained):
    name, out, model = trained
    config, found = read_yaml(project / f"{name}.yaml"), load(out / "latest.pth")
    targets = tuple(config["adapter_conf"]["target_modules"])
    weights = [n for n in open_quantised(project / "quantised").names() if n.endswith(".weight")]
    layers = {n for n in (w.removesuffix(".weight") for w in weights) if n.endswith(targets)}
    assert {key.rpartition(".lora_")[0] for key in found} == layers and len(found) == 2 * len(
        layers
    )
    assert any("conv" in layer for layer in layers) == (name == "train_whisper_pqm_conv")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(found)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in found.items())
    assert all(found[f"{layer}.lora_B"].any() for layer in layers)
    if STARTS[name]:
        start = load(project / STARTS[name] / "model.pth")
        assert start.keys() == found.keys()
        assert not any(torch.equal(found[key], value) for key, value in start.items())


def test_the_quantised_tensors_stay_as_they_are(project, trained):
    """In the memory of the training, bit by bit."""
    _, _, model = trained
    quantised, state = open_quantised(project / "quantised"), model.state_dict()
    in_nf4 = quantised.quantised_names()
    assert len(in_nf4) == 35 and "encoder.conv1.weight" in in_nf4
    for name in quantised.names():
        if name not in in_nf4:
            assert torch.equal(state[name], quantised.tensor(name)), name
            continue
        layer = model.get_submodule(name.removesuffix(".weight"))
        assert isinstance(layer, Nf4Weight) and name not in state
        for part in PARTS:
            value, expected = getattr(layer.nf4, part), getattr(quantised.nf4(name), part)
            assert value is expected is None or torch.equal(value, expected), (name, part)


def test_a_killed_training_goes_on_to_the_same_adapter(project, trained):
    name, expected, _ = trained
    words = of_speaker(project, name, f"killed_{name}")
    out = project / f"killed_{name}" / SPEAKER
    kill_and_resume("lors.bin.train", words, out, SMALL["max_epoch"])
    assert_same_training(out, expected)
