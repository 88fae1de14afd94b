"""Data of a training, for ESPnet's S2T models and for Whisper."""

import pytest
from stand_ins import sentence, translation, write_dump

from lors.data.datadir import Utterance, read_data_dir, read_text, write_data_dir
from lors.data.datadir_tools import fix_data_dir
from lors.models.espnet_s2t.family import EspnetS2T
from lors.models.whisper.family import Whisper
from lors.recipe.training_data import select_shapes, write_split
from lors.tasks import Pair
from tests.integration.tiny_whisper import DIMS
from tests.refusal import refusal

S2T = EspnetS2T({}, "config.yaml")
FILES = ("wav.scp", "text", "text_prev", "text_ctc")


def whisper(**conf) -> Whisper:
    return Whisper({"whisper_conf": {"dims": DIMS, **conf}}, "base/config.yaml")


def test_data_of_two_tasks(tmp_path):
    dump = write_dump(tmp_path / "dump", ["es", "de"])
    pairs = [Pair("es", "st"), Pair("de", "asr"), Pair("de", "st")]
    ids = write_split(S2T, pairs, dump, "train", tmp_path / "out")
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
    ids = write_split(S2T, [Pair("de", "asr")], dump, "dev", tmp_path / "out")
    assert ids == [f"spk{k}-de-dev-asr" for k in range(3)]


