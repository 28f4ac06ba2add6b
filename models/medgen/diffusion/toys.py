"""Data whose noise, classifier, regressor and segmenter are formulas: samplers and guidance checked without training.

float64; images are [n, 1, 1, 64] so that every sampler and guide takes them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medgen.diffusion.schedule import Schedule

SIZE = 64


def levels(t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Signal and noise factor of each image's level, [n, 1, 1, 1]."""
    bar = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    return bar.sqrt(), (1 - bar).sqrt()


class TwoClasses:
    """Two Gaussian classes at -1 (class 0, healthy) and +1 along the first of 64 axes."""

    def __init__(self, schedule: Schedule, spread: float = 0.15, spread_across: float = 0.25) -> None:
        self.schedule = schedule
        self.sd = torch.full((1, 1, 1, SIZE), spread_across, dtype=torch.float64)
        self.sd[..., 0] = spread
        self.means = torch.zeros(2, 1, 1, SIZE, dtype=torch.float64)
        self.means[:, 0, 0, 0] = torch.tensor([-1.0, 1.0])

    def sample(self, count: int, label: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(count, 1, 1, SIZE, generator=generator, dtype=torch.float64)
        return self.means[label] + self.sd * drawn

    def classify(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits [n, 2]: log p(x_t | class)."""
        signal, sigma = levels(t, self.schedule)
        variance = (signal * self.sd) ** 2 + sigma**2
        parts = [-((x - signal * mean) ** 2 / variance).flatten(1).sum(1) / 2 for mean in self.means]
        return torch.stack(parts, dim=1)

    def noise(self, x: Tensor, t: int) -> Tensor:
        steps = torch.full((len(x),), t)
        signal, sigma = levels(steps, self.schedule)
        share = self.classify(x, steps).softmax(1)
        toward = x - signal * torch.einsum("nk,kabc->nabc", share, self.means)
        return sigma * toward / ((signal * self.sd) ** 2 + sigma**2)


class OneGaussian:
    """64 independent numbers N(0, sd); the value to steer is the first."""

    def __init__(self, schedule: Schedule, sd: float = 0.3) -> None:
        self.schedule, self.sd = schedule, sd

    def sample(self, count: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return self.sd * torch.randn(count, 1, 1, SIZE, generator=generator, dtype=torch.float64)

    def regress(self, x: Tensor, t: Tensor) -> Tensor:
        """[n, 1]: the expected value at level 0."""
        signal, sigma = levels(t, self.schedule)
        return (signal * self.sd**2 / ((signal * self.sd) ** 2 + sigma**2) * x)[:, 0, 0, :1]

    def noise(self, x: Tensor, t: int) -> Tensor:
        signal, sigma = self.schedule.signal(t), self.schedule.sigma(t)
        return sigma * x / ((signal * self.sd) ** 2 + sigma**2)


class BrightPixels:
    """64 independent pixels, bright (1) with probability p and dark (0) otherwise, blurred by sd (0: exactly)."""

    def __init__(self, schedule: Schedule, p: Tensor, sd: float) -> None:
        self.schedule, self.sd = schedule, sd
        self.prior = torch.logit(p.double(), eps=1e-12)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        bright = torch.rand(count, 1, 1, SIZE, generator=generator, dtype=torch.float64) < self.prior.sigmoid()
        return bright + self.sd * torch.randn(bright.shape, generator=generator, dtype=torch.float64)

    def segment(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits that the pixel is bright."""
        signal, sigma = levels(t, self.schedule)
        variance = (signal * self.sd) ** 2 + sigma**2
        return signal * (x - signal / 2) / variance + self.prior

    def noise(self, x: Tensor, t: int) -> Tensor:
        steps = torch.full((len(x),), t)
        signal, sigma = levels(steps, self.schedule)
        return sigma * (x - signal * self.segment(x, steps).sigmoid()) / ((signal * self.sd) ** 2 + sigma**2)

    def right(self, x: Tensor, wanted: Tensor) -> float:
        """Share of the wanted pixels that are bright."""
        return float((x > 0.5)[wanted.expand(x.shape) > 0.5].double().mean())
