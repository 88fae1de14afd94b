"""wav2vec 2.0 against transformers: import, losses, inference; training through ESPnet."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml

from lors.bin import find_masks, pack_subnets, train, train_subnet
from lors.checkpoint.expert import open_model
from lors.checkpoint.masks import Masks
from lors.checkpoint.reader import Checkpoint
from lors.config import read_yaml
from lors.data.datadir import Utterance, write_data_dir
from lors.errors import LorsError
from lors.merge.plan import MergePlan
from lors.merge.run import run_merge
from lors.models import FAMILIES, family_of, open_recogniser
from lors.models.wav2vec2.conf import Wav2Vec2Options
from lors.models.wav2vec2.vocabulary import decode
from lors.recipe import launch
from lors.recipe import train as training
from lors.recipe.expdir import ExpDir
from lors.recipe.mask_rounds import train_in_two_rounds
from lors.recipe.subnetworks import LanguageModels, find_masks_of
from lors.recipe.training_config import fine_tuning_config
from lors.subnet.find import find_masks as find
from lors.tasks import pairs_of
from tests.full_disk import largest_file
from tests.integration.recipe import ROOT
from tests.integration.tiny_wav2vec2 import CONFIG, PACKAGES, environment, make_wav2vec2
from tests.reference.small_trainings import two_processes
from tests.refusal import refusal

pytestmark = pytest.mark.espnet

LANGS = ["de", "es"]
TEXTS = {"de": "Größe, ja!", "es": "¿Qué año?"}
PAIRS = pairs_of(LANGS, ["asr"])
SYSTEM = "s3net_taylor_50"
OPTIONS = Wav2Vec2Options(batch_size=3)


@pytest.fixture(scope="module", autouse=True)
def packages():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
        for name, value in environment().items():
            patch.setenv(name, value)
        pytest.importorskip("transformers", reason="transformers is not installed")
        # ESPnet runs in this process: every start of it takes many seconds with transformers.
        patch.setattr(training, "run_training", run_here)
        yield


def run_here(command, out, processes):
    from lors.models.wav2vec2.task import Wav2Vec2Task

    assert command[1:3] == ["-m", "lors.bin.wav2vec2_train"]
    Wav2Vec2Task.main(cmd=command[3:])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Data of two languages, a published model, and the base model imported from it."""
    root, rng = tmp_path_factory.mktemp("wav2vec2"), np.random.default_rng(1)
    for lang in LANGS:
        for split in ("train", "dev"):
            rows = []
            for number in range(6):
                path = root / "audio" / f"{lang}-{split}-{number}.flac"
                path.parent.mkdir(exist_ok=True)
                soundfile.write(path, rng.normal(size=8000 + 400 * number) * 0.1, 16000)
                name, seconds = f"spk{number}-{lang}-{split}", (8000 + 400 * number) / 16000
                rows.append(
                    Utterance(name, str(path), f"spk{number}", lang, TEXTS[lang], {}, seconds)
                )
            write_data_dir(root / "dump" / lang / split, rows)
    make_wav2vec2(root / "published")
    imported(root / "published", root)
    return root


def imported(source, root, out="base"):
    options = {"langs": " ".join(LANGS), "dumpdir": str(root / "dump")}
    FAMILIES["wav2vec2"].import_base(str(source), root / out, options)
    return root / out


def state(directory):
    return torch.load(directory / "model.pth", weights_only=True)


# --- import -------------------------------------------------------------------------------------


