"""How much noise each level holds, and which levels a sampler visits."""

from __future__ import annotations

import torch
from torch import Tensor


class Schedule:
    """Variances that rise linearly from `first` to `last` over T levels (Ho et al., NeurIPS 2020).

    alpha_bar: float64 [T + 1], the share of the image's variance at level t; alpha_bar[0] is 1.
    """

    def __init__(self, levels: int = 1000, first: float = 1e-4, last: float = 0.02) -> None:
        self.levels = levels
        betas = torch.linspace(first, last, levels, dtype=torch.float64)
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])

    def signal(self, t: int) -> float:
        """Factor on the image, sqrt(alpha_bar)."""
        return float(self.alpha_bar[t].sqrt())

    def sigma(self, t: int) -> float:
        """Factor on the noise, sqrt(1 - alpha_bar)."""
        return float((1 - self.alpha_bar[t]).sqrt())

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0). x, noise: [n, c, h, w]; t: int64 [n]."""
        bar = self.alpha_bar.to(x.device)[t].view(-1, *[1] * (x.ndim - 1))
        return (bar.sqrt() * x + (1 - bar).sqrt() * noise).to(x.dtype)

    def evidence(self, noisy: Tensor, t: Tensor) -> Tensor:
        """What each noisy pixel of a mask says by itself, log odds of 1 against 0: signal (x - signal / 2) / sigma^2.
        noisy: [n, 1, h, w]; t: int64 [n], 1..T. Bayes adds them to what is known besides."""
        bar = self.alpha_bar.to(noisy.device)[t].view(-1, *[1] * (noisy.ndim - 1))
        return (bar.sqrt() * (noisy - bar.sqrt() / 2) / (1 - bar)).to(noisy.dtype)

    def times(self, top: int, steps: int, power: float = 1.0) -> list[int]:
        """Levels from 0 up to `top` in so many steps, as even as whole numbers allow; power: above 1 they lie closer
        together near the image, where the share of noise changes fastest. Raises ValueError."""
        if not 1 <= steps <= top <= self.levels:
            raise ValueError(f"{steps} steps up to level {top} of {self.levels} is not possible")
        return [max(i, round(top * (i / steps) ** power)) for i in range(steps + 1)]
