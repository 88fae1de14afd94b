"""lors.models.espnet_s2t.import_base: a published model becomes an experiment's base model."""

import pytest
import torch
import yaml

from lors.models.espnet_s2t.import_base import import_espnet_s2t
from tests.refusal import refusal

CONFIG = {
    "token_list": ["a", "b"],
    "bpemodel": "data/token_list/bpe.model",
    "normalize_conf": {"stats_file": "exp/stats/feats_stats.npz"},
    "optim": "adam",
}


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "published"
    directory.mkdir()
    torch.save({"encoder.weight": torch.arange(6.0)}, directory / "model.pth")
    (directory / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    for name in ("bpe.model", "feats_stats.npz"):
        (directory / name).write_bytes(b"content")
    return directory


def test_a_model_with_its_files(source, tmp_path):
    out = tmp_path / "base"
    import_espnet_s2t(source, out)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config == {
        "token_list": ["a", "b"],
        "bpemodel": str(out / "bpe.model"),
        "normalize_conf": {"stats_file": str(out / "feats_stats.npz")},
    }
    for name in ("model.pth", "bpe.model", "feats_stats.npz"):
        assert (out / name).read_bytes() == (source / name).read_bytes()


def test_files_that_are_missing(source, tmp_path):
    for name in ("model.pth", "bpe.model"):
        (source / name).unlink()
    with refusal(source, "model.pth", "bpe.model"):
        import_espnet_s2t(source, tmp_path / "base")


def test_damaged_weights(source, tmp_path):
    content = bytearray((source / "model.pth").read_bytes())
    content[content.index(torch.arange(6.0).numpy().tobytes()) + 3] ^= 1
    (source / "model.pth").write_bytes(content)
    with refusal(source / "model.pth", "encoder.weight"):
        import_espnet_s2t(source, tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("name", ["..", "/", "a b", 3, ["x"]])
def test_files_with_names_that_are_no_names(source, tmp_path, name):
    (source / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "bpemodel": name}))
    with refusal(source):
        import_espnet_s2t(source, tmp_path / "base")
    assert not (tmp_path / "base").exists()
