"""Sentences with true English translations, drawn from a grammar of phrases.

A sentence starts as a :class:`Meaning`, a template and one concept per slot, in no particular
language. A :class:`Grammar` renders it in one language. The files in ``grammar/`` hold the words;
``grammar/README.md`` describes their format.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lors.config import read_yaml
from lors.errors import LorsError, unknown_name
from lors.tasks import TARGET

GRAMMAR_DIR = Path(__file__).parent / "grammar"
NOUNS = {"persons": "person_adjectives", "things": "thing_adjectives"}
"""Category of nouns -> category of their adjectives."""
PHRASES = ("transitive", "intransitive", "places", "times")
CATEGORIES = (*NOUNS, *NOUNS.values(), *PHRASES)
SLOTS = {
    "person": "persons",
    "thing": "things",
    "transitive": "transitive",
    "intransitive": "intransitive",
    "place": "places",
    "time": "times",
}
"""Slot of a template -> category of the concepts for it."""
ADJECTIVE_PROBABILITY = 0.5


@dataclass(frozen=True)
class Meaning:
    """The meaning of a sentence.

    Attributes:
        template: name of the template.
        concepts: slot -> its concept and the concept of its adjective (empty if it has none).
    """

    template: str
    concepts: Mapping[str, tuple[str, str]] = field(hash=False)

    def key(self) -> str:
        """Return a text that identifies the meaning."""
        slots = " ".join(
            f"{slot}={'+'.join(self.concepts[slot])}" for slot in sorted(self.concepts)
        )
        return f"{self.template} {slots}"


class Grammar:
    """The words and the word order of one language.

    Args:
        data: the content of a grammar file.
        where: its file, for error messages.

    Raises:
        LorsError: the content is not a complete grammar; every problem is listed.
    """

    def __init__(self, data: Mapping[str, Any], where: object = None):
        problems = grammar_problems(data)
        if problems:
            raise LorsError(
                f"incomplete grammar: {len(problems)} problem(s)",
                where=where,
                got=problems,
                hint=f"the format is described in {GRAMMAR_DIR / 'README.md'}",
            )
        self.language: str = data["language"]
        self.templates: dict[str, str] = data["templates"]
        self.classes: dict[str, Any] = data["classes"]
        self.words: dict[str, dict[str, Any]] = {name: data[name] for name in CATEGORIES}
        self.rewrites = [(re.compile(find), put) for find, put in data.get("rewrites") or []]

    def render(self, meaning: Meaning) -> str:
        """Return the sentence, with a capital first letter and a full stop."""
        phrases = {}
        for slot, (concept, adjective) in meaning.concepts.items():
            entry = self.words[SLOTS[slot]][concept]
            if SLOTS[slot] in NOUNS:
                phrases[slot] = self._noun_phrase(slot, entry, adjective)
            else:
                phrases[slot] = entry
        sentence = self.templates[meaning.template].format(**phrases)
        for pattern, replacement in self.rewrites:
            sentence = pattern.sub(replacement, sentence)
        return f"{sentence[0].upper()}{sentence[1:]}."

    def _noun_phrase(self, slot: str, entry: tuple[str, str], adjective: str) -> str:
        name, noun = entry
        patterns, gender = self.classes[name][slot], self.classes[name]["gender"]
        if not adjective:
            return patterns[0].format(noun=noun)
        form = self.words[NOUNS[SLOTS[slot]]][adjective][gender]
        return patterns[1].format(noun=noun, adj=form)


def is_text(value: Any) -> bool:
    """Return whether `value` is a string that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def grammar_problems(data: Any) -> list[str]:
    """Return one line for each problem of the content of a grammar file."""
    if not isinstance(data, Mapping):
        return ["the file is not a mapping"]
    required = ("language", "templates", "classes", *CATEGORIES)
    problems = [f"'{key}' is missing" for key in required if not data.get(key)]
    if problems:
        return problems
    for name, template in data["templates"].items():
        unknown = set(re.findall(r"\{(\w*)\}", template)) - set(SLOTS)
        problems += [f"templates.{name}: unknown slot '{slot}'" for slot in sorted(unknown)]
    for category, adjectives in NOUNS.items():
        slot = category.removesuffix("s")
        genders = set()
        for concept, entry in data[category].items():
            where = f"{category}.{concept}"
            # YAML reads an unquoted no, on or yes as a boolean: check that words are text.
            if not (isinstance(entry, list) and len(entry) == 2 and is_text(entry[1])):
                problems.append(f"{where}: expected [class, noun], got {entry!r}")
            elif entry[0] not in data["classes"]:
                problems.append(f"{where}: unknown class '{entry[0]}'")
            elif len(data["classes"][entry[0]].get(slot) or ()) != 2:
                problems.append(f"classes.{entry[0]}: no two patterns for '{slot}' ({where})")
            else:
                genders.add(data["classes"][entry[0]].get("gender"))
        for concept, forms in data[adjectives].items():
            problems += [
                f"{adjectives}.{concept}: no form for gender '{gender}'"
                for gender in sorted(genders)
                if not (isinstance(forms, Mapping) and is_text(forms.get(gender)))
            ]
    for category in PHRASES:
        problems += [
            f"{category}.{concept}: expected words, got {words!r}"
            for concept, words in data[category].items()
            if not is_text(words)
        ]
    return problems


def languages() -> list[str]:
    """Return the Common Voice codes of the source languages that have a grammar."""
    return sorted(path.stem for path in GRAMMAR_DIR.glob("*.yaml") if path.stem != TARGET)


def load(language: str) -> Grammar:
    """Read the grammar of one language.

    Raises:
        UsageError: there is no grammar for this language, or the file is not valid YAML.
        LorsError: the file is not a complete grammar.
    """
    if language not in (*languages(), TARGET):
        raise unknown_name("language", language, languages())
    path = GRAMMAR_DIR / f"{language}.yaml"
    return Grammar(read_yaml(path), where=path)


def stable_hash(*parts: object) -> int:
    """Return a 64-bit hash that is the same in every process and on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def vocabulary(grammar: Grammar, holdout: float) -> dict[str, list[str]]:
    """Return the concepts of each category, without the share `holdout` (0 to 1).

    The concepts with the lowest hash of language, category and concept are left out. So every
    corpus with the same holdout lacks the same concepts; with a larger holdout it lacks more.
    """
    kept = {}
    for category in CATEGORIES:
        concepts = sorted(
            grammar.words[category],
            key=lambda concept: stable_hash(grammar.language, category, concept),
        )
        kept[category] = sorted(concepts[round(holdout * len(concepts)) :])
    return kept


def draw(
    rng: random.Random, templates: Mapping[str, str], words: Mapping[str, Sequence[str]]
) -> Meaning:
    """Draw a meaning: template and concepts uniformly, adjectives for half of the nouns.

    Args:
        rng: the random generator.
        templates: name -> template, of any language (their slots are the same).
        words: category -> concepts, as from :func:`vocabulary`.
    """
    name = rng.choice(sorted(templates))
    concepts = {}
    for slot in sorted(re.findall(r"\{(\w+)\}", templates[name])):
        category = SLOTS[slot]
        concept, adjective = rng.choice(words[category]), ""
        if category in NOUNS and rng.random() < ADJECTIVE_PROBABILITY:
            adjective = rng.choice(words[NOUNS[category]])
        concepts[slot] = (concept, adjective)
    return Meaning(name, concepts)
