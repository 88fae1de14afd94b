"""Every language file of the synthetic corpus is a complete grammar with English's concepts."""

import random
import re

import pytest

from lors.config import read_yaml
from lors.data.espeak import grammar, voices

PAPER = {"ca", "de", "es", "fr", "id", "it", "nl", "pt", "ru", "sv-SE"}
FILES = sorted(path.stem for path in grammar.GRAMMAR_DIR.glob("*.yaml"))


def content(language):
    return read_yaml(grammar.GRAMMAR_DIR / f"{language}.yaml")


def test_the_ten_languages_of_the_paper_are_there():
    assert set(grammar.languages()) >= PAPER
    assert "en" in FILES


@pytest.mark.parametrize("language", FILES)
def test_complete(language):
    data = content(language)
    assert data["language"] == language
    assert grammar.grammar_problems(data) == []


@pytest.mark.parametrize("language", FILES)
def test_keys_are_those_of_english(language):
    english, data = content("en"), content(language)
    assert set(data) <= {*english, "rewrites"}
    for category in (*grammar.CATEGORIES, "templates"):
        assert set(data[category]) == set(english[category]), category


@pytest.mark.parametrize("language", FILES)
def test_templates_have_the_slots_of_english(language):
    english, data = content("en"), content(language)
    for name, template in data["templates"].items():
        slots = sorted(re.findall(r"\{(\w+)\}", template))
        assert slots == sorted(re.findall(r"\{(\w+)\}", english["templates"][name])), name


@pytest.mark.parametrize("language", FILES)
def test_every_noun_has_a_class_and_every_adjective_its_forms(language):
    data = content(language)
    for nouns, adjectives in grammar.NOUNS.items():
        for concept, (name, noun) in data[nouns].items():
            assert name in data["classes"], (concept, name)
            assert noun == noun.strip(), concept
            gender = data["classes"][name]["gender"]
            for adjective, forms in data[adjectives].items():
                assert forms.get(gender), (concept, adjective, gender)


def meanings():
    """Yield each noun, with and without an adjective, and each phrase, in every template."""
    english = grammar.load("en")
    words = {name: list(concepts) for name, concepts in english.words.items()}
    longest = max(len(concepts) for concepts in words.values())
    for template in english.templates:
        slots = re.findall(r"\{(\w+)\}", english.templates[template])
        for number in range(2 * longest):
            concepts = {}
            for slot in slots:
                category = grammar.SLOTS[slot]
                adjective = ""
                if category in grammar.NOUNS and number % 2:
                    choices = words[grammar.NOUNS[category]]
                    adjective = choices[number // 2 % len(choices)]
                concept = words[category][number // 2 % len(words[category])]
                concepts[slot] = (concept, adjective)
            yield grammar.Meaning(template, concepts)


@pytest.mark.parametrize("language", FILES)
def test_every_pattern_and_every_word_renders(language):
    rules = grammar.load(language)
    for meaning in meanings():
        sentence = rules.render(meaning)
        assert not re.search(r"[{}\t\n]|  |\s\.|None", sentence), sentence
        assert sentence[0].isupper() and sentence.endswith(".") and sentence.count(".") == 1
        assert sentence == sentence.strip()


@pytest.mark.parametrize("language", FILES)
def test_several_hundred_words(language):
    rules = grammar.load(language)
    words = {word for meaning in meanings() for word in rules.render(meaning).lower().split()}
    assert len({word.strip(".") for word in words}) >= 250


@pytest.mark.parametrize("language", FILES)
def test_different_meanings_are_different_sentences(language):
    """A sentence with two meanings would have two translations, and one would score as wrong."""
    rules, english = grammar.load(language), grammar.load("en")
    words = {name: list(concepts) for name, concepts in english.words.items()}
    rng = random.Random(1)
    seen = {}
    for _ in range(5000):
        meaning = grammar.draw(rng, english.templates, words)
        sentence = rules.render(meaning)
        assert seen.setdefault(sentence, meaning.key()) == meaning.key(), sentence
    for category in grammar.PHRASES:
        assert len(set(rules.words[category].values())) == len(rules.words[category]), category
    for category in grammar.NOUNS:
        nouns = [noun for _, noun in rules.words[category].values()]
        assert len(set(nouns)) == len(nouns), category


@pytest.mark.parametrize("language", sorted(set(FILES) - {"en"}))
def test_both_conditions_exist_and_the_shift_is_its_own(language):
    pool = voices.load_condition("pool", language)
    domain = voices.load_condition("domain", language)
    assert pool.vocab_holdout > domain.vocab_holdout == 0
    sound = [name for name in vars(pool) if name not in ("vocab_holdout", "voices", "speakers")]
    shift = {name: getattr(domain, name) for name in sound}
    assert shift != {name: getattr(pool, name) for name in sound}
    for other in set(grammar.languages()) - {language}:
        theirs = voices.load_condition("domain", other)
        assert shift != {name: getattr(theirs, name) for name in sound}, other
