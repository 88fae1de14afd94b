"""Voice prompts as data directories: cleaning, groups, splits; each prompt is kept or listed."""

from __future__ import annotations

import json
import time

import pytest

from lors.bin import prepare_voice_prompts, validate_data_dir
from lors.data.datadir import read_data_dir
from lors.data.voice_prompts.groups import DEV_SHARE, TEST_SHARE, Groups, bare_words
from lors.data.voice_prompts.transcripts import (
    clean,
    is_prompt_name,
    load_rules,
    read_transcripts,
)
from tests.prompt_packages import VOICES, small_prompts, write_packages
from tests.refusal import refusal

SPLITS = ("train", "dev", "test")


def prepare(folder, out, *options, langs=tuple(VOICES), packages=None):
    listed = packages or folder / "packages.yaml"
    arguments = ["--folder", str(folder), "--out", str(out), "--langs", *langs]
    return prepare_voice_prompts.main([*arguments, "--packages", str(listed), *options])


def dropped(out, lang):
    """Return prompt -> reason."""
    lines = (out / lang / "dropped.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {line.split("\t")[1]: line.split("\t")[2] for line in lines}


def kept(out, lang):
    """Return prompt -> its utterance and split."""
    return {
        utt.wav.split(VOICES[lang][0] + "/")[1].removesuffix(".g722"): (utt, split)
        for split in SPLITS
        for utt in read_data_dir(out / lang / split)
    }


# --- lists of transcripts -----------------------------------------------------------------------


def test_a_list_has_comments_a_mark_and_lines_of_two_kinds(tmp_path):
    path = tmp_path / "core-sounds-it.txt"
    text = "\ufeff; Comment: no prompt\r\n\r\nhello: Ciao:  mondo\r\ndigits/1:uno\r\nno colon\r\n"
    path.write_bytes(text.encode())
    listed = read_transcripts(path)
    assert listed.texts == {"hello": "Ciao: mondo", "digits/1": "uno"}
    assert listed.malformed == {5: "no colon"}


def test_a_name_with_two_texts_is_contradictory(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("digits/0: cero\ndigits/0: diez\nvm-no: no\nvm-no: no\n")
    assert list(read_transcripts(path).contradictory) == ["digits/0"]


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"; nothing but a comment\n", "name: text"),
        (b"hello: \xff\n", "utf-8"),
        (b"x" * (2**22 + 1), "more than"),
    ],
)
def test_a_list_that_cannot_be_read(tmp_path, content, fact):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with refusal(path, fact):
        read_transcripts(path)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "a/../b", ".x", "a b", "ä", "", "a/"])
def test_names_that_are_no_prompts(name):
    assert not is_prompt_name(name)


# --- cleaning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lang", "raw", "text"),
    [
        ("en", "...to exit the menu", "To exit the menu."),
        ("en", "Press one to listen to ...", "Press one to listen to."),
        ("en", "Leave a message. (tone sound plays)", "Leave a message."),
        ("en", "vm-x: stays, vm-y is another", "Vm-x: stays, vm-y is another."),
        ("en", "Change to which folder?", "Change to which folder?"),
        ("en", "press 1 now", "Press 1 now."),
        ("es", "Opcion invalida", "Opción inválida."),
        ("es", "OPCION", "Opción."),
        ("es", "Si esta es la persona", "Si esta es la persona."),
        ("es", "No esta libre", "No está libre."),
        ("fr", 'Mode discrétion, ..."', "Mode discrétion."),
        ("fr", "“Bonjour” à l’heure", "Bonjour à l'heure."),
        ("it", "La chiamata non pu? essere", "La chiamata non può essere."),
        ("it", "La conferenza ? piena.", "La conferenza è piena."),
        ("it", "E' in uso.", "È in uso."),
        ("it", "dall’interno…", "Dall'interno."),
        ("ru", "… чтобы бы вернуть", "Чтобы вернуть."),
        ("ru", "режим «эхо-теста».Чтобы", "Режим эхо-теста. Чтобы."),
        ("ru", "Вы – участник", "Вы - участник."),
    ],
)
def test_cleaned_texts(lang, raw, text):
    assert clean(raw, lang, {"vm-y"}, load_rules()) == (text, "")


