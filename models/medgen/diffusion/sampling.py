"""Along the probability flow into noise (encode) and back (decode), and ancestral sampling.

`noise(x, t)` predicts the noise in x at level t. A guide `(x, t) -> gradient of log p(wanted | x_t)`, already scaled,
turns it: noise - sqrt(1 - alpha_bar) * gradient (Dhariwal and Nichol, NeurIPS 2021, algorithm 2). Guides are summed.

The flow is an ordinary differential equation. 'ddim' (Song et al., ICLR 2021) is its Euler step; 'dpm2' is
DPM-Solver++(2M) (Lu et al., 2022), second order at one evaluation a step, in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from medgen.diffusion.schedule import Schedule

Noise = Callable[[Tensor, int], Tensor]
Guide = Callable[[Tensor, int], Tensor]
Solver = Literal["ddim", "dpm2"]
Tick = Callable[[], None]


def _quiet() -> None:
    pass


def clamped(noise: Noise, schedule: Schedule, low: float, high: float) -> Noise:
    """The noise that belongs to the predicted image cut off at `low` and `high`, as the papers' code has it. What is
    cut off does not come back: with it, encoding is no longer invertible."""

    def predict(x: Tensor, t: int) -> Tensor:
        predicted = noise(x, t)
        if t == 0:
            return predicted
        image = ((x - schedule.sigma(t) * predicted) / schedule.signal(t)).clamp(low, high)
        return (x - schedule.signal(t) * image) / schedule.sigma(t)

    return predict


def guided(noise: Noise, schedule: Schedule, guides: Sequence[Guide]) -> Noise:
    """noise - sqrt(1 - alpha_bar_t) * sum of the guides' gradients."""

    def predict(x: Tensor, t: int) -> Tensor:
        predicted = noise(x, t)
        for guide in guides:
            predicted = predicted - schedule.sigma(t) * guide(x, t)
        return predicted

    return predict if guides else noise


def encode(
    x: Tensor, noise: Noise, schedule: Schedule, times: Sequence[int], solver: Solver, tick: Tick = _quiet
) -> Tensor:
    """From the image (level times[0]) up to level times[-1], without randomness. tick: called before each evaluation;
    what it raises ends the run."""
    return _flow(x, noise, schedule, times, solver, tick)


def decode(
    x: Tensor,
    noise: Noise,
    schedule: Schedule,
    times: Sequence[int],
    solver: Solver,
    guides: Sequence[Guide] = (),
    tick: Tick = _quiet,
) -> Tensor:
    """From level times[-1] down to times[0]. Without guides it undoes `encode` up to the error of the steps."""
    return _flow(x, guided(noise, schedule, guides), schedule, list(reversed(times)), solver, tick)


def round_trip_error(x: Tensor, back: Tensor) -> float:
    """Root mean square of the difference, divided by that of x."""
    return float((back - x).pow(2).mean().sqrt() / x.pow(2).mean().sqrt().clamp(min=1e-12))


def _flow(x: Tensor, noise: Noise, schedule: Schedule, path: Sequence[int], solver: Solver, tick: Tick) -> Tensor:
    earlier: tuple[Tensor, float] | None = None  # predicted image and log signal-to-noise one step before
    for here, there in zip(path, path[1:]):
        tick()
        predicted = noise(x, here)
        if here == 0:  # no noise yet: the image is its own prediction, and only Euler's step exists
            x = schedule.signal(there) * x + schedule.sigma(there) * predicted
            continue
        image = (x - schedule.sigma(here) * predicted) / schedule.signal(here)
        if solver == "ddim" or there == 0:
            x = schedule.signal(there) * image + schedule.sigma(there) * (x - schedule.signal(here) * image) / (
                schedule.sigma(here)
            )
            continue
        now, then = _log_ratio(schedule, here), _log_ratio(schedule, there)
        target = image
        if earlier is not None:
            ratio = (now - earlier[1]) / (then - now)
            target = image + (image - earlier[0]) / (2 * ratio)
        earlier = image, now
        x = schedule.sigma(there) / schedule.sigma(here) * x - schedule.signal(there) * math.expm1(now - then) * target
    return x


