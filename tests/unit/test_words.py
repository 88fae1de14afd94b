"""Words stay what they are: the normaliser of LoRS for every language."""

import json
import random
import time
import unicodedata
from pathlib import Path

import pytest

from lors.score.text import base_language, get_normaliser
from lors.score.words import CHARACTER_LANGUAGES, DOTLESS_I, ELISION

ALPHABETS = json.loads(Path(__file__).with_name("alphabets.json").read_text(encoding="utf-8"))
LANGUAGES = [code for code in ALPHABETS if code != "source" and code != "en"]
AS_WHISPER = ("de", "es", "fr", "it", "pt", "nl", "ca", "sv-SE", "ru", "id")


def folded(word, lang):
    """The word without differences of case and encoding, by another way than the normaliser's."""
    word = unicodedata.normalize("NFC", word)
    if base_language(lang) in DOTLESS_I:
        word = word.replace("I", "ı").replace("İ", "i")
    return unicodedata.normalize("NFC", word.lower()).replace("ς", "σ")


def is_word(text):
    return all(unicodedata.category(c)[0] in "LM" for c in text)


def words_of(lang):
    """Every letter of the alphabet within a word, and random words."""
    alphabet = [letter for letter in ALPHABETS[lang].split() if is_word(letter)]
    letters = [letter for letter in alphabet if unicodedata.category(letter[0])[0] == "L"]
    rng = random.Random(lang)
    words = [letters[0] + letter + letters[0] for letter in alphabet]
    for _ in range(100):
        word = [rng.choice(letters), *rng.choices(alphabet, k=rng.randint(0, 6))]
        words.append("".join(word))
        word[rng.randrange(len(word))] = rng.choice(letters)
        words.append("".join(word))
    return words


@pytest.mark.parametrize("lang", LANGUAGES)
def test_different_words_stay_different_and_their_number_stays(lang):
    normalise, words = get_normaliser(lang), words_of(lang)
    spellings = {}
    for word in words:
        spellings.setdefault(normalise(word), set()).add(folded(word, lang))
    assert not [same for same in spellings.values() if len(same) > 1]
    text = normalise(" ".join(words))
    assert normalise(text) == text
    if normalise.unit == "word":
        assert len(text.split()) == len(words)
    else:
        assert all(len(character) == 1 for character in text.split())


def test_alphabets_of_many_languages_and_scripts():
    assert len(LANGUAGES) > 230
    assert {"ta", "hi", "th", "ar", "tr", "sv-SE", "zgh", "yo", "nan-tw"} <= set(LANGUAGES)
    assert {base_language(lang) for lang in LANGUAGES} >= {"th", "lo", "my", "km", "bo", "dz", "ja"}


