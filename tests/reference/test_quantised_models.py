"""Quantised Whisper and ESPnet models: inference, adapters and training, against full precision."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lors.checkpoint.adapter import open_adapter
from lors.checkpoint.adapter_base import record_base
from lors.checkpoint.expert import open_model
from lors.checkpoint.quantised import open_quantised
from lors.checkpoint.reader import Checkpoint
from lors.errors import UsageError
from lors.merge.extract import METHOD_OF, extract
from lors.merge.run import MergePlan, run_merge
from lors.models import family_of, open_recogniser
from lors.models.nf4_layers import Nf4Weight, bytes_in_memory, load_quantised
from lors.models.quantise import quantise_directory
from lors.tasks import Pair
from tests.integration.recipe import ROOT
from tests.integration.tiny_s2t import make_model
from tests.integration.tiny_whisper import make_whisper
from tests.refusal import refusal

pytestmark = pytest.mark.espnet
PAIR = Pair("de", "asr")
TARGETS = {
    "whisper": ["query", "key", "value", "out", "mlp.0", "mlp.2", "conv1", "conv2"],
    "espnet_s2t": ["linear_q", "linear_k", "linear_v", "linear_out", "w_1", "w_2"],
}
WAVES = [np.random.default_rng(s).normal(0, 0.1, 16000 * 2).astype(np.float32) for s in (1, 2, 3)]


@pytest.fixture(scope="module", params=["whisper", "espnet_s2t"])
def models(request, tmp_path_factory):
    """Directories: full precision, quantised, and the quantised weights in full precision."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "whisper":
        from lors.models.whisper.import_base import import_whisper

        import_whisper(str(make_whisper(root / "tiny.pt", scale=3.0)), root / "base", "auto")
    else:
        make_model(root / "base")
    quantise_directory(root / "base", root / "quantised", double=True)
    quantised = open_quantised(root / "quantised")
    (root / "rounded").mkdir()
    (root / "rounded" / "config.yaml").write_bytes((root / "base" / "config.yaml").read_bytes())
    state = {name: quantised.tensor(name) for name in quantised.names()}
    torch.save(state, root / "rounded" / "model.pth")
    return root


def kind(root: Path) -> str:
    return family_of(root / "base").name


def options(root: Path, **changes):
    values = {"maxlenratio": 0.3} if kind(root) == "espnet_s2t" else {"max_tokens": 8}
    return family_of(root / "base").inference_options(**values, **changes)


def make_adapter(root: Path, out: Path, base, seed: int = 5) -> Path:
    """Write an adapter with random factors, as ESPnet's trainer does."""
    out.mkdir()
    conf = {"rank": 2, "alpha": 8, "target_modules": TARGETS[kind(root)]}
    (out / "config.yaml").write_text(yaml.safe_dump({"adapter_conf": conf}))
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name in base.names():
        shape = base.shape(name)
        if len(shape) > 1 and name.removesuffix(".weight").endswith(tuple(conf["target_modules"])):
            for part, size in (("A", (2, math.prod(shape[1:]))), ("B", (shape[0], 2))):
                values = torch.randn(size, generator=generator) * 0.2
                state[name.removesuffix("weight") + f"lora_{part}"] = values
    torch.save(state, out / "model.pth")
    record_base(base, out)
    return out


def test_weights_are_quantised_and_stay_so(models):
    recogniser = open_recogniser(models / "quantised")
    layers = [m for m in recogniser.model.modules() if isinstance(m, Nf4Weight)]
    assert len(layers) == len(open_quantised(models / "quantised").quantised_names()) > 10
    recogniser.transcribe(WAVES, PAIR, options(models))
    assert all("weight" not in layer._parameters for layer in layers)
    left = sum(p.numel() for p in recogniser.model.parameters() if p.ndim > 1)
    full = bytes_in_memory(open_recogniser(models / "base").model)
    assert left * 4 < 0.2 * full
    assert bytes_in_memory(recogniser.model) < full / 2


