"""The hybrid loss of Nichol and Dhariwal (ICML 2021), and the losses of noisy-image classifiers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medgen.diffusion.schedule import Schedule

VLB_WEIGHT = 0.001  # of the bound, which is the sum over all levels


def hybrid_loss(
    output: Tensor, x0: Tensor, xt: Tensor, noise: Tensor, t: Tensor, schedule: Schedule, bin_width: float = 1 / 255
) -> Tensor:
    """[n]: mean squared error of the noise plus 0.001 times the variational bound, one level of it standing for T.

    output: [n, 2c, h, w], predicted noise and the variance's place between log beta~ (-1) and log beta (1); x0, xt,
    noise: [n, c, h, w]; t: int64 [n], 1..T; bin_width: a grey level's, in the image's units, for the likelihood at
    level 1. The bound trains the variance alone: no gradient reaches the noise through it.
    """
    predicted, place = output.float().chunk(2, dim=1)
    squared = (noise - predicted).pow(2).flatten(1).mean(1)
    bound = bound_term(predicted.detach(), place, x0, xt, t, schedule, bin_width)
    return squared + VLB_WEIGHT * schedule.levels * bound


def bound_term(
    predicted: Tensor, place: Tensor, x0: Tensor, xt: Tensor, t: Tensor, schedule: Schedule, bin_width: float
) -> Tensor:
    """[n], bits per number: KL(q(x_(t-1) | x_t, x_0) || p(x_(t-1) | x_t)); at t = 1 the grey level's likelihood."""
    bar = schedule.alpha_bar.to(x0.device)
    shape = (-1, *[1] * (x0.ndim - 1))
    now, before = bar[t].view(shape), bar[t - 1].view(shape)
    beta = 1 - now / before
    # at t = 1 the posterior's variance is 0; the next level's stands in, as in the authors' code
    later = bar[t.clamp(min=2)].view(shape), bar[t.clamp(min=2) - 1].view(shape)
    posterior = (1 - later[1]) / (1 - later[0]) * (1 - later[0] / later[1])
    fraction = (place.double() + 1) / 2
    log_variance = fraction * beta.log() + (1 - fraction) * posterior.log()

    def mean(image: Tensor) -> Tensor:
        return (before.sqrt() * beta * image + (now / before).sqrt() * (1 - before) * xt) / (1 - now)

    image = (xt - (1 - now).sqrt() * predicted) / now.sqrt()
    difference = mean(x0.double()) - mean(image)
    kl = 0.5 * (log_variance - posterior.log() + (posterior + difference**2) / log_variance.exp() - 1)
    likelihood = _grey_level_nll(x0.double(), mean(image), 0.5 * log_variance, bin_width)
    term = torch.where(t.view(shape) == 1, likelihood, kl).flatten(1).mean(1)
    return (term / math.log(2)).to(x0.dtype)


def _grey_level_nll(x: Tensor, mean: Tensor, log_sigma: Tensor, bin_width: float) -> Tensor:
    """-log of a Gaussian's mass in the grey level of x."""
    half, scale = bin_width / 2, torch.exp(-log_sigma) / math.sqrt(2)
    mass = 0.5 * (torch.erf((x + half - mean) * scale) - torch.erf((x - half - mean) * scale))
    return -mass.clamp(min=1e-12).log()
