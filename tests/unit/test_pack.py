"""Packages of ESPnet: the same members for every place of an experiment, and no absolute paths."""

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lors.bin.pack import main
from lors.errors import LorsError, UsageError
from lors.export.espnet import pack_espnet
from lors.fileio import locked
from lors.models.espnet_s2t.import_base import import_espnet_s2t
from tests.full_disk import largest_file
from tests.integration.tiny_s2t import make_model
from tests.refusal import refusal

ROOT = Path(__file__).parents[2]
NAME = "lors.asr"
MEMBERS = {
    *("meta.yaml", f"exp/merged/{NAME}/config.yaml", f"exp/merged/{NAME}/model.pth"),
    *("exp/base/bpe.model", "exp/base/feats_stats.npz"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base model with feature statistics, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    values = np.arange(20, dtype=np.float32)  # as the type of the loaded model
    total = {"count": np.float32(10), "sum": values, "sum_square": values**2 + 5}
    np.savez(folder / "feats_stats.npz", **total)
    stats = {"stats_file": str(folder / "feats_stats.npz")}
    return make_model(folder, normalize="global_mvn", normalize_conf=stats)


def experiment(made, expdir):
    """Write base and merged model; the configuration names the files as stage base does."""
    base, merged = Path(expdir, "base"), Path(expdir, "merged", NAME)
    base.mkdir(parents=True)
    merged.mkdir(parents=True)
    for name in ("bpe.model", "feats_stats.npz"):
        shutil.copy(made / name, base)
    config = yaml.safe_load((made / "config.yaml").read_text())
    config["bpemodel"] = str(base / "bpe.model")
    config["normalize_conf"]["stats_file"] = str(base / "feats_stats.npz")
    write(merged, config)
    shutil.copy(made / "model.pth", merged)
    return merged


def write(merged, config):
    (merged / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))


def change(merged, **values):
    write(merged, {**yaml.safe_load((merged / "config.yaml").read_text()), **values})


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    (tmp_path / "recipe").mkdir()
    monkeypatch.chdir(tmp_path / "recipe")
    return tmp_path / "recipe"


@pytest.fixture
def exp(made, recipe):
    experiment(made, "exp")
    return recipe / "exp"


def packed(expdir="exp"):
    """Call the program as the recipe does."""
    out = f"{expdir}/packed/{NAME}.zip"
    words = ["--model", f"{expdir}/merged/{NAME}", "--base", f"{expdir}/base", "--out", out]
    return main(words), Path(out)


def names_in(directory):
    return [path.name for path in directory.iterdir()]


def texts(package):
    """Return the texts in a package: the names, the record and the configuration."""
    with zipfile.ZipFile(package) as archive:
        described = [archive.read(n).decode() for n in archive.namelist() if n.endswith(".yaml")]
        return {*archive.namelist()}, described


def opened(package, place):
    """Unpack and load a package as ESPnet does."""
    from espnet2.bin.s2t_inference import Speech2Text
    from espnet2.main_funcs.pack_funcs import unpack

    return Speech2Text(**unpack(package, place), beam_size=1).s2t_model


@pytest.mark.parametrize("place", ["inside", "deep", "elsewhere", "above", "behind a link", "near"])
def test_a_package_opens_elsewhere(made, recipe, tmp_path, monkeypatch, place):
    disk = tmp_path / "other disk"
    (disk / "exp").mkdir(parents=True)
    (recipe / "disk").mkdir()
    if place in ("behind a link", "near"):
        (recipe / "exp").symlink_to({"near": "disk"}.get(place, disk))
    expdir = {"deep": "exp/seed2", "elsewhere": str(disk / "exp"), "above": "../other disk/exp"}
    merged = experiment(made, expdir.get(place, "exp"))
    status, out = packed(expdir.get(place, "exp"))
    assert status == 0 and names_in(out.parent) == [out.name]
    shutil.copy(out, tmp_path / "copy.zip")
    state = torch.load(merged / "model.pth", weights_only=True)

    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    shutil.rmtree(recipe)
    shutil.rmtree(disk)
    names, described = texts(tmp_path / "copy.zip")
    assert names == MEMBERS
    for text in described:
        assert str(tmp_path) not in text and "other disk" not in text and "seed2" not in text
    model = opened(tmp_path / "copy.zip", tmp_path / "new/unpacked")
    loaded = model.state_dict()
    assert state.keys() == loaded.keys()
    assert [name for name, value in state.items() if not torch.equal(value, loaded[name])] == []
    with zipfile.ZipFile(tmp_path / "copy.zip") as archive:
        archive.extractall(tmp_path / "base")
    import_espnet_s2t(tmp_path / "base", tmp_path / "new/imported")
    for name in ("bpe.model", "feats_stats.npz"):
        imported = tmp_path / "new/imported" / name
        assert imported.read_bytes() == (made / name).read_bytes()


def test_a_merge_is_a_base_model(made, exp):
    """Its configuration names the files of the experiment's base model."""
    import_espnet_s2t(exp / f"merged/{NAME}", "second/base")
    for name in ("bpe.model", "feats_stats.npz", "model.pth"):
        assert Path("second/base", name).read_bytes() == (made / name).read_bytes()
    config = yaml.safe_load(Path("second/base/config.yaml").read_text())
    assert config["bpemodel"] == "second/base/bpe.model"


def test_a_model_of_the_hub_names_no_file_of_this_disk(made, exp, tmp_path):
    snapshot = tmp_path / "models--org--base/snapshots" / ("0" * 40)
    shutil.copytree(exp / f"merged/{NAME}", snapshot)
    with refusal("missing", snapshot / "bpe.model", snapshot / "feats_stats.npz"):
        import_espnet_s2t(snapshot, "second/base")
    assert not Path("second").exists()


def test_the_record_and_the_configuration_have_relative_paths(exp):
    before = (exp / f"merged/{NAME}/config.yaml").read_bytes()
    assert packed(str(exp))[0] == 0
    with zipfile.ZipFile(exp / f"packed/{NAME}.zip") as archive:
        record = yaml.safe_load(archive.read("meta.yaml"))
        config = yaml.safe_load(archive.read(f"exp/merged/{NAME}/config.yaml"))
    assert record["files"] == {"s2t_model_file": f"exp/merged/{NAME}/model.pth"}
    assert record["yaml_files"] == {"s2t_train_config": f"exp/merged/{NAME}/config.yaml"}
    assert config["bpemodel"] == "exp/base/bpe.model"
    assert config["normalize_conf"] == {"stats_file": "exp/base/feats_stats.npz"}
    assert (exp / f"merged/{NAME}/config.yaml").read_bytes() == before
    named = yaml.safe_load(before)
    for changed in ("bpemodel", "normalize_conf"):
        del config[changed], named[changed]
    assert config == named


def test_files_behind_links(made, exp, tmp_path):
    """The model, a file of the base model and the name in the configuration are links."""
    for path in (exp / f"merged/{NAME}/model.pth", exp / "base/bpe.model"):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    (tmp_path / "alias").symlink_to(exp)
    change(exp / f"merged/{NAME}", bpemodel=str(tmp_path / "alias/base/bpe.model"))
    assert packed()[0] == 0
    names, described = texts(exp / f"packed/{NAME}.zip")
    assert names == MEMBERS and not [text for text in described if str(tmp_path) in text]
    with zipfile.ZipFile(exp / f"packed/{NAME}.zip") as archive:
        for name in ("bpe.model", "model.pth"):
            [member] = [found for found in names if found.endswith(name)]
            assert archive.read(member) == (made / name).read_bytes()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links(made, exp, monkeypatch, number):
    def link(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    assert packed()[0] == 0 and texts(exp / f"packed/{NAME}.zip")[0] == MEMBERS


def test_a_vocabulary_of_another_name(made, exp, tmp_path):
    """The model's file is packed, not another one that lies in the directory of the base model."""
    (exp / "base/unigram.model").write_bytes(b"own")
    change(exp / f"merged/{NAME}", bpemodel="exp/base/unigram.model")
    assert packed()[0] == 0
    names, described = texts(exp / f"packed/{NAME}.zip")
    assert names == MEMBERS | {"exp/base/unigram.model"}
    assert yaml.safe_load(described[1])["bpemodel"] == "exp/base/unigram.model"
    (tmp_path / "bpe.model").write_bytes(b"outside")
    change(exp / f"merged/{NAME}", bpemodel="../bpe.model")
    assert packed()[0] == 0
    with zipfile.ZipFile(exp / f"packed/{NAME}.zip") as archive:
        assert archive.read("exp/base/bpe.model") == b"outside"


def test_an_experiment_that_was_renamed(exp):
    exp.rename("old")
    assert packed("old")[0] == 0
    names, described = texts(f"old/packed/{NAME}.zip")
    assert names == MEMBERS and "old" not in yaml.safe_load(described[0])["files"]


def test_a_model_without_such_files(exp):
    """As those of the family whisper."""
    for name in ("bpe.model", "feats_stats.npz"):
        (exp / "base" / name).unlink()
    write(exp / f"merged/{NAME}", {"whisper_conf": {"window": 4.0}, "normalize_conf": None})
    assert packed()[0] == 0
    assert texts(exp / f"packed/{NAME}.zip")[0] == {n for n in MEMBERS if "base" not in n}


# --- refusals and interruptions -----------------------------------------------------------------


def test_files_that_are_missing(exp, capsys):
    merged, out = exp / f"merged/{NAME}", exp / "packed/x.zip"
    for name in ("model.pth", "config.yaml"):
        (merged / name).rename(merged / "away")
        with refusal(merged, f"no {name}", "stage merge"):
            pack_espnet(merged, exp / "base", out)
        assert packed()[0] == 1
        (merged / "away").rename(merged / name)
    assert "no config.yaml" in capsys.readouterr().err
    with refusal(exp / "none", "stage base"):
        pack_espnet(merged, exp / "none", out)
    with refusal("exp/packed", ".zip", kind=UsageError):
        pack_espnet(merged, exp / "base", "exp/packed/x")
    for name, key in {"bpe.model": "bpemodel", "feats_stats.npz": "stats_file"}.items():
        (exp / "base" / name).rename(exp / "away")
        with refusal(merged / "config.yaml", key, f"exp/base/{name}"):
            pack_espnet(merged, exp / "base", out)
        (exp / "away").rename(exp / "base" / name)
    assert not (exp / "packed").exists()


@pytest.mark.parametrize("old", [b"", b"the old package"])
def test_an_interrupted_packing_leaves_no_package(exp, monkeypatch, old):
    from espnet2.main_funcs import pack_funcs

    def interrupted(outpath, **_):
        Path(outpath).write_bytes(b"half")
        raise KeyboardInterrupt

    out, here = exp / f"packed/{NAME}.zip", Path.cwd()
    if old:
        out.parent.mkdir()
        out.write_bytes(old)
    monkeypatch.setattr(pack_funcs, "pack", interrupted)
    assert packed()[0] == 130
    assert [path.read_bytes() for path in out.parent.iterdir()] == ([old] if old else [])
    assert Path.cwd() == here
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert packed()[0] == 0 and texts(out)[0] == MEMBERS


KILLED = """
import os, signal, sys
from pathlib import Path
from espnet2.main_funcs import pack_funcs
from lors.bin.pack import main

def killed(outpath, **_):
    Path(outpath).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

pack_funcs.pack = killed
main(sys.argv[1:])
"""


def test_a_packing_that_was_killed(exp):
    out = Path(f"exp/packed/{NAME}.zip")
    words = ["--model", f"exp/merged/{NAME}", "--base", "exp/base", "--out", str(out)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env=env, timeout=120)
    assert done.returncode == -9 and not out.exists()
    assert packed()[0] == 0 and names_in(out.parent) == [out.name]
    assert texts(out)[0] == MEMBERS


def test_a_full_disk_is_told_with_the_package(exp, capsys):
    with largest_file(1000):
        assert packed()[0] == 1
    assert f"{NAME}.zip" in capsys.readouterr().err and names_in(exp / "packed") == []


def test_two_programs_for_one_package(exp, monkeypatch):
    monkeypatch.setattr("lors.fileio.LOCK_SECONDS", 0.1)
    out = exp / f"packed/{NAME}.zip"
    with (
        locked(out.with_name(f".{out.name}.lock")),
        pytest.raises(LorsError, match="another process"),
    ):
        pack_espnet(exp / f"merged/{NAME}", exp / "base", out)
