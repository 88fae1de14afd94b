"""Inputs that would take years or gigabytes are refused within 4 CPU s and 200 MB."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from tests import bounded
from tests.bounded import check_refusal, costs_of
from tests.unit.cv_corpus import CV_HEADER, small_corpus
from tests.unit.merge_models import PRUNED, write_models
from tests.unit.whisper_files import WIDTH, openai_state, write_hugging_face, write_peft

ROOT = Path(__file__).parents[2]
HF_QUERY = "model.encoder.layers.1.self_attn.q_proj"
FUNCTION = """
import sys
from lors.errors import LorsError
{statement}
try:
    {call}
except LorsError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def module(name, *words):
    return [sys.executable, "-m", f"lors.bin.{name}", *words]


def function(statement, call, *words):
    return [sys.executable, "-c", FUNCTION.format(statement=statement, call=call), *words]


def bomb(levels=9, width=10):
    """Lines of YAML: aliases that stand for width**levels values."""
    lines = ["a0: &a0 [x]"]
    for n in range(1, levels + 1):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]")
    return "\n".join(lines) + "\n"


def nested(depth):
    return "[" * depth + "]" * depth


TEXTS = {  # a name -> a mapping in YAML, and a fact of its refusal
    "aliases": (bomb(), "values"),
    "aliases of a mapping": (bomb().replace("[x]", "{x: 1}"), "values"),
    "an alias of itself": ("a: &a\n  b: *a\n", "alias"),
    "20,000 keys": ("".join(f"stepz{n}: 1\n" for n in range(20_000)), "stepz"),
    "20,000 times one key": ("key: 1\n" * 20_000, "twice"),
    "deep flow": ("a: " + nested(100_000), "nested"),
    "deep blocks": ("".join(" " * n + "a:\n" for n in range(2000)), "nested"),
    "a million values": ("a: [" + "1," * 10**6 + "1]\n", "values"),
    "a number of a million digits": ("a: " + "9" * 10**6 + "\n", "int"),
    "a hexadecimal number": ("a: 0x" + "f" * 10**6 + "\n", "int"),
}


# --- YAML: every file of a user that is read as YAML ---------------------------------------------


def merge_config(folder, text):
    base, *experts = write_models(folder)
    path = folder / "c.yaml"
    path.write_text(text or "seed: 3\n")
    command = module("merge", "--config", path, "--method", "average", "--base", base)
    return [*command, "--experts", *experts, "--dry_run"]


def policy(folder, text):
    base, *experts = write_models(folder)
    path = folder / "p.yaml"
    rules = [{"action": "prune", "patterns": [PRUNED]}, {"action": "copy", "patterns": ["*"]}]
    path.write_text(text or yaml.safe_dump({"family": "x", "detect": ["*"], "rules": rules}))
    command = module("merge", "--method", "average", "--policy", path, "--base", base)
    return [*command, "--experts", *experts, "--dry_run"]


def grid(folder, text):
    path = folder / "tune.yaml"
    path.write_text(text or "lors: {rank: [1], scaling_coef: [0.1]}\n")
    read = "from lors.recipe.grid import read_grid"
    return function(read, "read_grid(sys.argv[1])", path)


def inference_config(folder, text):
    path = folder / "inference.yaml"
    path.write_text(text or "batch_size: 3\n")
    read = "from lors.config import load_config; from lors.models.espnet_s2t.prompts import *"
    return function(read, "load_config(S2TOptions, sys.argv[1])", path)


def train_config(folder, text):
    path = folder / "train.yaml"
    path.write_text(text or "max_epoch: 3\n")
    read = "from lors.config import read_yaml"
    return function(read, "read_yaml(sys.argv[1])", path)


def conditions(folder, text):
    from lors.data.espeak.voices import CONDITIONS_FILE

    path = folder / "conditions.yaml"
    path.write_text(text or CONDITIONS_FILE.read_text())
    read = "from lors.data.espeak.voices import load_condition; from pathlib import Path"
    return function(read, "load_condition('pool', 'de', Path(sys.argv[1]))", path)