@pytest.mark.parametrize(
    ("lang", "raw", "normalised"),
    [
        # Marks belong to their letters.
        ("ta", "நான் பள்ளிக்கு சென்றேன்!", "நான் பள்ளிக்கு சென்றேன்"),
        ("hi", "मैं कल घर गया।", "मैं कल घर गया"),
        ("ar", "كَتَبَ الوَلَدُ الدَّرْسَ، نَعَمْ", "كَتَبَ الوَلَدُ الدَّرْسَ نَعَمْ"),
        ("yo", "Ẹ̀kọ́", "ẹ̀kọ́"),
        ("ru", "за́мок", "за́мок"),
        ("de", "a \u0301b", "a b"),
        # Encoding.
        ("de", "Gru\u0308n", "grün"),
        ("de", "Ｇｒüｎ ２ ﬁn", "grün 2 fin"),
        ("ar", "ﻛﺘﺎﺏ", "كتاب"),
        ("zgh", "ⴰⴳⵯⵍⵉⴷ", "ⴰⴳⵯⵍⵉⴷ"),
        # Case.
        ("de", "STRASSE Straße", "strasse straße"),
        ("tr", "IŞIK İyi I\u0307yi ışık", "ışık iyi iyi ışık"),
        ("az", "İSTİ QIŞ", "isti qış"),
        ("de", "İstanbul", "istanbul"),
        ("lt", "i\u0307\u0301 I\u0301 Ì", "í í ì"),
        ("el", "ΟΔΟΣ οδος οδοσ", "οδοσ οδοσ οδοσ"),
        # Invisible characters.
        ("fa", "می\u200cروم", "میروم"),
        ("hi", "क्\u200dष", "क्ष"),
        ("de", "\ufeffWort\u00adteil\u200b", "wortteil"),
        ("ar", "كـتـاب", "كتاب"),
        ("ml", "അവന്\u200d", "അവൻ"),
        ("bn", "হঠাত্\u200d", "হঠাৎ"),
        ("mr", "दर्\u200dया", "दऱ्या"),
        ("ckb", "ه\u200cو", "ەو"),
        ("de", "ja ❤️ 1️⃣", "ja 1"),
        # Punctuation.
        ("de", "E-Mail: [lacht] <x> (hm)ja; 3,50 €", "e mail ja 3 50"),
        ("fr", "L'été d’hier, l´eau", "l été d hier l eau"),
        ("uk", "П'ять п’ять пʼять 'так'", "пʼять пʼять пʼять так"),
        ("tr", "Ankara'da", "ankaraʼda"),
        ("br", "C'hoar", "cʼhoar"),
        ("uz", "O'zbek O‘zbek san'at", "oʻzbek oʻzbek sanʼat"),
        ("ca", "Col·lecció · l'home", "col·lecció l home"),
        ("he", 'צה"ל צה״ל "שלום"', "צה״ל צה״ל שלום"),
        ("hy", "Ինչպե՞ս, այո՛։", "ինչպես այո"),
        ("pl", "a'1 1'a ''a'' 'b", "a 1 1 a a b"),
        # Characters.
        ("zh-CN", "你好，世界 2Ａ。", "你 好 世 界 2 a"),
        ("ja", "か\u3099 ガ don't", "が ガ d o n t"),
        ("th", "น้ำ น้\u0e4dา น\u0e4d้า", "น ้ ำ น ้ ำ น ้ ำ"),
        ("lo", "ນ້ຳ", "ນ ້ ຳ"),
        ("my", "မြန်မာ၊", "မ ြ န ် မ ာ"),
    ],
)
def test_normalised_text(lang, raw, normalised):
    normalise = get_normaliser(lang)
    assert normalise(raw) == unicodedata.normalize("NFC", normalised)
    assert normalise(normalise(raw)) == normalise(raw)


@pytest.mark.parametrize("lang", AS_WHISPER)
def test_letters_and_punctuation_as_in_the_basic_normaliser_of_whisper(lang):
    ours, whispers = get_normaliser(lang), get_normaliser(lang, "whisper")
    latin, cyrillic, punctuation = range(0x20, 0x250), range(0x400, 0x460), range(0x2010, 0x2028)
    others = set("\u0130\u013f\u0140\u00b7" if lang == "ca" else "\u0130")
    for character in {*map(chr, (*latin, *cyrillic, *punctuation)), *"€²½№…ªº™ﬁ"} - others:
        if unicodedata.category(character) in {"Cc", "Cf"}:
            continue
        for text in ("{}", "l{}l", "1{}2", " {}l", "l{} ", "Das {} ist"):
            raw = text.format(character)
            assert ours(raw) == whispers(raw)


def test_rules_are_for_base_languages():
    assert {base_language(code) for code in CHARACTER_LANGUAGES | ELISION | DOTLESS_I} == (
        CHARACTER_LANGUAGES | ELISION | DOTLESS_I
    )
    assert not CHARACTER_LANGUAGES & ELISION
    assert get_normaliser("tha").unit == "character"
    assert get_normaliser("tur")("IŞIK") == "ışık"


@pytest.mark.parametrize("text", ["<" * 200_000, "(" * 200_000, "[(" * 100_000, "'" * 200_000])
def test_time_grows_with_the_length_only(text):
    began = time.process_time()
    assert get_normaliser("tr")(text) == ""
    assert time.process_time() - began < 2
