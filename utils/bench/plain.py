"""Plain code for the comparison: the shortest implementation of each merge, in float32 torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

Formula = Callable[[list[Tensor]], Tensor]
"""Task vectors of one matrix -> merged delta."""


def lors(taus: list[Tensor], rank: int, density: float, full: bool) -> Tensor:
    """Sum of low-rank and sparse parts; the authors' setting computes the full factors."""
    total = torch.zeros_like(taus[0])
    for tau in taus:
        u, s, v = torch.linalg.svd(tau, full_matrices=full)
        low_rank = (u[:, :rank] * s[:rank]) @ v[:rank]
        rest = tau - low_rank
        keep = int(rest.numel() * density)
        magnitudes = rest.abs().flatten()
        if full:
            threshold = torch.topk(magnitudes, keep).values[-1]
        else:
            threshold = torch.kthvalue(magnitudes, rest.numel() - keep + 1).values
        total += low_rank + torch.where(rest.abs() >= threshold, rest, 0)
    return total / len(taus)


def largest(tau: Tensor, density: float) -> Tensor:
    magnitudes = tau.abs()
    threshold = torch.topk(magnitudes.flatten(), int(tau.numel() * density)).values[-1]
    return torch.where(magnitudes >= threshold, tau, 0)


def regression(
    taus: list[Tensor], roots: list[Tensor], ridge: float = 1.0, hermitian: bool = False
) -> Tensor:
    stack, root = torch.stack(taus), torch.stack(roots)
    covariances = root.mT @ root
    target, total = (stack @ covariances).sum(0), covariances.sum(0)
    if ridge == 0:
        return target @ torch.linalg.pinv(total, hermitian=hermitian)
    total.diagonal().add_(ridge * total.diagonal().mean())
    return target @ torch.linalg.inv(total)


def lors_actmat(taus: list[Tensor]) -> Tensor:
    return regression(taus, [lors([tau], 7, 0.2, full=False) for tau in taus])


def ace(taus: list[Tensor]) -> Tensor:
    """For experts with norms of about the same size."""
    centred = torch.stack(taus) - torch.stack(taus).mean(1, keepdim=True)
    grams = centred.mT @ centred
    covariances = grams + 0.01 * torch.eye(grams.shape[-1])
    prior = grams.sum(0).mean(0, keepdim=True)
    return (centred @ covariances).sum(0) @ torch.linalg.inv(covariances.sum(0) + prior)