def record(folder, text):
    """The record of the merged model to which an expert is added."""
    base, first, second = write_models(folder)
    merged = folder / "merged"
    merged.mkdir()
    shutil.copy(first, merged / "model.pth")
    (merged / "merge.yaml").write_text(text or "model: model.pth\n")
    command = module("merge", "--method", "task_arithmetic", "--base", base, "--experts", second)
    return [*command, "--onto", merged / "model.pth", "--out", folder / "new" / "model.pth"]


def check_text(reader, folder, name, status=2):
    text, fact = TEXTS[name]
    case = lambda place, hostile: reader(place, hostile and text)  # noqa: E731
    check_refusal(case, folder, fact, status=status)


@pytest.mark.parametrize("name", TEXTS)
def test_yaml(tmp_path, name):
    check_text(inference_config, tmp_path, name)


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        (merge_config, "20,000 keys"),
        (policy, "aliases"),
        (grid, "deep flow"),
        (train_config, "aliases"),
        (conditions, "aliases of a mapping"),
        (record, "deep blocks"),
    ],
)
def test_yaml_of_other_programs(tmp_path, reader, name):
    check_text(reader, tmp_path, name)


RECORDS = {
    "itself": "model: model.pth\nonto: &x\n  onto: *x\n",
    "two that hold each other": "model: model.pth\na: &a {onto: &b {onto: *a}}\nonto: *b\n",
}


@pytest.mark.parametrize("name", RECORDS)
def test_record_that_contains_itself(tmp_path, name):
    text = RECORDS[name]
    case = lambda folder, hostile: record(folder, hostile and text)  # noqa: E731
    check_refusal(case, tmp_path, "merge.yaml", "alias", status=2)


def test_option_whose_values_are_yaml(tmp_path):

    def case(folder, hostile):
        base, *experts = write_models(folder)
        command = module("merge", "--method", "lors", "--base", base, "--experts", *experts)
        rank = nested(50_000) if hostile else "2"
        return [*command, "--dry_run", "--params", f"rank={rank}"]

    check_refusal(case, tmp_path, "--params", status=2)


def test_grid_of_40_to_the_8th_points(tmp_path):
    eight = {"lors": {f"p{number}": list(range(40)) for number in range(8)}}
    text = yaml.safe_dump(eight)
    case = lambda folder, hostile: grid(folder, hostile and text)  # noqa: E731
    check_refusal(case, tmp_path, "tune.yaml: lors", 40**8, 10_000, status=2)


# --- patterns ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["(([a-z_.0-9]+)+)+!", "(a|a|.)+" * 8 + "!", "(" * 100_000])
def test_pattern_of_an_adapter(tmp_path, pattern):
    factors = torch.ones(2, WIDTH), torch.ones(WIDTH, 2)

    def case(folder, hostile):
        base = write_hugging_face(folder / "base", openai_state(0))
        patterns = {pattern if hostile else "q_proj": 3}
        adapter = write_peft(folder / "a", {HF_QUERY: factors}, alpha_pattern=patterns)
        command = module("merge", "--method", "average", "--base", base, "--experts", adapter)
        return [*command, "--dry_run"]

    check_refusal(case, tmp_path, "adapter_config.json", pattern[:20], status=1)


@pytest.mark.parametrize(
    ("patterns", "fact", "status"),
    [
        (["*a" * 50_000] * 20, PRUNED, 1),
        (["*" * 10**6 + "a"], PRUNED, 1),
        ([f"x{n}*" for n in range(150_000)], "150001", 2),
    ],
)
def test_patterns_of_a_policy(tmp_path, patterns, fact, status):
    """A policy is slow neither by its stars nor by the number of its patterns."""
    rules = [{"action": "copy", "patterns": patterns}]
    text = json.dumps({"family": "x", "detect": ["*"], "rules": rules})  # JSON is YAML
    case = lambda folder, hostile: policy(folder, hostile and text)  # noqa: E731
    check_refusal(case, tmp_path, fact, status=status)


# --- values --------------------------------------------------------------------------------------


