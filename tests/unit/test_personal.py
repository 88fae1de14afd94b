"""Adapters of speakers: on the full model, merged with each other, and the sizes of all parts."""

from __future__ import annotations

import inspect

import pytest
import torch
import yaml
from safetensors.torch import save_file

from lors.bin.extract import main as extract_main
from lors.bin.merge import main as merge_main
from lors.bin.quantise import main as quantise_main
from lors.bin.share_adapters import main
from lors.checkpoint.adapter_base import record_base, recorded_base
from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.quantised import open_quantised, write_quantised
from lors.checkpoint.reader import Checkpoint
from lors.errors import UsageError
from lors.merge.run import MergePlan, run_merge
from lors.models.adapter_conf import ESPNET_DEFAULTS
from lors.recipe.expdir import ON_FULL, PERSONAL, ExpDir, check_models
from lors.recipe.personal import share_adapters, size_sections, write_sizes
from lors.recipe.score_tree import system_order
from lors.recipe.training_config import (
    LORA_DEFAULTS,
    adapter_differences,
    fine_tuning_config,
)
from lors.tasks import Pair, of_speaker, pairs_of, spoken
from tests.refusal import refusal
from tests.unit.stand_ins import BASE_CONFIG

NAME = "encoder.encoders.0.self_attn.linear_q.weight"
CONV = "encoder.embed.conv.0.weight"
SHAPES = {NAME: (64, 64), CONV: (64, 4, 3), "encoder.after_norm.bias": (64,)}
LORA = {"adapter_conf": {"rank": 2, "alpha": 8, "target_modules": ["linear_q", "conv.0"]}}
PAIRS = [Pair("de-x-anna", "asr"), Pair("de-x-bert", "asr")]


def write_adapter(out, base, seed):
    """Write random factors of rank 2 with a scale of 4, as ESPnet's trainer does."""
    out.mkdir(parents=True)
    (out / "config.yaml").write_text(yaml.safe_dump(LORA))
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in SHAPES.items():
        if len(shape) > 1:
            stem = name.removesuffix("weight")
            inputs = torch.Size(shape[1:]).numel()
            state[f"{stem}lora_A"] = torch.randn(2, inputs, generator=generator)
            state[f"{stem}lora_B"] = torch.randn(shape[0], 2, generator=generator)
    torch.save(state, out / "model.pth")
    record_base(base, out)
    return state


@pytest.fixture
def exp(tmp_path):
    """An experiment with a quantised base model and the adapters of two speakers."""
    exp = ExpDir(tmp_path / "exp")
    torch.manual_seed(0)
    state = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    exp.base.mkdir(parents=True)
    torch.save(state, exp.base / "model.pth")
    (exp.base / "config.yaml").write_text(yaml.safe_dump(BASE_CONFIG))
    base = open_model(exp.base / "model.pth")
    write_quantised(base, [NAME, CONV], exp.root / "quantised" / "model.safetensors")
    (exp.root / "quantised" / "config.yaml").write_text(yaml.safe_dump(BASE_CONFIG))
    quantised = open_quantised(exp.root / "quantised")
    write_adapter(exp.root / "quantised_sat", quantised, 0)
    for system in ("quantised_speaker", "quantised_sat_speaker"):
        for seed, pair in enumerate(PAIRS):
            write_adapter(exp.model(system, pair, ()), quantised, seed)
    return exp


def test_codes_of_speakers():
    assert of_speaker("sv-SE", "anna") == "sv-SE-x-anna"
    assert (spoken("sv-SE-x-anna"), spoken("de")) == ("sv-SE", "de")
    # English is not translated into English, whoever speaks.
    assert pairs_of(["en-x-anna", "de-x-bert"], ["st"]) == [Pair("de-x-bert", "st")]


def test_directories_of_the_systems(exp):
    pair = PAIRS[0]
    shared = {"base", "quantised", "quantised_sat", "full_sat"}
    for system in ("base", *PERSONAL):
        folder = exp.model(system, pair, ())
        assert folder == (exp.root / system if system in shared else exp.root / system / str(pair))
    order = sorted(["full_speaker", "quantised", "base", "quantised_sat"], key=system_order)
    assert order == ["base", "quantised", "quantised_sat", "full_speaker"]
    check_models([exp.base, exp.root / "quantised"])
    with refusal("nowhere/model.pth"):
        check_models([exp.root / "nowhere"])


