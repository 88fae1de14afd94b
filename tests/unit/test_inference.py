"""The files that inference makes, with a stand-in for the model."""

import numpy as np
import pytest
import soundfile
import yaml
from stand_ins import sentence, use_fake_models, write_audio_dump, write_model

from lors.config import load_config
from lors.data.datadir import read_text
from lors.errors import UsageError
from lors.models.espnet_s2t.prompts import S2TOptions
from lors.recipe import inference
from lors.recipe.expdir import ExpDir
from lors.recipe.inference import infer
from lors.tasks import Pair
from tests.refusal import refusal

DE, ES = Pair("de", "asr"), Pair("es", "st")
GREEDY = S2TOptions(batch_size=7, maxlenratio=0.4)


@pytest.fixture
def calls(monkeypatch):
    return use_fake_models(monkeypatch)


@pytest.fixture
def dump(tmp_path):
    return write_audio_dump(tmp_path / "dump", splits=["test"])


@pytest.fixture
def expdir(tmp_path):
    expdir = ExpDir(tmp_path / "exp")
    write_model(expdir.base, 0)
    write_model(expdir.joint, 1, {"de_asr": 3})
    return expdir


@pytest.fixture
def work(expdir):
    return [
        (pair, expdir.root / system, expdir.hypothesis("test", system, pair))
        for pair in (DE, ES)
        for system in ("base", "joint")
    ]


def kinds(calls):
    return [call[0] for call in calls if call[0] != "load_state"]


# --- configuration


def test_configuration(tmp_path):
    path = tmp_path / "inference.yaml"
    path.write_text("beam_size: 5\nctc_weight: 0.3\n")
    options = load_config(S2TOptions, path)
    assert options == S2TOptions(5, 64, 0.3, 0.0) and not options.is_greedy
    path.write_text("")
    assert load_config(S2TOptions, path).is_greedy
    assert not S2TOptions(beam_size=1, ctc_weight=0.3).is_greedy


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ({"beam_size": 0}, ["beam_size", "at least 1"]),
        ({"beam_size": 1.5}, ["beam_size", "1.5"]),
        ({"batch_size": 0}, ["batch_size", "at least 1"]),
        ({"ctc_weight": 1.1}, ["ctc_weight", "from 0 to 1", "1.1"]),
        ({"penalty": "high"}, ["penalty", "high"]),
        ({"beamsize": 5}, ["beamsize", "did you mean beam_size"]),
    ],
)
def test_wrong_configuration(tmp_path, content, facts):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    with refusal(tmp_path / "c.yaml", *facts, kind=UsageError):
        load_config(S2TOptions, tmp_path / "c.yaml")


# --- inference


def test_every_hypothesis_by_its_own_model(calls, work, dump, expdir):
    infer(work, dump, "test", GREEDY, device="cuda:7")
    de, es = sentence(1, "de").split(), ["translation"]
    for system, right in (("base", 1), ("joint", 3)):
        texts = read_text(expdir.hypothesis("test", system, DE))
        assert list(texts) == [f"spk{k}-de-test" for k in range(3)]
        assert texts["spk1-de-test"].split() == de[:right]
        assert read_text(expdir.hypothesis("test", system, ES))["spk2-es-test"].split() == es
    # Each model is loaded once, whatever the order of the work.
    assert kinds(calls) == ["load", "greedy", "greedy"] * 2
    assert {call[2] for call in calls if call[0] == "load"} == {"cuda:7"}
    assert ("greedy", 3, 7, 0.4) in calls


def test_empty_hypotheses_are_written(calls, dump, expdir, work):
    write_model(expdir.base, 0, {"de_asr": 0})
    infer(work[:1], dump, "test", GREEDY)
    assert work[0][2].read_text() == "".join(f"spk{k}-de-test\n" for k in range(3))


def test_beam_search_gets_its_options(calls, dump, work):
    infer(
        work[:1],
        dump,
        "test",
        S2TOptions(beam_size=4, ctc_weight=0.2, penalty=0.5, maxlenratio=0.3),
    )
    assert calls[-1] == ("beam", 3, 4, 0.2, 0.5, 0.3)


