"""lors.bin.evaluate: any models on any data, with a stand-in for the models."""

import json
import shlex

import pytest
from stand_ins import FakeS2TModel, use_fake_models, write_audio_dump, write_model

from lors.bin import evaluate
from lors.bin.evaluate import directory_of
from lors.recipe.commands import read_evaluations
from lors.recipe.expdir import ExpDir
from lors.tasks import Pair


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use_fake_models(monkeypatch)
    write_audio_dump(tmp_path / "dump", splits=["test"])
    write_model(tmp_path / "base", 0)
    write_model(tmp_path / "expert" / "de_asr", 1, {"de_st": 10})
    write_model(tmp_path / "expert" / "es_asr", 1, {"es_st": 2})
    (tmp_path / "inference.yaml").write_text("maxlenratio: 0.4\n")
    models = ["base=base", "other=expert/{lang}_asr"]
    return [
        *("--dump", "dump", "--langs", "de", "es", "--tasks", "st", "--out", "out"),
        *("--inference_config", "inference.yaml", "--models", *models),
    ]


def test_recognition_experts_translate(options):
    assert evaluate.main(options) == 0
    out = ExpDir("out")

    def chrf(system, lang):
        score = json.loads(out.score("test", system, Pair(lang, "st")).read_text())
        return score["chrf"]

    assert chrf("other", "de") == 100 > chrf("other", "es") > chrf("base", "es")
    loaded = [call[1] for call in FakeS2TModel.calls if call[0] == "load"]
    assert loaded == [f"{d}/model.pth" for d in ("base", "expert/de_asr", "expert/es_asr")]
    FakeS2TModel.calls.clear()
    assert evaluate.main(options) == 0
    assert FakeS2TModel.calls == []


def test_calls_are_recorded_once(options):
    assert evaluate.main([*options, "--models", "a=nowhere"]) == 1
    assert read_evaluations("out") == []
    for words in (options, [*options, "--models", "base=base"], options):
        assert evaluate.main(words) == 0
    first, second = read_evaluations("out")
    assert first.models == {"base": "base", "other": "expert/{lang}_asr"}
    assert shlex.split(first.command) == ["python", "-m", "lors.bin.evaluate", *options]
    assert second.models == {"base": "base"} and second.command.endswith("--models base=base")


def test_names_of_the_pair_in_a_directory():
    pair = Pair("es", "st")
    assert str(directory_of("a/{lang}/{task}/{pair}/{x}", pair)) == "a/es/st/es_st/{x}"


@pytest.mark.parametrize(
    ("more", "fact"),
    [
        (["--models", "base"], "base"),
        (["--models", "=exp/base"], "=exp/base"),
        (["--models", "a=b", "a=c"], "a=c"),
        (["--models", "../a=base"], "../a"),
        (["--langs", "en", "--tasks", "st"], "--langs en --tasks st"),
        (["--langs", "../de"], "../de"),
    ],
)
def test_usage_errors(options, capsys, more, fact):
    assert evaluate.main([*options, *more]) == 2
    assert fact in capsys.readouterr().err
    assert not ExpDir("out").root.exists()


def test_models_and_data_that_are_missing(options, capsys):
    assert evaluate.main([*options, "--models", "a=nowhere/{pair}"]) == 1
    assert "nowhere/de_st" in capsys.readouterr().err
    assert evaluate.main([*options, "--models", "base=base", "--split", "dev"]) == 1
    assert "dump/de/dev" in capsys.readouterr().err
