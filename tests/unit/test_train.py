"""Training with a stand-in for ESPnet: the options it gets, and when it is called."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from stand_ins import BASE_CONFIG, calls_of, fake_espnet, write_base, write_dump

from lors.bin.train import main
from lors.data.datadir import read_text
from lors.fileio import file_digest, locked
from lors.models import family_from
from lors.models.espnet_s2t.family import EspnetS2T
from lors.recipe.train import collect_stats, train, train_sequence
from lors.recipe.training_config import fine_tuning_config, from_scratch_config
from lors.recipe.training_data import write_split
from lors.tasks import Pair
from tests.refusal import refusal

PAIRS = [Pair("de", "asr"), Pair("es", "st")]
CONFIG = {"num_iters_per_epoch": 50, "max_epoch": 4, "batch_type": "unsorted"}


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


@pytest.fixture
def project(tmp_path, base, monkeypatch):
    """Data, a fine-tuning configuration and its statistics."""
    fake_espnet(tmp_path / "espnet", monkeypatch)
    dump = write_dump(tmp_path / "dump")
    config = fine_tuning_config(base, CONFIG, PAIRS)
    for split, name in (("train", "train"), ("dev", "valid")):
        ids = write_split(family_from(config, base), PAIRS, dump, split, tmp_path / "data")
        (tmp_path / "stats" / name).mkdir(parents=True)
        for kind in ("speech", "text"):
            path = tmp_path / "stats" / name / f"{kind}_shape"
            path.write_text("".join(f"{i} {len(i)}\n" for i in ids))
    return {"dump": dump, "config": config, "stats": tmp_path / "stats", "seed": 1}


def written_config(out):
    return yaml.safe_load((out / "train.yaml").read_text())


def test_speech_and_text_shapes_are_in_the_same_order(project, tmp_path):
    train(PAIRS, out=tmp_path / "joint", **project)
    speech, text = (
        list(read_text(tmp_path / "joint" / "data" / "train" / f"{kind}_shape"))
        for kind in ("speech", "text")
    )
    assert speech == text and len(speech) == 6


def test_infinity_is_a_setting_and_nan_is_none(project, base, tmp_path, capsys):
    project["config"] |= {"grad_clip": float("inf")}
    for _ in range(2):
        train(PAIRS, out=tmp_path / "joint", **project)
    assert len(calls_of(tmp_path / "joint")) == 1
    assert written_config(tmp_path / "joint")["grad_clip"] == float("inf")
    path = tmp_path / "nan.yaml"
    path.write_text("optim_conf: {lr: .nan, betas: [0.9, .nan]}\ngrad_clip: .inf\n")
    words = ["--dump", str(project["dump"]), "--config", str(path), "--out", str(tmp_path / "o")]
    assert main(["--base", str(base), "--pairs", "de_asr", *words, "--collect_stats"]) == 2
    shown = capsys.readouterr().err
    assert all(fact in shown for fact in ("nan.yaml", "optim_conf.lr", "optim_conf.betas[1]"))
    assert "grad_clip" not in shown and not (tmp_path / "o").exists()


def test_statistics_of_a_fine_tuning(project, tmp_path):
    (tmp_path / "stats" / "train" / "speech_shape").unlink()
    collect_stats(PAIRS, project["dump"], project["config"], tmp_path / "stats")
    [options] = calls_of(tmp_path / "stats")
    assert ("collect_stats", "true") in options and ("use_preprocessor", "true") in options
    config = written_config(tmp_path / "stats")
    # The base brings its statistics: they stay in the model, and are not collected again.
    assert config["normalize_conf"] == BASE_CONFIG["normalize_conf"]
    assert config["model_conf"] == {"ctc_weight": 0.3, "extract_feats_in_collect_stats": False}
    assert "init_param" not in config
    ids = list(read_text(tmp_path / "stats" / "train" / "speech_shape"))
    assert len(ids) == 6 and ids[0] == "spk0-de-train-asr"
    assert not (tmp_path / "base" / "feats_stats.npz").exists()


def test_statistics_from_scratch_are_kept_beside_the_vocabulary(tmp_path, monkeypatch):
    fake_espnet(tmp_path / "espnet", monkeypatch)
    dump = write_dump(tmp_path / "dump")
    options = {"normalize": "global_mvn", "preprocessor_conf": {"speech_length": 4.0, "fs": 16000}}
    config = from_scratch_config(tmp_path / "tokens", options)
    (tmp_path / "tokens").mkdir()
    collect_stats(PAIRS, dump, config, tmp_path / "stats")
    assert (tmp_path / "tokens" / "feats_stats.npz").read_bytes() == b"statistics"
    # The statistics to collect cannot be used yet.
    written = written_config(tmp_path / "stats")
    assert written["normalize"] is None and "normalize_conf" not in written
    # Statistics of speech, not of the silence that pads it.
    assert written["preprocessor_conf"] == {"speech_length": 1.0, "fs": 16000}
    assert config["normalize_conf"]["stats_file"] == str(tmp_path / "tokens" / "feats_stats.npz")
    collect_stats(PAIRS, dump, config, tmp_path / "stats")
    assert len(calls_of(tmp_path / "stats")) == 1
    with refusal(tmp_path / "stats", "data"):
        collect_stats(PAIRS[:1], dump, config, tmp_path / "stats")


def test_training_leaves_a_model(project, tmp_path):
    out = tmp_path / "expert" / "de_asr"
    train(PAIRS[:1], out=out, **project)
    assert (out / "model.pth").read_bytes() == b"weights"
    assert not Path((out / "model.pth").readlink()).is_absolute()
    [options] = calls_of(out)
    data = [value for name, value in options if name == "train_data_path_and_name_and_type"]
    folder = out / "data" / "train"
    assert data == [
        f"{folder}/wav.scp,speech,sound",
        f"{folder}/text,text,text",
        f"{folder}/text_prev,text_prev,text",
        f"{folder}/text_ctc,text_ctc,text",
    ]
    valid = [value for name, value in options if name == "valid_shape_file"]
    assert valid == [f"{out}/data/dev/speech_shape", f"{out}/data/dev/text_shape"]
    assert ("resume", "true") in options
    config = written_config(out)
    assert config["seed"] == 1 and config["init_param"] == [str(tmp_path / "base" / "model.pth")]
    assert len(read_text(folder / "text")) == 3


def test_budget_counts_per_pair(project, tmp_path):
    """The joint model has the budget of all experts together."""
    train(PAIRS, out=tmp_path / "out", **project)
    assert written_config(tmp_path / "out")["num_iters_per_epoch"] == 50 * len(PAIRS)
    assert project["config"]["num_iters_per_epoch"] == 50


def test_finished_training_is_not_done_again(project, tmp_path):
    out = tmp_path / "out"
    train(PAIRS, out=out, **project)
    before = (out / "run.sh").stat().st_mtime_ns
    train(PAIRS, out=out, **project)
    assert len(calls_of(out)) == 1 and (out / "run.sh").stat().st_mtime_ns == before


def change_data(project, tmp_path):
    write_dump(tmp_path / "dump", utterances=2)


def change_base(project, tmp_path):
    (tmp_path / "base" / "model.pth").write_bytes(b"other weights")


def change_seed(project, tmp_path):
    project["seed"] = 2


def change_config(project, tmp_path):
    project["config"] = {**project["config"], "max_epoch": 5}


@pytest.mark.parametrize(
    ("change", "shown", "finished"),
    [
        (change_data, "data.train/wav.scp: ", True),
        (change_base, "base: ", True),
        (change_seed, "config.seed: 1 -> 2", True),
        (change_config, "config.max_epoch: 4 -> 5", True),
        (change_config, "config.max_epoch: 4 -> 5", False),
    ],
)
def test_other_settings_in_the_same_directory(
    project, tmp_path, monkeypatch, change, shown, finished
):
    out = tmp_path / "out"
    if finished:
        train(PAIRS, out=out, **project)
    else:
        monkeypatch.setenv("FAIL", "stopped")
        with refusal(out / "train.log", "stopped"):
            train(PAIRS, out=out, **project)
        monkeypatch.delenv("FAIL")
    change(project, tmp_path)
    with refusal(out, shown):
        train(PAIRS, out=out, **project)
    assert len(calls_of(out)) == 1


def test_failed_training_shows_the_log_and_how_to_resume(project, tmp_path, monkeypatch):
    out = tmp_path / "the out"
    monkeypatch.setenv("FAIL", "RuntimeError: the disk is full")
    error, script = "RuntimeError: the disk is full", f"bash '{out}/run.sh'"
    with refusal(out / "train.log", error, script) as caught:
        train(PAIRS, out=out, **project)
    assert not (out / "model.pth").exists() and not (out / ".done").exists()

    # The command of the message starts the training again ...
    monkeypatch.delenv("FAIL")
    resume = caught.value.hint.rpartition("or: ")[2]
    subprocess.check_output(["bash", "-c", resume], cwd="/")
    first, second = calls_of(out)
    assert first == second and (out / "valid.acc.best.pth").exists()
    # ... and so does the stage, which also makes model.pth and the marker.
    train(PAIRS, out=out, **project)
    assert (out / "model.pth").exists() and (out / ".done").exists()
    assert not (out / ".done.started").exists()


def test_training_without_a_model(project, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_MODEL", "1")
    with refusal(tmp_path / "out/valid.acc.best.pth", "train.log"):
        train(PAIRS, out=tmp_path / "out", **project)
    assert not (tmp_path / "out" / ".done").exists()


def test_the_best_epoch_is_that_of_the_first_criterion(project, tmp_path):
    criteria = [["valid", "cer", "min"], ["valid", "acc", "max"]]
    project["config"] = {**project["config"], "best_model_criterion": criteria}
    out = tmp_path / "out"
    with refusal(out / "valid.cer.best.pth"):
        train(PAIRS, out=out, **project)
    (out / "valid.cer.best.pth").write_bytes(b"")
    train(PAIRS, out=out, **project)
    assert (out / "model.pth").readlink() == Path("valid.cer.best.pth")


def test_the_script_of_a_training_starts_the_familys_program(project, tmp_path):
    out = tmp_path / "out; touch x"
    train(PAIRS, out=out, ngpu=1, **project)
    script = (out / "run.sh").read_text()
    assert f"exec {sys.executable} -m {EspnetS2T.train_module} --config '{out}/train.y" in script
    assert "--ngpu 1 --multiprocessing_distributed false" in script
    assert f"--output_dir '{out}'" in script
    assert calls_of(out) and not list(tmp_path.glob("x*"))


def test_several_gpus_go_through_the_launcher_of_torch(project, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_MODEL", "1")  # two processes at once must not make the same links
    with refusal("valid.acc.best.pth"):
        train(PAIRS, out=tmp_path / "out", ngpu=2, **project)
    script = (tmp_path / "out/run.sh").read_text()
    assert "-m torch.distributed.run --standalone --nnodes 1 --nproc_per_node 2 -m " in script
    assert len(calls_of(tmp_path / "out")) == 2


def test_digest_of_the_base_is_of_its_content(project, tmp_path):
    train(PAIRS, out=tmp_path / "out", **project)
    marker = yaml.safe_load((tmp_path / "out" / ".done").read_text())
    assert marker["inputs"]["base"] == [file_digest(tmp_path / "base" / "model.pth")]
    assert marker["inputs"]["pairs"] == ["de_asr", "es_st"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_that_is_not_whole_is_discarded(project, tmp_path, caplog, monkeypatch, whole):
    out = tmp_path / "out"
    out.mkdir()
    checkpoint = out / "checkpoint.pth"
    torch.save({"model": {"a": torch.ones(1000)}}, checkpoint)
    if not whole:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-700])
    monkeypatch.setattr("lors.recipe.train.remove_checkpoint", lambda out: None)
    train(PAIRS, out=out, **project)
    assert checkpoint.exists() == whole
    assert ("training starts over" in caplog.text) != whole


def test_a_finished_training_keeps_its_models_and_no_checkpoint(project, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    checkpoint = out / "checkpoint.pth"
    torch.save({"model": {"a": torch.ones(10)}}, checkpoint)
    with monkeypatch.context() as patch, refusal("valid.acc.best.pth"):
        patch.setenv("NO_MODEL", "1")
        train(PAIRS, out=out, **project)
    assert checkpoint.exists()  # the same command resumes from it
    train(PAIRS, out=out, **project)
    assert not checkpoint.exists() and (out / "model.pth").exists()
    torch.save({}, checkpoint)  # as if it had been killed between its last two steps
    train(PAIRS, out=out, **project)
    assert not checkpoint.exists() and (out / "model.pth").exists()


def test_a_training_is_done_by_one_process_at_a_time(project, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("lors.fileio.LOCK_SECONDS", 0.2)
    with locked(out / ".done.lock"), refusal(out / ".done.lock"):
        train(PAIRS, out=out, **project)
    assert not calls_of(out)
    train(PAIRS, out=out, **project)
    assert not (out / ".done.lock").exists()


# --- one pair after the other


def start_of(step):
    """Return the initial model of a step, equal in its configuration and in its marker."""
    inputs = yaml.safe_load((step / ".done").read_text())["inputs"]
    assert inputs["config"]["init_param"] == written_config(step)["init_param"]
    assert inputs["base"] == [file_digest(path) for path in written_config(step)["init_param"]]
    return written_config(step)["init_param"]


def test_each_step_of_a_chain_starts_from_the_one_before(project, tmp_path):
    chain = tmp_path / "sequential"
    train_sequence(PAIRS, out=chain, **project)
    steps = [chain / "01_de_asr", chain / "02_es_st"]
    assert start_of(steps[0]) == [str(tmp_path / "base" / "model.pth")]
    assert start_of(steps[1]) == [str(steps[0] / "model.pth")]
    # Each is otherwise the training of that pair alone.
    for pair, step in zip(PAIRS, steps, strict=True):
        train([pair], out=tmp_path / "expert", **project)
        expert = written_config(tmp_path / "expert")
        assert {**written_config(step), "init_param": None} == {**expert, "init_param": None}
        assert read_text(step / "data/train/text") == read_text(tmp_path / "expert/data/train/text")
        shutil.rmtree(tmp_path / "expert")
    # The chain is the model of its last step, wherever it is moved to.
    chain.rename(tmp_path / "moved")
    for name in ("model.pth", "config.yaml"):
        last = tmp_path / "moved" / "02_es_st" / name
        assert (tmp_path / "moved" / name).resolve() == last.resolve()


def test_finished_chain_is_not_trained_again(project, tmp_path):
    chain = tmp_path / "sequential"
    train_sequence(PAIRS, out=chain, **project)
    before = {path: path.lstat().st_mtime_ns for path in chain.glob("[m.c]*")}
    train_sequence(PAIRS, out=chain, **project)
    assert [len(calls_of(chain / step)) for step in ("01_de_asr", "02_es_st")] == [1, 1]
    assert before == {path: path.lstat().st_mtime_ns for path in before} and len(before) == 3


def test_chain_goes_on_at_the_step_that_failed(project, tmp_path, monkeypatch):
    chain = tmp_path / "sequential"
    train_sequence(PAIRS, out=chain, **project)
    shutil.rmtree(chain / "02_es_st")
    (chain / ".done").rename(chain / ".done.started")
    monkeypatch.setenv("FAIL", "stopped")
    with refusal(chain / "02_es_st" / "train.log", "stopped"):
        train_sequence(PAIRS, out=chain, **project)
    assert not (chain / ".done").exists()
    monkeypatch.delenv("FAIL")
    train_sequence(PAIRS, out=chain, **project)
    assert len(calls_of(chain / "01_de_asr")) == 1 and (chain / ".done").exists()
    assert (chain / "model.pth").read_bytes() == b"weights"


def other_model_of_a_step(project, chain, pairs):
    (chain / "01_de_asr" / "4epoch.pth").write_bytes(b"other weights")


def other_seed(project, chain, pairs):
    project["seed"] = 2


def other_order(project, chain, pairs):
    pairs.reverse()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "where", "shown"),
    [
        (other_model_of_a_step, "02_es_st", "base: "),
        (other_seed, "01_de_asr", "config.seed: 1 -> 2"),
        (other_order, "", "steps: ['de_asr', 'es_st'] -> ['es_st', 'de_asr']"),
    ],
)
def test_chain_of_other_settings(project, tmp_path, change, where, shown, finished):
    chain = tmp_path / "sequential"
    pairs = list(PAIRS)
    train_sequence(pairs, out=chain, **project)
    if not finished:
        (chain / ".done").rename(chain / ".done.started")
    change(project, chain, pairs)
    with refusal(chain / where, shown):
        train_sequence(pairs, out=chain, **project)


@pytest.mark.parametrize("strategy", [None, "all", "required_grad_only"])
def test_chain_of_adapters_that_cannot_go_on(project, tmp_path, strategy):
    project["config"] = {**project["config"], "use_adapter": True, "adapter": "lora"}
    if strategy:
        project["config"]["save_strategy"] = strategy
    with refusal("save_strategy", "adapter_only", strategy or "all", "--baselines"):
        train_sequence(PAIRS, out=tmp_path / "sequential", **project)
    assert not (tmp_path / "sequential").exists()