def test_same_adapters_on_the_full_model(exp):
    share_adapters(exp, PAIRS)
    base = open_model(exp.base / "model.pth")
    for full, quantised in ON_FULL.items():
        for pair in PAIRS:
            out, source = exp.model(full, pair, ()), exp.model(quantised, pair, ())
            assert (out / "model.pth").resolve() == (source / "model.pth").resolve()
            plan = MergePlan(
                base=str(exp.base / "model.pth"),
                experts=(str(out / "model.pth"),),
                method="task_arithmetic",
                params={"scaling_coef": 1.0},
                policy="espnet_s2t",
            )
            run_merge(plan, exp.root / "one" / full / str(pair) / "model.pth")
            merged = Checkpoint.open(exp.root / "one" / full / str(pair) / "model.pth")
            for name in (NAME, CONV):
                delta = product(source, name)
                assert torch.allclose(merged.tensor(name), base.tensor(name) + delta, atol=1e-5)
    share_adapters(exp, PAIRS)  # again


def product(adapter, name):
    state = torch.load(adapter / "model.pth", weights_only=True)
    stem = name.removesuffix("weight")
    return 4 * (state[f"{stem}lora_B"] @ state[f"{stem}lora_A"]).view(SHAPES[name])


def test_missing_adapters_are_all_named(exp):
    names = [exp.model("quantised_speaker", pair, ()) / "model.pth" for pair in PAIRS]
    for name in names:
        name.unlink()
    with refusal(*map(str, names)):
        share_adapters(exp, PAIRS)


def test_a_speaker_from_two_others_by_a_merge(exp):
    """Adapters trained on the quantised model merge on the full one, and on the rounded one."""
    adapters = [exp.model("quantised_speaker", pair, ()) / "model.pth" for pair in PAIRS]
    rounded = exp.root / "rounded.pth"
    options = ["--restore", "--model", str(exp.root / "quantised"), "--out", str(rounded)]
    assert quantise_main(options) == 0
    assert quantise_main([*options[:-1], str(exp.root / "quantised/model.safetensors")]) == 2
    for base in (exp.base / "model.pth", rounded):
        plan = MergePlan(
            base=str(base),
            experts=tuple(map(str, adapters)),
            method="average",
            params={"scaling_coef": 1.0},
            policy="espnet_s2t",
        )
        out = exp.root / "merged" / base.stem / "model.pth"
        run_merge(plan, out)
        merged, model = Checkpoint.open(out), Checkpoint.open(base)
        for name in (NAME, CONV):
            delta = sum(product(adapter.parent, name) for adapter in adapters) / 2
            assert torch.allclose(merged.tensor(name), model.tensor(name) + delta, atol=1e-5)
    # A merged model is quantised like any other.
    (out.parent / "config.yaml").write_text(yaml.safe_dump(BASE_CONFIG))
    assert quantise_main(["--model", str(out.parent), "--out", str(exp.root / "again")]) == 0
    assert open_quantised(exp.root / "again").quantised_names() == [NAME, CONV]


def group_of(exp, base, out):
    """Merge the adapters of both speakers on `base`, and extract the change as an adapter."""
    adapters = [str(exp.model("quantised_speaker", pair, ()) / "model.pth") for pair in PAIRS]
    merged = str(out.with_name(f"{out.name}_merged") / "model.pth")
    words = ["--method", "average", "--policy", "espnet_s2t", "--params", "scaling_coef=1"]
    words += ["--base", str(base), "--experts", *adapters, "--out", merged]
    assert merge_main(words) == 0
    words = ["--base", str(base), "--expert", merged, "--as", "lora", "--rank", "4"]
    words += ["--policy", "espnet_s2t", "--out", str(out)]
    return [*words, "--quantised_base", str(exp.root / "quantised")]


def test_an_adapter_of_another_quantisation_is_named(exp, caplog):
    """Plain and double quantisation of one model: other weights, and adapters of both fit."""
    double = exp.root / "double" / "model.safetensors"
    write_quantised(open_model(exp.base / "model.pth"), [NAME, CONV], double, double=True)
    adapter = exp.root / "quantised_sat"
    for base in (open_quantised(exp.root / "quantised"), open_model(exp.base / "model.pth")):
        open_expert(base, adapter / "model.pth")
    assert not caplog.records
    open_expert(open_quantised(double), adapter / "model.pth")
    [record] = caplog.records
    facts = (str(adapter), "quantised/model.safetensors", str(double))
    assert record.levelname == "WARNING" and all(f in record.getMessage() for f in facts)


