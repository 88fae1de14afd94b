"""A merge under masks: restricted task vectors, shared entries averaged, against float64."""

import numpy as np
import pytest
import torch

from lors.bin import merge
from lors.checkpoint.masks import write_masks
from lors.checkpoint.reader import Checkpoint
from lors.config import read_yaml
from lors.errors import UsageError
from lors.merge.plan import MergePlan
from lors.merge.run import iter_merged, merged_delta, run_merge
from tests.refusal import refusal
from tests.unit.merge_models import BIAS, PRUNED, model

OTHER = "decoder.decoders.0.self_attn.linear_q.weight"
LANGS = ("de", "es", "de")  # two experts of one language, for two tasks


@pytest.fixture
def files(tmp_path):
    for seed, name in enumerate(("base", "e1", "e2", "e3")):
        torch.save(model(seed), tmp_path / f"{name}.pth")
    return [str(tmp_path / f"{name}.pth") for name in ("base", "e1", "e2", "e3")]


@pytest.fixture
def masks(files, tmp_path):
    generator = torch.Generator().manual_seed(5)
    base = Checkpoint.open(files[0])
    found = {
        lang: {n: torch.rand(base.shape(n), generator=generator) > 0.5 for n in (PRUNED, OTHER)}
        for lang in ("de", "es")
    }
    write_masks(tmp_path / "masks.safetensors", base, [PRUNED, OTHER], found, {})
    return str(tmp_path / "masks.safetensors"), found


def plan_of(files, masks, method="task_arithmetic", **options):
    params = options.pop("params", {"scaling_coef": 1.0})
    given = {"masks": masks[0], "langs": LANGS, **options}
    return MergePlan(files[0], tuple(files[1:]), method, params, **given)


def expected(files, found, weights=(1.0, 1.0, 1.0)) -> dict[str, np.ndarray]:
    """For each entry: the mean over the experts whose mask has it, computed entry by entry."""
    base, *experts = (torch.load(path) for path in files)
    result = {}
    for name in (PRUNED, OTHER, BIAS):
        start = base[name].double().numpy()
        taus = [expert[name].double().numpy() - start for expert in experts]
        result[name] = start.copy()
        for place in np.ndindex(start.shape):
            holders = [
                weight * tau[place]
                for tau, lang, weight in zip(taus, LANGS, weights, strict=True)
                if name == BIAS or found[lang][name][place]
            ]
            if holders:
                result[name][place] += np.mean(holders)
    return result


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 0.5, -1.0)])
def test_shared_entries_are_averaged(files, masks, weights):
    merged = dict(iter_merged(plan_of(files, masks, weights=weights)))
    for name, value in expected(files, masks[1], weights).items():
        np.testing.assert_allclose(merged[name].double().numpy(), value, rtol=0, atol=2e-6)
    nowhere = ~(masks[1]["de"][PRUNED] | masks[1]["es"][PRUNED])
    assert torch.equal(merged[PRUNED][nowhere], torch.load(files[0])[PRUNED][nowhere])


def test_all_routes_see_the_masks(files, masks):
    """A method of whole matrices that keeps everything gives what the rows give."""
    rows = dict(iter_merged(plan_of(files, masks)))
    params = {"density": 1.0, "scaling_coef": 1.0}
    whole = dict(iter_merged(plan_of(files, masks, "mp", params=params), nj=2))
    for name in (PRUNED, OTHER, BIAS):
        torch.testing.assert_close(rows[name], whole[name])
    delta = merged_delta(plan_of(files, masks))
    torch.testing.assert_close(torch.load(files[0])[PRUNED] + delta[PRUNED], rows[PRUNED])


def test_record_makes_the_merge_again(files, masks, tmp_path):
    run_merge(plan_of(files, masks), tmp_path / "merged/model.pth")
    recorded = read_yaml(tmp_path / "merged/merge.yaml")["plan"]
    assert recorded["masks"] == masks[0] and recorded["langs"] == list(LANGS)
    again = MergePlan(**{k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items()})
    assert again == plan_of(files, masks, policy="espnet_s2t")


def test_a_record_of_masks_that_have_changed(files, masks, tmp_path, capsys):
    run_merge(plan_of(files, masks), tmp_path / "merged/model.pth")
    replay = ["--config", str(tmp_path / "merged/merge.yaml"), "--out", str(tmp_path / "n/n.pth")]
    assert merge.main(replay) == 0
    base, found = Checkpoint.open(files[0]), masks[1]
    other = {"de": found["es"], "es": found["de"]}
    write_masks(masks[0], base, [PRUNED, OTHER], other, {})
    assert merge.main([*replay, "--dry_run"]) == 1
    error = capsys.readouterr().err
    assert f"{masks[0]}: fingerprint" in error and "--masks" in error
    assert merge.main([*replay, "--masks", masks[0]]) == 0  # they are meant


def test_what_masks_refuse(files, masks):
    with refusal("langs", "3", "de es", kind=UsageError):
        plan_of(files, masks, langs=("de", "es"))
    with refusal("langs", "none", kind=UsageError):
        MergePlan(files[0], tuple(files[1:]), "average", langs=LANGS)
    with refusal("onto", "masks", kind=UsageError):
        plan_of(files, masks, onto="merged.pth")
    with refusal("fr", "de, es", kind=UsageError):
        dict(iter_merged(plan_of(files, masks, langs=("de", "es", "fr"))))
    with refusal(masks[0], files[1]):
        dict(iter_merged(plan_of([files[1], files[0], *files[2:]], masks)))