def _log_ratio(schedule: Schedule, t: int) -> float:
    return math.log(schedule.signal(t) / schedule.sigma(t))


# ------------------------------------------------------------------------------------------------------------ random


class Draws:
    """Normal numbers for a batch whose every item has its own generator: an item's numbers do not depend on which
    others share its batch. Drawn on the CPU, so that every device gets the same."""

    def __init__(self, seeds: Sequence[Sequence[int]]) -> None:
        self.generators = [torch.Generator().manual_seed(_mixed(seed)) for seed in seeds]

    def like(self, x: Tensor) -> Tensor:
        drawn = [torch.randn(x.shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(drawn).to(x)


def _mixed(numbers: Sequence[int]) -> int:
    """One seed of several numbers (FNV-1a), so that (1, 2) and (2, 1) differ."""
    value = 0xCBF29CE484222325
    for number in numbers:
        for byte in int(number).to_bytes(8, "little", signed=True):
            value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value % 2**63


Prediction = Callable[[Tensor, int], "tuple[Tensor, Tensor | None]"]  # noise, and the variance's fraction v in 0..1


def ancestral(
    x: Tensor,
    predict: Prediction,
    schedule: Schedule,
    times: Sequence[int],
    draws: Draws,
    guides: Sequence[Guide] = (),
    limits: tuple[float, float] | None = None,
    tick: Tick = _quiet,
) -> Tensor:
    """Samples p(x_(t-1) | x_t) from level times[-1] down to 0 (Ho et al. 2020), skipping levels as Nichol and Dhariwal
    (2021) do. The variance is exp(v log beta + (1 - v) log beta~), beta~ where `predict` gives no v; guides shift the
    mean by variance * gradient. limits: the predicted image is cut off there."""
    for here, there in _downwards(times):
        tick()
        predicted, fraction = predict(x, here)
        bar, bar_next = float(schedule.alpha_bar[here]), float(schedule.alpha_bar[there])
        beta = 1 - bar / bar_next
        image = (x - schedule.sigma(here) * predicted) / schedule.signal(here)
        if limits is not None:
            image = image.clamp(*limits)
        mean = (math.sqrt(bar_next) * beta * image + math.sqrt(bar / bar_next) * (1 - bar_next) * x) / (1 - bar)
        variance = model_variance(beta, (1 - bar_next) / (1 - bar) * beta, fraction)
        for guide in guides:
            mean = mean + variance * guide(x, here)
        x = mean if there == 0 else mean + variance**0.5 * draws.like(x)
    return x


def stochastic_ddim(
    x: Tensor,
    noise: Noise,
    schedule: Schedule,
    times: Sequence[int],
    draws: Draws,
    eta: float,
    tick: Tick = _quiet,
) -> Tensor:
    """Samples from level times[-1] down to 0 with some noise in every step (Song et al., ICLR 2021, equation 16).
    eta: 0 is DDIM without randomness, 1 has the variance of the forward process's posterior, as DDPM."""
    for here, there in _downwards(times):
        tick()
        predicted = noise(x, here)
        bar, bar_next = float(schedule.alpha_bar[here]), float(schedule.alpha_bar[there])
        variance = eta**2 * (1 - bar_next) / (1 - bar) * (1 - bar / bar_next)
        image = (x - schedule.sigma(here) * predicted) / schedule.signal(here)
        x = schedule.signal(there) * image + math.sqrt(max(0.0, 1 - bar_next - variance)) * predicted
        if variance > 0:
            x = x + math.sqrt(variance) * draws.like(x)
    return x


def model_variance(beta: float, posterior: float, fraction: Tensor | None) -> Tensor | float:
    """Between the posterior's variance (fraction 0) and beta (1), on a log scale. The posterior's is 0 at the last
    step, where no noise is added; beta stands in for it."""
    if fraction is None:
        return posterior or beta
    return torch.exp(fraction * math.log(beta) + (1 - fraction) * math.log(posterior or beta))


def _downwards(times: Sequence[int]) -> Iterator[tuple[int, int]]:
    path = list(reversed(times))
    return zip(path, path[1:])
