"""Training one RHVAE on the images of one class: an ELBO after a few steps of a tempered Riemannian Hamiltonian flow.

Chadebec, Mantoux and Allassonniere 2020; settings of the code released with Chadebec and Allassonniere 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medgen.methods.rhvae_sampling.geometry import FIXED_POINT_STEPS, Metric, nearest_distance, reduced
from medgen.methods.rhvae_sampling.net import LARGEST_FLAT, Rhvae

LEAPS, STEP, BETA_ZERO_ROOT = 3, 0.01, 0.3
RATE, BATCH, CONVOLVED_BATCH = 1e-3, 200, 16
REACH = 1.25  # T over the mean distance of a centroid to the nearest other one, where T is found
FOLLOW = 0.1  # share of the way that T goes towards it in an epoch
MOST_CENTROIDS = 2000


@dataclass(frozen=True)
class Settings:
    """temperature: T, 0 to follow the distances of the centroids; floor: lambda; riemannian: off for a plain VAE of the
    same networks, the baseline."""

    latent: int = 10
    temperature: float = 0.0
    floor: float = 1e-3
    epochs: int = 500
    riemannian: bool = True


@dataclass(frozen=True)
class Fitted:
    """codes: mean of each training image's code (n, latent), float64 as the metric is."""

    network: Rhvae
    metric: Metric
    codes: Tensor

    @torch.inference_mode()
    def images(self, codes: Tensor) -> Tensor:
        """(b, latent) to the decoder's means (b, *shape) in [0, 1], on the CPU."""
        place = next(self.network.parameters())
        parts = codes.to(place).split(CONVOLVED_BATCH)
        return torch.cat([self.network.decode(part).sigmoid().cpu() for part in parts])


def fit(
    images: Tensor,
    settings: Settings,
    seed: int,
    device: str = "cpu",
    report: Callable[[float, float], None] | None = None,
) -> Fitted:
    """Trains on (n, *shape) in [0, 1]. report: told after each update the share that is done and the loss, may raise
    Cancelled."""
    torch.manual_seed(seed)
    network = Rhvae(images.mean(0), settings.latent).to(device)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    batch = BATCH if images[0].numel() <= LARGEST_FLAT else CONVOLVED_BATCH
    temperature = settings.temperature or 1.0
    updates = -(-len(images) // batch)
    for epoch in range(settings.epochs):
        for number, part in enumerate(torch.randperm(len(images)).split(batch), 1):
            loss = negative_elbo(network, images[part].to(device), temperature, settings)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if report is not None:
                report((epoch + number / updates) / settings.epochs, float(loss.detach()))
        if settings.riemannian and not settings.temperature:
            codes = encode(network, images)[0]
            temperature += FOLLOW * (REACH * nearest_distance(codes) - temperature)
    codes, matrices = encode(network.eval(), images)
    metric = Metric(codes.double(), matrices.double(), temperature, settings.floor)
    return Fitted(network, reduced(metric, MOST_CENTROIDS, seed), codes.double())


@torch.no_grad()
def encode(network: Rhvae, images: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (n, latent) and matrices of the metric (n, latent, latent), on the CPU."""
    place = next(network.parameters()).device
    found = [network(part.to(place)) for part in images.split(BATCH)]
    codes = torch.cat([mean.cpu() for mean, _variance, _root in found])
    return codes, torch.cat([(root @ root.mT).cpu() for _mean, _variance, root in found])


# ---------------------------------------------------------------------------------------------------------------- loss


def negative_elbo(network: Rhvae, images: Tensor, temperature: float, settings: Settings) -> Tensor:
    """Mean over the images (b, *shape), less a constant; draws from torch's global generator.

    The metric is that of the batch. As in the released code the first momentum is the root L of the image's own matrix
    times a normal draw, where the paper has Cholesky's factor of G: the density of the first momentum is no part of the
    objective, and with that factor nothing bounds the size of the metric.
    """
    mean, log_variance, root = network(images)
    noise = torch.randn_like(mean)
    z = mean + (0.5 * log_variance).exp() * noise
    log_q = -0.5 * (noise**2 + log_variance).sum(1)
    log_rho = torch.zeros_like(log_q)
    if settings.riemannian:
        metric = Metric(mean, root @ root.mT, temperature, settings.floor)
        rho = torch.einsum("bjk,bk->bj", root, torch.randn_like(z)) / BETA_ZERO_ROOT
        z, rho = flow(network, images, metric.detach(), z, rho)
        log_rho = metric.log_volume(z) - metric.kinetic(z, rho)
    return (network.negative_log_likelihood(images, z) + 0.5 * (z**2).sum(1) - log_rho + log_q).mean()


def flow(network: Rhvae, images: Tensor, metric: Metric, z: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised leapfrog steps of H = -log p(x, z) + 1/2 rho^T G^-1 rho + 1/2 log det G, tempered after each. The
    forces are constants to the gradient, as in the released code."""
    pull = _potential_gradient(network, images, metric, z)
    for step in range(LEAPS):
        half = _half_step(metric, z, rho, pull)
        start = metric.velocity(z.detach(), half.detach())
        moved = z.detach()
        for _ in range(FIXED_POINT_STEPS):
            moved = z.detach() + STEP / 2 * (start + metric.velocity(moved, half.detach()))
        z = z + (moved - z.detach())
        pull = _potential_gradient(network, images, metric, z)
        whole = half - STEP / 2 * (pull + metric.kinetic_gradient(z.detach(), half.detach()))
        rho = whole * (_cooling(step) / _cooling(step + 1))
    return z, rho


def _half_step(metric: Metric, z: Tensor, rho: Tensor, pull: Tensor) -> Tensor:
    """rho' = rho - eps/2 dH/dz(z, rho'), by fixed-point iteration."""
    at, half = z.detach(), rho.detach()
    for _ in range(FIXED_POINT_STEPS):
        force = STEP / 2 * (pull + metric.kinetic_gradient(at, half))
        half = rho.detach() - force
    return rho - force


def _potential_gradient(network: Rhvae, images: Tensor, metric: Metric, z: Tensor) -> Tensor:
    """Of -log p(x, z) + 1/2 log det G, which do not depend on the momentum."""
    at = z.detach()
    with torch.no_grad():
        pull = torch.func.grad(lambda codes: network.negative_log_likelihood(images, codes).sum())(at)
        return pull + at - metric.log_volume_gradient(at)


def _cooling(step: int) -> float:
    """Root of beta after `step` steps: from BETA_ZERO_ROOT to 1."""
    inverse = (1 - 1 / BETA_ZERO_ROOT) * (step / LEAPS) ** 2 + 1 / BETA_ZERO_ROOT
    return 1 / inverse
