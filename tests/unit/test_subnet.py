"""Finding masks, training under them, and their overlap, against plain formulas."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lors.checkpoint.masks import Masks, write_masks
from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError, UsageError
from lors.subnet.find import (
    find_masks,
    magnitude_scores,
    pruned_matrices,
    taylor_scores,
    write_scores,
)
from lors.subnet.overlap import mask_findings, overlap_tables
from lors.subnet.training import SubnetworkTraining
from tests.devices import DEVICES
from tests.refusal import refusal
from tests.unit.merge_models import write_models

LANGS = ("de", "es")


@pytest.fixture
def files(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def base(files):
    return Checkpoint.open(files[0])


def random_scores(base, ties=False):
    """Language -> name -> scores; with ties, whole numbers from 0 to 3."""
    generator = torch.Generator().manual_seed(3)

    def scores():
        of = {n: torch.rand(base.shape(n), generator=generator) for n in pruned_matrices(base)}
        return {n: (4 * s).floor() for n, s in of.items()} if ties else of

    return {lang: scores() for lang in LANGS}


def expected_mask(scores: np.ndarray, rate: int) -> np.ndarray:
    """Keep the largest by a stable sort: among ties the first stay."""
    kept = scores.size - scores.size * rate // 100
    order = np.argsort(-scores.ravel(), kind="stable")
    mask = np.zeros(scores.size, dtype=bool)
    mask[order[:kept]] = True
    return mask.reshape(scores.shape)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rate", [10, 33, 50, 90])
def test_masks_against_a_stable_sort(base, tmp_path, rate, ties):
    scores, out = random_scores(base, ties), tmp_path / "m.safetensors"
    find_masks(out, base, {lang: of.__getitem__ for lang, of in scores.items()}, "taylor", rate)
    masks = Masks(out)
    assert masks.settings == {"criterion": "taylor", "rate": rate, "scope": "matrix"}
    for lang, of in scores.items():
        for name, score in of.items():
            expected = expected_mask(score.numpy(), rate)
            assert np.array_equal(masks.mask(lang, name).numpy(), expected), (lang, name)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rate", [10, 33, 50, 90])
def test_global_masks_against_a_stable_sort(base, tmp_path, rate, ties):
    scores, out = random_scores(base, ties), tmp_path / "m.safetensors"
    givers = {lang: of.__getitem__ for lang, of in scores.items()}
    find_masks(out, base, givers, "taylor", rate, "global")
    masks = Masks(out)
    for lang, of in scores.items():
        flat = np.concatenate([score.numpy().ravel() for score in of.values()])
        found = np.concatenate([masks.mask(lang, name).numpy().ravel() for name in of])
        assert np.array_equal(found, expected_mask(flat, rate)), lang


def test_magnitudes_are_the_mean_over_a_languages_experts(files, base):
    of = magnitude_scores(base, files[1:])
    models = [torch.load(path) for path in files[1:]]
    for name in pruned_matrices(base):
        mean = sum(m[name].double().abs() for m in models) / 2
        torch.testing.assert_close(of(name).double(), mean, atol=0, rtol=1e-6)


def test_scores_belong_to_a_base(files, base, tmp_path):
    scores = {name: base.tensor(name).abs() for name in pruned_matrices(base)}
    write_scores(tmp_path / "s.safetensors", base, scores)
    for name, score in scores.items():
        assert torch.equal(taylor_scores(base, [tmp_path / "s.safetensors"])(name), score)
    with refusal("s.safetensors", base.fingerprint(), "e1.pth"):
        taylor_scores(Checkpoint.open(files[1]), [tmp_path / "s.safetensors"])


@pytest.mark.parametrize("rate", [0, 9, 91, 100, 0.3, True])
def test_wrong_rate(base, tmp_path, rate):
    with refusal("--rate", "10 to 90", kind=UsageError):
        find_masks(tmp_path / "m.safetensors", base, {}, "taylor", rate)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers(base, tmp_path, value):
    scores = random_scores(base)["de"]
    scores[pruned_matrices(base)[0]][0, 0] = value
    with refusal("de", pruned_matrices(base)[0]):
        find_masks(tmp_path / "m.safetensors", base, {"de": scores.__getitem__}, "taylor", 30)
    with refusal("de", "[2, 2]"):
        find_masks(
            tmp_path / "m.safetensors", base, {"de": lambda _: torch.ones(2, 2)}, "taylor", 30
        )
    assert not (tmp_path / "m.safetensors").exists()


def test_overlap(base, tmp_path):
    scores, out = random_scores(base), tmp_path / "m.safetensors"
    find_masks(out, base, {lang: of.__getitem__ for lang, of in scores.items()}, "taylor", 50)
    masks = Masks(out)
    sets = [
        {
            (n, i)
            for n in masks.shapes
            for i in masks.mask(lang, n).flatten().nonzero()[:, 0].tolist()
        }
        for lang in LANGS
    ]
    found = mask_findings(masks)
    jaccard = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert found["jaccard"] == [[1.0, jaccard], [jaccard, 1.0]]
    assert found["density"] == {lang: 0.5 for lang in LANGS}
    sizes = [masks.entries - len(sets[0] | sets[1]), len(sets[0] ^ sets[1]), len(sets[0] & sets[1])]
    assert found["shared"] == {str(n): size / masks.entries for n, size in enumerate(sizes)}
    cells = {cell for table in overlap_tables(found) for row in table for cell in row}
    assert {f"{jaccard:.3f}", "0.500", "de", "es"} <= cells


# --- training -----------------------------------------------------------------------------------

NAME = "encoder.encoders.0.self_attn.linear_q.weight"
OTHER = "decoder.decoders.0.self_attn.linear_q.weight"
UTTERANCES = {"u1": "de", "u2": "de", "u3": "es"}


class Toy(nn.Module):
    """Two matrices and a bias under the names of an ESPnet model."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(6, 8, bias=False)
        for module, path in ((self.a, NAME), (self.b, OTHER)):
            *parents, leaf = path.removesuffix(".weight").split(".")
            node = self
            for parent in parents:
                if parent not in node._modules:
                    node.add_module(parent, nn.Module())
                node = node._modules[parent]
            node.add_module(leaf, module)
        del self.a, self.b

    def forward(self, x, utt_id):
        first = self.encoder.encoders._modules["0"].self_attn.linear_q
        second = self.decoder.decoders._modules["0"].self_attn.linear_q
        return (first(second(x)).tanh() - 0.5).square().mean()


