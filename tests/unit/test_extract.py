import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lors.bin.extract import main
from lors.checkpoint.expert import open_expert, open_model
from lors.errors import UsageError
from lors.linalg import low_rank
from lors.merge.extract import extract, held_share
from lors.merge.methods import METHODS
from lors.merge.methods.lors import lors_parts
from lors.merge.plan import MergePlan, open_inputs
from lors.merge.run import iter_merged
from lors.merge.task_vector import TaskVector
from tests.refusal import refusal
from tests.unit.merge_models import (
    BIAS,
    PRUNED,
    halved,
    merged_by,
    model,
    names_in,
    warnings_in,
    write_models,
)
from tests.unit.small_experts import SETTING, write_lora, write_vector

HALF = torch.finfo(torch.float16).eps / 2
PRUNED_TOO = "decoder.decoders.0.self_attn.linear_q.weight"
COEF = 0.5


@pytest.fixture
def files(tmp_path):
    return write_models(tmp_path)


def vectors_of(files, folder, **params):
    base, *experts = files
    return [
        write_vector(base, expert, folder / f"v{number}.safetensors", **params)
        for number, expert in enumerate(experts)
    ]


def vector_of(base, path):
    return TaskVector(open_model(base), open_expert(open_model(base), path))


def merged(base, experts, **params):
    given = {**SETTING, "scaling_coef": COEF, **params}
    return dict(iter_merged(MergePlan(base, tuple(experts), "lors", given)))


SETTINGS = {
    "default": {},
    "rank 0": {"rank": 0},
    "density 0": {"density": 0},
    "above the full rank": {"rank": 7, "density": 0},
    "everything": {"density": 1},
    "energy": {"rank": {"energy": 0.6}},
    "ratio": {"rank": {"ratio": 0.3}},
    "sparse first": {"order": "sparse_first"},
    "independent": {"order": "independent"},
    "independent, above the full rank": {"order": "independent", "rank": 9},
    "global": {"threshold": "global"},
    "kept norm": {"keep_norm": True},
    "all": {"order": "sparse_first", "threshold": "global", "keep_norm": True, "rank": 3},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_merge_gives_the_model_of_the_full_experts(files, tmp_path, setting):
    """Half of a unit in the last place of float16, for each factor, value and expert."""
    base, *experts = files
    params = SETTINGS[setting]
    direct = merged(base, experts, **params)
    found = merged(base, vectors_of(files, tmp_path, **params), **params)
    inputs = open_inputs(MergePlan(base, tuple(experts), "lors", {**SETTING, **params}))
    for name, tensor in found.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, direct[name])
            continue
        # The norms of the factors bound every entry of the product of their roundings.
        size = sum(float(v.delta(name).norm()) for v in inputs.vectors)
        bound = COEF * 4 * HALF * size if name in inputs.names("prune") else COEF * HALF * size
        assert (tensor - direct[name]).abs().max() <= bound + 1e-6, name
    assert not torch.equal(found[PRUNED], model(0)[PRUNED])


@pytest.mark.parametrize("params", [{}, {"keep_norm": True}, {"order": "sparse_first"}])
def test_matrices_that_are_decomposed_in_float32(params):
    """The parts add up to the term of the method; its sparse part holds entries of the matrix."""
    delta = torch.randn(300, 280, generator=torch.Generator().manual_seed(0))
    given = {**METHODS["lors"].defaults, "rank": 3, "density": 0.1, **params}
    up, down, sparse = lors_parts(
        delta, low_rank=low_rank.low_rank_factors, global_threshold=None, **given
    )
    assert up.shape == (300, 3) and int((sparse != 0).sum()) == 8400
    assert up.dtype == down.dtype == sparse.dtype == torch.float32
    assert torch.allclose(up @ down + sparse, METHODS["lors"].function(delta, **given), atol=1e-5)


def test_no_decomposition_at_the_setting_of_the_file(files, tmp_path, monkeypatch):
    base, *_ = files
    params = {"order": "low_rank_first", "threshold": "global"}
    small = vectors_of(files, tmp_path, **params)

    def refuse(*_):
        raise AssertionError("a decomposition")

    monkeypatch.setattr(low_rank, "leading_directions", refuse)
    again = merged(base, small, **params)
    assert not torch.equal(again[PRUNED], model(0)[PRUNED])
    with pytest.raises(AssertionError, match="a decomposition"):
        merged(base, small, **{**params, "rank": 1})
    with pytest.raises(AssertionError, match="a decomposition"):
        merged(base, small, **{**params, "density": 0.2})