def test_base_model_of_transformers(project):
    from safetensors.torch import load_file

    published, found = load_file(project / "published/model.safetensors"), state(project / "base")
    assert all(torch.equal(found[name], value) for name, value in published.items())
    assert set(found) - set(published) == {"lm_head.weight", "lm_head.bias"}
    conf = family_of(project / "base").conf
    assert conf.tokens == ("<pad>", "<unk>", "|", *sorted(set("größejaquéaño")))
    assert conf.pads and conf.config["hidden_size"] == 16
    before = (project / "base/model.pth").stat().st_mtime_ns
    imported(project / "published", project)
    assert (project / "base/model.pth").stat().st_mtime_ns == before
    again = imported(project / "base", project, "again")  # a model of a recipe, with its CTC layer
    assert all(torch.equal(state(again)[name], value) for name, value in found.items())
    assert read_yaml(again / "source.yaml")["new tensors"] == []
    fewer = {"langs": "es", "dumpdir": str(project / "dump")}  # all characters are known
    FAMILIES["wav2vec2"].import_base(str(project / "base"), project / "es", fewer)
    assert family_of(project / "es").conf == conf
    FAMILIES["wav2vec2"].import_base(str(project / "published"), project / "new_es", fewer)
    assert len(family_of(project / "new_es").conf.tokens) < len(conf.tokens)
    back = imported(project / "new_es", project, "more")
    assert family_of(back).conf == conf
    assert set(read_yaml(back / "source.yaml")["new tensors"]) == {"lm_head.weight", "lm_head.bias"}


def test_base_model_of_the_hub(project, hub, tmp_path):
    files = {path.name: path.read_bytes() for path in (project / "published").iterdir()}
    hub.add("org/xlsr", {**files, "preprocessor_config.json": b'{"do_normalize": false}'})
    options = {"langs": " ".join(LANGS), "dumpdir": str(project / "dump")}
    FAMILIES["wav2vec2"].import_base("org/xlsr", tmp_path / "base", options)
    assert not family_of(tmp_path / "base").conf.normalise
    found, local = state(tmp_path / "base"), state(project / "base")
    assert all(torch.equal(found[name], value) for name, value in local.items())
    source = read_yaml(tmp_path / "base/source.yaml")["source"]
    assert source == f"hf://org/xlsr@{hub.repos['org/xlsr'].refs['main']}"
    with refusal("no such model directory", str(tmp_path / "none"), kind=LorsError):
        FAMILIES["wav2vec2"].import_base(str(tmp_path / "none"), tmp_path / "no", options)