@pytest.fixture
def toy(tmp_path):
    torch.manual_seed(0)
    model = Toy()
    torch.save(model.state_dict(), tmp_path / "toy.pth")
    base = Checkpoint.open(tmp_path / "toy.pth")
    scores = random_scores(base)
    givers = {lang: of.__getitem__ for lang, of in scores.items()}
    find_masks(tmp_path / "m.safetensors", base, givers, "taylor", 50)
    return model, Masks(tmp_path / "m.safetensors")


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3),
    "adam with decay": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.3, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3, fused=True),
    "for loop": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3, foreach=False),
}


def train_step(model, optimizer, utterance, seed, noise=0.0):
    """Train on a batch; noise is added to the gradients as by ESPnet's grad_noise."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    device = next(model.parameters()).device
    loss = model(x.to(device), utt_id=[utterance])
    loss.backward()
    if noise:
        for parameter in model.parameters():
            parameter.grad += noise * torch.randn(parameter.shape).to(device)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_entries_outside_keep_value_and_state_bit_by_bit(toy, kind, noise, device):
    model, masks = toy
    model.to(device)
    optimizer = OPTIMIZERS[kind](model.parameters())
    training = SubnetworkTraining(model, masks, UTTERANCES)
    training.guard(optimizer)
    parameters = dict(model.named_parameters())
    for step, utterance in enumerate(["u1", "u3", "u1", "u2", "u3", "u3", "u1"]):
        lang = UTTERANCES[utterance]
        before = {n: v.clone() for n, v in model.state_dict().items()}
        moments = {
            n: {k: v.clone() for k, v in optimizer.state[p].items() if v.shape == p.shape}
            for n, p in parameters.items()
            if p in optimizer.state
        }
        train_step(model, optimizer, utterance, step, noise)
        after = model.state_dict()
        for name in masks.shapes:
            inside = masks.mask(lang, name)
            assert torch.equal(after[name][~inside], before[name][~inside])
            assert (after[name][inside] != before[name][inside]).all()
            states = {
                k: v
                for k, v in optimizer.state[parameters[name]].items()
                if v.shape == inside.shape
            }
            assert states
            for key, value in states.items():
                old = moments.get(name, {}).get(key, torch.zeros_like(value))
                assert torch.equal(value[~inside], old[~inside]), key
                assert not torch.equal(value[inside], old[inside]), key
        bias = NAME.replace("weight", "bias")
        assert not torch.equal(after[bias], before[bias])


def test_another_optimiser_begins_with_a_state_of_its_own(toy):
    model, masks = toy
    training = SubnetworkTraining(model, masks, UTTERANCES)
    for utterance in ("u3", "u1"):
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        training.guard(optimizer)
        for step in range(2):
            train_step(model, optimizer, utterance, step)
    parameters = dict(model.named_parameters())
    for name in masks.shapes:
        outside = ~masks.mask("de", name)
        assert not optimizer.state[parameters[name]]["exp_avg"][outside].any()
        assert optimizer.state[parameters[name]]["exp_avg"].any()


def test_forward_and_gradient_are_those_of_the_subnetwork(toy):
    model, masks = toy
    plain = Toy()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name in masks.shapes:
                parameter *= masks.mask("es", name)
    SubnetworkTraining(model, masks, UTTERANCES)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(7))
    ours, theirs = model(x, utt_id=["u3"]), plain(x, utt_id=None)
    assert ours.item() == theirs.item()
    ours.backward()
    theirs.backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        expected = theirs[name].grad
        if name in masks.shapes:
            expected = expected * masks.mask("es", name)
        assert torch.equal(parameter.grad, expected), name


def test_one_language_learns_as_its_subnetwork_alone(toy):
    """With one language the training is that of a model whose outside entries are zero."""
    model, masks = toy
    alone = Toy()
    alone.load_state_dict(model.state_dict())
    parameters = dict(alone.named_parameters())
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    SubnetworkTraining(model, masks, UTTERANCES).guard(optimizer)
    reference = OPTIMIZERS["adamw"](alone.parameters())
    for step in range(5):
        with torch.no_grad():
            for name in masks.shapes:
                parameters[name] *= masks.mask("de", name)
        train_step(model, optimizer, "u1", step)
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        alone(x, utt_id=None).backward()
        for name in masks.shapes:
            parameters[name].grad *= masks.mask("de", name)
        reference.step()
        reference.zero_grad()
    found = model.state_dict()
    for name, parameter in parameters.items():
        inside = masks.mask("de", name) if name in masks.shapes else slice(None)
        torch.testing.assert_close(found[name][inside], parameter.detach()[inside])


class Row(nn.Module):
    """A matrix whose entries learn without regard to each other."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))

    def forward(self, target, utt_id):
        return (self.weight - target).square().sum()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_language_learns_as_if_the_others_had_no_batches(tmp_path, kind):
    """Adam's correction is that of an entry's own updates, also where two languages share it."""
    masks = tmp_path / "m.safetensors"
    of_german, of_spanish = torch.zeros(2, 3, 4, dtype=torch.bool)
    of_german[:2], of_spanish[1:] = True, True
    torch.save(Row().state_dict(), tmp_path / "row.pth")
    of = {"de": {"weight": of_german}, "es": {"weight": of_spanish}}
    write_masks(masks, Checkpoint.open(tmp_path / "row.pth"), ["weight"], of, {})
    order = ["es", "es", "de", "es", "es", "es", "de", "es", "de", "es", "es", "de"]
    targets = torch.randn(len(order), 3, 4, generator=torch.Generator().manual_seed(1))

    def train(langs, under_masks):
        model = Row()
        optimizer = OPTIMIZERS[kind](model.parameters())
        if under_masks:
            training = SubnetworkTraining(model, Masks(masks), {"de": "de", "es": "es"})
            training.guard(optimizer)
        for step, lang in enumerate(order):
            if lang in langs:
                model(targets[step], utt_id=[lang]).backward()
                optimizer.step()
                optimizer.zero_grad()
        return model.state_dict()["weight"]

    found = train({"de", "es"}, under_masks=True)
    for row, langs in enumerate(({"de"}, {"de", "es"}, {"es"})):
        torch.testing.assert_close(found[row], train(langs, under_masks=False)[row])


