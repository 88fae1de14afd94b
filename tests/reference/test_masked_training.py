"""Training under masks through ESPnet, for both model families: what changes, kills, processes."""

import re

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional

from lors.bin import evaluate, pack_subnets
from lors.checkpoint.expert import open_model
from lors.checkpoint.masks import Masks
from lors.checkpoint.reader import Checkpoint
from lors.config import read_yaml
from lors.errors import UsageError
from lors.models import family_of, open_recogniser, subnetworks
from lors.models.whisper.import_base import import_whisper
from lors.recipe import train as training
from lors.recipe.expdir import ExpDir
from lors.recipe.mask_rounds import train_in_two_rounds
from lors.recipe.subnetworks import LanguageModels, find_masks_of
from lors.recipe.training_config import fine_tuning_config
from lors.subnet.find import pruned_matrices, taylor_scores
from lors.tasks import pairs_of
from tests.integration.recipe import ROOT
from tests.integration.tiny_s2t import make_model
from tests.integration.tiny_whisper import make_whisper
from tests.reference.small_trainings import (
    assert_same_training,
    keep_checkpoints,
    kill_and_resume,
    run_here,
    two_processes,
    write_noise,
)
from tests.refusal import refusal

pytestmark = pytest.mark.espnet

LANGS, TASKS = ["de", "es"], ["asr", "st"]
PAIRS = pairs_of(LANGS, TASKS)
CONFIGS = {
    "whisper": ROOT / "egs/voice_prompts/s3net1/conf/train_quick.yaml",
    "espnet_s2t": ROOT / "egs/mini_covost/s3net1/conf/train_expert.yaml",
}
INFERENCE = {
    "whisper": ROOT / "egs/mini_covost/s3net1/conf/inference_whisper.yaml",
    "espnet_s2t": ROOT / "egs/mini_covost/s3net1/conf/inference_greedy.yaml",
}
SMALL = {"batch_size": 3, "num_iters_per_epoch": 2, "max_epoch": 2, "num_workers": 0}
SYSTEM = "s3net_taylor_50"


@pytest.fixture(scope="module", autouse=True)
def checkpoints():
    with pytest.MonkeyPatch.context() as patch:
        keep_checkpoints(patch)
        yield


