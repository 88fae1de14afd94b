"""Adapters of ``lors extract`` in PEFT and transformers: the base model and best approximations."""

import warnings

import numpy as np
import pytest
import torch

from lors.bin.extract import main
from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.naming import names_in

RANK = 3
ENDS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@pytest.fixture(scope="module")
def models(small_whisper, tmp_path_factory):
    """The directories of a small Whisper of Hugging Face and of a model fine-tuned from it."""
    folder = tmp_path_factory.mktemp("models")
    model = small_whisper
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(folder / "expert")
    return folder / "base", folder / "expert"


def loaded(path):
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(path).eval()


def logits(model):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 4, 12, generator=generator)
    tokens = torch.tensor([[2, 7, 9, 30], [2, 40, 3, 8]])
    with torch.no_grad():
        return model(input_features=features, decoder_input_ids=tokens).logits


def approximated(base, expert, rank=RANK):
    """The base model with the best approximation of each linear layer, and the energy it holds."""
    state, other = base.state_dict(), expert.state_dict()
    shares = {}
    for name in state:
        if name.endswith(".weight") and name.split(".")[-2] in ENDS:
            delta = (other[name] - state[name]).double().numpy()
            left, values, right = np.linalg.svd(delta, full_matrices=False)
            best = (left[:, :rank] * values[:rank]) @ right[:rank]
            shares[name] = (values[:rank] ** 2).sum() / max((values**2).sum(), 1e-30)
            state[name] += torch.from_numpy(best).float()
    base.load_state_dict(state)
    return base, shares


def opened_by_peft(peft, base, adapter):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(loaded(base), adapter).eval()
    assert not [str(w.message) for w in caught if "missing" in str(w.message).lower()]
    return model


@pytest.mark.parametrize("rank", [RANK, 40])
def test_peft_and_transformers_load_the_best_approximation(peft, models, tmp_path, rank):
    base, expert = models
    out = tmp_path / "lora"
    given = ["--base", str(base), "--expert", str(expert), "--out", str(out)]
    assert main([*given, "--as", "lora", "--rank", str(rank)]) == 0
    model, _ = approximated(loaded(base), loaded(expert), rank)
    expected = logits(model)
    assert (expected - logits(loaded(base))).abs().max() > 1e-2
    wrapped = opened_by_peft(peft, base, out)
    assert torch.allclose(logits(wrapped), expected, atol=1e-5)
    assert torch.allclose(logits(wrapped.merge_and_unload()), expected, atol=1e-5)
    own = loaded(base)
    own.load_adapter(str(out))  # of transformers itself
    assert torch.allclose(logits(own), expected, atol=1e-5)
    state = model.state_dict()
    found = open_expert(open_model(base), out)
    assert all(torch.allclose(found.tensor(name), state[name], atol=1e-6) for name in found.names())


def test_the_printed_energies_are_those_of_the_singular_values(peft, models, tmp_path, capsys):
    base, expert = models
    given = ["--base", str(base), "--expert", str(expert), "--out", str(tmp_path / "lora")]
    assert main([*given, "--as", "lora", "--rank", str(RANK)]) == 0
    _, shares = approximated(loaded(base), loaded(expert))
    printed = dict(line.split()[::2][:2] for line in capsys.readouterr().out.splitlines()[1:33])
    assert printed == {name: f"{100 * share:.1f}" for name, share in shares.items()}


def test_an_adapter_of_a_whisper_under_the_names_of_openai(peft, models, tmp_path):
    """transformers is the program that will load it."""
    base, expert = models
    paths = {}
    for name, path in (("base", base), ("expert", expert)):
        model = open_model(path)
        names = names_in("openai", model.names())
        paths[name] = tmp_path / f"{name}.pth"
        torch.save({new: model.tensor(old) for old, new in names.items()}, paths[name])
    out = tmp_path / "lora"
    given = ["--base", str(paths["base"]), "--expert", str(paths["expert"]), "--out", str(out)]
    assert main([*given, "--as", "lora", "--rank", str(RANK)]) == 0
    expected = logits(approximated(loaded(base), loaded(expert))[0])
    assert torch.allclose(logits(opened_by_peft(peft, base, out)), expected, atol=1e-5)


def test_layers_that_have_not_changed(peft, models, tmp_path):
    """PEFT adapts exactly the layers that the adapter has factors for."""
    base, expert = models
    changed = loaded(expert)
    state, unchanged = changed.state_dict(), loaded(base).state_dict()
    state["model.encoder.layers.1.fc1.weight"] = unchanged["model.encoder.layers.1.fc1.weight"]
    changed.load_state_dict(state)
    changed.save_pretrained(tmp_path / "expert")
    given = ["--base", str(base), "--expert", str(tmp_path / "expert")]
    out = tmp_path / "lora"
    assert main([*given, "--out", str(out), "--as", "lora", "--rank", str(RANK)]) == 0
    expected = logits(approximated(loaded(base), changed)[0])
    wrapped = opened_by_peft(peft, base, out)
    assert torch.allclose(logits(wrapped), expected, atol=1e-5)
    adapted = [name for name, _ in wrapped.named_modules() if name.endswith("lora_A.default")]
    assert len(adapted) == 31 and not any("encoder.layers.1.fc1" in name for name in adapted)