@pytest.mark.parametrize("beam_size", [1, 2])
def test_texts_are_those_of_the_rounded_weights(models, beam_size):
    chosen = options(models, beam_size=beam_size)
    texts = open_recogniser(models / "quantised").transcribe(WAVES, PAIR, chosen)
    assert texts == open_recogniser(models / "rounded").transcribe(WAVES, PAIR, chosen)
    assert any(texts)


@pytest.mark.parametrize("beam_size", [1, 2])
def test_adapter_on_a_quantised_model(models, tmp_path, beam_size):
    """Equal to the adapter on the rounded weights; and it is used."""
    quantised = open_quantised(models / "quantised")
    adapter = make_adapter(models, tmp_path / "speaker", quantised)
    chosen = options(models, beam_size=beam_size)
    texts = open_recogniser(adapter).transcribe(WAVES, PAIR, chosen)
    rounded = open_model(models / "rounded" / "model.pth")
    adapted = open_adapter(rounded, Checkpoint.open(adapter / "model.pth"))
    full = open_recogniser(models / "rounded")
    full.load_state({name: adapted.tensor(name) for name in adapted.names()})
    assert texts == full.transcribe(WAVES, PAIR, chosen)
    assert texts != open_recogniser(models / "quantised").transcribe(WAVES, PAIR, chosen)


def test_a_whole_weight_beside_factors(models, tmp_path):
    """A tensor in 4 bits counts too: the model would be used without the change."""
    quantised = open_quantised(models / "quantised")
    adapter = make_adapter(models, tmp_path / "speaker", quantised)
    state = torch.load(adapter / "model.pth", weights_only=True)
    in_4_bits = {*quantised.quantised_names()}
    adapted = {f"{name.removesuffix('lora_A')}weight" for name in state}
    for names in (in_4_bits - adapted, {*quantised.names()} - in_4_bits):
        name = min(names)
        weight = quantised.tensor(name)
        torch.save({**state, name: weight}, adapter / "model.pth")
        open_recogniser(adapter)
        torch.save({**state, name: weight + 1}, adapter / "model.pth")
        with refusal(adapter / "model.pth", name, "without factors"):
            open_recogniser(adapter)


def test_adapter_of_a_group_on_a_quantised_model(models, tmp_path, monkeypatch):
    """Two adapters merged in full precision, extracted, and added to the model in 4 bits."""
    linear = [name for name in TARGETS[kind(models)] if not name.startswith("conv")]
    monkeypatch.setitem(TARGETS, kind(models), linear)
    quantised, base = open_quantised(models / "quantised"), models / "base" / "model.pth"
    speakers = [make_adapter(models, tmp_path / f"{s}", quantised, s) / "model.pth" for s in (1, 2)]
    merged, group, policy = tmp_path / "merged" / "model.pth", tmp_path / "group", kind(models)
    sums = {"scaling_coef": 1.0}
    run_merge(MergePlan(str(base), (*map(str, speakers),), "average", sums, policy), merged)
    plan = MergePlan(str(base), (str(merged),), METHOD_OF["lora"], {"rank": 4}, policy)
    extract(plan, "lora", group, quantised_base=models / "quantised")
    adapted = [open_adapter(quantised, Checkpoint.open(path)) for path in speakers]
    state = {name: quantised.tensor(name) for name in quantised.names()}
    changed = {n: [a.delta(n) for a in adapted] for n in state if adapted[0].factors(n) is not None}
    state |= {name: state[name] + sum(deltas) / 2 for name, deltas in changed.items()}
    recogniser = open_recogniser(group)
    layers = {f"{name}.weight": layer for name, layer in recogniser.model.named_modules()}
    assert changed and all(isinstance(layers[name], Nf4Weight) for name in changed)
    for name in changed:
        assert torch.allclose(layers[name].weight, state[name], atol=1e-4), name
    expected = open_recogniser(models / "rounded")
    expected.load_state(state)
    texts = recogniser.transcribe(WAVES, PAIR, options(models))
    assert texts == expected.transcribe(WAVES, PAIR, options(models)) and any(texts)