def trained_rows(tmp_path, make, order, between=lambda optimizer: optimizer):
    """Train a Row under two overlapping masks; `between` is called before each step."""
    masks = tmp_path / "m.safetensors"
    inside = torch.ones(2, 3, 4, dtype=torch.bool)
    inside[0, 2], inside[1, 0] = False, False
    model = Row()
    torch.save(model.state_dict(), tmp_path / "row.pth")
    of = {lang: {"weight": mask} for lang, mask in zip(("de", "es"), inside, strict=True)}
    write_masks(masks, Checkpoint.open(tmp_path / "row.pth"), ["weight"], of, {})
    optimizer = make(model.parameters())
    training = SubnetworkTraining(model, Masks(masks), {"de": "de", "es": "es"})
    training.guard(optimizer)
    for lang in order:
        model(torch.ones(3, 4), utt_id=[lang]).backward()
        between(optimizer)
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_updates_are_saved_with_the_optimiser(tmp_path):
    """A training that goes on from its state is that of a training without a stop."""
    order = ["de", "es", "es", "de", "es", "es"]
    whole, optimizer = trained_rows(tmp_path, OPTIMIZERS["adamw"], order)
    counts = next(iter(optimizer.state.values()))["updates"]
    assert counts.tolist() == [[2.0] * 4, [6.0] * 4, [4.0] * 4]

    def again(optimizer):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    assert torch.equal(
        trained_rows(tmp_path, OPTIMIZERS["adamw"], order, again)[0].weight, whole.weight
    )


