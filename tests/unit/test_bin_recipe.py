"""The command lines of a recipe's stages, from the base model to the scores."""

import functools
import json
import shutil
import subprocess
import sys
import types

import pytest
import torch
import yaml
from stand_ins import (
    OUTPUT_BIAS,
    FakeS2TModel,
    calls_of,
    fake_espnet,
    sentence,
    use_fake_models,
    write_audio_dump,
    write_dump,
    write_model,
)

from lors.bin import import_base, inference, merge, merge_tuned, results, score_expdir, train, tune
from lors.data.datadir import write_kaldi_text
from lors.fileio import read_json, write_json
from lors.recipe.expdir import ExpDir
from lors.tasks import Pair

PAIRS = [Pair(lang, task) for task in ("asr", "st") for lang in ("de", "es")]
BOTH = ["--langs", "de", "es", "--tasks", "asr", "st"]


@pytest.fixture
def model(monkeypatch):
    use_fake_models(monkeypatch)
    return FakeS2TModel


@pytest.fixture
def expdir(tmp_path):
    expdir = ExpDir(tmp_path / "exp")
    write_model(expdir.base, 0)
    for seed, pair in enumerate(PAIRS, 1):
        write_model(expdir.expert(pair), seed, {str(pair): 7})
    return expdir


# --- import_base