@pytest.fixture(scope="module", params=CONFIGS)
def project(request, tmp_path_factory):
    """A base model, data of two languages and tasks, Taylor scores and masks."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "whisper":
        import_whisper(str(make_whisper(root / "tiny.pt", scale=3)), root / "base", window=2.0)
    else:
        conf = {"ctc_weight": 0.3, "report_cer": False, "report_wer": False}
        make_model(root / "base", model_conf=conf)
    write_noise(root, LANGS, clips=6)
    training.collect_stats(PAIRS, root / "dump", config(root, request.param), root / "stats")
    for lang in LANGS:
        training.estimate_importance(
            pairs_of([lang], TASKS),
            root / "dump",
            config(root, request.param, batch_size=2),
            root / "importance" / lang,
            stats=root / "stats",
            seed=1,
        )
    find_masks_of(ExpDir(root), LANGS, TASKS, "taylor", 50, "matrix")
    return root


def config(root, family=None, **changes):
    family = family or family_of(root / "base").name
    settings = read_yaml(CONFIGS[family]) | SMALL | changes
    settings["scheduler_conf"] |= {"total_steps": 4, "max_lr": 0.01}
    return fine_tuning_config(root / "base", settings, PAIRS)


def masks_of(project) -> Masks:
    return Masks(ExpDir(project).masks(SYSTEM))


def run(project, out, **changes):
    training.train(
        PAIRS,
        project / "dump",
        config(project, **changes),
        project / out,
        stats=project / "stats",
        seed=1,
        masks=masks_of(project).path,
    )
    return project / out


@pytest.fixture(scope="module")
def trained(project):
    return run(project, SYSTEM)


def state(directory):
    return torch.load(directory / "model.pth", weights_only=True)


def assert_only_subnetworks_changed(project, out):
    masks, base, found = masks_of(project), state(project / "base"), state(out)
    assert list(found) == list(base)
    changed_alone = dict.fromkeys(LANGS, 0)
    for name, value in base.items():
        if name in masks.shapes:
            of = {lang: masks.mask(lang, name) for lang in LANGS}
            nowhere = ~(of["de"] | of["es"])
            assert nowhere.any() and torch.equal(found[name][nowhere], value[nowhere]), name
            for lang, other in (("de", "es"), ("es", "de")):
                alone = of[lang] & ~of[other]
                changed_alone[lang] += int((found[name][alone] != value[alone]).sum())
    assert all(changed_alone.values())
    shared = [name for name in base if name not in masks.shapes]
    assert any(not torch.equal(found[name], base[name]) for name in shared)


def test_training_changes_the_subnetworks_alone(project, trained):
    assert_only_subnetworks_changed(project, trained)
    assert Masks(trained / "masks.safetensors").base == masks_of(project).base
    assert "training 2 sub-networks" in (trained / "train.log").read_text()


@pytest.fixture(scope="module")
def batches(project):
    """Record each batch of a training: its utterances, the entries kept, the optimiser's moments.

    The entries are seen in the weights as a layer computes with them, after a conversion to
    bfloat16: outside the mask they are zero, inside no random weight is. The moments are those
    before and after the step of a training batch.
    """
    seen, steps = [], []

    def moments(model, optimizer):
        return {
            (name, key): value.clone()
            for name, parameter in model.named_parameters()
            if name in masks_of(project).shapes
            for key, value in optimizer.state.get(parameter, {}).items()
            if value.shape == parameter.shape
        }

    def record(model, _, batch, __):
        with torch.no_grad():
            kept = {
                name: functional.linear(torch.eye(parameter.shape[1]), parameter).T != 0
                for name, parameter in model.named_parameters()
                if name in masks_of(project).shapes
            }
        seen.append((model.training, list(batch["utt_id"]), kept))

    def start(model, optimizers, options):
        start_subnetworks(model, optimizers, options)
        model.register_forward_hook(record, with_kwargs=True)
        [optimizer] = optimizers
        optimizer.register_step_pre_hook(
            lambda *_: steps.append((seen[-1][1], moments(model, optimizer)))
        )
        optimizer.register_step_post_hook(
            lambda *_: steps.append((*steps.pop(), moments(model, optimizer)))
        )

    start_subnetworks = subnetworks.start_subnetworks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subnetworks, "start_subnetworks", start)
        patch.setattr(training, "run_training", run_here)
        run(project, "recorded")
    return seen, steps


def test_the_state_of_the_optimiser_outside_the_mask_stays(project, batches):
    """Bit by bit, in every step; the first step finds no state."""
    masks, _, steps = masks_of(project), *batches
    assert len(steps) == SMALL["num_iters_per_epoch"] * len(PAIRS) * SMALL["max_epoch"]
    kept = 0
    for utterances, before, after in steps:
        [lang] = {name.split("-")[1] for name in utterances}
        assert len(after) == 3 * len(masks.shapes)  # two moments, and the number of updates
        for (name, key), found in after.items():
            old = before.get((name, key), torch.zeros_like(found))
            inside = masks.mask(lang, name)
            assert torch.equal(found[~inside], old[~inside]), (lang, name, key)
            assert not torch.equal(found[inside], old[inside]), (lang, name, key)
            kept += int(old[~inside].count_nonzero())
    assert kept  # the other language has left something there


def test_each_batch_has_one_language(project, batches):
    """The language is read from the ids of the utterances, and not from the trainer's tables."""
    masks, seen = masks_of(project), batches[0]
    ids = {True: [], False: []}
    languages = {True: set(), False: set()}
    for is_training, utterances, kept in seen:
        assert len(utterances) == SMALL["batch_size"]
        langs = {name.split("-")[1] for name in utterances}
        assert len(langs) == 1, utterances
        [lang] = langs
        assert kept.keys() == masks.shapes.keys()
        for name, entries in kept.items():
            assert torch.equal(entries, masks.mask(lang, name)), (lang, name)
        languages[is_training] |= langs
        ids[is_training] += utterances
    for is_training, split in ((True, "train"), (False, "dev")):
        assert languages[is_training] == set(LANGS)
        # Each utterance occurs once in an epoch: no batch has gone unseen.
        every = [
            f"spk{number}-{lang}-{split}-{task}"
            for lang in LANGS for task in TASKS for number in range(6)
        ]  # fmt: skip
        assert sorted(ids[is_training]) == sorted(every * SMALL["max_epoch"])