def test_adapter_of_a_group_on_the_quantised_model(exp, capsys):
    """The rank of the sum is at most the sum of the ranks; the factors hold all of it."""
    quantised, rounded = open_quantised(exp.root / "quantised"), exp.root / "rounded.pth"
    restore = ["--restore", "--model", str(quantised.path), "--out", str(rounded)]
    assert quantise_main(restore) == 0
    full = exp.base / "model.pth"
    delta = sum(product(exp.model("quantised_speaker", pair, ()), NAME) for pair in PAIRS) / 2
    for base in (full, rounded):
        out = exp.root / f"group_on_{base.stem}"
        words = group_of(exp, base, out)
        assert extract_main(words) == 0 and extract_main(words) == 0  # the same command
        lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
        assert len(lines) == 2 and all(CONV in line and NAME not in line for line in lines)
        assert recorded_base(out / "adapter_model.safetensors") == quantised.path
        group = open_expert(quantised, out)
        assert torch.allclose(group.tensor(NAME), quantised.tensor(NAME) + delta, atol=1e-5)
        open_expert(open_model(full), out)  # it fits the model that was quantised, too
        assert extract_main(words[:-2]) == 2
    write_quantised(open_model(rounded), [NAME], exp.root / "other" / "model.safetensors")
    capsys.readouterr()
    words = [*words[:1], str(full), *words[2:-1], str(exp.root / "other")]
    assert extract_main(words) == 1
    error = capsys.readouterr().err
    assert str(exp.root / "other" / "model.safetensors") in error and str(full) in error


def test_a_merge_needs_full_precision(exp):
    file = exp.root / "quantised" / "model.safetensors"
    adapter = str(exp.model("quantised_speaker", PAIRS[0], ()) / "model.pth")
    full = str(exp.base / "model.pth")
    for base, expert in ((str(file), adapter), (full, str(file))):
        plan = MergePlan(base=base, experts=(expert,), method="average", policy="espnet_s2t")
        with refusal(file, "4 bits"):
            run_merge(plan, exp.root / "m" / "model.pth")


def test_training_starts_from_the_quantised_model_and_an_adapter(exp):
    quantised = exp.root / "quantised"
    found = fine_tuning_config(quantised, {"max_epoch": 1}, [Pair("de-x-anna", "asr")])
    assert found["quantised_base"] == str(quantised / "model.safetensors")
    assert found["init_param"] == []
    sat = exp.root / "quantised_sat"
    found = fine_tuning_config(quantised, LORA, PAIRS, sat)
    assert found["init_param"] == [str(sat / "model.pth")]
    with refusal(exp.base / "model.pth", "LoRA"):
        fine_tuning_config(quantised, LORA, PAIRS, exp.base)
    other = exp.root / "other"
    other.mkdir()
    torch.save({name: torch.zeros(shape) for name, shape in SHAPES.items()}, other / "model.pth")
    (other / "config.yaml").write_text(yaml.safe_dump(BASE_CONFIG))
    with refusal(sat / "model.pth", other / "model.pth"):
        fine_tuning_config(other, LORA, PAIRS, sat)


@pytest.mark.parametrize(("key", "value"), [("rank", 4), ("alpha", 4), ("target_modules", ["key"])])
def test_training_does_not_start_from_an_adapter_of_another_kind(exp, key, value):
    """Another rank does not load; another alpha would load, at another scale."""
    sat, conf = exp.root / "quantised_sat", LORA["adapter_conf"]
    changed = {"adapter_conf": {**conf, key: value}}
    before = sorted(conf[key]) if key == "target_modules" else conf[key]
    with refusal(sat / "config.yaml", f"{key}: {before} -> {value}"):
        fine_tuning_config(exp.root / "quantised", changed, PAIRS, sat)


def test_differences_of_adapters():
    assert adapter_differences(LORA, LORA) == []
    more = {"adapter_conf": {**LORA["adapter_conf"], "dropout_rate": 0.5}, "max_epoch": 9}
    assert adapter_differences(LORA, more) == []
    default = {"adapter_conf": {"rank": 8, "alpha": 8, "target_modules": ["query"]}}
    assert adapter_differences({"adapter_conf": None}, default) == []
    layers = [{"adapter_conf": {"target_modules": names}} for names in (["a", "b"], ["b", "a"])]
    assert adapter_differences(*layers) == []
    assert adapter_differences({}, LORA) == [
        "rank: 8 -> 2",
        "target_modules: ['query'] -> ['conv.0', 'linear_q']",
    ]


def test_defaults_of_adapters_are_those_of_espnet():
    from espnet2.layers.create_adapter_fn import create_lora_adapter
    from espnet2.tasks.s2t import S2TTask

    parameters = inspect.signature(create_lora_adapter).parameters
    assert {key: parameters[key].default for key in LORA_DEFAULTS} == LORA_DEFAULTS
    parser = S2TTask.get_parser()
    assert {key: parser.get_default(key) for key in ESPNET_DEFAULTS} == ESPNET_DEFAULTS


def test_what_cannot_be_quantised(exp, tmp_path):
    from lors.models.quantise import quantise_directory

    adapter = exp.root / "quantised_sat"
    (adapter / "config.yaml").write_text(yaml.safe_dump({**BASE_CONFIG, "adapter_conf": {}}))
    with refusal(adapter / "model.pth"):
        quantise_directory(adapter, tmp_path / "q")
    with refusal("model.pth"):
        quantise_directory(exp.root / "quantised", tmp_path / "q2")
    with refusal("out.bin", kind=UsageError):
        write_quantised(open_model(exp.base / "model.pth"), [NAME], tmp_path / "out.bin")


