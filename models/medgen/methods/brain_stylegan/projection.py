"""Finding the code and the noise whose brain is most like a given one (3D-StyleGAN's projector, after StyleGAN2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medgen.methods.brain_stylegan.codes import Noise
from medgen.nets.stylegan3d import Generator

MAPPED = 10_000  # draws whose w give the mean and the spread
SHAKEN, SHAKEN_UNTIL = 0.05, 0.75  # of the spread of w, and the part of the run in which w is shaken
WARM, COOL = 0.05, 0.25  # parts of the run in which the rate rises and falls
POOL = 8


@dataclass(frozen=True)
class Found:
    """w: [latent]; noise: of each layer; picture: [k, j, i], -1 to 1; errors: (mean squared error of the picture, of
    the pooled one), of values in -1 to 1, before each step."""

    w: Tensor
    noise: Noise
    picture: Tensor
    errors: list[tuple[float, float]]


def project(
    network: Generator,
    target: Tensor,
    steps: int = 1000,
    rate: float = 0.3,
    optimise_noise: bool = True,
    pooled: bool = True,
    seed: int = 0,
    watch: Callable[[int, float, Tensor], None] = lambda step, error, picture: None,
) -> Found:
    """target: [1, 1, k, j, i], -1 to 1, on the network's device. watch: told before each step its number, the squared
    error and the picture [k, j, i]; may raise Cancelled."""
    generator = torch.Generator().manual_seed(seed)
    device = target.device
    with torch.no_grad():
        mapped = network.mapped(torch.randn(MAPPED, network.architecture.latent, generator=generator).to(device))
    w, spread = mapped.mean(0), float((mapped - mapped.mean(0)).square().sum().div(MAPPED).sqrt())
    w.requires_grad_()
    noise = [values.to(device).requires_grad_(optimise_noise) for values in network.noise(1, generator)]
    optimizer = torch.optim.Adam([w, *(noise if optimise_noise else [])], rate)
    wanted, errors = coarse(target), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * rate_factor(step / steps)
        shake = SHAKEN * spread * max(0.0, 1 - step / steps / SHAKEN_UNTIL) ** 2
        shaken = w + shake * torch.randn(w.shape, generator=generator).to(device)
        made = network(network.for_layers(shaken[None]), noise)
        fine_error, coarse_error = F.mse_loss(made, target), F.mse_loss(coarse(made), wanted)
        errors.append((float(fine_error.detach()), float(coarse_error.detach())))
        watch(step, errors[-1][0], made.detach()[0, 0])
        optimizer.zero_grad()
        (fine_error + coarse_error if pooled else fine_error).backward()
        optimizer.step()
        with torch.no_grad():
            for values in noise:
                values.sub_(values.mean()).div_(values.std())
    with torch.no_grad():
        picture = network(network.for_layers(w[None]), noise)
    errors.append((float(F.mse_loss(picture, target)), float(F.mse_loss(coarse(picture), wanted))))
    return Found(w.detach(), [values.detach() for values in noise], picture[0, 0], errors)


def coarse(picture: Tensor) -> Tensor:
    """Blocks of 8 x 8 x 8 voxels averaged, of 4 x 4 x 4 where those do not fit."""
    return F.avg_pool3d(picture, POOL if all(n % POOL == 0 for n in picture.shape[2:]) else POOL // 2)


def rate_factor(done: float) -> float:
    """done: 0 to 1 of the run. A straight rise, then 1, then down along a cosine."""
    fall = min(1.0, (1 - done) / COOL)
    return (0.5 - 0.5 * math.cos(math.pi * fall)) * min(1.0, max(done, 1e-3) / WARM)