def test_a_full_disk_while_importing(project, tmp_path):
    (tmp_path / "dump").symlink_to(project / "dump")
    half = (project / "base/model.pth").stat().st_size // 2
    with refusal("model.pth", "File too large"), largest_file(half):
        imported(project / "published", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dump"]


def test_base_model_of_a_recipe_on_the_hub(project, hub, tmp_path):
    """Its files are those of a recipe; an optimizer beside them is not downloaded."""
    files = {path.name: path.read_bytes() for path in (project / "base").glob("[!.]*")}
    hub.add("org/recipe", {**files, "optimizer.bin": b"junk"})
    options = {"langs": " ".join(LANGS), "dumpdir": str(project / "dump")}
    FAMILIES["wav2vec2"].import_base("org/recipe", tmp_path / "base", options)
    found, local = state(tmp_path / "base"), state(project / "base")
    assert all(torch.equal(found[name], value) for name, value in local.items())
    assert family_of(tmp_path / "base").conf == family_of(project / "base").conf
    source = read_yaml(tmp_path / "base/source.yaml")
    assert source["source"] == f"hf://org/recipe@{hub.repos['org/recipe'].refs['main']}/model.pth"
    assert source["new tensors"] == [] and "optimizer.bin" not in hub.fetched()


def test_base_model_with_another_ctc_layer(project, tmp_path):
    """A fine-tuned model of others: its CTC layer is replaced, the pre-training head is new."""
    make_wav2vec2(tmp_path / "ctc", ctc=True)
    (tmp_path / "ctc/preprocessor_config.json").write_text('{"do_normalize": false}')
    (tmp_path / "dump").symlink_to(project / "dump")
    base = imported(tmp_path / "ctc", tmp_path)
    new = read_yaml(base / "source.yaml")["new tensors"]
    assert {name.split(".")[0] for name in new} == {
        *("lm_head", "quantizer", "project_hid", "project_q")
    }
    assert not family_of(base).conf.normalise
    assert state(base)["lm_head.weight"].shape == (len(family_of(base).conf.tokens), 16)


def test_models_that_are_refused(project, tmp_path):
    (tmp_path / "dump").symlink_to(project / "dump")
    with refusal("nowhere"):
        imported(tmp_path / "nowhere", tmp_path)
    config = json.loads((project / "published/config.json").read_text())
    for name, key, value in (("other", "model_type", "hubert"), ("adapter", "add_adapter", True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**config, key: value}))
        weights = (project / "published/model.safetensors").read_bytes()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        with pytest.raises(LorsError, match=name):
            imported(tmp_path / name, tmp_path)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/config.json").write_text(json.dumps(config))
    (tmp_path / "torn/model.safetensors").write_bytes(weights[: len(weights) // 2])
    with refusal("torn"):
        imported(tmp_path / "torn", tmp_path)
    assert not (tmp_path / "base").exists()


# --- losses and inference -----------------------------------------------------------------------


def waveforms(number=5):
    rng = np.random.default_rng(7)
    return [rng.normal(size=6000 + 1111 * i).astype(np.float32) for i in range(number)]


def oracle(project):
    """transformers' own model with a CTC layer, with the weights of the base model."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    conf = family_of(project / "base").conf
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**conf.config, vocab_size=len(conf.tokens)))
    weights = state(project / "base")
    names = model.state_dict().keys()
    assert set(weights) - set(names) == {n for n in weights if n.split(".")[0] in PRETRAINING}
    model.load_state_dict({name: weights[name] for name in names})
    return model.eval(), conf


PRETRAINING = {"quantizer", "project_hid", "project_q"}


def test_texts_of_transformers(project):
    from transformers import Wav2Vec2FeatureExtractor

    model, conf = oracle(project)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    expected = []
    for waveform in waveforms():
        inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            logits = model(inputs.input_values).logits
        expected.append(decode(logits[0].argmax(-1).tolist(), conf.tokens))
    recogniser = open_recogniser(project / "base")
    assert recogniser.transcribe(waveforms(), PAIRS[0], OPTIONS) == expected
    assert len(set(expected)) > 1
    assert recogniser.transcribe([np.zeros(3, np.float32)], PAIRS[0], OPTIONS)


def test_a_text_does_not_depend_on_the_batch_with_a_group_norm(project, tmp_path):
    make_wav2vec2(tmp_path / "group", feat_extract_norm="group", conv_bias=False)
    (tmp_path / "dump").symlink_to(project / "dump")
    recogniser = open_recogniser(imported(tmp_path / "group", tmp_path))
    speech = [*waveforms(3), *waveforms(2)]
    alone = [recogniser.transcribe([w], PAIRS[0], OPTIONS)[0] for w in speech]
    assert recogniser.transcribe(speech, PAIRS[0], OPTIONS) == alone


def built(described, **model_conf):
    """Return ESPnet's model of a model configuration."""
    from lors.models.wav2vec2.task import Wav2Vec2Task

    return Wav2Vec2Task.build_model(argparse.Namespace(**described, model_conf=model_conf))


def espnet_model(project, **model_conf):
    model = built(read_yaml(project / "base/config.yaml"), **model_conf)
    model.load_state_dict(state(project / "base"))
    return model.eval()


def batch(conf, number=3):
    from lors.models.wav2vec2.model import normalised, pad
    from lors.models.wav2vec2.vocabulary import encode

    speech, lengths = pad([normalised(w) for w in waveforms(number)], conf.shortest)
    ids = [torch.tensor(encode(text, conf.tokens)) for text in ("größe ja", "qué", "a")[:number]]
    text = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)
    return {
        **{"speech": speech, "speech_lengths": lengths, "text": text},
        **{"text_lengths": torch.tensor([len(i) for i in ids]), "utt_id": ["a", "b", "c"]},
    }


def test_ctc_loss_of_transformers(project):
    model, conf = oracle(project)
    given = batch(conf)
    labels = given["text"].masked_fill(given["text"] == -1, -100)
    mask = (torch.arange(given["speech"].shape[1]) < given["speech_lengths"][:, None]).long()
    with torch.no_grad():
        expected = model(given["speech"], attention_mask=mask, labels=labels).loss
        loss, stats, number = espnet_model(project)(**given)
    torch.testing.assert_close(loss.squeeze() * given["text_lengths"].sum(), expected)
    assert number == 3 and 0 < stats["cer"] < 10


def contrastive(model, given):
    """Return the model's loss and statistics, and its masked frames.

    A masked frame is its projection, its positive and its negatives, (negatives, dimensions).
    """
    from transformers import Wav2Vec2ForPreTraining

    seen, forward = {}, Wav2Vec2ForPreTraining.forward

    def spy(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        seen.update(kwargs, output=output)
        return output

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Wav2Vec2ForPreTraining, "forward", spy)
        loss, stats, _ = model(**given)
    states = seen["output"].projected_states.double()
    targets = seen["output"].projected_quantized_states.double()
    flat = targets.reshape(-1, targets.shape[-1])
    frames, masked = [], seen["mask_time_indices"].nonzero().tolist()
    lengths = model._get_feat_extract_output_lengths(given["speech_lengths"])
    assert all(column < lengths[row] for row, column in masked)  # no padding is masked
    for row, column in masked:
        negatives = flat[seen["sampled_negative_indices"][row, column]]
        frames.append((states[row, column], targets[row, column], negatives))
    return loss, stats, frames


def cosines(state, others):
    return torch.cosine_similarity(state[None], others)


def test_contrastive_loss_by_its_formula(project):
    """Equation 3 of wav2vec 2.0 (2006.11477), with the same masks and negatives."""
    model = espnet_model(project, objective="contrastive")
    given = batch(family_of(project / "base").conf)
    loss, stats, frames = contrastive(model, given)
    losses = []
    for state_of, positive, negatives in frames:
        distinct = negatives[(negatives != positive).any(dim=-1)]
        similar = cosines(state_of, torch.cat([positive[None], distinct]))
        losses.append(torch.logsumexp(similar / 0.1, 0) - similar[0] / 0.1)
    expected = torch.stack(losses).mean().float()
    torch.testing.assert_close(stats["contrastive"].float().squeeze(), expected, rtol=1e-4, atol=0)
    again, other, _ = contrastive(model, given)
    # Dev utterances have the same masks and negatives in every epoch.
    assert torch.equal(loss, again) and torch.equal(stats["error"], other["error"])


def test_error_of_masked_frames(project):
    """The share of frames whose projection is as near to some negative as to the positive."""
    model = espnet_model(project, objective="contrastive")
    given = batch(family_of(project / "base").conf)
    _, stats, frames = contrastive(model, given)
    wrong = [
        any(
            torch.equal(negative, positive)
            or cosines(state_of, negative[None]) >= cosines(state_of, positive[None])
            for negative in negatives
        )
        for state_of, positive, negatives in frames
    ]
    assert 0 < sum(wrong) < len(wrong)
    assert float(stats["error"]) == pytest.approx(sum(wrong) / len(wrong))
    assert "error" not in model.train()(**given)[1]


def test_error_by_hand():
    from lors.models.wav2vec2.task import error_rate

    targets = torch.tensor([[[1.0, 0], [0, 1], [-1, 0], [1, 0]]])
    states = torch.tensor([[[1.0, 0.1], [0.2, 1], [1, 0], [1, 0]]])
    masked = torch.tensor([[True, True, True, False]])
    negatives = torch.tensor([[[1, 2], [0, 2], [0, 1], [0, 0]]])  # only the third frame is wrong
    assert float(error_rate(states, targets, masked, negatives)) == pytest.approx(1 / 3)
    tied = torch.tensor([[[1, 3], [0, 2], [1, 1], [0, 0]]])  # the first has its positive, too
    assert float(error_rate(states, targets, masked, tied)) == pytest.approx(2 / 3)


def test_a_collapsed_codebook_has_a_smaller_loss_and_the_greatest_error(project):
    model = espnet_model(project, objective="contrastive")
    given = batch(family_of(project / "base").conf)
    _, healthy, _ = contrastive(model, given)
    torch.nn.init.zeros_(model.quantizer.weight_proj.weight)
    torch.nn.init.zeros_(model.quantizer.weight_proj.bias)
    _, collapsed, _ = contrastive(model, given)
    assert collapsed["contrastive"] < healthy["contrastive"]
    assert float(collapsed["error"]) == 1.0 > float(healthy["error"])
    # One codevector in each group.
    assert float(collapsed["perplexity"]) == pytest.approx(model.config.num_codevector_groups)


def test_frames_are_masked_though_a_published_model_says_otherwise(project):
    described = read_yaml(project / "base/config.yaml")
    described["wav2vec2_conf"]["config"]["apply_spec_augment"] = False
    given = batch(family_of(project / "base").conf)
    models = {kind: built(described, objective=kind).eval() for kind in ("contrastive", "ctc")}
    with torch.no_grad():
        before = models["contrastive"](**given)[0]
        models["contrastive"].wav2vec2.masked_spec_embed += 1.0
        assert not torch.equal(models["contrastive"](**given)[0], before)
    assert models["ctc"].config.apply_spec_augment is False


def test_projections_begin_as_those_of_transformers():
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    from lors.models.wav2vec2.model import SpeechModel

    config = Wav2Vec2Config(
        **{**CONFIG, "hidden_size": 96, "codevector_dim": 64, "proj_codevector_dim": 64}
    )
    torch.manual_seed(0)
    theirs, ours = Wav2Vec2ForPreTraining(config), SpeechModel(config, 20)
    for part in ("project_hid", "project_q"):
        for name in ("weight", "bias"):
            expected, found = (
                getattr(getattr(model, part), name).detach() for model in (theirs, ours)
            )
            assert float(found.std()) == pytest.approx(float(expected.std()), rel=0.3), (part, name)
            assert found.abs().max() < 1.1 * expected.abs().max()


# --- training -----------------------------------------------------------------------------------


CHOICE = {"ctc": "loss", "contrastive": "error"}
"""Objective -> the statistic that epochs are chosen by."""


def config(project, objective, **changes):
    settings = {
        **{"model_conf": {"objective": objective}, "batch_type": "folded", "batch_size": 3},
        **{"fold_length": [1000000, 10000], "num_iters_per_epoch": 2, "max_epoch": 2},
        **{"optim": "adamw", "optim_conf": {"lr": 0.01}, "num_workers": 0},
        **{"best_model_criterion": [["valid", CHOICE[objective], "min"]], "keep_nbest_models": 1},
        **{"use_tensorboard": False, "use_matplotlib": False},
    }
    return fine_tuning_config(project / "base", settings | changes, PAIRS)


@pytest.fixture(scope="module")
def stats(project):
    training.collect_stats(PAIRS, project / "dump", config(project, "ctc"), project / "stats")
    return project / "stats"


def run(project, pairs, objective, out, **options):
    options = {"stats": project / "stats", "seed": 1, **options}
    training.train(pairs, project / "dump", config(project, objective), out, **options)
    return out


def test_base_model_from_scratch(project, tmp_path):
    """By the shipped configuration, on the audio of all languages."""
    shipped = read_yaml(ROOT / "egs/mini_covost/lors1/conf/train_wav2vec2_base.yaml")
    small = {"batch_size": 3, "num_iters_per_epoch": 1, "max_epoch": 1, "num_workers": 0}
    given, out = {**shipped, **small}, tmp_path / "base"
    training.collect_stats(PAIRS, project / "dump", given, tmp_path / "stats")
    training.train(PAIRS, project / "dump", given, out, stats=tmp_path / "stats", seed=1)
    assert (out / "model.pth").resolve() == (out / "valid.error.best.pth").resolve()
    convolutions = [f"wav2vec2.feature_extractor.conv_layers.{n}.conv.weight" for n in range(7)]
    found = state(out)
    assert [len(found[name]) for name in convolutions] == [16, 32, 64, 64, 64, 64, 64]
    assert "lm_head.weight" not in found and family_of(out).conf.tokens == ()


def test_experts_and_their_merge(project, stats):
    exp = ExpDir(project)
    experts = [run(project, [pair], "ctc", exp.expert(pair)) for pair in PAIRS]
    base = state(project / "base")
    for expert in experts:
        assert (expert / "valid.loss.best.pth").exists()
        changed = {n for n, value in state(expert).items() if not torch.equal(value, base[n])}
        assert "lm_head.weight" in changed
        assert not {n for n in changed if n.split(".")[0] in PRETRAINING}
    plan = MergePlan(
        base=str(project / "base/model.pth"),
        experts=[str(expert / "model.pth") for expert in experts],
        method="average",
    )
    run_merge(plan, project / "merged/model.pth")
    merged = open_recogniser(project / "merged")
    assert len(merged.transcribe(waveforms(2), PAIRS[0], OPTIONS)) == 2


@pytest.fixture(scope="module")
def pretrained(project, stats):
    """Taylor scores of the contrastive loss, masks, pre-training under them and without them."""
    exp = ExpDir(project)
    for lang in LANGS:
        training.estimate_importance(
            pairs_of([lang], ["asr"]),
            project / "dump",
            config(project, "contrastive"),
            exp.importance(lang),
            stats=stats,
            seed=1,
        )
    find_masks_of(exp, LANGS, ["asr"], "taylor", 50, "matrix")
    run(project, PAIRS, "contrastive", exp.joint)
    run(project, PAIRS, "contrastive", exp.subnet(SYSTEM), masks=exp.masks(SYSTEM))
    return exp


def assert_only_subnetworks_changed(masks, before, after):
    moved = 0
    for name in masks.shapes:
        nowhere = ~(masks.mask("de", name) | masks.mask("es", name))
        assert torch.equal(after[name][nowhere], before[name][nowhere]), name
        moved += int((after[name] != before[name]).sum())
    assert moved


def test_language_adaptive_pre_training(project, pretrained):
    out, masks = pretrained.subnet(SYSTEM), Masks(pretrained.masks(SYSTEM))
    base, found = state(project / "base"), state(out)
    for trained in (out, pretrained.joint):
        assert (trained / "model.pth").resolve() == (trained / "valid.error.best.pth").resolve()
    assert len(masks.shapes) == 12 and torch.equal(found["lm_head.weight"], base["lm_head.weight"])
    assert_only_subnetworks_changed(masks, base, found)
    assert not torch.equal(found["project_q.weight"], base["project_q.weight"])
    packed = project / "packed"
    assert pack_subnets.main(["--model", str(out), "--out", str(packed)]) == 0
    whole, own = (
        LanguageModels("cpu").model(directory, "de").model.state_dict()
        for directory in (out, packed / "de")
    )
    assert all(torch.equal(own[name], value) for name, value in whole.items())


def test_several_processes_under_masks(project, stats, tmp_path, monkeypatch):
    """DDP by the shipped configuration: layers of the other loss get no gradient."""
    masks, base = tmp_path / "masks.safetensors", open_model(project / "base/model.pth")
    find(masks, base, {"de": base.tensor, "es": lambda n: -base.tensor(n)}, "magnitude", 60)
    monkeypatch.setattr(training, "run_training", launch.run_training)
    monkeypatch.setattr(training, "training_command", two_processes)
    shipped = read_yaml(ROOT / "egs/mini_covost/s3net1/conf/train_wav2vec2.yaml")
    small = {"batch_size": 3, "num_iters_per_epoch": 2, "max_epoch": 1, "num_workers": 0}
    given = fine_tuning_config(project / "base", shipped | small, PAIRS)
    out = tmp_path / "ddp"
    training.train(PAIRS, project / "dump", given, out, stats=stats, seed=1, masks=masks)
    assert_only_subnetworks_changed(Masks(masks), state(project / "base"), state(out))


def test_fine_tuning_after_pre_training(project, pretrained, tmp_path, capsys):
    """CTC on all languages from the continued pre-training; under masks from the adapted one."""
    exp = ExpDir(tmp_path / "exp")
    shutil.copytree(project / "base", exp.base)
    settings = {k: v for k, v in config(project, "ctc").items() if k not in TAKEN}
    (tmp_path / "ctc.yaml").write_text(yaml.safe_dump(settings))
    of = ["--langs", *LANGS, "--tasks", "asr"]
    after = ["--pretrained", str(pretrained.root)]
    masks = ["--expdir", str(exp.root), *of, "--criteria", "taylor", "--rates", "50", *after]
    assert find_masks.main(masks) == 0
    files = ["--base", str(exp.base), "--dump", str(project / "dump"), "--out", str(exp.root)]
    files += ["--config", str(tmp_path / "ctc.yaml"), "--stats", str(project / "stats")]
    joint = [*files, "--pairs", *map(str, PAIRS), "--baselines", "joint", "--only", "1"]
    assert train.main([*joint, *after]) == 0
    subnet = [*files, *of, "--systems", SYSTEM, "--only", "1"]
    assert train_subnet.main([*subnet, *after]) == 0
    for found, start in ((exp.joint, pretrained.joint), (exp.subnet(SYSTEM), None)):
        start = start or pretrained.subnet(SYSTEM)
        assert read_yaml(found / "train.yaml")["init_param"] == [str(start / "model.pth")]
        before, tuned = state(start), state(found)
        assert not torch.equal(tuned["lm_head.weight"], before["lm_head.weight"])
        assert torch.equal(tuned["quantizer.codevectors"], before["quantizer.codevectors"])
    assert_only_subnetworks_changed(Masks(exp.subnet(SYSTEM) / "masks.safetensors"), before, tuned)
    recogniser = LanguageModels("cpu").model(exp.subnet(SYSTEM), "es")
    assert len(recogniser.transcribe(waveforms(2), PAIRS[1], OPTIONS)) == 2
    # Another base model has other characters.
    options = {"langs": "es", "dumpdir": str(project / "dump")}
    FAMILIES["wav2vec2"].import_base(str(project / "published"), tmp_path / "es", options)
    assert train.main([*joint, *after, "--base", str(tmp_path / "es")]) == 1
    assert "lm_head.weight: [15, 16]" in capsys.readouterr().err


def test_masks_are_found_again_by_magnitudes(project, stats, tmp_path):
    """Second masks: the magnitudes after fine-tuning the half-trained model on each language."""
    exp, system = ExpDir(tmp_path / "exp"), "s3net_magnitude_50"
    base = open_model(project / "base/model.pth")
    exp.masks(system).parent.mkdir(parents=True)
    scores = {lang: lambda name: base.tensor(name).abs() for lang in LANGS}
    find(exp.masks(system), base, scores, "magnitude", 50)
    first, given = Masks(exp.masks(system)), config(project, "ctc")
    train_in_two_rounds(
        system, PAIRS, project / "dump", given, exp, first.path, stats=stats, seed=1
    )
    half, second = exp.half(system), Masks(exp.subnet(system) / "masks.safetensors")
    assert_only_subnetworks_changed(first, state(project / "base"), state(half.base))
    assert_only_subnetworks_changed(second, state(half.base), state(exp.subnet(system)))
    name = next(iter(second.shapes))
    for pair in PAIRS:
        magnitude = state(half.expert(pair))[name].abs()
        mask = second.mask(pair.lang, name)
        assert magnitude[mask].min() >= magnitude[~mask].max()
    assert not torch.equal(second.mask("de", name), second.mask("es", name))
    assert torch.equal(first.mask("de", name), first.mask("es", name))


TAKEN = {"wav2vec2_conf", "init_param"}
"""Keys of a configuration that come from the base model."""


def test_names_of_the_policy(project):
    from lors.merge.policy import find_policy

    model = open_model(project / "base/model.pth")
    policy = find_policy(model.names(), "base")
    actions = policy.actions(model.spec())
    assert policy.name == "wav2vec2" and sum(a == "prune" for a in actions.values()) == 12
    assert set(policy.depths(model.names()).values()) == {0.0, 1.0}
    published = Checkpoint.open(project / "published/model.safetensors")
    assert find_policy(published.names(), "published").name == "wav2vec2"


def test_a_vocabulary_is_compared(project, tmp_path):
    from lors.checkpoint.vocabulary import check_same_vocabulary, tokens_of

    tokens = tokens_of(project / "base/model.pth")
    assert tokens is not None and len(tokens) == len(family_of(project / "base").conf.tokens)
    described = read_yaml(project / "base/config.yaml")
    described["wav2vec2_conf"]["tokens"][-1] = "x"
    text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, indent=4)
    (tmp_path / "config.yaml").write_text(text)
    with refusal(tmp_path / "model.pth", "x"):
        check_same_vocabulary(project / "base/model.pth", tmp_path / "model.pth")