def test_adapter_fits_the_full_model_and_no_other(models, tmp_path):
    quantised = open_quantised(models / "quantised")
    adapter = Checkpoint.open(make_adapter(models, tmp_path / "a", quantised) / "model.pth")
    base = open_model(models / "base" / "model.pth")
    for fitting in (base, quantised, open_model(models / "rounded" / "model.pth")):
        open_adapter(fitting, adapter)
    of_base = Checkpoint.open(make_adapter(models, tmp_path / "b", base) / "model.pth")
    open_adapter(quantised, of_base)
    state = {name: base.tensor(name) + 1 for name in base.names()}
    torch.save(state, tmp_path / "other.pth")
    for trained in (adapter, of_base):
        with refusal("other.pth", trained.path):
            open_adapter(open_model(tmp_path / "other.pth"), trained)


def test_gradients_are_those_of_the_rounded_weights(models):
    """Forward and backward pass of adapters on weights in 4 bits and on the same weights in 32."""
    found = {}
    for name in ("rounded", "quantised"):
        model = training_model(models, name)
        torch.manual_seed(1)
        for key, parameter in model.named_parameters():
            if key.endswith("lora_B"):
                torch.nn.init.normal_(parameter, std=0.1)
        model.train()
        loss = loss_of(models, model)
        loss.backward()
        trained = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
        found[name] = (loss.detach(), trained)
        assert trained and all(".lora_" in key for key in trained)
        assert all(p.grad is None for k, p in model.named_parameters() if ".lora_" not in k)
    (loss, gradients), (other_loss, others) = found["rounded"], found["quantised"]
    assert torch.allclose(loss, other_loss, rtol=1e-5)
    assert gradients.keys() == others.keys()
    for key, gradient in gradients.items():
        assert torch.allclose(gradient, others[key], rtol=1e-3, atol=1e-6), key
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values())


def test_no_dequantised_weight_waits_for_the_backward_pass(models):
    found = {}
    for name in ("rounded", "quantised"):
        model = training_model(models, name)
        model.train()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tuple(tensor.shape)) or tensor, lambda t: t
        ):
            loss_of(models, model)
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        shapes = {tuple(layer.weight.shape) for layer in linear}
        found[name] = [s for s in saved if len(s) == 2 and {s, s[::-1]} & shapes]
    assert found["rounded"] and not found["quantised"]


def task_of(root: Path):
    if kind(root) == "whisper":
        from lors.models.whisper.task import WhisperTask

        return WhisperTask
    from lors.models.espnet_s2t.task import S2TTask

    return S2TTask


def training_args(root: Path, conf, **changes):
    """Return ESPnet's options to train an adapter on the quantised model."""
    import argparse

    config = yaml.safe_load((root / "base" / "config.yaml").read_text())
    options = {"use_adapter": True, "adapter": "lora", "save_strategy": "adapter_only"}
    options["quantised_base"] = str(root / "quantised" / "model.safetensors")
    return argparse.Namespace(
        **{"model_conf": {}, **config}, **{**options, "adapter_conf": conf, **changes}
    )


def training_model(root: Path, name: str):
    """Return ESPnet's model with LoRA layers, the same factors in each call."""
    import argparse

    from espnet2.layers.create_adapter import create_adapter

    from lors.models.lora_layers import convolutions_to_lora

    config = yaml.safe_load((root / "base" / "config.yaml").read_text())
    conf = {"rank": 2, "alpha": 8, "dropout_rate": 0.0, "target_modules": TARGETS[kind(root)]}
    task = task_of(root)
    torch.manual_seed(0)
    if name == "quantised":
        return task.build_model(training_args(root, conf))
    model = task.build_model(argparse.Namespace(**{"model_conf": {}, **config}))
    convolutions_to_lora(model, **conf)
    create_adapter(model, "lora", conf)
    state = torch.load(root / "rounded" / "model.pth", weights_only=True)
    model.load_state_dict(state, strict=False)
    for key, parameter in model.named_parameters():
        parameter.requires_grad = ".lora_" in key
    for module in model.modules():
        if hasattr(module, "merged"):
            module.merge_weights, module.merged = False, False
    return model


