"""Configurations in YAML: values of the right types, or a LorsError; in bounded time."""

import json
import time

import pytest
import yaml

from lors.config import read_yaml
from lors.errors import LorsError
from lors.fileio import read_json_object
from lors.merge.plan_options import plan_from
from lors.merge.policy import POLICY_DIR, load_policy
from lors.merge.record import _read_steps
from lors.recipe.grid import read_grid
from tests.fuzz.mutate import mutated_bytes, mutated_value, seeds

TEXTS = [
    *("2001-13-45", "!!int x", "!!float ''", "!!timestamp 1", "!!binary ?", "!!set {a, b}"),
    *("!!omap [a: 1]", "!!python/name:os.system", "&a [*a]", "*b", "<<", "? {a: 1}", "=", "~"),
    *("9" * 5000, "0x" + "f" * 4000, "1:60:60", "1e999", ".nan", "[" * 300, "{a: " * 300),
    *(
        "'\ud7ff'",
        '"\\ud800"',
        '"\\U00110000"',
        "|\n\t",
        "--- a\n--- b",
        "%YAML 9.9\n---\n",
        "\x07",
    ),
]
PLAN = {
    "base": "base/model.pth",
    "experts": ["de/model.pth", "fr/model.pth"],
    "method": "lors",
    "params": {"rank": 7, "density": 0.2, "scaling_coef": 0.3, "threshold": "matrix"},
    "policy": "whisper",
    "dtype": "float32",
    "seed": 1,
    "weights": [1.0, -0.5],
    "svc": 0.5,
    "boost": 0.01,
    "lines": [0.5, 1.0],
    "onto": "merged/model.pth",
}
RECORD = {
    "lors_version": "1",
    "model": "model.pth",
    "plan": PLAN,
    "fingerprints": {"base": "f0", "experts": ["f1", "f2"]},
    "onto": {"model": "model.pth"},
}
GRID = {
    "utterances_per_language": 20,
    "lors": {"rank": [1, 7], "density": [0.1, 0.2]},
    "average": {"scaling_coef": [0.1, 0.2, 0.3, 0.4]},
}
POLICY = read_yaml(POLICY_DIR / "whisper.yaml")


def plan_of(path):
    plan_from(str(path), {})


def steps_of(path):
    _read_steps(read_yaml(path), path)


def policy_of(path):
    policy = load_policy(str(path))
    names = [f"encoder.blocks.{number}.attn.query.weight" for number in range(50)]
    policy.recognises([*names, "*a" * 100])


READERS = {"plan": (PLAN, plan_of), "record": (RECORD, steps_of), "grid": (GRID, read_grid)}
READERS["policy"] = (POLICY, policy_of)


def mutated_text(rng, text):
    """Replace a word of a text, or some of its bytes."""
    if rng.random() < 0.5:
        return mutated_bytes(rng, text.encode())
    words = text.split(" ")
    words[rng.randrange(len(words))] = rng.choice(TEXTS)
    return " ".join(words).encode("utf-8", "surrogatepass")


def run(reader, path):
    """Return whether a file is accepted; anything but a LorsError fails the test."""
    began = time.process_time()
    try:
        reader(path)
        return True
    except LorsError as error:
        assert len(str(error)) < 20_000
        return False
    finally:
        assert time.process_time() - began < 5


@pytest.mark.parametrize("kind", READERS)
def test_mutated_configurations(tmp_path, request, kind):
    content, reader = READERS[kind]
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content))
    assert run(reader, path)
    outcomes = {True: 0, False: 0}
    for rng in seeds(request, 300):
        value = mutated_value(rng, content) if rng.random() < 0.5 else content
        text = yaml.safe_dump(value, sort_keys=False)
        written = mutated_text(rng, text) if rng.random() < 0.6 else text.encode()
        path.write_bytes(written)
        outcomes[run(reader, path)] += 1
    assert min(outcomes.values()) > 5


def test_mutated_json(tmp_path, request):
    path = tmp_path / "c.json"
    for rng in seeds(request, 300):
        text = json.dumps(mutated_value(rng, RECORD)).encode()
        path.write_bytes(mutated_bytes(rng, text) if rng.random() < 0.5 else text)
        run(read_json_object, path)
