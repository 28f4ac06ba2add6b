"""Whether images drawn where the metric says serve a classifier better than images drawn from the prior.

`medgen prove rhvae_sampling`. Spec s1-17, Proof. Data: scikit-learn's 1797 digits of 8x8 pixels, as they are and
enlarged to the paper's 28x28; slices of nilearn's MNI152, bent, with ventricles of two sizes. Networks and epochs are
the same for every arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from medgen.method import Progress, SilentProgress
from medgen.methods.rhvae_sampling.geometry import Metric
from medgen.methods.rhvae_sampling.learning import (
    FOLLOW,
    RATE,
    REACH,
    Fitted,
    Settings,
    encode,
    fit,
    negative_elbo,
)
from medgen.methods.rhvae_sampling.net import Rhvae
from medgen.methods.rhvae_sampling.proof_brains import base_slice, brains, nearest_difference, ventricle_area
from medgen.methods.rhvae_sampling.sampling import hamiltonian_samples, prior_samples
from medgen.methods.rhvae_sampling.spec import RHVAE_SAMPLING
from medgen.proofs import Mode, check, verdict

SEEDS = {"quick": 1, "normal": 5, "full": 5}
EPOCHS = {"quick": 200, "normal": 600, "full": 4000}
ENLARGED_SEEDS = {"normal": 2, "full": 5}
ENLARGED_EPOCHS = {"normal": 300, "full": 4000}
SIDE, PAPER_SIDE = 8, 28  # pixels of the digits, and of the paper's
BRAIN_EPOCHS = {"quick": 60, "normal": 250, "full": 1000}
EACH, MADE = 30, 200  # digits of a class that are learnt from; synthetic ones
BRAINS = 30
ENLARGED = {"normal ventricles": 1.0, "enlarged ventricles": 1.8}
STEPS, STEP = 200, 0.05
SMALLER = 1e-6  # two figures that are the same are no success
Checks = list[dict[str, Any]]


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: one seed, few epochs, one class of brains; full: more epochs."""
    progress = progress or SilentProgress()
    skipped = (
        ["--quick trains on one seed, for fewer epochs, on small digits and on one class of brains."]
        if mode == "quick"
        else []
    )
    checks = _geometry(seed)
    progress.report("Digits", 0.05)
    checks += _digits(SIDE, range(seed, seed + SEEDS[mode]), EPOCHS[mode], progress, 0.05, 0.35)
    if mode != "quick":
        seeds = range(seed, seed + ENLARGED_SEEDS[mode])
        checks += _digits(PAPER_SIDE, seeds, ENLARGED_EPOCHS[mode], progress, 0.35, 0.85)
    try:
        base = base_slice()
    except ImportError:
        skipped.append("The brains need the package nilearn (extra 'demo').")
    else:
        classes = list(ENLARGED)[1 if mode == "quick" else 0 :]
        checks += _brains(base, classes, BRAIN_EPOCHS[mode], seed, progress)
    return verdict(RHVAE_SAMPLING.id, checks, skipped)


# ------------------------------------------------------------------------------------------------------------ geometry


def _geometry(seed: int) -> Checks:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    flat = Metric(normal(1, 2), torch.zeros(1, 2, 2, dtype=torch.float64), 1.0, 1e-3)
    z, v = normal(50, 2), normal(50, 2)
    straight = float((flat.exponential(z, v)[0] - z - v).abs().max())
    root = normal(30, 2, 2).tril()
    metric = Metric(normal(30, 2), root @ root.mT + torch.eye(2, dtype=torch.float64), 1.5, 1e-3)
    v = v / v.norm(dim=1, keepdim=True)
    end, q = metric.exponential(z, v)
    start = metric.kinetic(z, torch.linalg.solve(metric.inverse(z), v))
    drift = float((metric.kinetic(end, q) / start - 1).abs().max())
    at = z.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(metric.log_volume(at).sum(), at)
    apart = float((gradient - metric.log_volume_gradient(z)).abs().max())
    return [
        check("Geodesics where there are no images, away from straight", straight, 1e-6, 0, higher=False),
        check("Energy drift of ten shooting steps, |v| = 1", drift, 0.01, 0, higher=False),
        check("Gradient of log sqrt det, away from autograd", apart, 1e-5, 0, higher=False),
        check("HMC samples on a line against the target, KS", _line(seed), 0.05, 0, higher=False),
    ]