MODES = {
    "whisper": sorted((ROOT / "conf").glob("train_whisper_pqm*.yaml")),
    "espnet_s2t": [ROOT / "egs/mini_covost/pqm1/conf/train_sat.yaml"],
}


def test_every_mode_of_adapters_as_espnet_builds_it(models):
    """ESPnet adds adapters once more to the model that has them: to no other layer."""
    from espnet2.layers.create_adapter import create_adapter

    found = []
    for path in MODES[kind(models)]:
        conf = yaml.safe_load(path.read_text())["adapter_conf"]
        assert conf["dropout_rate"] > 0
        args = training_args(models, conf)
        model = task_of(models).build_model(args)
        adapted = {name for name, _ in model.named_parameters() if ".lora_" in name}
        create_adapter(model, args.adapter, args.adapter_conf)
        assert {name for name, _ in model.named_parameters() if ".lora_" in name} == adapted
        layers = {name.rpartition(".lora_")[0] for name in adapted}
        assert layers and all(name.endswith(tuple(conf["target_modules"])) for name in layers)
        found.append(layers)
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(parameter, std=0.1)
        with torch.no_grad():
            for training, same in ((False, True), (True, False)):
                model.train(training)
                losses = []
                for seed in (1, 2):
                    torch.manual_seed(seed)
                    losses.append(loss_of(models, model))
                assert torch.equal(*losses) == same, (path, training)
    assert len({*map(frozenset, found)}) == len(found)


@pytest.mark.parametrize(
    ("key", "value"), [("use_adapter", False), ("adapter", "houlsby"), ("save_strategy", "all")]
)
def test_a_training_that_leaves_no_adapter_alone(models, key, value):
    conf = {"target_modules": TARGETS[kind(models)]}
    with refusal(f"{key}: {value}", kind=UsageError):
        task_of(models).build_model(training_args(models, conf, **{key: value}))


def test_an_embedding_has_no_adapter(models):
    """It looks up rows of its weight alone: the factors would get no gradient."""
    embedding = {"whisper": "decoder.token_embedding", "espnet_s2t": "decoder.embed.0"}[
        kind(models)
    ]
    conf = {"target_modules": [*TARGETS[kind(models)], embedding]}
    with refusal("target_modules", embedding, kind=UsageError) as caught:
        task_of(models).build_model(training_args(models, conf))
    assert caught.value.facts == [embedding]


@pytest.fixture(scope="module")
def conformer(tmp_path_factory):
    """A model with linear layers in full precision: those of relative positions."""
    root = tmp_path_factory.mktemp("conformer")
    conf = {"input_layer": "linear", "output_size": 16, "attention_heads": 2, "linear_units": 32}
    conf |= {"num_blocks": 1, "rel_pos_type": "latest", "pos_enc_layer_type": "rel_pos"}
    conf |= {"selfattention_layer_type": "rel_selfattn", "cnn_module_kernel": 3}
    make_model(root / "base", encoder="conformer", encoder_conf=conf)
    quantise_directory(root / "base", root / "quantised")
    return root


def test_layers_in_full_precision_have_no_adapter(conformer, tmp_path, monkeypatch):
    layer, targets = "encoder.encoders.0.self_attn.linear_pos", ["linear_q", "linear_pos"]
    conf = {"target_modules": targets}
    with refusal("target_modules", layer, kind=UsageError) as caught:
        task_of(conformer).build_model(training_args(conformer, conf))
    assert caught.value.facts == [layer]
    monkeypatch.setitem(TARGETS, "espnet_s2t", targets)
    base = open_model(conformer / "base" / "model.pth")
    full = make_adapter(conformer, tmp_path / "full", base)
    open_recogniser(full)
    quantised = open_quantised(conformer / "quantised")
    with refusal(f"{layer}.weight", "full precision") as caught:
        open_recogniser(make_adapter(conformer, tmp_path / "speaker", quantised))
    assert caught.value.facts == [f"{layer}.weight"]