def test_one_number_expanded_to_gigabytes(tmp_path):
    def case(folder, hostile):
        base, expert, _ = write_models(folder)
        if hostile:
            state = torch.load(expert) | {PRUNED: torch.zeros(1).expand(65536, 65536)}
            torch.save(state, expert)
        command = module("merge", "--method", "average", "--dry_run", "--base", base)
        return [*command, "--experts", expert]

    check_refusal(case, tmp_path, PRUNED, 65536, status=1)


def test_header_that_claims_gigabytes(tmp_path):
    def case(folder, hostile):
        base, expert, _ = write_models(folder)
        state = torch.load(expert)
        path = folder / "e.safetensors"
        safetensors.torch.save_file(state, path)
        if hostile:
            path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])
        command = module("merge", "--method", "average", "--dry_run", "--base", base)
        return [*command, "--experts", path]

    check_refusal(case, tmp_path, "e.safetensors", status=1)


@pytest.mark.parametrize("name", ["adapter_config.json", "model.safetensors.index.json"])
def test_json_nested_deeply(tmp_path, name):
    def case(folder, hostile):
        factors = torch.ones(2, WIDTH), torch.ones(WIDTH, 2)
        base = write_hugging_face(folder / "base", openai_state(0))
        expert = write_peft(folder / "a", {HF_QUERY: factors})
        if hostile and name.startswith("adapter"):
            (expert / name).write_text('{"a": ' + nested(200_000) + "}")
        elif hostile:
            (base / "model.safetensors").unlink()
            (base / name).write_text('{"weight_map": ' + nested(200_000) + "}")
        command = module("merge", "--method", "average", "--base", base, "--dry_run")
        return [*command, "--experts", expert]

    check_refusal(case, tmp_path, name, status=1)


def task_vector(folder, description=None, tensors=None):
    """A merge of a task vector with another description, or with further tensors."""
    from tests.unit.small_experts import write_vector

    base, expert, _ = write_models(folder)
    path = write_vector(base, expert, folder / "v.safetensors")
    content = safetensors.torch.load_file(path) | (tensors or {})
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    if description is not None:
        header = dict.fromkeys(header, description)
    safetensors.torch.save_file(content, path, header)
    command = module("merge", "--method", "lors", "--dry_run", "--base", base, "--experts", path)
    return [*command, "--params", "rank=2"]


@pytest.mark.parametrize("text", [nested(10**6), " " * (5 * 10**6), '{"version": 1e9}'])
def test_description_of_a_task_vector(tmp_path, text):
    case = lambda folder, hostile: task_vector(folder, text if hostile else None)  # noqa: E731
    check_refusal(case, tmp_path, "v.safetensors", status=1)


@pytest.mark.parametrize(
    ("part", "size", "dtype"),
    [
        ("gaps", 3 * 10**8, torch.uint8),
        ("up", (8, 2 * 10**7), torch.float16),
    ],
)
def test_parts_of_a_task_vector_that_are_larger_than_the_model(tmp_path, part, size, dtype):
    tensors = {f"{PRUNED}:{part}": torch.zeros(size, dtype=dtype)}
    case = lambda folder, hostile: task_vector(folder, None, tensors if hostile else None)  # noqa: E731
    check_refusal(case, tmp_path, "v.safetensors", PRUNED, part, status=1)
    shutil.rmtree(tmp_path)


# --- jobs, languages, columns --------------------------------------------------------------------


@pytest.mark.parametrize("word", ["JOB=1:10000000000", "JOB=1:" + "9" * 4000])
def test_array_of_jobs(tmp_path, word):
    def case(folder, hostile):
        wrapper = ROOT / "utils" / "run.py"
        return [sys.executable, wrapper, word if hostile else "JOB=1:1", "x.JOB.log", "true"]

    check_refusal(case, tmp_path, word[:20], status=2)


