import pytest
from stand_ins import sentence, translation, write_dump

from lors.data.datadir import Utterance, read_data_dir, read_text, write_data_dir
from lors.errors import LorsError, UsageError
from lors.models.espnet_s2t.family import (
    EspnetS2T,
    language_symbol,
    special_symbols,
    task_symbol,
)
from lors.models.family import write_training_data
from lors.tasks import Pair

S2T = EspnetS2T({}, "config.yaml")
FILES = ("wav.scp", "text", "text_prev", "text_ctc")


@pytest.mark.parametrize(
    ("lang", "symbol"),
    [
        ("ca", "<cat>"),
        ("de", "<deu>"),
        ("es", "<spa>"),
        ("fr", "<fra>"),
        ("id", "<ind>"),
        ("it", "<ita>"),
        ("nl", "<nld>"),
        ("pt", "<por>"),
        ("ru", "<rus>"),
        ("sv-SE", "<swe>"),
        ("zh-CN", "<zho>"),
    ],
)
def test_language_symbols_are_iso_639_3(lang, symbol):
    assert language_symbol(lang) == symbol


def test_task_symbols():
    assert (task_symbol("asr"), task_symbol("st")) == ("<asr>", "<st_eng>")


def test_unknown_names_get_near_ones():
    with pytest.raises(UsageError, match="unknown language 'sv'") as caught:
        language_symbol("sv")
    assert "sv-SE" in str(caught.value)
    with pytest.raises(UsageError, match="unknown task 'mt'"):
        task_symbol("mt")


def test_special_symbols():
    assert special_symbols(["de", "sv-SE"], speech_length=1.0, resolution=0.5) == [
        *("<na>", "<notimestamps>", "<sop>"),
        *("<deu>", "<swe>"),
        *("<asr>", "<st_eng>"),
        *("<0.00>", "<0.50>", "<1.00>"),
    ]
    assert special_symbols(["de"], 30.0, 0.02)[-1] == "<30.00>"
    assert len(set(special_symbols(["de"], 30.0, 0.02))) == 6 + 1501


def test_training_data_of_two_tasks(tmp_path):
    dump = write_dump(tmp_path / "dump", ["es", "de"])
    pairs = [Pair("es", "st"), Pair("de", "asr"), Pair("de", "st")]
    ids = write_training_data(S2T, pairs, dump, "train", tmp_path / "out")
    assert ids == sorted(ids)
    assert ids[:3] == ["spk0-de-train-asr", "spk0-de-train-st", "spk0-es-train-st"]
    assert len(ids) == 9
    tables = {name: read_text(tmp_path / "out" / name) for name in FILES}
    for table in tables.values():
        assert list(table) == ids
    said = sentence(0, "de")
    assert {name: table["spk0-de-train-asr"] for name, table in tables.items()} == {
        "wav.scp": "/audio/de/train/0.flac",
        "text": f"<deu><asr><notimestamps> {said}",
        "text_prev": "<na>",
        "text_ctc": said,
    }
    # The CTC branch reads what was said, whatever the task.
    assert tables["text_ctc"]["spk0-de-train-st"] == said
    translated = f"<deu><st_eng><notimestamps> {translation(0, 'de')}"
    assert tables["text"]["spk0-de-train-st"] == translated
    assert tables["text"]["spk0-es-train-st"].startswith("<spa><st_eng><notimestamps> ")


def test_each_split_has_its_own_data(tmp_path):
    dump = write_dump(tmp_path / "dump")
    ids = write_training_data(S2T, [Pair("de", "asr")], dump, "dev", tmp_path / "out")
    assert ids == [f"spk{k}-de-dev-asr" for k in range(3)]


def test_limit_takes_the_same_utterances_for_every_task(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"], utterances=9)
    pairs = [Pair("de", "asr"), Pair("de", "st")]
    everything = write_training_data(S2T, pairs, dump, "dev", tmp_path / "all", 9)
    assert len(everything) == 18
    some = write_training_data(S2T, pairs, dump, "dev", tmp_path / "some", 4)
    assert len(some) == 8 and set(some) < set(everything) and some == sorted(some)
    by_task = [{i.removesuffix(t) for i in some if i.endswith(t)} for t in ("-asr", "-st")]
    assert by_task[0] == by_task[1] != {f"spk{k}-de-dev" for k in range(4)}
    more = write_training_data(S2T, pairs, dump, "dev", tmp_path / "more", 5)
    assert set(some) < set(more)


def rewrite(directory, **changes):
    rows = [Utterance(**{**vars(u), **changes}) for u in read_data_dir(directory)]
    write_data_dir(directory, rows)


def test_empty_transcript_and_translation_stay_in(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"])
    rewrite(dump / "de" / "train", text="", translations={"en": ""})
    pairs = [Pair("de", "asr"), Pair("de", "st")]
    ids = write_training_data(S2T, pairs, dump, "train", tmp_path / "out")
    text, ctc = (read_text(tmp_path / "out" / name) for name in ("text", "text_ctc"))
    assert text[ids[0]] == "<deu><asr><notimestamps>" and text[ids[1]].startswith("<deu><st_eng>")
    assert ctc == dict.fromkeys(ids, "")


def test_missing_translation(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"])
    rewrite(dump / "de" / "train", translations={})
    write_training_data(S2T, [Pair("de", "asr")], dump, "train", tmp_path / "out")
    with pytest.raises(LorsError, match="no translation") as caught:
        write_training_data(S2T, [Pair("de", "st")], dump, "train", tmp_path / "st")
    assert str(caught.value.where).endswith("de/train/text.en")
    assert "spk0-de-train" in caught.value.got
    assert not (tmp_path / "st").exists()


def test_missing_transcript(tmp_path):
    """Translation needs it too: for the CTC branch."""
    dump = write_dump(tmp_path / "dump", ["de"])
    rewrite(dump / "de" / "train", text=None)
    for task in ("asr", "st"):
        with pytest.raises(LorsError, match="without transcripts"):
            write_training_data(S2T, [Pair("de", task)], dump, "train", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_utterance_hides_another(tmp_path):
    dump = write_dump(tmp_path / "dump")
    with pytest.raises(LorsError, match="appears twice"):
        write_training_data(S2T, [Pair("de", "asr")] * 2, dump, "train", tmp_path / "out")
    write_data_dir(dump / "es" / "train", read_data_dir(dump / "de" / "train"))
    with pytest.raises(LorsError, match="appears twice") as caught:
        pairs = [Pair("de", "asr"), Pair("es", "asr")]
        write_training_data(S2T, pairs, dump, "train", tmp_path / "out")
    assert "spk0-de-train" in caught.value.got


def test_no_pairs_no_data_no_directory(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"])
    with pytest.raises(LorsError, match="no utterances"):
        write_training_data(S2T, [], dump, "train", tmp_path / "out")
    with pytest.raises(LorsError, match="data directory not found"):
        write_training_data(S2T, [Pair("es", "asr")], dump, "train", tmp_path / "out")
    (dump / "de" / "train" / "wav.scp").write_text("")
    with pytest.raises(LorsError, match=r"wav\.scp: empty"):
        write_training_data(S2T, [Pair("de", "asr")], dump, "train", tmp_path / "out")