def test_taylor_scores_are_summed_over_all_data(project):
    for lang in LANGS:  # 12 utterances; 2 batches of each pair would be 4
        assert "on 6 batches" in (project / f"importance/{lang}/train.log").read_text()


def test_taylor_scores_of_every_matrix_and_language(project):
    base = open_model(project / "base/model.pth")
    found = {
        lang: taylor_scores(base, [project / f"importance/{lang}/importance.safetensors"])
        for lang in LANGS
    }
    for name in pruned_matrices(base):
        for scores in found.values():
            score = scores(name)
            assert score.shape == base.shape(name) and score.dtype == torch.float32
            assert (score >= 0).all() and score.sum() > 0
        assert not torch.equal(found["de"](name), found["es"](name))


def test_a_second_call_trains_nothing(project, trained):
    before = (trained / "model.pth").stat().st_mtime_ns
    run(project, SYSTEM)
    assert (trained / "model.pth").stat().st_mtime_ns == before


def test_a_killed_training_goes_on_to_the_same_model(project, trained):
    other = ExpDir(project / "killed")
    other.masks(SYSTEM).parent.mkdir(parents=True)
    other.masks(SYSTEM).write_bytes(masks_of(project).path.read_bytes())
    out = other.subnet(SYSTEM)
    words = ["--base", str(project / "base"), "--dump", str(project / "dump")]
    words += ["--langs", *LANGS, "--tasks", *TASKS]
    words += ["--stats", str(project / "stats"), "--out", str(other.root)]
    words += ["--systems", SYSTEM, "--only", "1"]
    settings = read_yaml(CONFIGS[family_of(project / "base").name]) | SMALL
    settings["scheduler_conf"] |= {"total_steps": 4, "max_lr": 0.01}
    (project / "config.yaml").write_text(yaml.safe_dump(settings))
    words += ["--config", str(project / "config.yaml")]
    kill_and_resume("lors.bin.train_subnet", words, out, last=SMALL["max_epoch"])
    assert_same_training(out, trained)


def test_masks_are_found_again_after_half_of_the_training(project, tmp_path):
    exp, first, times = ExpDir(tmp_path / "exp"), masks_of(project), []
    for _ in range(2):
        train_in_two_rounds(
            SYSTEM,
            PAIRS,
            project / "dump",
            config(project),
            exp,
            first.path,
            stats=project / "stats",
            seed=1,
        )
        files = sorted(tmp_path.rglob("*epoch.pth"))
        times.append({path: path.stat().st_mtime_ns for path in files})
    assert times[0] == times[1] and len(files) == 2
    half, second = exp.half(SYSTEM), Masks(exp.subnet(SYSTEM) / "masks.safetensors")
    assert second.settings == first.settings and second.languages == first.languages
    assert second.base == open_model(half.base / "model.pth").fingerprint() != first.base
    models = [state(d) for d in (project / "base", half.base, exp.subnet(SYSTEM))]
    differ = 0
    for name in first.shapes:
        for masks, before, after in zip((first, second), models[:-1], models[1:], strict=True):
            nowhere = ~(masks.mask("de", name) | masks.mask("es", name))
            assert torch.equal(after[name][nowhere], before[name][nowhere]), name
        differ += int((first.mask("de", name) != second.mask("de", name)).sum())
    assert differ
    epochs = [read_yaml(d / "train.yaml")["max_epoch"] for d in (half.base, exp.subnet(SYSTEM))]
    assert epochs == [1, 1]