def test_weights_calibration_and_full_experts_beside(files, tmp_path):
    base, *experts = files
    small = vectors_of(files, tmp_path)
    for options in (
        {"weights": (1.0, -0.5)},
        {"svc": 0.5},
        {"boost": 0.1},
        {"lines": (0.5, 1.0)},
        {"dtype": "float16"},
    ):
        direct = merged_by(files, **options)
        for mixed in ([base, *small], [base, small[0], experts[1]], [base, experts[0], small[1]]):
            found = merged_by(mixed, **options)
            for name in (PRUNED, BIAS):
                assert torch.allclose(found[name], direct[name], atol=2e-2), (name, options)


def share_of(delta, kept):
    return 1 - np.sum((delta - kept) ** 2) / np.sum(delta**2)


def deltas(files):
    return {
        name: (model(1)[name] - model(0)[name]).double().numpy()
        for name in (PRUNED, PRUNED_TOO, BIAS)
    }


def test_energies_of_an_adapter(files, tmp_path):
    base, expert, _ = files
    plan = MergePlan(base, (expert,), "svp", {"rank": 3})
    held = extract(plan, "lora", tmp_path / "lora")
    whole = deltas(files)
    best = {}
    for name in (PRUNED, PRUNED_TOO):
        values = np.linalg.svd(whole[name], compute_uv=False) ** 2
        best[name] = values[:3].sum() / values.sum()
        assert held[name].share == pytest.approx(best[name], abs=1e-6)
        assert held[name].rank == 3
    assert held[BIAS].share == 0 and held[BIAS].rank is None
    energy = {name: np.sum(delta**2) for name, delta in whole.items()}
    lost = sum((1 - best[name]) * energy[name] for name in best) + energy[BIAS]
    assert held_share(list(held.values())) == pytest.approx(1 - lost / sum(energy.values()))
    record = json.loads((tmp_path / "lora" / "extract.json").read_text())
    assert record["energy"][PRUNED] == pytest.approx(best[PRUNED])


def test_energies_of_a_task_vector(files, tmp_path):
    base, expert, _ = files
    held = extract(MergePlan(base, (expert,), "lors", SETTING), "lors", tmp_path / "v.safetensors")
    for name in (PRUNED, PRUNED_TOO):
        delta = deltas(files)[name]
        left, values, right = np.linalg.svd(delta, full_matrices=False)
        kept = (left[:, :2] * values[:2]) @ right[:2]
        rest = delta - kept
        largest = np.argsort(-np.abs(rest), axis=None)[: int(delta.size * 0.1)]
        kept.flat[largest] += rest.flat[largest]
        assert held[name].share == pytest.approx(share_of(delta, kept), abs=1e-4)
    assert held[BIAS].share == pytest.approx(1, abs=1e-6)


def test_an_adapter_is_the_best_approximation(files, tmp_path):
    base, expert, _ = files
    path = write_lora(base, expert, tmp_path / "lora", 3)
    vector = vector_of(base, path)
    left, values, right = np.linalg.svd(deltas(files)[PRUNED])
    best = (left[:, :3] * values[:3]) @ right[:3]
    assert np.allclose(vector.delta(PRUNED).numpy(), best, atol=1e-5)
    assert not vector.delta(BIAS).any()
    up, down = vector.finetuned.factors(PRUNED)
    assert float(up.norm()) == pytest.approx(float(down.norm()), rel=1e-5)


def test_a_rank_above_the_full_rank_keeps_the_matrices(files, tmp_path):
    base, expert, _ = files
    path = write_lora(base, expert, tmp_path / "lora", 40)
    vector = vector_of(base, path)
    for name in (PRUNED, PRUNED_TOO):
        assert np.allclose(vector.delta(name).numpy(), deltas(files)[name], atol=1e-5)


def test_a_small_expert_of_a_small_expert(files, tmp_path):
    base, expert, _ = files
    lora = write_lora(base, expert, tmp_path / "lora", 4)
    smaller = write_lora(base, lora, tmp_path / "smaller", 2)
    direct = write_lora(base, expert, tmp_path / "direct", 2)
    wanted = vector_of(base, direct).delta(PRUNED)
    assert torch.allclose(vector_of(base, smaller).delta(PRUNED), wanted, atol=1e-5)
    vector = write_vector(base, lora, tmp_path / "v.safetensors", density=0)
    assert torch.allclose(vector_of(base, vector).delta(PRUNED), wanted, atol=1e-2)


def test_the_same_file_for_any_number_of_threads(files, tmp_path):
    base, expert, _ = files
    plan = MergePlan(base, (expert,), "lors", SETTING)
    for nj in (1, 3):
        extract(plan, "lors", tmp_path / f"{nj}.safetensors", nj)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "3.safetensors").read_bytes()