def test_weights_without_factors_are_not_left_out(models, tmp_path):
    """An adapter file that holds a trained bias too."""
    quantised = open_quantised(models / "quantised")
    adapter = make_adapter(models, tmp_path / "speaker", quantised)
    state = torch.load(adapter / "model.pth", weights_only=True)
    bias = next(name for name in quantised.names() if name.endswith(".bias"))
    state[bias] = quantised.tensor(bias)
    torch.save(state, adapter / "model.pth")
    open_recogniser(adapter)
    state[bias] = quantised.tensor(bias) + 1
    torch.save(state, adapter / "model.pth")
    with refusal(adapter / "model.pth", bias, "full precision"):
        open_recogniser(adapter)


def loss_of(root: Path, model):
    speech = torch.from_numpy(np.stack(WAVES))
    lengths = torch.full((3,), speech.shape[1])
    if kind(root) == "whisper":
        text = torch.tensor([[50258, 50261, 50359, 50363, 100, 200, 50257]] * 3)
        return model(speech, lengths, text, torch.full((3,), 7))[0]
    text = torch.tensor([[20, 21, 22, 23]] * 3)
    text_lengths = torch.full((3,), 4)
    more = {"text_prev": text, "text_prev_lengths": text_lengths}
    more |= {"text_ctc": text, "text_ctc_lengths": text_lengths}
    return model(speech, lengths, text, text_lengths, **more)[0]


def test_other_weights_are_refused(models, tmp_path):
    model = open_recogniser(models / "base").model
    other = tmp_path / "other"
    if kind(models) == "whisper":
        from lors.models.whisper.import_base import import_whisper

        import_whisper(str(make_whisper(tmp_path / "t.pt", n_audio_layer=1)), other, "auto")
    else:
        encoder = {"input_layer": "conv1d2", "output_size": 16, "attention_heads": 2}
        make_model(other, encoder_conf={**encoder, "linear_units": 32, "num_blocks": 1})
    quantise_directory(other, tmp_path / "q")
    with refusal("model.safetensors", "missing"):
        load_quantised(model, open_quantised(tmp_path / "q"))


def test_quantising_again_is_skipped_and_other_settings_are_refused(models):
    before = (models / "quantised" / "model.safetensors").stat().st_mtime_ns
    quantise_directory(models / "base", models / "quantised", double=True)
    assert (models / "quantised" / "model.safetensors").stat().st_mtime_ns == before
    with refusal("double"):
        quantise_directory(models / "base", models / "quantised", double=False)


def test_english_only_model(tmp_path):
    """Texts are those of openai-whisper; the loss is that of the tokens after the prompt."""
    import argparse

    import whisper

    from lors.models.whisper.import_base import import_whisper
    from lors.models.whisper.prompts import encode
    from lors.models.whisper.task import WhisperTask

    pair = Pair("en-x-anna", "asr")
    official = make_whisper(tmp_path / "tiny.en.pt", scale=3.0, n_vocab=51864)
    import_whisper(str(official), tmp_path / "base")
    family = family_of(tmp_path / "base")
    options = family.inference_options(max_tokens=8)
    texts = open_recogniser(tmp_path / "base").transcribe(WAVES, pair, options)
    model = whisper.load_model(str(official), "cpu")
    chosen = {"without_timestamps": True, "fp16": False, "sample_len": 8}
    for wave, text in zip(WAVES, texts, strict=True):
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(wave))
        decoded = whisper.decode(model, mel, whisper.DecodingOptions(language="en", **chosen))
        assert text == decoded.text
    config = yaml.safe_load((tmp_path / "base" / "config.yaml").read_text())
    trained = WhisperTask.build_model(argparse.Namespace(**config, model_conf={}))
    trained.load_state_dict(model.state_dict())
    trained.eval()
    speech = torch.from_numpy(whisper.pad_or_trim(WAVES[0]))[None]
    ids = torch.tensor([encode("<|notimestamps|> Good morning.", family.prompts.tokenizer)])
    samples, tokens = torch.tensor([speech.shape[1]]), torch.tensor([ids.shape[1]])
    with torch.no_grad():
        loss = trained(speech, samples, ids, tokens)[0]
        logits = model(whisper.log_mel_spectrogram(speech), ids[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits[0, 1:], ids[0, 2:])
    assert torch.allclose(loss, expected, rtol=1e-4)