def truncated(tau: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(tau, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def svp(taus: list[Tensor]) -> Tensor:
    return sum(truncated(tau, 7) for tau in taus) / len(taus)


def star(taus: list[Tensor]) -> Tensor:
    total = torch.zeros_like(taus[0])
    for tau in taus:
        u, s, v = torch.linalg.svd(tau, full_matrices=False)
        rank = 1 + int((s.cumsum(0) < 0.4 * s.sum()).sum())
        total += (u[:, :rank] * (s[:rank] * s.sum() / s[:rank].sum())) @ v[:rank]
    return total / len(taus)


def polar(matrix: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


def tsv_m(taus: list[Tensor], beta: float = 1.0) -> Tensor:
    lefts, spectra, rights = [], [], []
    for tau in taus:
        u, s, v = torch.linalg.svd(tau, full_matrices=False)
        energy = s.square().cumsum(0)
        if beta < 1:
            s = s.clamp(min=float(s[(energy >= beta * energy[-1]).nonzero()[0]]))
        keep = len(s) // len(taus)
        lefts, spectra = [*lefts, u[:, :keep]], [*spectra, s[:keep]]
        rights.append(v[:keep])
    return (polar(torch.cat(lefts, 1)) * torch.cat(spectra)) @ polar(torch.cat(rights))


def iso_c(taus: list[Tensor]) -> Tensor:
    u, s, v = torch.linalg.svd(sum(taus), full_matrices=False)
    return s.mean() * (u @ v)


def iso_cts(taus: list[Tensor]) -> Tensor:
    u, s, v = torch.linalg.svd(sum(taus), full_matrices=False)
    own = round((len(s) - int(len(s) * 0.8)) / len(taus))
    common = len(s) - own * len(taus)
    lefts, spectra, rights = [u[:, :common]], [s[:common]], [v[:common]]
    for tau in taus:
        u, s, v = torch.linalg.svd(tau - lefts[0] @ (lefts[0].T @ tau), full_matrices=False)
        lefts, spectra = [*lefts, u[:, :own]], [*spectra, s[:own]]
        rights.append(v[:own])
    return torch.cat(spectra).mean() * (polar(torch.cat(lefts, 1)) @ polar(torch.cat(rights)))


def wudi(taus: list[Tensor]) -> Tensor:
    merged = torch.nn.Parameter(sum(taus))
    optimiser = torch.optim.Adam([merged], lr=1e-5)
    for _ in range(300):
        optimiser.zero_grad()
        sum(((merged - tau) @ tau.T).square().sum() / tau.square().sum() for tau in taus).backward()
        optimiser.step()
    return merged.detach()


def cart(taus: list[Tensor]) -> Tensor:
    mean = sum(taus) / len(taus)
    rank = int(min(mean.shape) * 0.08)
    return mean + sum(truncated(tau - mean, rank) for tau in taus)


def centred_lors(taus: list[Tensor]) -> Tensor:
    mean = sum(taus) / len(taus)
    rank = int(min(mean.shape) * 0.08)
    return mean + sum(lors([tau - mean], rank, 0.1, full=False) for tau in taus)


def calibrated_sum(taus: list[Tensor]) -> Tensor:
    u, s, v = torch.linalg.svd(sum(taus), full_matrices=False)
    coefficients = torch.zeros_like(s)
    for tau in taus:
        rows = u.T @ tau
        coefficients += (s * (rows * v).sum(1) / rows.square().sum(1)).clamp(min=1.0)
    return (u * (s * len(taus) / coefficients)) @ v / len(taus)


def boosted_sum(taus: list[Tensor]) -> Tensor:
    u, s, v = torch.linalg.svd(sum(taus), full_matrices=False)
    cumulative = s.cumsum(0)
    first = int((cumulative >= 0.01 * cumulative[-1]).nonzero()[0])
    return (u * s.clamp(min=float(s[first]))) @ v / len(taus)


def sce(taus: list[Tensor]) -> Tensor:
    stack = torch.stack(taus)
    variance = stack.var(0, unbiased=False)
    kept = torch.zeros(variance.numel())
    kept[torch.topk(variance.flatten(), int(variance.numel() * 0.1)).indices] = 1
    stack = stack * kept.reshape(variance.shape)
    weights = stack.square().flatten(1).sum(1).reshape(-1, *[1] * variance.ndim)
    weights = weights * (stack.sign() == stack.sum(0).sign())
    return (stack * weights).sum(0) / weights.sum(0).clamp(min=1e-30)


def pcb(taus: list[Tensor]) -> Tensor:
    stack = torch.stack([tau.flatten() for tau in taus])
    magnitudes = _clamped(stack.abs(), 1e-4, 1e-4)
    score = torch.exp(len(taus) * _scaled(magnitudes) ** 2) * torch.tanh(stack * stack.sum(0))
    weights = _scaled(_clamped(score, 0.8, 0))
    merged = (stack.sign() * magnitudes * weights).sum(0) / weights.sum(0).clamp(min=1e-12)
    return merged.reshape(taus[0].shape)


def _clamped(values: Tensor, low: float, high: float) -> Tensor:
    ordered, size = torch.sort(values, dim=1).values, values.shape[1]
    first, last = ordered[:, int(size * low)], ordered[:, size - 1 - int(size * high)]
    return torch.clamp(values, first[:, None], last[:, None])


def _scaled(values: Tensor) -> Tensor:
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / (high - low)


FORMULAS: dict[str, Formula] = {
    "lors_plain": functools.partial(lors, rank=7, density=0.2, full=True),
    "lors_rank76_plain": functools.partial(lors, rank=76, density=0.1, full=False),
    "svp_plain": svp,
    "centred_lors_plain": centred_lors,
    "cart_plain": cart,
    "star_plain": star,
    "tsv_m_plain": tsv_m,
    "boosted_tsv_m_plain": functools.partial(tsv_m, beta=0.9),
    "iso_c_plain": iso_c,
    "iso_cts_plain": iso_cts,
    "wudi_plain": wudi,
    "actmat_plain": lambda taus: regression(taus, taus),
    "actmat_pinv_plain": lambda taus: regression(taus, taus, ridge=0),
    "actmat_pinv_hermitian_plain": lambda taus: regression(taus, taus, ridge=0, hermitian=True),
    "tact_plain": lambda taus: regression(taus, [largest(tau, 0.2) for tau in taus]),
    "lors_actmat_plain": lors_actmat,
    "ace_plain": ace,
    "svc_plain": calibrated_sum,
    "boost_plain": boosted_sum,
    "sce_plain": sce,
    "pcb_plain": pcb,
}
EVERY_TENSOR = {"sce_plain", "pcb_plain"}
"""Formulas that merge all tensors; for the others the tensors that are not pruned are averaged."""


def run_plain(case: str, paths: list[Path], out: Path) -> None:
    """Merge with all models in memory."""
    import safetensors.torch

    base, *experts = (safetensors.torch.load_file(path) for path in paths)
    merge_plainly(base, experts, FORMULAS[case], case in EVERY_TENSOR)
    safetensors.torch.save_file(base, out)


def merge_plainly(
    base: dict[str, Tensor], experts: list[dict[str, Tensor]], formula: Formula, every: bool = False
) -> None:
    """Merge `experts` into `base`, in place."""
    from lors.merge.policy import find_policy

    spec = {name: (tuple(t.shape), t.dtype) for name, t in base.items()}
    actions = find_policy(base, "the models").actions(spec)
    for name, action in actions.items():
        if action == "copy":
            continue
        taus = [expert[name] - base[name] for expert in experts]
        whole = action == "whole" and not every
        base[name] = base[name] + (sum(taus) / len(taus) if whole else formula(taus))