@pytest.mark.parametrize(
    ("lang", "raw", "reason"),
    [
        ("it", "Il [suo] messaggio", "note_in_text"),
        ("it", "[tentativo di] parcheggio", "note_in_text"),
        ("it", "prima vm-y: poi", "several_prompts"),
        ("fr", "sur dièse.vm-y: pour", "several_prompts"),
        ("it", "la citt? vecchia", "lost_letter"),
        ("en", "followed by # or just #", "symbol_read_aloud"),
        ("en", "A.M.", "no_word"),
        ("es", "y", "no_word"),
        ("ru", "[sound of monkeys]", "empty_text"),
        ("ru", "…", "empty_text"),
        ("ru", "новоe", "two_scripts"),
    ],
)
def test_texts_that_are_left_out(lang, raw, reason):
    assert clean(raw, lang, {"vm-y"}, load_rules())[1] == reason


def test_the_table_of_spelling_is_applied_once_and_changes_something():
    """A corrected text stays as it is, and no entry is without effect."""
    rules = load_rules()
    for lang, table in rules.spelling.items():
        for wrong, right in table.items():
            text, reason = clean(f"xx {wrong} xx", lang, (), rules)
            assert (text, reason) == (f"Xx {right} xx.", ""), wrong
            assert clean(text, lang, (), rules) == (text, ""), wrong


# --- groups and splits --------------------------------------------------------------------------


def test_names_that_share_a_text_in_some_language_are_one_group():
    groups = Groups(
        [
            ("second", "en", "Second."),
            ("digits/h-2", "en", "second"),
            ("second", "fr", "Seconde."),
            ("second-time", "fr", "Seconde."),
            ("vm-Old", "ru", "Старых."),
            ("VM-old", "it", "Vecchio."),
            ("hours", "ru", "Seconde."),  # of another language
        ]
    )
    assert groups.of("second-time") == groups.of("digits/h-2") == "digits/h-2"
    assert groups.of("vm-old") == groups.of("VM-OLD") != groups.of("hours")
    assert groups.sizes() == {"digits/h-2": 3, "vm-old": 1, "hours": 1}
    assert len({groups.split_of(name) for name in ("second", "second-time", "digits/h-2")}) == 1


def test_the_shares_of_the_splits_are_as_declared():
    groups = Groups([])
    splits = [groups.split_of(f"prompt-{number}") for number in range(4000)]
    assert splits.count("test") / 4000 == pytest.approx(TEST_SHARE, abs=0.02)
    assert splits.count("dev") / 4000 == pytest.approx(DEV_SHARE, abs=0.02)


def test_the_split_of_a_name_never_changes():
    """Trained models depend on the splits."""
    groups = Groups([])
    names = ("activated", "agent-user", "added", "transfer", "vm-message", "queue-thankyou")
    assert [groups.split_of(name) for name in names] == [
        *["train"] * 2,
        *["test"] * 2,
        *["dev"] * 2,
    ]


def test_accents_and_case_do_not_make_another_text():
    assert bare_words("¡Está ÁÉ, 1!") == bare_words("esta ae 1")


# --- data directories ---------------------------------------------------------------------------


