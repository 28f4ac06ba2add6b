"""The geometry of a latent space: flat where nothing is known, and the samplers draw what they say they draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from medgen.methods.rhvae_sampling.geometry import Metric, nearest_distance, reduced
from medgen.methods.rhvae_sampling.sampling import hamiltonian_samples, prior_samples, walk_samples


def metric_of(centroids: torch.Tensor, temperature: float = 0.8, floor: float = 1e-3, seed: int = 0) -> Metric:
    count, d = centroids.shape
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(count, d, d, dtype=torch.float64, generator=generator).tril()
    return Metric(centroids.double(), root @ root.mT + torch.eye(d, dtype=torch.float64), temperature, floor)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_without_images_geodesics_are_straight() -> None:
    flat = Metric(torch.zeros(1, 3).double(), torch.zeros(1, 3, 3).double(), 1.0, 1e-3)
    z, v = normal(20, 3), normal(20, 3, seed=1)
    assert (flat.exponential(z, v)[0] - (z + v)).abs().max() < 1e-6
    ends = flat.geodesic(z[0], z[1], 5)
    assert torch.allclose(
        ends, torch.lerp(z[0], z[1], torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]), atol=1e-6
    )


def test_shooting_keeps_its_energy() -> None:
    metric = metric_of(normal(30, 2), temperature=1.5)
    z, v = metric.centroids, normal(30, 2, seed=1)
    v = v / v.norm(dim=1, keepdim=True)
    q = torch.linalg.solve(metric.inverse(z), v)
    end, momentum = metric.exponential(z, v)
    drift = (metric.kinetic(end, momentum) / metric.kinetic(z, q) - 1).abs()
    assert drift.max() < 0.01


def test_gradients_are_those_of_autograd() -> None:
    metric = metric_of(normal(40, 3))
    z, q = normal(25, 3, seed=1).requires_grad_(True), normal(25, 3, seed=2)
    (volume,) = torch.autograd.grad(metric.log_volume(z).sum(), z)
    (kinetic,) = torch.autograd.grad(metric.kinetic(z, q).sum(), z)
    assert (volume - metric.log_volume_gradient(z)).abs().max() < 1e-5
    assert (kinetic - metric.kinetic_gradient(z, q)).abs().max() < 1e-5


def test_the_volume_is_that_of_the_determinant_and_falls_to_the_floor() -> None:
    metric = metric_of(normal(10, 2))
    z = torch.cat([metric.centroids, torch.full((1, 2), 50.0, dtype=torch.float64)])
    assert torch.allclose(metric.log_volume(z), 0.5 * torch.linalg.det(metric.inverse(z)).log())
    assert torch.allclose(metric.log_volume(z)[-1], torch.tensor(1e-3, dtype=torch.float64).log())


@pytest.fixture
def line() -> Metric:
    return Metric(torch.tensor([[-1.5], [0.2], [0.5], [2.0]]).double(), torch.ones(4, 1, 1).double(), 0.5, 1e-2)


def distance_to_target(metric: Metric, codes: torch.Tensor) -> float:
    """Kolmogorov and Smirnov's, of samples on a line."""
    x = torch.linspace(-metric.radius, metric.radius, 20_001, dtype=torch.float64)
    density = metric.log_volume(x[:, None]).exp().numpy()
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(stats.kstest(codes[:, 0].numpy(), lambda v: np.interp(v, x, cumulative / cumulative[-1])).statistic)


def test_hamiltonian_samples_follow_the_volume(line: Metric) -> None:
    drawn = hamiltonian_samples(line, 4000, 100, 0.05, seed=0)
    assert distance_to_target(line, drawn.codes) < 0.05
    assert 0.6 <= drawn.accepted <= 0.95 and drawn.step > 0.05  # a step of 0.05 would be accepted too often
    assert distance_to_target(line, prior_samples(line, 4000, 0).codes) > 0.05  # the test can tell


def test_a_walk_of_small_steps_follows_it_too(line: Metric) -> None:
    assert distance_to_target(line, walk_samples(line, 4000, 150, 0.05, seed=0).codes) < 0.1


@pytest.mark.parametrize("latent", [2, 10])
def test_samples_stay_near_the_images_and_in_the_ball(latent: int) -> None:
    shell = normal(40, latent)
    metric = metric_of(4 * shell / shell.norm(dim=1, keepdim=True), temperature=1.0)
    for drawn in (hamiltonian_samples(metric, 60, 40, 0.05, 0), walk_samples(metric, 60, 40, 0.3, 0)):
        assert drawn.codes.isfinite().all() and drawn.codes.norm(dim=1).max() <= metric.radius
        volume = metric.log_volume(drawn.codes).exp().mean()
        assert volume > 3 * metric.log_volume(prior_samples(metric, 400, 7).codes).exp().mean()


def test_a_geodesic_goes_round_where_there_are_images() -> None:
    angles = torch.linspace(0, np.pi, 40, dtype=torch.float64)
    metric = Metric(torch.stack([angles.cos(), angles.sin()], 1), torch.eye(2).double().repeat(40, 1, 1), 0.25, 1e-3)
    curve = metric.geodesic(metric.centroids[0], metric.centroids[-1], 31)
    straight = torch.lerp(curve[0], curve[-1], torch.linspace(0, 1, 31, dtype=torch.float64)[:, None])
    assert metric.curve_energy(curve) < 0.5 * metric.curve_energy(straight)
    assert curve.norm(dim=1).min() > 0.7  # the straight line passes through 0
    assert torch.equal(curve[[0, -1]], metric.centroids[[0, -1]])


def test_fewer_centroids_leave_the_metric_nearly_as_it_was() -> None:
    metric = metric_of(normal(3000, 2), temperature=1.0)
    small = reduced(metric, 300, 0)
    assert len(small.centroids) <= 300
    assert torch.allclose(small.matrices.sum(0), metric.matrices.sum(0))
    z = normal(50, 2, seed=3)
    assert (small.log_volume(z) - metric.log_volume(z)).abs().max() < 0.1
    assert reduced(metric, 3000, 0) is metric


def test_nearest_distance() -> None:
    assert nearest_distance(torch.tensor([[0.0, 0], [1, 0], [4, 0]])) == pytest.approx((1 + 1 + 3) / 3)
