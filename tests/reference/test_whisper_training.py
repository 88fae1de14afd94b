"""Whisper's training step, and training through ESPnet, against plain torch."""

import argparse
import re

import numpy as np
import pytest
import torch
import whisper

from lors.checkpoint.expert import open_expert
from lors.checkpoint.reader import Checkpoint
from lors.config import read_yaml
from lors.merge.run import MergePlan, run_merge
from lors.models import open_recogniser
from lors.models.whisper.conf import WhisperConf, WhisperOptions
from lors.models.whisper.import_base import import_whisper
from lors.models.whisper.prompts import encode, tokenizer_of
from lors.recipe.train import collect_stats, train, train_sequence
from lors.recipe.training_config import fine_tuning_config
from lors.tasks import Pair
from tests.integration.recipe import ROOT
from tests.integration.tiny_whisper import DIMS, make_whisper
from tests.reference.small_trainings import write_noise
from tests.refusal import refusal

pytestmark = pytest.mark.espnet
LINES = [
    "<|de|><|transcribe|><|notimestamps|> Guten Tag.",
    "<|es|><|translate|><|notimestamps|> It is raining cats and dogs today.",
    "<|fr|><|transcribe|><|notimestamps|> ",
]
WINDOW = 2.0


@pytest.fixture(scope="module")
def batch():
    from lors.models.whisper.task import WhisperTask

    args = argparse.Namespace(whisper_conf={"dims": DIMS, "window": WINDOW})
    prepare = WhisperTask.build_preprocess_fn(args, train=True)
    rng = np.random.default_rng(0)
    rows = []
    for number, line in enumerate(LINES):
        speech = rng.normal(size=9000 * (number + 1)).astype(np.float32) * 0.1
        rows.append((str(number), prepare(str(number), {"speech": speech, "text": line})))
    return WhisperTask.build_collate_fn(args, train=True)(rows)[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = make_whisper(tmp_path_factory.mktemp("whisper") / "tiny.pt", scale=3)
    return path, torch.load(path, weights_only=True)["model_state_dict"]


def model(weights, **settings):
    from lors.models.whisper.task import WhisperESPnetModel

    made = WhisperESPnetModel(WhisperConf(DIMS, WINDOW), **settings)
    made.load_state_dict(weights[1], strict=True)  # the very names of OpenAI's file
    return made


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_accuracy(batch, weights, smoothing):
    """Compare with OpenAI's model, utterance by utterance; the loss leaves the prompt out."""
    theirs = whisper.load_model(str(weights[0]))
    theirs.encoder.positional_embedding = theirs.encoder.positional_embedding[:100]
    tokenizer = tokenizer_of(DIMS["n_vocab"])
    losses, right = [], []
    for speech, line in zip(batch["speech"], LINES, strict=True):
        ids = torch.tensor(encode(line, tokenizer))
        mel = whisper.log_mel_spectrogram(speech)
        logits = theirs(mel[None], ids[None, :-1])[0][3:].double()
        target = ids[4:]
        log_probs = logits.log_softmax(-1)
        exact = -log_probs.gather(1, target[:, None])[:, 0]
        losses += ((1 - smoothing) * exact - smoothing * log_probs.mean(-1)).tolist()
        right += (logits.argmax(-1) == target).tolist()
    loss, stats, number = model(weights, lsm_weight=smoothing)(**batch)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert stats["acc"].item() == pytest.approx(np.mean(right))
    assert number.item() == len(LINES)


def test_no_utterance_depends_on_the_others(batch, weights):
    made = model(weights)
    whole = made(**batch)[0]
    lengths = [len(encode(line, tokenizer_of(DIMS["n_vocab"]))) for line in LINES]
    parts = 0
    for row, length in enumerate(lengths):
        single = {name: value[row : row + 1] for name, value in batch.items()}
        single["text"] = single["text"][:, :length]
        parts += made(**single)[0] * (length - 4)
    assert whole.item() == pytest.approx(parts.item() / (sum(lengths) - 4 * 3), rel=1e-5)


def test_gradient_checkpointing_changes_no_gradient(batch, weights):
    gradients = []
    for checkpointing in (False, True):
        made = model(weights, gradient_checkpointing=checkpointing).train()
        made(**batch)[0].backward()
        gradients.append({name: p.grad for name, p in made.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_augmentation_in_training_only(batch, weights):
    from espnet2.asr.specaug.specaug import SpecAug

    augment = SpecAug(apply_time_warp=False, freq_mask_width_range=[20, 27], apply_time_mask=False)
    plain, masked = model(weights), model(weights, specaug=augment)
    assert masked.eval()(**batch)[0] == plain.eval()(**batch)[0]
    assert masked.train()(**batch)[0] != plain.train()(**batch)[0]


def test_features_for_statistics(batch, weights):
    made = model(weights).collect_feats(**batch)
    assert made["feats"].shape == (len(LINES), 200, 80)  # two seconds
    assert made["feats_lengths"].tolist() == [200] * len(LINES)


# --- through ESPnet's trainer


@pytest.fixture(scope="module")
def project(tmp_path_factory, weights):
    """A base model and data of two languages and tasks."""
    root = tmp_path_factory.mktemp("project")
    import_whisper(str(weights[0]), root / "base", window=WINDOW)
    write_noise(root, ("de", "es"), clips=4)
    return root


def run(project, out, pairs, config, training=train, stats_of=None):
    settings = read_yaml(ROOT / "conf" / f"train_whisper_{config}.yaml")
    settings |= {"batch_size": 4, "num_iters_per_epoch": 2, "max_epoch": 2, "num_workers": 0}
    settings["scheduler_conf"] |= {"total_steps": 4, "max_lr": 0.01}
    pairs = [Pair.parse(name) for name in pairs]
    complete = fine_tuning_config(project / "base", settings, pairs)
    stats = project / f"stats_{stats_of or out}"
    if stats_of is None:
        collect_stats(pairs, project / "dump", complete, stats)
    training(pairs, project / "dump", complete, project / out, stats=stats, seed=1)
    return project / out


@pytest.fixture(scope="module")
def joint(project):
    return run(project, "joint", ["de_asr", "de_st", "es_asr", "es_st"], "full")


@pytest.fixture(scope="module")
def adapter(project):
    return run(project, "adapter", ["de_asr"], "lora")


def test_one_run_mixes_languages_and_tasks(project, joint):
    """The shipped configuration works as it is, and its model is Whisper's state dict."""
    base = torch.load(project / "base" / "model.pth", weights_only=True)
    trained = torch.load(joint / "model.pth", weights_only=True)
    assert {n: v.shape for n, v in trained.items()} == {n: v.shape for n, v in base.items()}
    fixed = "encoder.positional_embedding"
    assert [n for n in base if torch.equal(base[n], trained[n])] == [fixed]
    prompts = set(re.findall(r"<\|\w+\|><\|\w+\|>", (joint / "data/train/text").read_text()))
    assert len(prompts) == 4
    assert "use_amp: true" in (joint / "config.yaml").read_text()


def test_shapes_are_collected_without_features(project, joint):
    stats = project / "stats_joint" / "train"
    shapes = (stats / "speech_shape").read_text().split()[1::2]
    assert shapes == ["32000"] * 16  # the window; two languages and tasks of four clips each
    assert not (stats / "feats_stats.npz").exists()


def test_merge_of_experts_and_inference(project, joint, tmp_path):
    plan = MergePlan(
        str(project / "base" / "model.pth"), (str(joint / "model.pth"),), "lors", {"rank": 3}
    )
    run_merge(plan, tmp_path / "merged" / "model.pth")
    merged = open_recogniser(tmp_path / "merged")
    waveforms = [np.ones(16000, dtype=np.float32) * 0.1] * 2
    assert len(merged.transcribe(waveforms, Pair("de", "st"), WhisperOptions(max_tokens=4))) == 2


def test_adapters_are_small_and_exact_products(project, adapter, weights):
    names = torch.load(adapter / "model.pth", weights_only=True).keys()
    assert all(re.search(r"\.lora_[AB]$", name) for name in names)
    assert len(names) == 2 * (2 * 6 + 2 * 10)  # encoder and decoder, two layers each
    log = (adapter / "train.log").read_text()
    [trained] = re.findall(r"Number of trainable parameters: \S+ \S+ \(([\d.]+)%\)", log)
    assert float(trained) < 5
    base = Checkpoint.open(project / "base" / "model.pth")
    query = "decoder.blocks.1.cross_attn.query.weight"
    up, down = open_expert(base, adapter / "model.pth").factors(query)
    assert up.shape == (32, 16) and down.shape == (16, 32) and up.abs().sum() > 0


def test_inference_with_an_adapter_is_that_of_the_merged_model(project, adapter):
    model = open_recogniser(adapter)
    factors = torch.load(adapter / "model.pth", weights_only=True)
    base = torch.load(project / "base" / "model.pth", weights_only=True)
    for name, value in model.model.state_dict().items():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A" in factors:
            product = factors[f"{stem}.lora_B"] @ factors[f"{stem}.lora_A"]
            torch.testing.assert_close(value, base[name] + product * 32 / 16)
        else:
            assert torch.equal(value, base[name])


def test_adapter_is_trained_on_from_pair_to_pair(project, joint, adapter):
    from espnet2.layers.create_adapter import create_adapter
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    from lors.models.espnet_trainer import keep_adapters_apart
    from lors.models.whisper.task import WhisperESPnetModel

    chain = run(project, "chain", ["de_asr", "es_st"], "lora", train_sequence, "joint")
    first = chain / "01_de_asr"
    alone, one, both = (
        torch.load(path / "model.pth", weights_only=True) for path in (adapter, first, chain)
    )
    assert alone.keys() == one.keys() == both.keys()
    for name, value in alone.items():
        torch.testing.assert_close(one[name], value)
        assert not torch.equal(one[name], both[name])
    # The second step starts from base and adapter, which together are the model of the first step.
    log = (chain / "02_es_st" / "train.log").read_text()
    starts = re.findall(r"Loading pretrained params from (\S+)", log)
    assert starts == [str(path / "model.pth") for path in (project / "base", first)]
    start = WhisperESPnetModel(WhisperConf(DIMS, WINDOW))
    create_adapter(start, "lora", read_yaml(first / "config.yaml")["adapter_conf"])
    for path in starts:
        load_pretrained_model(path, start, False)
    keep_adapters_apart(start)
    weights = start.eval().state_dict()  # eval() adds the adapter to the weights
    for name, value in open_recogniser(first).model.state_dict().items():
        torch.testing.assert_close(weights[name], value)
    # The chain is one adapter of the base model, and open_expert recognises it.
    expert = open_expert(Checkpoint.open(project / "base" / "model.pth"), chain / "model.pth")
    for name, value in open_recogniser(chain).model.state_dict().items():
        torch.testing.assert_close(value, expert.tensor(name))


def test_adapters_are_merged_as_they_are(project, adapter, tmp_path):
    base = torch.load(project / "base" / "model.pth", weights_only=True)
    files = (str(adapter / "model.pth"),)
    plan = MergePlan(
        str(project / "base" / "model.pth"), files, "task_arithmetic", {"scaling_coef": 0.5}
    )
    run_merge(plan, tmp_path / "merged" / "model.pth")
    merged = torch.load(tmp_path / "merged" / "model.pth", weights_only=True)
    expert = open_recogniser(adapter).model.state_dict()
    for name, value in merged.items():
        torch.testing.assert_close(value, (base[name] + expert[name]) / 2)


def test_adapter_of_another_base(project, adapter, tmp_path):
    make_whisper(tmp_path / "other.pt", seed=5)
    expert = adapter / "model.pth"
    with refusal(expert, "base.json"):
        open_expert(Checkpoint.open(tmp_path / "other.pt"), expert)
    # The same weights in another kind of file are the same base.
    half = {n: v.half() for n, v in torch.load(project / "base/model.pth").items()}
    torch.save(half, tmp_path / "half.pth")
    with refusal(expert, "base.json"):
        open_expert(Checkpoint.open(tmp_path / "half.pth"), expert)
    state = torch.load(project / "base/model.pth", weights_only=True)
    torch.save({"dims": DIMS, "model_state_dict": state}, tmp_path / "again.pt")
    open_expert(Checkpoint.open(tmp_path / "again.pt"), expert)