def test_every_prompt_is_in_one_split_or_listed(tmp_path, capsys):
    prompts = small_prompts()
    prompts.lists["es"] += ["dir-first: ", "vm-first: primer", "digits/0: cero", "digits/0: diez"]
    prompts.seconds["es"] |= {"dir-first": 1, "silence/9": 9, "priv-x": 1, "digits/0": 1}
    usual = [f"usual-{number}: A text of usual length" for number in range(3)]
    prompts.lists["en"] += [
        *usual,
        "long: A text",
        "short: A text",
        "quick: Twice as quick as usual",
    ]
    prompts.seconds["en"] |= {f"usual-{number}": 1.5 for number in range(3)}
    prompts.seconds["en"] |= {"long": 10.1, "short": 0.3, "quick": 0.75}
    prompts.seconds["ru"]["removed"] = 0
    write_packages(tmp_path / "in", prompts)
    out = tmp_path / "data"
    assert prepare(tmp_path / "in", out) == 0
    table = capsys.readouterr().out

    for lang in VOICES:
        listed = {line.split(":")[0] for line in prompts.lists[lang] if ":" in line}
        used, left_out = kept(out, lang), dropped(out, lang)
        assert not set(used) & set(left_out)
        assert set(used) | set(left_out) == listed | set(prompts.seconds[lang])
        report = json.loads((out / lang / "report.json").read_text())
        assert sum(row["listed"] for row in report["splits"].values()) == len(used) + len(left_out)
        for split in SPLITS:
            row = report["splits"][split]
            assert row["listed"] == row["clips"] + sum(row["dropped"].values())
            assert any(line.split()[:2] == [lang, split] for line in table.splitlines())
    assert dropped(out, "es") == {
        "beep": "not_speech", "silence/1": "not_speech", "silence/9": "not_speech",
        "letters/a": "letter_name", "spy-iax2": "protocol_name", "dir-first": "empty_text",
        "vm-first": "no_recording", "priv-x": "no_transcript", "digits/0": "contradictory_text",
    }  # fmt: skip
    own = {name: dropped(out, "en")[name] for name in ("long", "short", "quick")}
    assert own == {"long": "too_long", "short": "too_short", "quick": "unlike_text"}
    assert dropped(out, "ru")["removed"] == "empty_recording"
    assert kept(out, "it")["transfer"][0].text == "Non può."


def test_a_line_that_cannot_be_read_is_listed(tmp_path, capsys):
    prompts = small_prompts()
    prompts.lists["it"].append("a line of no prompt")
    write_packages(tmp_path / "in", prompts)
    out = tmp_path / "data"
    assert prepare(tmp_path / "in", out, langs=["it"]) == 0
    number = len(prompts.lists["it"])
    text = (out / "it" / "dropped.tsv").read_text()
    assert f"-\t-\tmalformed_row\tline {number}: a line of no prompt\n" in text
    assert "1 malformed line" in capsys.readouterr().out


