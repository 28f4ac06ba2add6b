"""Drawing codes where the metric says that there are images. Targets, both: sqrt(det G^-1) in the ball S."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medgen.methods.rhvae_sampling.geometry import Metric

LEAPS = 15
LOWEST, HIGHEST = 0.6, 0.9  # accepted share between which the step size is left alone
TUNING_SHARE = 0.5  # of the steps, after which the step size stays


@dataclass(frozen=True)
class Drawn:
    """codes (n, d); accepted: share of the proposals, once tuned; step: the size that tuning ended with."""

    codes: Tensor
    accepted: float
    step: float


Report = Callable[[float], None]


def hamiltonian_samples(
    metric: Metric, count: int, steps: int, size: float, seed: int, report: Report | None = None
) -> Drawn:
    """One chain a sample, from random centroids: momentum N(0, I), 15 leapfrog steps, accepted with min(1, exp(H0 -
    H)); the last state counts. size: of the first leapfrog steps; grows and shrinks until 60 to 90 % are accepted."""
    generator = torch.Generator().manual_seed(seed)
    z = _starts(metric, count, generator)
    energy = -metric.log_volume(z)
    shares: list[float] = []
    tuning = int(TUNING_SHARE * steps)
    for number in range(steps):
        momentum = torch.randn(z.shape, dtype=z.dtype, generator=generator)
        moved, kick = z, momentum + size / 2 * metric.log_volume_gradient(z)
        for leap in range(LEAPS):
            moved = moved + size * kick
            kick = kick + (size if leap < LEAPS - 1 else size / 2) * metric.log_volume_gradient(moved)
        fresh = -metric.log_volume(moved)
        change = energy - fresh + 0.5 * (momentum.square() - kick.square()).sum(1)
        change[moved.norm(dim=1) > metric.radius] = -torch.inf
        taken = torch.rand(count, dtype=z.dtype, generator=generator).log() < change
        z, energy = torch.where(taken[:, None], moved, z), torch.where(taken, fresh, energy)
        shares.append(float(taken.double().mean()))
        if number < tuning:
            size = _tuned(size, shares[-1])
        if report is not None:
            report((number + 1) / steps)
    return Drawn(z, _mean(shares[tuning:]), size)


def walk_samples(
    metric: Metric, count: int, steps: int, spread: float, seed: int, report: Report | None = None
) -> Drawn:
    """Riemannian random walk (Algorithm 1) from random centroids: v ~ N(0, spread I), the proposal is where the
    geodesic with that velocity ends, accepted with the ratio of the volumes. spread: Sigma; left as it is."""
    generator = torch.Generator().manual_seed(seed)
    z = _starts(metric, count, generator)
    height = metric.log_volume(z)
    shares: list[float] = []
    for number in range(steps):
        v = torch.randn(z.shape, dtype=z.dtype, generator=generator) * spread**0.5
        moved = metric.exponential(z, v)[0]
        allowed = (moved.norm(dim=1) <= metric.radius)[:, None]  # false where shooting left the numbers too
        moved = torch.where(allowed, moved, z)
        fresh = metric.log_volume(moved)
        taken = torch.rand(count, dtype=z.dtype, generator=generator).log() < fresh - height
        taken &= allowed[:, 0]
        z, height = torch.where(taken[:, None], moved, z), torch.where(taken, fresh, height)
        shares.append(float(taken.double().mean()))
        if report is not None:
            report((number + 1) / steps)
    return Drawn(z, _mean(shares), spread)


def prior_samples(metric: Metric, count: int, seed: int) -> Drawn:
    """From N(0, I), the baseline."""
    generator = torch.Generator().manual_seed(seed)
    size = (count, metric.centroids.shape[1])
    return Drawn(torch.randn(size, dtype=metric.centroids.dtype, generator=generator), 1.0, 0.0)


def _starts(metric: Metric, count: int, generator: torch.Generator) -> Tensor:
    return metric.centroids[torch.randint(len(metric.centroids), (count,), generator=generator)]


def _tuned(size: float, share: float) -> float:
    if share < LOWEST:
        return size * 0.8
    return size * 1.15 if share > HIGHEST else size


def _mean(shares: list[float]) -> float:
    return sum(shares) / max(1, len(shares))