def test_a_training_begun_without_the_count(tmp_path):
    """All entries have had all steps, as far as is known."""

    def forget(optimizer):
        for state in optimizer.state.values():
            state.pop("updates", None)

    _, optimizer = trained_rows(tmp_path, OPTIMIZERS["adamw"], ["de", "es", "es"], forget)
    counts = next(iter(optimizer.state.values()))["updates"]
    assert counts.tolist() == [[2.0] * 4, [3.0] * 4, [3.0] * 4]


def test_adam_without_momentum(tmp_path):
    def make(parameters):
        return torch.optim.Adam(parameters, lr=0.1, betas=(0.0, 0.999))

    model, _ = trained_rows(tmp_path, make, ["de", "es", "de"])
    assert model.weight.isfinite().all()


def test_a_fused_step_that_overflows_changes_nothing(tmp_path):
    """torch.amp.GradScaler calls a fused optimiser, which leaves the step out by itself."""

    def overflow(optimizer):
        optimizer.grad_scale = optimizer.found_inf = torch.ones(())

    model, optimizer = trained_rows(tmp_path, OPTIMIZERS["fused"], ["de", "es"], overflow)
    assert torch.equal(model.state_dict()["weight"], Row().weight)
    assert "updates" not in next(iter(optimizer.state.values()))


def test_a_step_that_is_left_out_changes_nothing(toy):
    """ESPnet leaves a step out whose gradient is not finite."""
    model, masks = toy
    SubnetworkTraining(model, masks, UTTERANCES)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    x = torch.full((4, 6), float("inf"))
    model(x, utt_id=["u1"]).backward()
    model(x.clamp(max=1), utt_id=["u3"])
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_batch_of_two_languages(toy):
    model, masks = toy
    SubnetworkTraining(model, masks, UTTERANCES)
    with refusal("de, es", "batch_type"):
        model(torch.zeros(2, 6), utt_id=["u1", "u3"])


def test_masks_that_do_not_fit(toy):
    model, masks = toy
    with refusal("fr", kind=UsageError):
        SubnetworkTraining(model, masks, {"u1": "fr"})
    with refusal(NAME, masks.path, kind=LorsError):
        SubnetworkTraining(nn.Linear(3, 3), masks, UTTERANCES)