@pytest.fixture
def published(tmp_path):
    directory = tmp_path / "published"
    directory.mkdir()
    config = {
        "token_list": ["<blank>", "ü"],
        "bpemodel": "exp/theirs/bpe.model",
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": "/home/them/stats/feats_stats.npz"},
        "encoder": "transformer",
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    torch.save({"encoder.weight": torch.arange(6.0)}, directory / "model.pth")
    for name in ("bpe.model", "feats_stats.npz", "unrelated.txt"):
        (directory / name).write_bytes(name.encode())
    return directory


def import_into(published, out):
    return import_base.main(["--base_model", str(published), "--out", str(out)])


class Renamed(torch.nn.Module):
    """A model of an ESPnet that has another name for a tensor of older versions."""

    def __init__(self, path):
        super().__init__()
        values = torch.load(path, weights_only=True)["encoder.embed.out.0.weight"]
        self.encoder = torch.nn.Module()
        self.encoder.embed = torch.nn.Module()
        self.encoder.embed.out = torch.nn.Linear(3, 2, bias=False)
        self.encoder.embed.out.weight.data = values


def test_import_takes_the_names_of_the_installed_espnet(published, tmp_path, monkeypatch):
    """Otherwise an expert would have a tensor that the base model has under another name."""
    values, out = torch.arange(6.0).reshape(2, 3), tmp_path / "base"
    torch.save({"encoder.embed.out.0.weight": values}, published / "model.pth")
    tasks = types.ModuleType("espnet2.tasks.s2t")
    tasks.S2TTask = types.SimpleNamespace(
        build_model_from_file=lambda config, file, device: (Renamed(file), None)
    )
    monkeypatch.setitem(sys.modules, "espnet2.tasks.s2t", tasks)
    assert import_into(published, out) == 0
    state = torch.load(out / "model.pth", weights_only=True)
    assert list(state) == ["encoder.embed.out.weight"]
    assert torch.equal(state["encoder.embed.out.weight"], values)
    made = (out / "model.pth").stat().st_mtime_ns
    assert import_into(published, out) == 0
    assert (out / "model.pth").stat().st_mtime_ns == made


def test_import_copies_the_model_and_points_its_config_at_the_copies(published, tmp_path):
    out = tmp_path / "exp" / "base"
    assert import_into(published, out) == 0
    names = {"config.yaml", "model.pth", "bpe.model", "feats_stats.npz", ".done"}
    assert {path.name for path in out.iterdir()} == names
    for name in ("model.pth", "bpe.model", "feats_stats.npz"):
        assert (out / name).read_bytes() == (published / name).read_bytes()
    before, after = (
        yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
        for place in (published, out)
    )
    assert after == {
        **before,
        "bpemodel": str(out / "bpe.model"),
        "normalize_conf": {"stats_file": str(out / "feats_stats.npz")},
    }


def test_import_of_a_model_without_statistics(published, tmp_path):
    config = yaml.safe_load((published / "config.yaml").read_text())
    for normalize in ({"normalize": "utterance_mvn", "normalize_conf": {}}, {"normalize": None}):
        changed = {**config, "normalize_conf": None, **normalize}
        (published / "config.yaml").write_text(yaml.safe_dump(changed))
        out = tmp_path / str(normalize["normalize"])
        assert import_into(published, out) == 0
        assert (out / "bpe.model").exists() and not (out / "feats_stats.npz").exists()


def test_import_names_every_missing_file(published, tmp_path, capsys):
    for name in ("model.pth", "bpe.model", "feats_stats.npz"):
        (published / name).unlink()
    assert import_into(published, tmp_path / "base") == 1
    error = capsys.readouterr().err
    assert "config.yaml and model.pth, or a package of ESPnet" in error
    for name in ("model.pth", "bpe.model", "feats_stats.npz"):
        assert str(published / name) in error
    assert "local/train_base.sh" in error and not (tmp_path / "base").exists()


def test_import_of_no_model(tmp_path, capsys):
    assert import_into(tmp_path / "nowhere", tmp_path / "base") == 1
    assert f"{tmp_path}/nowhere/config.yaml" in capsys.readouterr().err


def test_import_is_not_repeated_and_not_mixed(published, tmp_path, capsys):
    out = tmp_path / "base"
    assert import_into(published, out) == 0
    before, content = (out / "model.pth").stat().st_mtime_ns, (out / "model.pth").read_bytes()
    assert import_into(published, out) == 0
    assert (out / "model.pth").stat().st_mtime_ns == before
    (published / "model.pth").write_bytes(b"a newer one")
    assert import_into(published, out) == 1
    assert str(out) in capsys.readouterr().err
    assert (out / "model.pth").read_bytes() == content


def test_import_of_damaged_weights(published, tmp_path, capsys):
    content = bytearray((published / "model.pth").read_bytes())
    content[content.index(torch.arange(6.0).numpy().tobytes()) + 3] ^= 1
    (published / "model.pth").write_bytes(content)
    assert import_into(published, tmp_path / "base") == 1
    error = capsys.readouterr().err
    assert f"{published / 'model.pth'}: encoder.weight" in error
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("name", ["..", "/", "a b", 3, ["x"]])
def test_import_of_files_with_impossible_names(published, tmp_path, capsys, name):
    config = yaml.safe_load((published / "config.yaml").read_text())
    (published / "config.yaml").write_text(yaml.safe_dump({**config, "bpemodel": name}))
    assert import_into(published, tmp_path / "base") == 1
    assert str(published) in capsys.readouterr().err
    assert not (tmp_path / "base").exists()


# --- train


@pytest.fixture
def training(tmp_path, monkeypatch):
    """The options of a fine-tuning whose statistics are there."""
    fake_espnet(tmp_path / "espnet", monkeypatch)
    write_dump(tmp_path / "dump")
    write_model(tmp_path / "base")
    (tmp_path / "train.yaml").write_text("num_iters_per_epoch: 10\n")
    options = [
        "--base",
        str(tmp_path / "base"),
        "--dump",
        str(tmp_path / "dump"),
    ]
    options += ["--config", str(tmp_path / "train.yaml"), "--pairs", "de_asr", "es_st"]
    stats = str(tmp_path / "stats")
    assert train.main([*options, "--collect_stats", "--out", stats]) == 0
    return [*options, "--stats", stats]


def test_train_one_of_the_pairs_and_all(training, tmp_path):
    out = tmp_path / "expert"
    for number in (1, 2):
        assert train.main([*training, "--out", str(out), "--only", str(number)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["de_asr", "es_st"]
    assert train.main([*training, "--out", str(tmp_path / "joint"), "--seed", "7"]) == 0
    for place, iterations, seed in ((out / "es_st", 10, 1), (tmp_path / "joint", 20, 7)):
        config = yaml.safe_load((place / "train.yaml").read_text())
        assert (config["num_iters_per_epoch"], config["seed"]) == (iterations, seed)
        assert (place / "model.pth").exists() and len(calls_of(place)) == 1


@pytest.mark.parametrize(
    ("number", "baseline", "steps"),
    [
        ("2", "sequential", ["01_de_asr", "02_es_st"]),
        ("3", "sequential_reversed", ["01_es_st", "02_de_asr"]),
    ],
)
def test_train_one_pair_after_the_other(training, tmp_path, number, baseline, steps):
    exp, (first, last) = tmp_path / "exp", steps
    options = [*training, "--out", str(exp), "--only", number, "--seed", "7"]
    options += ["--baselines", "joint", "sequential", "sequential_reversed"]
    assert train.main(options) == 0
    assert [path.name for path in exp.iterdir()] == [baseline]
    out = exp / baseline
    for place, start in ((first, tmp_path / "base"), (last, out / first)):
        config = yaml.safe_load((out / place / "train.yaml").read_text())
        assert config["init_param"] == [str(start / "model.pth")]
        assert (config["num_iters_per_epoch"], config["seed"]) == (10, 7)
    assert (out / "config.yaml").exists()
    assert (out / "model.pth").resolve() == (out / last / "model.pth").resolve()
    # After an interruption in the last step, the first one is not trained again.
    shutil.rmtree(out / last)
    (out / ".done").rename(out / ".done.started")
    assert train.main(options) == 0
    assert [len(calls_of(out / step)) for step in steps] == [1, 1] and (out / ".done").exists()


def test_joint_model_by_its_number(training, tmp_path):
    options = [*training, "--out", str(tmp_path / "exp"), "--baselines", "sequential", "joint"]
    assert train.main([*options, "--only", "2"]) == 0
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["joint"]
    config = yaml.safe_load((tmp_path / "exp/joint/train.yaml").read_text())
    assert config["num_iters_per_epoch"] == 20


@pytest.mark.parametrize("baseline", ["sequential", "sequential_reversed"])
@pytest.mark.parametrize("more", [["--collect_stats"], ["--only", "1"]])
def test_adapters_that_do_not_allow_a_chain(training, tmp_path, capsys, more, baseline):
    (tmp_path / "train.yaml").write_text("num_iters_per_epoch: 10\nuse_adapter: true\n")
    options = [*training, "--out", str(tmp_path / "out"), "--baselines", baseline, *more]
    assert train.main(options) == 1
    error = capsys.readouterr().err
    assert "save_strategy: all, expected adapter_only" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_epoch": 2, "scheduler": "onecyclelr", "scheduler_conf": {"total_steps": 10}},
        {"keep_nbest_models": 5},
    ],
)
def test_settings_that_are_refused_before_the_statistics(training, tmp_path, capsys, wrong):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"num_iters_per_epoch": 10, **wrong}))
    assert train.main([*training, "--out", str(tmp_path / "out"), "--collect_stats"]) == 2
    assert list(wrong)[-1] in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "fact"),
    [
        (["--baselines", "sequential"], "--only"),
        (["--baselines", "sequential", "--only", "1", "--collect_stats"], "--collect_stats"),
        (["--only", "1", "--collect_stats"], "--collect_stats"),
        (["--baselines", "sequential", "--only", "1", "no base"], "--base"),
        (["--baselines", "together", "--only", "1"], "together"),
    ],
)
def test_options_that_do_not_fit(training, tmp_path, capsys, more, fact):
    options = [*training, "--out", str(tmp_path / "out"), *more]
    if more[-1] == "no base":
        options.pop()
        del options[: options.index("--base") + 2]
    with pytest.raises(SystemExit) as caught:
        train.main(options)
    assert caught.value.code == 2 and not (tmp_path / "out").exists()
    assert fact in capsys.readouterr().err