def test_several_processes(project, monkeypatch):
    """DDP: all processes have a part of one batch, and so the same language."""
    monkeypatch.setattr(training, "training_command", two_processes)
    out = run(project, "ddp")
    assert_only_subnetworks_changed(project, out)


def test_inference_uses_the_mask_of_the_language(project, trained):
    masks, models = Masks(trained / "masks.safetensors"), LanguageModels("cpu")
    full = state(trained)
    for lang in ("de", "es", "de"):
        found = models.model(trained, lang).model.state_dict()
        for name, value in full.items():
            if name in masks.shapes:
                value = value * masks.mask(lang, name)
            assert torch.equal(found[name], value), name
    with refusal("fr", "de, es", kind=UsageError):
        models.model(trained, "fr")


def test_subnetworks_of_their_own(project, trained, capsys):
    """Packed sub-networks, and all in one file, give the weights that the masks give."""
    out = project / "packed"
    assert pack_subnets.main(["--model", str(trained), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(str(out / name) in printed for name in ("de", "es", "all"))
    models = LanguageModels("cpu")
    whole = (trained / "model.pth").stat().st_size
    matrices = sum(np.prod(shape) for shape in Masks(trained / "masks.safetensors").shapes.values())
    for name, langs in (("de", ["de"]), ("es", ["es"]), ("all", LANGS)):
        own = LanguageModels("cpu")
        for lang in langs:
            expected = models.model(trained, lang).model.state_dict()
            found = own.model(out / name, lang).model.state_dict()
            assert all(torch.equal(found[n], value) for n, value in expected.items())
        size = (out / name / "subnetwork.safetensors").stat().st_size
        saved = -2 * matrices / 8 if name == "all" else 4 * matrices / 2 - matrices / 8
        assert size < whole - saved + 20_000
    open_recogniser(out / "de")
    # Inference with them gives the texts of the model under its masks.
    words = ["--models", f"packed={out}/{{lang}}", f"whole={trained}", "--split", "dev"]
    words += ["--dump", str(project / "dump"), "--langs", *LANGS, "--tasks", "asr"]
    words += ["--inference_config", str(INFERENCE[family_of(trained).name])]
    assert evaluate.main([*words, "--out", str(project / "evaluated")]) == 0
    texts = project / "evaluated/inference/dev"
    for lang in LANGS:
        one, other = ((texts / f"{name}/{lang}_asr").read_text() for name in ("packed", "whole"))
        assert one == other and len(one.splitlines()) == 6
    with refusal("es", "de", kind=UsageError):
        LanguageModels("cpu").model(out / "de", "es")


def test_what_a_masked_training_refuses(project, tmp_path):
    for changes in (
        *({"batch_type": "unsorted"}, {"valid_batch_type": "unsorted"}),
        *({"accum_grad": 2}, {"use_adapter": True}),
    ):
        key, value = next(iter(changes.items()))
        with refusal(key, value):
            run(project, "refused", **changes)
    other = ExpDir(tmp_path / "other")
    base = state(project / "base")
    changed = {name: value + 1 if value.ndim == 2 else value for name, value in base.items()}
    other.base.mkdir(parents=True)
    torch.save(changed, other.base / "model.pth")
    (other.base / "config.yaml").write_bytes((project / "base/config.yaml").read_bytes())
    fingerprint = Checkpoint.open(other.base / "model.pth").fingerprint()
    with refusal(masks_of(project).path, fingerprint, masks_of(project).base):
        training.train(
            PAIRS,
            project / "dump",
            config(project) | {"init_param": [str(other.base / "model.pth")]},
            tmp_path / "refused",
            stats=project / "stats",
            seed=1,
            masks=masks_of(project).path,
        )
    assert not (project / "refused/.done.started").exists()
    with refusal("fr", "de, es", kind=UsageError):
        training.train(
            pairs_of(["de", "fr"], ["asr"]),
            project / "dump",
            config(project),
            tmp_path / "refused",
            stats=project / "stats",
            seed=1,
            masks=masks_of(project).path,
        )
    assert re.search("taylor_50", str(masks_of(project).path))
