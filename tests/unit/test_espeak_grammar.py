"""The grammar engine, on a tiny language that uses all of its features."""

import copy
import random

from lors.data.espeak import grammar
from lors.errors import UsageError
from tests.refusal import refusal

TINY = {
    "language": "xx",
    "templates": {"svo": "{person} {transitive} {thing}", "time": "{time} {person} {intransitive}"},
    "classes": {
        "m": {
            "gender": "m",
            "person": ["le {noun}", "le {adj} {noun}"],
            "thing": ["un {noun}"] * 2,
        },
        "f": {
            "gender": "f",
            "person": ["la {noun}", "la {noun} {adj}"],
            "thing": ["une {noun}", "une {noun} {adj}"],
        },
    },
    "persons": {"king": ["m", "ami"], "queen": ["f", "reine"]},
    "person_adjectives": {"good": {"m": "bon", "f": "bonne"}},
    "things": {"lamp": ["f", "lampe"]},
    "thing_adjectives": {"red": {"f": "rouge"}},
    "transitive": {"see": "voit"},
    "intransitive": {"sleep": "dort"},
    "places": {"here": "ici"},
    "times": {"now": "maintenant"},
    "rewrites": [[r"\ble (?=a)", "l'"], [r"^l'ami", "l’ami"]],
}


def meaning(template, **concepts):
    return grammar.Meaning(template, concepts)


def test_render_agreement_word_order_and_rewrites_in_turn():
    tiny = grammar.Grammar(TINY)
    lamp, see = ("lamp", "red"), ("see", "")
    queen = meaning("svo", person=("queen", "good"), transitive=see, thing=lamp)
    assert tiny.render(queen) == "La reine bonne voit une lampe rouge."
    good_king = meaning("svo", person=("king", "good"), transitive=see, thing=("lamp", ""))
    assert tiny.render(good_king) == "Le bon ami voit une lampe."
    king = meaning("svo", person=("king", ""), transitive=see, thing=lamp)
    assert tiny.render(king) == "L’ami voit une lampe rouge."
    time = meaning("time", time=("now", ""), person=("king", ""), intransitive=("sleep", ""))
    assert tiny.render(time) == "Maintenant l'ami dort."


def test_all_problems_are_listed_at_once():
    bad = copy.deepcopy(TINY)
    bad["persons"]["thief"] = ["n", "voleur"]
    bad["things"]["watch"] = ["f", True]  # what YAML makes of an unquoted "on"
    bad["person_adjectives"]["old"] = {"m": "vieux"}
    bad["templates"]["odd"] = "{person} {verb}"
    bad["places"]["there"] = None
    with refusal("xx.yaml") as refused:
        grammar.Grammar(bad, where="xx.yaml")
    facts = {
        "persons.thief": "'n'",
        "things.watch": "['f', True]",
        "person_adjectives.old": "'f'",
        "templates.odd": "'verb'",
        "places.there": "None",
    }
    found = dict(problem.split(": ", 1) for problem in refused.value.got)
    assert found.keys() == facts.keys()
    assert all(fact in found[where] for where, fact in facts.items())


def test_a_missing_category_is_named():
    with refusal("'times'"):
        grammar.Grammar({key: value for key, value in TINY.items() if key != "times"})


def test_unknown_language_names_the_near_ones():
    with refusal("'sv'", "sv-SE", kind=UsageError):
        grammar.load("sv")


def test_english_articles():
    english = grammar.load("en")
    for thing, adjective, words in (
        ("apple", "", "an apple"),
        ("apple", "red", "a red apple"),
        ("umbrella", "", "an umbrella"),
        ("car", "empty", "an empty car"),
    ):
        sentence = english.render(
            meaning("svo", person=("king", ""), transitive=("see", ""), thing=(thing, adjective))
        )
        assert sentence == f"The king sees {words}."


def test_draw_is_a_function_of_the_seed():
    english = grammar.load("en")
    words = grammar.vocabulary(english, 0.0)

    def series(seed):
        rng = random.Random(seed)
        return [grammar.draw(rng, english.templates, words).key() for _ in range(50)]

    assert series(1) == series(1) != series(2)


def test_half_of_the_nouns_have_an_adjective():
    english = grammar.load("en")
    words, rng = grammar.vocabulary(english, 0.0), random.Random(0)
    nouns = [
        adjective
        for _ in range(4000)
        for slot, (_, adjective) in grammar.draw(rng, english.templates, words).concepts.items()
        if slot in ("person", "thing")
    ]
    assert 0.47 < sum(map(bool, nouns)) / len(nouns) < 0.53


def test_holdout_takes_its_share_of_every_category():
    german = grammar.load("de")
    full, reduced = grammar.vocabulary(german, 0.0), grammar.vocabulary(german, 0.2)
    more = grammar.vocabulary(german, 0.4)
    for category in grammar.CATEGORIES:
        assert len(reduced[category]) == len(full[category]) - round(0.2 * len(full[category]))
        assert set(more[category]) < set(reduced[category]) < set(full[category])
    assert grammar.vocabulary(grammar.load("es"), 0.2) != reduced


def test_held_out_words_never_occur():
    german = grammar.load("de")
    words = grammar.vocabulary(german, 0.2)
    rng = random.Random(3)
    for _ in range(1000):
        for slot, pair in grammar.draw(rng, german.templates, words).concepts.items():
            category = grammar.SLOTS[slot]
            assert pair[0] in words[category]
            assert not pair[1] or pair[1] in words[grammar.NOUNS[category]]


def test_stable_hash_is_the_same_everywhere():
    assert grammar.stable_hash("de", 1) == 5428478479712011899
