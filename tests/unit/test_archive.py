"""Results without models: what is in the archive, and what a report reads from it."""

import json
import shutil
import tarfile

import pytest
from score_trees import make_scores, make_sweeps

from lors.bin import archive_results, results

MODELS = ("base/model.pth", "expert/de_asr/checkpoint.pth", "masks/taylor_30/masks.safetensors")
BULKY = (
    *("stats/train/speech_shape", "expert/de_asr/data/train/text", "expert/de_asr/train.log"),
    *("plots/bars_asr.png", "report.html", "expert/de_asr/run.sh"),
    *("seed2/recipe.json", "seed2/scores/test/base/de_asr.json"),  # another experiment
)
RECORDS = (
    *("base/source.yaml", "expert/de_asr/.done", "merged/lors.asr/merge.yaml"),
    *("recipe.json", "stages.tsv", "s3net_taylor_30/.done", "lora/de_asr/.done"),
    *("half/s3net_taylor_30/base/.done", "half/s3net_taylor_30/expert/de_asr/.done"),
    *("quantised_sat/.done", "quantised_speaker/de-x-anna_asr/.done"),
)
STAGE = "2026-11-30T11:09:44\t7 (tune)\t594\t2\tIntel(R)\t./run.sh --stop_stage tune\n"


@pytest.fixture
def expdir(tmp_path):
    made = make_sweeps(make_scores(tmp_path / "exp" / "seed1"))
    for name in (*MODELS, *BULKY, *RECORDS):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("{}")
    (made / "sequential").symlink_to("expert/de_asr")
    (made / "stages.tsv").write_text(STAGE)
    record = {"command": "./run.sh", "directory": "/home/me/egs", "host": "mine", "pid": 7}
    record["environment"] = "LORS_PYTHON=/home/me/python "
    (made / "recipe.json").write_text(json.dumps(record))
    return made


def archive(expdir, out):
    return archive_results.main(["--expdir", str(expdir), "--out", str(out)])


def report(expdir, out):
    assert results.main(["--expdirs", str(expdir), "--out", str(out)]) == 0
    return out.read_text()


def test_the_archive_has_all_records_and_no_model(expdir, tmp_path, capsys):
    out = tmp_path / "seed1.tar.gz"
    assert archive(expdir, out) == 0
    with tarfile.open(out) as made:
        names = {name.removeprefix("seed1/") for name in made.getnames()}
        record = json.load(made.extractfile("seed1/recipe.json"))
    local = {"directory": "", "environment": "", "host": "", "pid": 0}
    assert record == {"command": "./run.sh", **local}
    written = {str(path.relative_to(expdir)) for path in expdir.rglob("*") if path.is_file()}
    linked = {name for name in written if name.startswith("sequential/")}
    assert names == written - linked - {*MODELS, *BULKY}
    assert {*RECORDS} < names
    assert f"{len(names)} files" in capsys.readouterr().out


def test_an_unpacked_archive_gives_the_same_report(expdir, tmp_path, monkeypatch):
    out = tmp_path / "seed1.tar.gz"
    assert archive(expdir, out) == 0
    elsewhere = tmp_path / "elsewhere"
    with tarfile.open(out) as made:
        made.extractall(elsewhere / "exp")  # our own archive
    texts = []
    for folder in (tmp_path, elsewhere):
        monkeypatch.chdir(folder)
        texts.append(report("exp/seed1", folder / "RESULTS.md"))
    assert texts[0] == texts[1]
    assert "lors" in texts[0] and "./run.sh --stop_stage tune" in texts[0]


def test_the_same_results_give_the_same_bytes(expdir, tmp_path):
    outs = [tmp_path / name for name in ("a.tar.gz", "b.tar.gz")]
    for out in outs:
        assert archive(expdir, out) == 0
        for path in expdir.rglob("*.json"):
            path.touch()
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_searches_alone_are_archived(expdir, tmp_path):
    """Those of a curve have no test set."""
    shutil.rmtree(expdir / "scores")
    assert archive(expdir, tmp_path / "seed1.tar.gz") == 0
    with tarfile.open(tmp_path / "seed1.tar.gz") as made:
        made.extractall(tmp_path / "elsewhere")
    found = tmp_path / "elsewhere" / "SWEEPS.md"
    words = ["--sweeps_only", "--expdirs", str(tmp_path / "elsewhere/seed1"), "--out", str(found)]
    assert results.main(words) == 0
    assert "lors" in found.read_text()


def test_an_experiment_without_scores_and_searches_is_refused(tmp_path, capsys):
    (tmp_path / "exp" / "log").mkdir(parents=True)
    assert archive(tmp_path / "exp", tmp_path / "out.tar.gz") == 1
    assert "no scores in the experiment" in capsys.readouterr().err
    assert not (tmp_path / "out.tar.gz").exists()