def test_a_baseline_that_is_not_there(training, tmp_path, capsys):
    options = [*training, "--out", str(tmp_path / "out"), "--baselines", "joint", "sequential"]
    assert train.main([*options, "--only", "3"]) == 2
    error = capsys.readouterr().err
    assert "1 to 2" in error and "3" in error and not (tmp_path / "out").exists()


def test_train_from_scratch(tmp_path, monkeypatch):
    fake_espnet(tmp_path / "espnet", monkeypatch)
    dump, config, tokens = (tmp_path / name for name in ("dump", "train.yaml", "tokens"))
    write_dump(dump)
    tokens.mkdir()
    config.write_text("max_epoch: 3\n")
    options = ["--tokens", str(tokens), "--dump", str(dump), "--config", str(config)]
    options += ["--pairs", "de_asr"]
    stats = str(tmp_path / "stats")
    assert train.main([*options, "--collect_stats", "--out", stats]) == 0
    assert train.main([*options, "--stats", stats, "--out", str(tmp_path / "base")]) == 0
    written = yaml.safe_load((tmp_path / "base" / "train.yaml").read_text())
    assert written["bpemodel"] == str(tokens / "bpe.model") and "init_param" not in written


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (["--only", "0"], ["--only", "1 to 2"]),
        (["--only", "3"], ["--only", "1 to 2"]),
        (["--pairs", "de_asr", "es_mt"], ["es_mt"]),
    ],
)
def test_train_usage_errors(training, tmp_path, capsys, more, facts):
    assert train.main([*training, "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert all(fact in error for fact in facts) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--dev_utterances", value) for value in ("0", "-1", "1.5", "nan", "9" * 5000)),
        *(("--ngpu", "-1"), ("--ngpu", "1001"), ("--num_nodes", "0"), ("--seed", "-1")),
        *(("--seed", "4294967296"), ("--only", "9" * 5000)),
    ],
)
def test_train_refuses_numbers_out_of_range(training, tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as caught:
        train.main([*training, "--out", str(tmp_path / "out"), option, value])
    assert caught.value.code == 2 and not (tmp_path / "out").exists()
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("lacking", ["--stats", "--pairs", "--dump", "--config"])
def test_train_needs_its_options(training, tmp_path, lacking):
    place = training.index(lacking)
    following = (i for i in range(place + 1, len(training)) if training[i].startswith("--"))
    end = next(following, len(training))
    with pytest.raises(SystemExit) as caught:
        train.main([*training[:place], *training[end:], "--out", str(tmp_path / "out")])
    assert caught.value.code == 2


def test_train_on_fewer_dev_utterances(training, tmp_path):
    few = [*training, "--out", str(tmp_path / "joint"), "--dev_utterances"]
    assert train.main([*few, "2"]) == 0
    data = tmp_path / "joint" / "data"
    lines = {split: (data / split / "text").read_text().splitlines() for split in ("train", "dev")}
    assert (len(lines["train"]), len(lines["dev"])) == (6, 4)


def test_train_needs_something_to_start_from(training, tmp_path, capsys):
    options = training[training.index("--base") + 2 :]
    assert train.main([*options, "--out", str(tmp_path / "out")]) == 2
    assert "whisper_conf" in capsys.readouterr().err


def test_train_has_one_start(training, tmp_path):
    with pytest.raises(SystemExit) as caught:
        train.main([*training, "--tokens", "exp", "--out", str(tmp_path / "out")])
    assert caught.value.code == 2


def test_failed_training_exits_1(training, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "it broke")
    assert train.main([*training, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "it broke" in error and f"bash {tmp_path}/out/run.sh" in error


# --- tune, merge_tuned


@pytest.fixture
def tuning(expdir, tmp_path, model):
    write_audio_dump(tmp_path / "dump", splits=["dev", "test"])
    (tmp_path / "tune.yaml").write_text(
        "average: {scaling_coef: [1.0]}\ntask_arithmetic: {scaling_coef: [0.2, 1.0, 0.5]}\n"
    )
    (tmp_path / "inference.yaml").write_text("beam_size: 1\n")
    options = ["--expdir", str(expdir.root), "--dump", str(tmp_path / "dump"), *BOTH]
    config = ["--inference_config", str(tmp_path / "inference.yaml")]
    return [*options, "--grid", str(tmp_path / "tune.yaml"), *config]


def merging(expdir, *scopes, methods=("average", "task_arithmetic")):
    langs = ["--langs", "de", "es"]
    return ["--expdir", str(expdir.root), "--methods", *methods, *langs, "--scopes", *scopes]


def test_tune_all_scopes_or_one(tuning, expdir):
    assert tune.main([*tuning, "--only", "3"]) == 0
    methods = ("average", "task_arithmetic")
    folders = functools.partial((expdir.root / "tune").glob, "*.*")
    assert {path.name for path in folders()} == {f"{method}.st" for method in methods}
    assert tune.main(tuning) == 0
    every = {f"{method}.{scope}" for method in methods for scope in ("asr", "st", "asr_st")}
    assert {path.name for path in folders()} == every
    of_asr = read_json(expdir.sweep("average", "asr"))
    assert set(of_asr["grid"][0]["scores"]) == {"de_asr", "es_asr"}


def test_tune_jobs_of_one_scope(tuning, expdir):
    options = [*tuning, "--methods", "task_arithmetic", "average", "--jobs", "6"]
    found = []
    for job in ("3", "4"):
        assert tune.main([*options, "--only", job]) == 0
        found.append({path.name for path in (expdir.root / "tune").glob("*.*")})
    assert found == [{"task_arithmetic.asr"}, {"task_arithmetic.asr", "average.asr"}]
    assert tune.main([*options, "--only", "7"]) == 2
    assert tune.main([*options, "--jobs", "0"]) == 2


def test_tune_some_of_the_methods(tuning, expdir, capsys):
    assert tune.main([*tuning, "--only", "2", "--methods", "task_arithmetic"]) == 0
    assert [path.name for path in (expdir.root / "tune").glob("*.*")] == ["task_arithmetic.asr"]
    assert tune.main([*tuning, "--methods", "average", "task_aritmetic"]) == 2
    error = capsys.readouterr().err
    assert "did you mean task_arithmetic" in error and "average, task_arithmetic" in error


def test_tune_usage_errors(tuning, expdir, tmp_path, capsys):
    for only in ("0", "4"):
        assert tune.main([*tuning, "--only", only]) == 2
        error = capsys.readouterr().err
        assert "--only" in error and "1 to 3" in error
    (tmp_path / "inference.yaml").write_text("beam: 1\n")
    assert tune.main(tuning) == 2
    assert "did you mean beam_size" in capsys.readouterr().err
    assert not (expdir.root / "tune").exists()


def test_merge_uses_the_parameters_that_were_chosen(tuning, expdir):
    assert tune.main(tuning) == 0
    assert read_json(expdir.sweep("task_arithmetic", "asr_st"))["best"] == 1
    sweep = read_json(expdir.sweep("task_arithmetic", "st"))
    write_json(expdir.sweep("task_arithmetic", "st"), {**sweep, "best": 2})
    assert merge_tuned.main(merging(expdir, "asr", "st", "asr_st")) == 0
    expected = {
        "average.asr": (1.0, [4, 4, 1, 1]),
        "task_arithmetic.asr": (1.0, [7, 7, 1, 1]),
        "task_arithmetic.st": (0.5, [1, 1, 4, 4]),
        "task_arithmetic.asr_st": (1.0, [7, 7, 7, 7]),
    }
    for name, (coef, right) in expected.items():
        directory = expdir.merged(*name.split("."))
        record = yaml.safe_load((directory / "merge.yaml").read_text())
        assert record["plan"]["params"] == {"scaling_coef": coef}
        state = torch.load(directory / "model.pth", weights_only=True)
        assert state[OUTPUT_BIAS].tolist() == pytest.approx(right)
        config = (expdir.base / "config.yaml").read_text()
        assert (directory / "config.yaml").read_text() == config


def test_merge_is_not_repeated_and_not_mixed(tuning, expdir, capsys):
    assert tune.main([*tuning, "--only", "2"]) == 0
    options = merging(expdir, "asr")
    assert merge_tuned.main(options) == 0
    file = expdir.merged("task_arithmetic", "asr") / "model.pth"
    before = file.stat().st_mtime_ns
    assert merge_tuned.main(options) == 0 and file.stat().st_mtime_ns == before
    sweep = read_json(expdir.sweep("task_arithmetic", "asr"))
    write_json(expdir.sweep("task_arithmetic", "asr"), {**sweep, "best": 0})
    assert merge_tuned.main(options) == 1
    error = capsys.readouterr().err
    assert str(file.parent) in error and "params.scaling_coef" in error
    assert file.stat().st_mtime_ns == before


def test_merge_does_not_depend_on_how_the_expdir_is_written(tuning, expdir, monkeypatch):
    assert tune.main([*tuning, "--only", "2"]) == 0
    assert merge_tuned.main(merging(expdir, "asr")) == 0
    monkeypatch.chdir(expdir.root.parent)
    assert merge_tuned.main(merging(ExpDir("exp"), "asr")) == 0


def test_merge_without_a_sweep_or_an_expert(tuning, expdir, capsys):
    assert merge_tuned.main(merging(expdir, "asr")) == 1
    assert "average.asr/sweep.json" in capsys.readouterr().err
    assert tune.main([*tuning, "--only", "2"]) == 0
    (expdir.expert(PAIRS[0]) / "model.pth").unlink()
    assert merge_tuned.main(merging(expdir, "asr")) == 1
    assert "expert/de_asr/model.pth" in capsys.readouterr().err


# --- inference, score_expdir


@pytest.fixture
def inferring(tuning):
    grid = tuning.index("--grid")
    return [*tuning[:grid], *tuning[grid + 2 :], "--systems", "base", "expert"]


def hypotheses(expdir):
    return {
        str(path.relative_to(expdir.root / "inference"))
        for path in (expdir.root / "inference").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


EVERY = {f"test/{system}/{pair}" for system in ("base", "expert") for pair in PAIRS}


def test_parts_of_the_inference_make_a_whole(inferring, expdir, model):
    parts = []
    for job in (1, 2, 3):
        before = hypotheses(expdir)
        assert inference.main([*inferring, "--job", str(job), "--num_jobs", "3"]) == 0
        parts.append(hypotheses(expdir) - before)
    assert set().union(*parts) == EVERY and sorted(map(len, parts)) == [2, 3, 3]
    model.calls.clear()
    assert inference.main(inferring) == 0
    assert model.calls == []


def test_more_jobs_than_work(inferring, expdir):
    assert inference.main([*inferring, "--job", "20", "--num_jobs", "20"]) == 0
    assert hypotheses(expdir) == set()


def test_inference_of_merged_models_in_another_split(tuning, inferring, expdir):
    assert tune.main(tuning) == 0
    assert merge_tuned.main(merging(expdir, "asr", "st", "asr_st")) == 0
    systems = ["task_arithmetic.langs", "average.langs_tasks"]
    assert inference.main([*inferring, "--systems", *systems, "--split", "dev"]) == 0
    assert hypotheses(expdir) == {f"dev/{system}/{pair}" for system in systems for pair in PAIRS}
    lines = expdir.hypothesis("dev", systems[0], PAIRS[0]).read_text().splitlines()
    first_words = " ".join(sentence(0, "de").split()[:7])
    assert lines[0] == f"spk0-de-dev {first_words}"


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (["--job", "0"], ["--job", "--num_jobs (1)"]),
        (["--job", "3", "--num_jobs", "2"], ["--job", "--num_jobs (2)"]),
        (["--num_jobs", "0"], ["--job", "--num_jobs (0)"]),
        (["--systems", "base", "bsae"], ["bsae"]),
    ],
)
def test_inference_usage_errors(inferring, expdir, capsys, more, facts):
    assert inference.main([*inferring, *more]) == 2
    error = capsys.readouterr().err
    assert all(fact in error for fact in facts) and hypotheses(expdir) == set()


def test_inference_of_an_unknown_task(inferring):
    with pytest.raises(SystemExit) as caught:
        inference.main([*inferring, "--tasks", "mt"])
    assert caught.value.code == 2


@pytest.fixture
def scoring(inferring):
    place = inferring.index("--inference_config")
    return [*inferring[:place], *inferring[place + 2 :]]


def test_scores_of_every_system(inferring, scoring, expdir, tmp_path):
    assert inference.main(inferring) == 0
    assert score_expdir.main(scoring) == 0
    assert {
        str(path.relative_to(expdir.root / "scores"))
        for path in (expdir.root / "scores").rglob("*.json")
    } == {f"{name}.json" for name in EVERY}
    result = json.loads(expdir.score("test", "expert", Pair("es", "asr")).read_text())
    assert result["wer"] == pytest.approx(100 / 8)
    assert (result["task"], result["lang"], result["utterances"]) == ("asr", "es", 3)
    assert result["ref"] == str(tmp_path / "dump" / "es" / "test" / "text")
    assert result["hyp"] == str(expdir.hypothesis("test", "expert", Pair("es", "asr")))
    bleu = [
        read_json(expdir.score("test", s, Pair("es", "st")))["bleu"] for s in ("base", "expert")
    ]
    assert bleu[0] < 1 < 50 < bleu[1] < 100


def test_scores_need_every_hypothesis(expdir, tmp_path, capsys):
    write_dump(tmp_path / "dump", splits=["test"])
    options = ["--expdir", str(expdir.root), "--dump", str(tmp_path / "dump"), "--systems", "base"]
    options += ["--langs", "de", "--tasks", "asr"]
    assert score_expdir.main(options) == 1
    assert "inference/test/base/de_asr" in capsys.readouterr().err
    hypothesis = expdir.hypothesis("test", "base", PAIRS[0])
    write_kaldi_text(hypothesis, {f"spk{k}-de-test": "one" for k in range(2)})
    assert score_expdir.main(options) == 1
    assert "hypothesis: spk2-de-test" in capsys.readouterr().err
    assert not (expdir.root / "scores").exists()
    write_kaldi_text(hypothesis, {f"spk{k}-de-test": sentence(k, "de") for k in range(3)})
    assert score_expdir.main(options) == 0
    assert read_json(expdir.score("test", "base", PAIRS[0]))["wer"] == 0


# --- a variant of a method, from the grid to the report


def test_variant_is_a_row_of_its_own(tuning, inferring, scoring, expdir, tmp_path):
    (tmp_path / "tune.yaml").write_text(
        "halving: {first: 0.5, keep: 0.5}\n"
        "task_arithmetic: {scaling_coef: [0.2, 1.0, 0.5]}\n"
        "task_arithmetic+boost:\n"
        "  {method: task_arithmetic, boost: [0.5], lines: [[1, 0]],\n"
        "   scaling_coef: [0.2, 1.0, 0.5]}\n"
    )
    names = ("task_arithmetic", "task_arithmetic+boost")
    assert tune.main([*tuning, "--methods", *names]) == 0
    assert merge_tuned.main(merging(expdir, "asr", "st", "asr_st", methods=names)) == 0
    merged = expdir.merged(names[1], "asr")
    record = merged / "merge.yaml"
    plan = yaml.safe_load(record.read_text())["plan"]
    assert (plan["method"], plan["boost"], plan["lines"]) == ("task_arithmetic", 0.5, [1, 0])
    assert (
        merge.main(["--config", str(record), "--out", str(tmp_path / "again" / "model.pth")]) == 0
    )
    again = (tmp_path / "again" / "model.pth").read_bytes()
    assert again == (merged / "model.pth").read_bytes()
    assert again != (expdir.merged(names[0], "asr") / "model.pth").read_bytes()
    systems = [f"{name}.{over}" for name in names for over in ("langs", "langs_tasks")]
    more = ["--systems", "base", "expert", *systems]
    assert inference.main([*inferring, *more]) == 0
    assert score_expdir.main([*scoring, *more]) == 0
    out, plots = tmp_path / "RESULTS.md", tmp_path / "plots"
    options = ["--expdirs", str(expdir.root), "--out", str(out), "--plots", str(plots)]
    assert results.main([*options, "--compare_to", names[1]]) == 0
    text = out.read_text().replace("\\", "")
    assert "| task_arithmetic+boost | languages and tasks |" in text
    assert (
        "vs. task_arithmetic+boost" in text and "task_arithmetic: scaling_coef=1 boost=0.5" in text
    )
    assert results.main([*options, "--systems", "base", f"{names[0]}.langs"]) == 0
    rows = out.read_text().replace("\\", "")
    assert names[0] in rows and names[1] not in rows and "joint" not in rows
    assert "successive halving" in text and (plots / "sweep.png").stat().st_size > 1000
    sweep = read_json(expdir.sweep(names[1], "asr"))
    write_json(expdir.sweep(names[1], "asr"), {**sweep, "variant_of": "average"})
    assert merge_tuned.main(merging(expdir, "asr", methods=names)) == 1


# --- a finished experiment

SLOW = ("torch", "espnet2", "soundfile", "sacrebleu", "jiwer", "matplotlib", "numpy", "whisper")
PROGRAM = """
import importlib, sys
name, *options = sys.argv[1:]
code = importlib.import_module(name).main(options)
print("imported:", *sorted(set({slow}) & set(sys.modules)))
sys.exit(code)
"""


def imported_by(module, options):
    """Run a program in a process of its own; return the slow packages that it imported."""
    command = [sys.executable, "-c", PROGRAM.format(slow=SLOW), module.__name__, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_a_finished_experiment_is_checked_without_slow_imports(tuning, inferring, scoring, expdir):
    report = ["--expdirs", str(expdir.root), "--out", str(expdir.root / "RESULTS.md")]
    report += ["--plots", str(expdir.root / "plots")]
    stages = {
        tune: tuning,
        merge_tuned: merging(expdir, "asr", "st", "asr_st"),
        inference: inferring,
        score_expdir: scoring,
        results: report,
    }
    for module, options in stages.items():
        assert module.main(options) == 0
    before = files_of(expdir)
    for module, options in stages.items():
        assert imported_by(module, options) == [], module
    assert files_of(expdir) == before


def files_of(expdir):
    """Path -> age of every file but the report, which is always written."""
    paths = (path for path in expdir.root.rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in paths if path.name != "RESULTS.md"}


def test_a_report_that_was_removed_is_made_again(inferring, scoring, expdir):
    out = expdir.root / "RESULTS.md"
    report = ["--expdirs", str(expdir.root), "--out", str(out)]
    for module, options in ((inference, inferring), (score_expdir, scoring), (results, report)):
        assert module.main(options) == 0
    text = out.read_text()
    out.unlink()
    assert results.main(report) == 0 and out.read_text() == text