def test_half_precision_and_copied_tensors(files, tmp_path, caplog):
    base, expert, _ = files
    state = torch.load(expert)
    state["normalize.mean"] += 1
    torch.save(state, expert)
    path = write_vector(halved(base), halved(expert), tmp_path / "v.safetensors")
    assert any("normalize.mean" in text for text in warnings_in(caplog))
    assert not any("num_batches" in text for text in warnings_in(caplog))
    opened = open_expert(open_model(f"{base}.half.pth"), path)
    assert opened.tensor(PRUNED).dtype == torch.float16
    assert not opened.tensor("normalize.mean").any()


# --- the program ---------------------------------------------------------------------------------


def options(files, out, form="lors", *more):
    return ["--base", files[0], "--expert", files[1], "--as", form, "--out", str(out), *more]


def test_the_program_prints_the_energies(files, tmp_path, capsys):
    out = tmp_path / "new" / "v.safetensors"
    assert main(options(files, out, "lors", "--rank", "2", "--density", "0.1")) == 0
    printed = capsys.readouterr().out
    assert PRUNED in printed and PRUNED_TOO in printed and str(out) in printed
    assert "all 2 matrices" in printed and "all tensors" in printed and " 100.0 %" in printed
    assert names_in(out.parent) == [out.name]


def test_ranks_by_rules_and_further_parameters(files, tmp_path):
    out = tmp_path / "v.safetensors"
    more = ["--rank", "{energy: 0.5}", "--density", "0.3", "--params", "keep_norm=true"]
    assert main(options(files, out, "lors", *more)) == 0
    params = open_expert(open_model(files[0]), out).description.params
    assert params["rank"] == {"energy": 0.5} and params["keep_norm"] and params["density"] == 0.3


