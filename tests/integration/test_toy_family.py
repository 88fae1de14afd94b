"""A model family from outside the package goes through check, import, training, merge, inference.

It is installed as any package is: its entry point lies in a directory of PYTHONPATH.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml

from lors.data.datadir import Utterance, read_text, write_data_dir
from tests.integration.recipe import ROOT
from tests.integration.toy_family.model import new_model

WORDS = {"de": ["leise", "laut"], "es": ["bajo", "alto"]}
LEVELS = [0.1, 0.9]
CONF = {"langs": list(WORDS), "words": [word for words in WORDS.values() for word in words]}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A published base model, data, configurations, and the family's entry point."""
    root = tmp_path_factory.mktemp("toy")
    info = root / "site/toy_family-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-family\nVersion: 1.0\n")
    entry = "[lors.model_families]\ntoy = tests.integration.toy_family.family\n"
    (info / "entry_points.txt").write_text(entry)
    (root / "published").mkdir()
    torch.manual_seed(0)
    torch.save(new_model(CONF).state_dict(), root / "published/model.pth")
    (root / "published/config.yaml").write_text(yaml.safe_dump({"toy_conf": CONF}))
    for lang, words in WORDS.items():
        for split in ("train", "dev", "test"):
            rows = []
            for number, (word, level) in enumerate(zip(words, LEVELS, strict=True)):
                audio = root / f"audio/{lang}-{split}-{number}.flac"
                audio.parent.mkdir(exist_ok=True)
                soundfile.write(audio, np.full(1600, level, dtype=np.float32), 16000)
                name, spk = f"spk{number}-{lang}-{split}", f"spk{number}"
                rows.append(Utterance(name, str(audio), spk, lang, word, {}, 0.1))
            write_data_dir(root / "dump" / lang / split, rows)
    (root / "train.yaml").write_text("num_iters_per_epoch: 200\nlr: 5.0\n")
    (root / "inference.yaml").write_text("beam_size: 1\n")
    (root / "tune.yaml").write_text("task_arithmetic: {scaling_coef: [0.5, 1.0]}\n")
    return root


def lors(project, program, *options, code=0):
    """Run a program of LoRS in the project; return its output."""
    path = os.pathsep.join([str(project / "site"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", f"lors.bin.{program}", *options],
        cwd=project,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


OPTIONS = {
    **{"stage": "1", "stop_stage": "12", "dry_run": "false", "submit": "false"},
    **{"skip_train": "false", "langs": "de es", "group": "", "groups": "", "tasks": "asr"},
    **{"methods": "task_arithmetic", "compare_to": "", "baselines": ""},
    **{"train_hours": "", "train_subset": ""},
    **{"seed": "1", "dev_utterances": "9", "datadir": "data", "dumpdir": "dump"},
    **{"expdir": "exp", "nj": "1", "ngpu": "0", "num_nodes": "1", "device": "cpu"},
    **{"model_family": "toy", "base_model": "", "base_window": ""},
    **{"st_language": "source", "data_opts": ""},
    **{"train_config": "train.yaml", "inference_config": "inference.yaml"},
    **{"tune_config": "tune.yaml", "upload_repo": "", "upload_opts": ""},
}


def check_recipe(project, window, code=0):
    options = [f"{name}={value}" for name, value in {**OPTIONS, "window": window}.items()]
    call = ["lors", "--program", "./run.sh", "--cmd_backend", "local", "--stages", "base", "tune"]
    return lors(project, "check_recipe", *call, "--options", *options, code=code)


def test_options_of_a_recipe_are_checked(project):
    lines = check_recipe(project, "1").splitlines()
    assert "base_model\ttoy_base" in lines and "import_options\t--window\t1" in lines
    assert "--window" in check_recipe(project, "2", code=2)


def test_from_base_model_to_hypotheses(project):
    pairs = ["de_asr", "es_asr"]
    imported = ["--model_family", "toy", "--base_model", "published", "--out", "exp/base"]
    assert "--window" in lors(project, "import_base", *imported, "--window", "2", code=2)
    lors(project, "import_base", *imported, "--window", "1")
    training = ["--base", "exp/base", "--pairs", *pairs, "--dump", "dump"]
    training += ["--config", "train.yaml"]
    lors(project, "train", *training, "--collect_stats", "--out", "exp/stats")
    for number in ("1", "2"):
        options = ["--stats", "exp/stats", "--out", "exp/expert", "--only", number]
        assert "step 199: loss" in lors(project, "train", *training, *options)
    for pair in pairs:
        assert (project / "exp/expert" / pair / "model.pth").exists()

    experiment = ["--expdir", "exp", "--dump", "dump", "--langs", *WORDS, "--tasks", "asr"]
    experiment += ["--inference_config", "inference.yaml"]
    lors(project, "tune", *experiment, "--grid", "tune.yaml")
    merge = ["--expdir", "exp", "--methods", "task_arithmetic", "--langs", *WORDS]
    lors(project, "merge_tuned", *merge, "--scopes", "asr")
    plan = yaml.safe_load((project / "exp/merged/task_arithmetic.asr/merge.yaml").read_text())
    assert plan["tensors"] == {"prune": 1, "whole": 0, "copy": 0}

    lors(project, "inference", *experiment, "--systems", "base", "expert", "task_arithmetic.langs")
    for system in ("expert", "task_arithmetic.langs"):
        for lang, words in WORDS.items():
            said = read_text(project / f"exp/inference/test/{system}/{lang}_asr")
            assert list(said.values()) == words
    assert (project / "exp/inference/test/base/de_asr").exists()