MANIFEST = "audio\tlang\ttext\tsplit\n"
LANGUAGES = "".join(f"x.wav\tzq{n}x\tt\ttrain\n" for n in range(20_000))
"""No language, and none is near to one."""
NEAR = "".join(f"x.wav\tde{'abcdefghij'[n % 10]}{n}\tt\ttrain\n" for n in range(20_000))
TABLES = {
    "unknown languages": MANIFEST + LANGUAGES,
    "languages that are nearly known": MANIFEST + NEAR,
    "columns": "\t".join(f"c{n}" for n in range(100_000)) + "\n",
    "columns that are nearly known": "\t".join(f"audi{n}" for n in range(100_000)) + "\n",
    "one column 100,000 times": "\t".join(["audio"] * 100_000) + "\n",
    "a row of 10 MB": MANIFEST + "x" * 10**7 + "\tde\tt\ttrain\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_manifest(tmp_path, name):
    def case(folder, hostile):
        clips = sorted(small_corpus(folder / "corpus").write().clips.iterdir())
        splits = zip(clips, ("train", "dev", "test"), strict=False)
        rows = "".join(f"{audio}\tde\tein Satz\t{split}\n" for audio, split in splits)
        table = folder / "m.tsv"
        table.write_text(TABLES[name] if hostile else MANIFEST + rows)
        return module("prepare_manifest", "--manifest", table, "--out", folder / "data")

    check_refusal(case, tmp_path, "m.tsv", status=1)


@pytest.mark.parametrize("name", ["validated", "translations"])
def test_header_of_a_corpus(tmp_path, name):
    header = "\t".join([*CV_HEADER, "translation", "split", *(f"c{n}" for n in range(100_000))])

    def case(folder, hostile):
        corpus = small_corpus(folder / "corpus").write()
        path = corpus.validated if name == "validated" else corpus.covost_tsv
        if hostile:
            path.write_text(f"{header}\n{path.read_text()}")
        command = module("prepare_covost2", "--common_voice", corpus.common_voice)
        return [*command, "--covost2", corpus.covost2, "--langs", "de", "--out", folder / "data"]

    check_refusal(case, tmp_path, "de", status=1)


@pytest.mark.parametrize("program", ["prepare_common_voice", "prepare_covost2"])
def test_languages_of_an_option(tmp_path, program):
    def case(folder, hostile):
        corpus = small_corpus(folder / "corpus").write()
        langs = [f"zq{n}x" for n in range(15_000)] if hostile else ["de"]
        command = module(program, "--common_voice", corpus.common_voice, "--out", folder / "data")
        if program == "prepare_covost2":
            command += ["--covost2", corpus.covost2]
        else:
            header, *rows = corpus.validated.read_text().splitlines(keepends=True)
            for place, split in enumerate(("train", "dev", "test")):
                corpus.validated.with_name(f"{split}.tsv").write_text(header + rows[4 * place])
        return [*command, "--langs", *langs]

    check_refusal(case, tmp_path, "zq0x", status=2)


# --- the measurement itself ----------------------------------------------------------------------


def test_costs_are_those_of_the_program(tmp_path):
    program = "import time\nx = bytearray({}); t = time.process_time() + {}\n"
    program += "while time.process_time() < t: pass"
    idle = costs_of([sys.executable, "-c", program.format(0, 0)], tmp_path)
    busy = costs_of([sys.executable, "-c", program.format(3 * 10**8, 0.5)], tmp_path)
    assert idle.cpu < 0.5 < busy.cpu
    assert 250 < busy.megabytes - idle.megabytes < 320
    killed = costs_of([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], tmp_path)
    assert killed.status == -9


@pytest.mark.parametrize("program", ["x = bytearray(3 * 10**8)", "sum(range(10**8))", "pass"])
def test_a_dear_refusal_is_found(tmp_path, program, monkeypatch):
    monkeypatch.setattr(bounded, "CPU_SECONDS", 0.3)
    end = "import sys; sys.exit('m.tsv')"

    def case(folder, hostile):
        return [sys.executable, "-c", f"{program}; {end}" if hostile else "pass"]

    if program == "pass":
        check_refusal(case, tmp_path, "m.tsv", status=1)
        return
    with pytest.raises(AssertionError, match="CPU s and"):
        check_refusal(case, tmp_path, "m.tsv", status=1)