WRONG = {
    "suffix": (("lors", "v.pth"), [], ("v.pth", ".safetensors")),
    "directory": (("lora", "v.safetensors"), [], ("v.safetensors", "directory")),
    "density of an adapter": (("lora", "d"), ["--density", "0.1"], ("--density",)),
    "params of an adapter": (("lora", "d"), ["--params", "order=independent"], ("--params",)),
    "rank 0": (("lora", "d"), ["--rank", "0"], ("--rank", "1 or more")),
    "rank by a rule": (("lora", "d"), ["--rank", "{ratio: 0.1}"], ("--rank",)),
    "rank that is no number": (("lors", "v.safetensors"), ["--rank", "x"], ("rank", "x")),
    "density": (("lors", "v.safetensors"), ["--density", "2"], ("density", "2")),
    "unknown": (("lors", "v.safetensors"), ["--params", "dens=1"], ("dens", "density")),
    "twice": (("lors", "v.safetensors"), ["--params", "rank=1"], ("--rank",)),
    "scaling_coef": (("lors", "v.safetensors"), ["--params", "scaling_coef=1"], ("scaling_coef",)),
    "base in 4 bits": (("lors", "v.safetensors"), ["--quantised_base", "q"], ("--quantised_base",)),
    "threads": (("lors", "v.safetensors"), ["--nj", "0"], ("--nj",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options(files, tmp_path, capsys, case):
    (form, name), more, facts = WRONG[case]
    before = sorted(tmp_path.rglob("*"))
    assert main(options(files, tmp_path / name, form, *more)) == 2
    error = capsys.readouterr().err
    assert all(fact in error for fact in facts), error
    assert sorted(tmp_path.rglob("*")) == before


def test_an_expert_of_another_structure(files, tmp_path):
    state = {**model(1), PRUNED: torch.ones(8, 9), "new": torch.ones(2)}
    del state[BIAS]
    torch.save(state, files[1])
    for form, name in (("lors", "v.safetensors"), ("lora", "lora")):
        with refusal(files[1], PRUNED, "[8, 9]", "new", BIAS):
            extract(MergePlan(*_plan_of(files, form)), form, tmp_path / name)
        assert not (tmp_path / name).exists()


def _plan_of(files, form):
    return files[0], (files[1],), {"lora": "svp", "lors": "lors"}[form], {"rank": 2}


def test_an_adapter_of_an_expert_without_changed_matrices(files, tmp_path):
    torch.save({**model(0), BIAS: torch.zeros(8)}, files[1])
    with refusal(files[1], "--as lors"):
        write_lora(files[0], files[1], tmp_path / "lora", 2)
    path = write_vector(files[0], files[1], tmp_path / "v.safetensors")
    assert set(safetensors.torch.load_file(path)) == {f"{BIAS}:whole", f"{BIAS}:scale"}


def test_an_adapter_of_tensors_that_are_no_linear_layers(tmp_path):
    policy = tmp_path / "p.yaml"
    policy.write_text("family: x\ndetect: ['*']\nrules: [{action: prune, patterns: ['*']}]\n")
    for name, seed in (("b.pth", 0), ("e.pth", 1)):
        torch.manual_seed(seed)
        torch.save(
            {"conv.weight": torch.randn(2, 3, 4), "table": torch.randn(3, 3)}, tmp_path / name
        )
    given = str(tmp_path / "b.pth"), (str(tmp_path / "e.pth"),)
    with refusal("conv.weight", "[2, 3, 4]", "table"):
        extract(MergePlan(*given, "svp", {"rank": 1}, str(policy)), "lora", tmp_path / "lora")
    plan = MergePlan(*given, "lors", {"rank": 1, "density": 0.2}, str(policy))
    held = extract(plan, "lors", tmp_path / "v.safetensors")
    assert 0 < held["conv.weight"].share < 1
    small = (str(tmp_path / "v.safetensors"),)
    found = dict(iter_merged(MergePlan(given[0], small, "lors", plan.params, str(policy))))
    expected = dict(iter_merged(plan))["conv.weight"]
    assert torch.allclose(found["conv.weight"], expected, atol=1e-2)


# --- the place of the result ---------------------------------------------------------------------

PLACES = {"lors": "v.safetensors", "lora": "lora"}


@pytest.mark.parametrize("form", PLACES)
def test_only_the_same_command_replaces_a_result(files, tmp_path, capsys, form, monkeypatch):
    out = tmp_path / PLACES[form]
    assert main(options(files, out, form, "--rank", "2")) == 0
    torch.save(torch.load(files[2]), files[1])  # trained again
    monkeypatch.chdir(tmp_path)
    files = [str(Path(path).relative_to(tmp_path)) for path in files]
    assert main(options(files, PLACES[form], form, "--rank", "2")) == 0
    found = vector_of(files[0], out)
    expected = (model(2)[PRUNED] - model(0)[PRUNED]).norm()
    assert 0.5 * expected < found.delta(PRUNED).norm() <= 1.001 * expected
    kept = {path: path.read_bytes() for path in sorted(out.rglob("*")) or [out] if path.is_file()}
    capsys.readouterr()
    assert main(options(files, out, form, "--rank", "3")) == 2
    assert main(options([files[0], files[2]], out, form, "--rank", "2")) == 2
    error = capsys.readouterr().err
    assert str(out) in error and "'rank': 2" in error and "e2.pth" in error
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize("form", PLACES)
def test_anything_else_at_the_place_is_kept(files, tmp_path, form):
    out = tmp_path / PLACES[form]
    plan = MergePlan(*_plan_of(files, form))
    out.write_text("mine")
    with refusal(out, kind=UsageError):
        extract(plan, form, out)
    assert out.read_text() == "mine"
    out.unlink()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with refusal(out, kind=UsageError):
        extract(plan, form, out)
    assert names_in(out) == ["notes.txt"]


def test_a_file_that_the_user_added_to_an_adapter_is_kept(files, tmp_path):
    out = Path(write_lora(files[0], files[1], tmp_path / "lora", 2))
    (out / "README.md").write_text("mine")
    with refusal(out, "README.md", kind=UsageError):
        write_lora(files[0], files[1], out, 2)
    assert (out / "README.md").read_text() == "mine"


def test_inputs_are_not_overwritten(files, tmp_path):
    path = Path(write_vector(files[0], files[1], tmp_path / "v.safetensors"))
    before = path.read_bytes()
    with refusal(path, kind=UsageError):
        write_vector(files[0], str(path), path)
    assert path.read_bytes() == before
    adapter = Path(write_lora(files[0], files[1], tmp_path / "lora", 2))
    with refusal(adapter, kind=UsageError):
        write_lora(files[0], str(adapter), adapter, 2)


@pytest.mark.parametrize("form", PLACES)
def test_a_failure_leaves_the_older_result(files, tmp_path, form, monkeypatch):
    out = tmp_path / PLACES[form]
    plan = MergePlan(*_plan_of(files, form))
    extract(plan, form, out)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lors.checkpoint.writer.CheckpointWriter.add", fail)
    with pytest.raises(KeyboardInterrupt):
        extract(plan, form, out)
    assert {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()} == before


def test_a_damaged_older_result_is_made_again(files, tmp_path):
    path = Path(write_vector(files[0], files[1], tmp_path / "v.safetensors"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    write_vector(files[0], files[1], path)
    assert path.read_bytes() == content
    path.write_bytes(content[:-1])
    with refusal(path, kind=UsageError):
        write_vector(files[0], files[1], path)