def _line(seed: int) -> float:
    centroids = torch.tensor([[-1.5], [0.2], [0.5], [2.0]], dtype=torch.float64)
    metric = Metric(centroids, torch.ones(4, 1, 1, dtype=torch.float64), 0.5, 1e-2)
    codes = hamiltonian_samples(metric, 4000, 100, STEP, seed).codes[:, 0].numpy()
    x = torch.linspace(-metric.radius, metric.radius, 20_001, dtype=torch.float64)
    density = metric.log_volume(x[:, None]).exp().numpy()
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(stats.kstest(codes, lambda t: np.interp(t, x, cumulative / cumulative[-1])).statistic)


# -------------------------------------------------------------------------------------------------------------- digits


class _Loss(nn.Module):
    """The loss of one model, for `torch.func` to stack."""

    def __init__(self, network: Rhvae, settings: Settings) -> None:
        super().__init__()
        self.network, self.settings = network, settings

    def forward(self, images: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the mean distance of a code to the nearest other one."""
        codes = self.network(images)[0].detach()
        apart = (codes[:, None] - codes[None]).square().sum(2) + 1e9 * torch.eye(len(codes))
        loss = negative_elbo(self.network, images, temperature, self.settings)  # type: ignore[arg-type]
        return loss, apart.min(dim=1).values.sqrt().mean()


def fit_together(sets: Sequence[Tensor], settings: Settings, seed: int, progress: Progress) -> list[Fitted]:
    """What `fit` does, for many sets of as many images at once: small steps cost mostly their overhead."""
    torch.manual_seed(seed)
    losses = [_Loss(Rhvae(images.mean(0), settings.latent), settings) for images in sets]
    parameters, buffers = torch.func.stack_module_state(losses)
    one = torch.func.vmap(
        lambda p, b, images, t: torch.func.functional_call(losses[0], (p, b), (images, t)), randomness="different"
    )
    optimizer = torch.optim.Adam(parameters.values(), RATE)
    images = torch.stack(list(sets))
    temperatures = torch.full((len(sets),), settings.temperature or 1.0)
    for epoch in range(settings.epochs):
        if epoch % 20 == 0:
            progress.raise_if_cancelled()
        loss, apart = one(parameters, buffers, images, temperatures)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        if settings.riemannian and not settings.temperature:
            temperatures += FOLLOW * (REACH * apart.detach() - temperatures)
    found = []
    for number, module in enumerate(losses):
        module.load_state_dict({name: value[number].detach() for name, value in parameters.items()}, strict=False)
        codes, matrices = encode(module.network.eval(), sets[number])
        metric = Metric(codes.double(), matrices.double(), float(temperatures[number]), settings.floor)
        found.append(Fitted(module.network, metric, codes.double()))
    return found


@dataclass
class Split:
    """learnt: (10, EACH, side, side) of the ten classes; test images and their classes."""

    learnt: Tensor
    test: Tensor
    truth: np.ndarray


def _split(seed: int, side: int) -> Split:
    from sklearn.datasets import load_digits

    found = load_digits()
    images, truth = torch.from_numpy(found.images.astype(np.float32) / 16), found.target
    images = F.interpolate(images[:, None], size=(side, side), mode="bilinear")[:, 0]
    order = np.random.default_rng(seed).permutation(len(images))
    chosen = np.stack([order[truth[order] == digit][:EACH] for digit in range(10)])
    rest = np.setdiff1d(order, chosen)
    return Split(images[chosen], images[rest], truth[rest])


def _accuracy(classes: Sequence[Tensor], split: Split) -> float:
    """Of a logistic regression on the images of the ten classes."""
    from sklearn.linear_model import LogisticRegression

    images = torch.cat(list(classes)).flatten(1).numpy()
    labels = np.repeat(np.arange(10), [len(c) for c in classes])
    model = LogisticRegression(max_iter=1000).fit(images, labels)
    return float(model.score(split.test.flatten(1).numpy(), split.truth))


def _drawn(model: Fitted, kind: str, seed: int) -> tuple[Tensor, float]:
    """Images of one class and the mean volume at their codes."""
    if kind == "manifold":
        codes = hamiltonian_samples(model.metric, MADE, STEPS, STEP, seed).codes
    else:
        codes = prior_samples(model.metric, MADE, seed).codes
    return model.images(codes), float(model.metric.log_volume(codes).exp().mean())


def _digits(side: int, seeds: range, epochs: int, progress: Progress, start: float, end: float) -> Checks:
    splits = [_split(seed, side) for seed in seeds]
    sets = [images for split in splits for images in split.learnt]
    plain = fit_together(sets, Settings(2, epochs=epochs, riemannian=False), seeds.start, progress)
    progress.report("Digits", start + 0.2 * (end - start))
    curved = fit_together(sets, Settings(2, epochs=epochs), seeds.start, progress)
    progress.report("Digits", start + 0.8 * (end - start))
    accuracy = {"raw": [_accuracy(list(split.learnt), split) for split in splits]}
    volumes: dict[str, list[float]] = {}
    for name, models in (("manifold", curved), ("RHVAE prior", curved), ("VAE prior", plain)):
        accuracy[name], volumes[name] = [], []
        for number, split in enumerate(splits):
            progress.raise_if_cancelled()
            own = models[10 * number : 10 * number + 10]
            made = [_drawn(model, name, 10 * number + digit) for digit, model in enumerate(own)]
            accuracy[name].append(_accuracy([images for images, _volume in made], split))
            volumes[name] += [volume for _images, volume in made]
    progress.report("Digits", end)
    mean = {name: float(np.mean(values)) for name, values in accuracy.items()}
    ratio = float(np.mean(np.array(volumes["manifold"]) / np.array(volumes["RHVAE prior"])))
    words = f"{side}x{side} digits, {len(seeds)} seeds, trained on synthetic only:"
    return [
        check(f"{words} manifold against the VAE's prior", mean["manifold"], mean["VAE prior"], 0.05),
        check(f"{words} manifold against the RHVAE's prior", mean["manifold"], mean["RHVAE prior"], 0.05),
        check(f"{words} manifold against raw digits, at most 5 points less", mean["manifold"], mean["raw"], -0.05),
        check(f"{side}x{side} digits: volume sqrt det G^-1, manifold over prior (bar 3)", ratio, 3.0, 0),
    ]


# -------------------------------------------------------------------------------------------------------------- brains


def _brains(base: np.ndarray, classes: Sequence[str], epochs: int, seed: int, progress: Progress) -> Checks:
    found: Checks = []
    for number, name in enumerate(classes):
        real = brains(base, BRAINS, ENLARGED[name], np.random.default_rng((seed, number)))
        images = torch.from_numpy(real)

        def report(_share: float, _loss: float) -> None:
            progress.raise_if_cancelled()

        plain = fit(images, Settings(2, epochs=epochs, riemannian=False), seed, report=report)
        curved = fit(images, Settings(2, epochs=epochs), seed, report=report)
        arms = {"manifold": curved, "RHVAE prior": curved, "VAE prior": plain}
        drawn = {arm: _drawn(model, arm, seed) for arm, model in arms.items()}
        found += _brain_checks(name, real, {arm: made.numpy() for arm, (made, _volume) in drawn.items()})
        ratio = drawn["manifold"][1] / drawn["RHVAE prior"][1]
        found.append(check(f"{name}: volume sqrt det G^-1, manifold over prior (bar 3)", ratio, 3.0, 0))
        progress.report("Brains", 0.85 + 0.15 * (number + 1) / len(classes))
    return found


def _brain_checks(name: str, real: np.ndarray, made: dict[str, np.ndarray]) -> Checks:
    wanted = float(np.median(ventricle_area(real)))
    limit = float(np.quantile(nearest_difference(real, real), 0.99))
    away = {arm: abs(float(np.median(ventricle_area(pictures))) - wanted) for arm, pictures in made.items()}
    far = {arm: float((nearest_difference(pictures, real) > limit).mean()) for arm, pictures in made.items()}
    checks = []
    for arm in ("VAE prior", "RHVAE prior"):
        for words, values in (("ventricles' median area off the real", away), ("share far from every real brain", far)):
            title = f"{name}: {words}, manifold against {arm}"
            checks.append(check(title, values["manifold"], values[arm], SMALLER, higher=False))
    return checks