def test_finished_files_are_left_alone(calls, dump, work):
    infer(work, dump, "test", GREEDY)
    before = {out: out.stat().st_mtime_ns for *_, out in work}
    calls.clear()
    infer(work, dump, "test", GREEDY)
    assert calls == [] and before == {out: out.stat().st_mtime_ns for *_, out in work}
    # A file that was removed is made again, alone.
    work[3][2].unlink()
    infer(work, dump, "test", GREEDY)
    assert kinds(calls) == ["load", "greedy"] and work[3][2].exists()


def interrupt_third_part(monkeypatch) -> list[tuple]:
    """Press Ctrl-C in the third call of ``hypotheses_of``; return the list of calls."""
    real, count = inference.hypotheses_of, []

    def interrupted(*args):
        count.append(args)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(inference, "hypotheses_of", interrupted)
    return count


def test_interrupted_inference_goes_on(calls, dump, work, monkeypatch):
    count = interrupt_third_part(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        infer(work, dump, "test", GREEDY)
    assert sum(out.exists() for *_, out in work) == 2
    infer(work, dump, "test", GREEDY)
    assert len(count) == 3 + 2 and all(out.exists() for *_, out in work)
    names = {path.name for path in work[0][2].parent.iterdir()}
    assert names == {"de_asr", ".de_asr.done", "es_st", ".es_st.done"}


def test_interrupted_test_set_goes_on_after_its_last_shard(calls, dump, work, monkeypatch):
    infer(work[:1], dump, "test", GREEDY)
    expected = work[0][2].read_text()
    work[0][2].unlink()
    monkeypatch.setattr(inference, "SHARD", 1)
    count = interrupt_third_part(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        infer(work[:1], dump, "test", GREEDY)
    assert not work[0][2].exists()
    with refusal(work[0][2].parent, "maxlenratio: 0.4 -> 0.1"):
        infer(work[:1], dump, "test", S2TOptions(maxlenratio=0.1))
    infer(work[:1], dump, "test", S2TOptions(batch_size=2, maxlenratio=0.4))
    assert len(count) == 3 + 1 and work[0][2].read_text() == expected
    assert {path.name for path in work[0][2].parent.iterdir()} == {"de_asr", ".de_asr.done"}


def test_hypotheses_are_in_the_order_of_the_data(calls, dump, work):
    """Inference itself goes by length."""
    directory = dump / "de" / "test"
    for number, samples in enumerate((900, 400, 700)):
        path = directory / f"{number}.flac"
        soundfile.write(path, np.full(samples, (number + 1) / 128, dtype=np.float32), 16000)
    infer(work[:1], dump, "test", GREEDY)
    texts = read_text(work[0][2])
    assert list(texts) == [f"spk{k}-de-test" for k in range(3)]
    for number, text in enumerate(texts.values()):
        assert text == sentence(number, "de").split()[0]


def other_model(expdir, dump, options):
    write_model(expdir.base, 5)
    return options


def other_data(expdir, dump, options):
    write_audio_dump(dump, splits=["test"], utterances=2)
    return options


def other_own_options(expdir, dump, options):
    (expdir.base / "inference.yaml").write_text("window: 10\n")
    return options


def other_options(expdir, dump, options):
    return S2TOptions(beam_size=2)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (other_model, "model:"),
        (other_own_options, "own_inference:"),
        (other_data, "data:"),
        (other_options, "beam_size: 1 -> 2"),
    ],
)
def test_hypotheses_of_other_settings_are_not_overwritten(calls, dump, work, expdir, change, shown):
    infer(work[:1], dump, "test", GREEDY)
    before = work[0][2].read_text()
    options = change(expdir, dump, GREEDY)
    with refusal(work[0][2].parent, shown):
        infer(work[:1], dump, "test", options)
    assert work[0][2].read_text() == before


def test_missing_models_and_data_are_all_named_before_any_work(calls, dump, work, expdir):
    for model in (expdir.base, expdir.joint):
        (model / "model.pth").rename(model / "away")
    with refusal() as caught:
        infer(work, dump, "test", GREEDY)
    assert caught.value.got == [model / "model.pth" for model in (expdir.base, expdir.joint)]
    for model in (expdir.base, expdir.joint):
        (model / "away").rename(model / "model.pth")
    with refusal() as caught:
        infer(work, dump, "dev", GREEDY)
    assert caught.value.got == [dump / lang / "dev" for lang in ("de", "es")]
    assert calls == []