def test_limit_takes_the_same_utterances_for_every_task(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"], utterances=9)
    pairs = [Pair("de", "asr"), Pair("de", "st")]
    everything = write_split(S2T, pairs, dump, "dev", tmp_path / "all", 9)
    assert len(everything) == 18
    some = write_split(S2T, pairs, dump, "dev", tmp_path / "some", 4)
    assert len(some) == 8 and set(some) < set(everything) and some == sorted(some)
    by_task = [{i.removesuffix(t) for i in some if i.endswith(t)} for t in ("-asr", "-st")]
    assert by_task[0] == by_task[1] != {f"spk{k}-de-dev" for k in range(4)}
    more = write_split(S2T, pairs, dump, "dev", tmp_path / "more", 5)
    assert set(some) < set(more)


def rewrite(directory, **changes):
    rows = [Utterance(**{**vars(u), **changes}) for u in read_data_dir(directory)]
    write_data_dir(directory, rows)


def test_empty_transcript_and_translation_stay_in(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"])
    rewrite(dump / "de" / "train", text="", translations={"en": ""})
    pairs = [Pair("de", "asr"), Pair("de", "st")]
    ids = write_split(S2T, pairs, dump, "train", tmp_path / "out")
    text, ctc = (read_text(tmp_path / "out" / name) for name in ("text", "text_ctc"))
    assert text[ids[0]] == "<deu><asr><notimestamps>" and text[ids[1]].startswith("<deu><st_eng>")
    assert ctc == dict.fromkeys(ids, "")


def test_missing_translation(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"])
    rewrite(dump / "de" / "train", translations={})
    write_split(S2T, [Pair("de", "asr")], dump, "train", tmp_path / "out")
    with refusal("de/train/text.en", "spk0-de-train", "--tasks asr"):
        write_split(S2T, [Pair("de", "st")], dump, "train", tmp_path / "st")
    assert not (tmp_path / "st").exists()


def test_missing_transcript(tmp_path):
    """Translation needs it too: for the CTC branch."""
    dump = write_dump(tmp_path / "dump", ["de"])
    rewrite(dump / "de" / "train", text=None)
    for task in ("asr", "st"):
        with refusal("de/train/text"):
            write_split(S2T, [Pair("de", task)], dump, "train", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_utterance_hides_another(tmp_path):
    dump = write_dump(tmp_path / "dump")
    with refusal("spk0-de-train", "asr"):
        write_split(S2T, [Pair("de", "asr")] * 2, dump, "train", tmp_path / "out")
    write_data_dir(dump / "es" / "train", read_data_dir(dump / "de" / "train"))
    pairs = [Pair("de", "asr"), Pair("es", "asr")]
    with refusal("es/train", "spk0-de-train"):
        write_split(S2T, pairs, dump, "train", tmp_path / "out")


def test_no_pairs_no_data_no_directory(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"])
    with refusal(dump, "train"):
        write_split(S2T, [], dump, "train", tmp_path / "out")
    with refusal("es/train"):
        write_split(S2T, [Pair("es", "asr")], dump, "train", tmp_path / "out")
    (dump / "de" / "train" / "wav.scp").write_text("")
    with refusal("wav.scp"):
        write_split(S2T, [Pair("de", "asr")], dump, "train", tmp_path / "out")


def test_data_of_two_tasks_for_whisper(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"])
    pairs = [Pair("de", "asr"), Pair("de", "st")]
    ids = write_split(whisper(), pairs, dump, "train", tmp_path / "out")
    text = read_text(tmp_path / "out" / "text")
    assert list(text) == ids and len(ids) == 6
    assert text["spk0-de-train-asr"].startswith("<|de|><|transcribe|><|notimestamps|> one0d")
    assert text["spk0-de-train-st"].startswith("<|de|><|translate|><|notimestamps|> translation")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["text", "wav.scp"]


def test_audio_longer_than_the_window(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"], utterances=9)  # 1, 2, ... 9 seconds
    late = "spk3-de-train: 4 s of audio in a window of 3 s"
    with refusal("config.yaml", late, "and 1 more"):
        write_split(whisper(window=3.0), [Pair("de", "asr")], dump, "train", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_split(whisper(window=9.0), [Pair("de", "asr")], dump, "train", tmp_path / "out")


def test_text_longer_than_the_decoder(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"], utterances=1)
    directory = dump / "de" / "train"
    for words, fits in ((443, True), (444, True), (445, False)):
        text = " ".join(["the"] * words)
        rows = [Utterance(**{**vars(u), "text": text}) for u in read_data_dir(directory)]
        write_data_dir(directory, rows)
        work = (whisper(), [Pair("de", "asr")], dump, "train", tmp_path / "out")
        if fits:
            write_split(*work)
        else:
            with refusal("spk0-de-train", "450 tokens", "448"):
                write_split(*work)


def test_dev_utterances_that_the_model_cannot_use_are_left_out(tmp_path, caplog):
    dump = write_dump(tmp_path / "dump", ["de"], utterances=9)  # 1, 2, ... 9 seconds
    work = [Pair("de", "asr"), Pair("de", "st")], dump, "dev", tmp_path / "out"
    ids = write_split(whisper(window=3.0), *work)
    assert ids == [f"spk{k}-de-dev-{task}" for k in range(3) for task in ("asr", "st")]
    assert list(read_text(tmp_path / "out/text")) == ids
    assert "12 of 18 dev utterances" in caplog.text
    assert "spk3-de-dev: 4 s of audio in a window of 3 s" in caplog.text
    caplog.clear()
    write_split(whisper(window=9.0), *work)
    assert caplog.text == ""
    with refusal("spk0-de-dev: 1 s of audio in a window of 0.5 s"):  # none is left
        write_split(whisper(window=0.5), *work)


def test_dev_utterances_of_a_pair_are_not_all_left_out(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de", "fr"], utterances=4)
    wav_scp = dump / "fr/dev/wav.scp"
    wav_scp.write_text("".join(wav_scp.read_text().splitlines(keepends=True)[3:]))
    fix_data_dir(wav_scp.parent)
    pairs = [Pair("de", "asr"), Pair("fr", "asr")]
    with refusal("spk3-fr-dev: 4 s of audio in a window of 3 s") as error:
        write_split(whisper(window=3.0), pairs, dump, "dev", tmp_path / "out")
    assert "spk3-de-dev" not in str(error.value)


def test_unusable_utterances_are_removed_as_the_message_says(tmp_path):
    dump = write_dump(tmp_path / "dump", ["de"], utterances=9)
    work = whisper(window=3.0), [Pair("de", "asr")], dump, "train", tmp_path / "out"
    with refusal("wav.scp", "utils/fix_data_dir.sh"):
        write_split(*work)
    directory = dump / "de/train"
    lines = (directory / "wav.scp").read_text().splitlines(keepends=True)
    (directory / "wav.scp").write_text("".join(lines[:3]))
    fix_data_dir(directory)
    assert write_split(*work) == [f"spk{k}-de-train-asr" for k in range(3)]


@pytest.fixture
def shapes(tmp_path):
    path = tmp_path / "stats" / "train" / "speech_shape"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"utt{n:02d} {100 + n},80\n" for n in range(40)))
    return path


def test_selected_shapes_are_shuffled_by_the_seed(shapes, tmp_path):
    ids = [f"utt{n:02d}" for n in range(0, 40, 2)]
    orders = []
    for number, seed in enumerate([1, 1, 2]):
        select_shapes(shapes, ids, seed, tmp_path / str(number))
        table = read_text(tmp_path / str(number))
        assert table == {i: f"{100 + int(i[3:])},80" for i in ids}  # all of them and no other
        orders.append(list(table))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == ids != orders[0]


def test_missing_statistics(shapes, tmp_path):
    with refusal(shapes, 2, "utt77", "utt78", f"remove {tmp_path / 'stats'}"):
        select_shapes(shapes, ["utt00", "utt77", "utt78"], 1, tmp_path / "out")
    with refusal(tmp_path / "nowhere" / "train" / "x"):
        select_shapes(tmp_path / "nowhere" / "train" / "x", ["utt00"], 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()