def test_only_the_model_of_a_directory_is_quantised(exp, tmp_path, capsys):
    """Another checkpoint of a training is not the model beside it."""
    (exp.base / "3epoch.pth").write_bytes((exp.base / "model.pth").read_bytes())
    quantise = ["--out", str(tmp_path / "q"), "--model"]
    assert quantise_main([*quantise, str(exp.base / "3epoch.pth")]) == 2
    error = capsys.readouterr().err
    assert "3epoch.pth" in error and "model.pth" in error
    assert not (tmp_path / "q").exists()
    for model in (exp.base, exp.base / "model.pth"):
        assert quantise_main(["--model", str(model), "--out", str(exp.base)]) == 2
        assert "--out" in capsys.readouterr().err
    assert not (exp.base / "model.safetensors").exists()
    assert quantise_main([*quantise, str(exp.base / "model.pth")]) == 0
    assert open_quantised(tmp_path / "q").quantised_names() == [NAME, CONV]


@pytest.mark.parametrize("file", ["model.pth", "subnetwork.safetensors"])
def test_a_model_is_not_quantised_beside_another(exp, file, capsys):
    """The other model would be read in its place."""
    out = exp.root / "taken"
    quantise = ["--model", str(exp.base), "--out", str(out)]
    out.mkdir()
    (out / file).write_bytes(b"another model")
    assert quantise_main(quantise) == 1
    assert str(out / file) in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [file]
    (out / file).unlink()
    assert quantise_main(quantise) == 0
    (out / file).write_bytes(b"another model")
    assert quantise_main(quantise) == 1


@pytest.mark.parametrize("file", ["model.safetensors", "config.yaml"])
def test_files_of_another_program_are_not_overwritten(exp, file, capsys):
    out = exp.root / "taken"
    out.mkdir()
    (out / file).write_bytes(b"another model")
    quantise = ["--model", str(exp.base), "--out", str(out)]
    assert quantise_main(quantise) == 1
    error = capsys.readouterr().err
    assert str(out) in error and file in error
    assert [path.name for path in out.iterdir()] == [file]
    assert (out / file).read_bytes() == b"another model"
    (out / file).unlink()
    assert quantise_main(quantise) == 0
    (out / ".done").rename(out / ".done.started")  # as a kill leaves it
    assert quantise_main(quantise) == 0 and quantise_main(quantise) == 0


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_restored_weights_replace_no_other_file(exp, suffix, capsys):
    out = exp.root / f"rounded{suffix}"
    restore = ["--restore", "--model", str(exp.root / "quantised"), "--out", str(out)]
    base = exp.base / "model.pth"
    for content in (b"no model", base.read_bytes()):
        out.write_bytes(content)
        assert quantise_main(restore) == 2
        assert str(out) in capsys.readouterr().err and out.read_bytes() == content
    out.unlink()
    assert quantise_main(restore) == 0 and quantise_main(restore) == 0  # the same command


def test_other_weights_beside_a_base_model_are_not_quantised_ones(exp):
    """A full model stays the base, whatever lies beside it; a task vector is no model in 4 bits."""
    vector = {"x": torch.ones(2)}
    save_file(vector, exp.base / "model.safetensors")
    found = fine_tuning_config(exp.base, {}, PAIRS)
    assert found["init_param"] == [str(exp.base / "model.pth")] and "quantised_base" not in found
    quantised = exp.root / "quantised"
    save_file(vector, quantised / "model.safetensors")
    assert "quantised_base" not in fine_tuning_config(quantised, {}, PAIRS)


def test_sizes(exp):
    write_sizes(exp, PAIRS)
    [section] = size_sections([str(exp.root)])
    rows = {row[0]: row[1:] for row in section.rows}
    weights = 64 * 64 + 64 * 12
    assert rows["its weights in 4 bits"][1:] == [
        "7.11",
        str(weights),
        f"{100 * weights / (weights + 64):.2f}",
    ]
    factors = 2 * (64 + 64) + 2 * (64 + 12)
    assert rows["adapter of a speaker"][2] == str(factors)
    assert size_sections([str(exp.root / "elsewhere")]) == []


def test_program(exp, capsys):
    options = ["--expdir", str(exp.root), "--tasks", "asr", "--langs"]
    assert main([*options, "de-x-anna", "de-x-bert"]) == 0
    assert (exp.root / "sizes.json").exists() and (exp.root / "full_sat" / "base.json").exists()
    assert main([*options, "de-x-carl"]) == 1
    assert "de-x-carl_asr" in capsys.readouterr().err