def test_a_hostile_list_is_read_in_time():
    rules, began = load_rules(), time.process_time()
    for unit in ("[", "[(<", "a/", "? ", "a:", "«", ". ", "1"):
        _, reason = clean(unit * (200_000 // len(unit)), "it", {"x"}, rules)
        assert reason == ("empty_text" if unit == "«" else "no_word")
    assert time.process_time() - began < 60  # it takes one or two


def test_a_prompt_has_one_split_and_one_english_text_in_all_languages(tmp_path):
    write_packages(tmp_path / "in", small_prompts())
    out = tmp_path / "data"
    assert prepare(tmp_path / "in", out) == 0
    splits, texts = {}, {}
    for lang in VOICES:
        for name, (utterance, split) in kept(out, lang).items():
            assert splits.setdefault(name, split) == split
            if lang != "en":
                english = utterance.translations["en"]
                assert texts.setdefault(name, english) == english
                assert english == kept(out, "en")[name][0].text
            else:
                assert utterance.translations == {}
    assert splits["second"] == splits["digits/h-2"]  # one text in English
    assert set(splits.values()) == set(SPLITS)


def test_utterances_have_speaker_gender_length_and_language(tmp_path):
    write_packages(tmp_path / "in", small_prompts())
    out = tmp_path / "data"
    assert prepare(tmp_path / "in", out, langs=["it"]) == 0
    utterance, _ = kept(out, "it")["digits/h-2"]
    assert utterance.id == "it-Carlo-digits.h-2" and utterance.speaker == "it-Carlo"
    assert (utterance.gender, utterance.lang, utterance.duration) == ("m", "it", 0.5)
    assert (utterance.text, utterance.translations) == ("Secondo.", {"en": "Second."})
    assert sorted(path.name for path in out.iterdir()) == ["CREDITS", "LICENSE", "it"]
    directories = [str(out / "it" / split) for split in SPLITS]
    assert validate_data_dir.main([*directories, "--check_audio"]) == 0


def test_a_missing_english_text_drops_the_prompt_in_the_other_languages(tmp_path):
    prompts = small_prompts()
    prompts.lists["en"] = [line for line in prompts.lists["en"] if not line.startswith("added")]
    prompts.lists["en"] += ["added: press * now"]
    del prompts.seconds["en"]["hours"]  # a text without a recording is a translation
    write_packages(tmp_path / "in", prompts)
    out = tmp_path / "data"
    assert prepare(tmp_path / "in", out, langs=["fr", "en"]) == 0
    assert dropped(out, "fr")["added"] == "no_english_text"
    assert dropped(out, "en")["added"] == "symbol_read_aloud"
    assert "hours" in kept(out, "fr") and dropped(out, "en")["hours"] == "no_recording"


def test_the_splits_do_not_depend_on_the_languages_and_limits(tmp_path):
    write_packages(tmp_path / "in", small_prompts())
    for out, options, langs in (
        ("all", [], VOICES),
        ("one", [], ["ru"]),
        ("wide", ["--min_seconds", "0", "--max_seconds", "30"], ["ru"]),
    ):
        assert prepare(tmp_path / "in", tmp_path / out, *options, langs=langs) == 0
    expected = {name: split for name, (_, split) in kept(tmp_path / "all", "ru").items()}
    for out in ("one", "wide"):
        assert {n: split for n, (_, split) in kept(tmp_path / out, "ru").items()} == expected


def test_the_same_input_gives_the_same_bytes(tmp_path):
    write_packages(tmp_path / "in", small_prompts())
    contents = []
    for _ in range(2):
        assert prepare(tmp_path / "in", tmp_path / "data") == 0
        files = sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file())
        contents.append([(path, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


def test_licence_and_credits_lie_beside_the_data(tmp_path):
    write_packages(tmp_path / "in", small_prompts())
    assert prepare(tmp_path / "in", tmp_path / "data", langs=["it", "ru"]) == 0
    assert "THE WORK IS PROVIDED" in (tmp_path / "data" / "LICENSE").read_text()
    credits = (tmp_path / "data" / "CREDITS").read_text()
    for fact in (
        "it: Carlo (it_IT_m_Carlo)",
        "the speaker of Italian",
        "CC-BY-3.0",
        "CC-BY-SA-3.0",
    ):
        assert fact in credits
    assert "the packager" not in credits
    # A further language keeps the credits of the others.
    assert prepare(tmp_path / "in", tmp_path / "data", langs=["es"]) == 0
    again = (tmp_path / "data" / "CREDITS").read_text()
    assert all(f"\n{lang}: " in again for lang in ("es", "it", "ru"))


def test_no_prompt_left(tmp_path, capsys):
    write_packages(tmp_path / "in", small_prompts())
    out = tmp_path / "data"
    assert prepare(tmp_path / "in", out, "--min_seconds", "2", langs=["fr"]) == 1
    message = capsys.readouterr().err
    assert all(fact in message for fact in ("fr", "train, dev, test", "dropped.tsv"))
    assert set(dropped(out, "fr").values()) >= {"too_short"}
    assert not (out / "fr" / "train").exists()


@pytest.mark.parametrize(
    ("options", "langs", "facts"),
    [
        ([], ["de"], ("'de'", "en, es, fr, it, ru")),
        ([], ["fr", "fr"], ("--langs", "fr")),
        ([], ["../x"], ("--langs", "../x")),
        (["--min_seconds", "3", "--max_seconds", "2"], ["fr"], ("--min_seconds", "3.0")),
        (["--max_seconds", "nan"], ["fr"], ("--max_seconds", "nan")),
        (["--read_russian"], ["ru", "fr"], ("--langs", "ru fr")),
    ],
)
def test_wrong_options(tmp_path, capsys, options, langs, facts):
    write_packages(tmp_path / "in", small_prompts())
    try:
        code = prepare(tmp_path / "in", tmp_path / "data", *options, langs=langs)
    except SystemExit as error:  # argparse
        code = error.code
    assert code == 2 and not (tmp_path / "data").exists()
    message = capsys.readouterr().err
    assert all(fact in message for fact in facts), message
