"""The Riemannian metric of a latent space that was learnt from images, and what follows from it.

G^-1(z) = sum_i M_i exp(-|z - c_i|^2 / T^2) + lambda I, with one centroid c_i and one matrix M_i = L_i L_i^T an image
(Chadebec et al. 2020, 2021). Far from every image G^-1 is lambda I: the volume sqrt(det G) is huge, nothing is known.

Points z are (b, d), centroids (n, d), matrices (n, d, d). Determinants go through Cholesky's factor: use float64 where
the result is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FIXED_POINT_STEPS = 3
SHOOTING_STEPS = 10
GEODESIC_ROUNDS = 60


@dataclass(frozen=True)
class Metric:
    """temperature: T, the reach of a centroid; floor: lambda."""

    centroids: Tensor
    matrices: Tensor
    temperature: float
    floor: float

    def double(self) -> Metric:
        return Metric(self.centroids.double(), self.matrices.double(), self.temperature, self.floor)

    def detach(self) -> Metric:
        return Metric(self.centroids.detach(), self.matrices.detach(), self.temperature, self.floor)

    @property
    def radius(self) -> float:
        """Of the ball S that samples stay in: 1.2 times the farthest centroid's distance from 0."""
        return 1.2 * float(self.centroids.norm(dim=1).max())

    def weights(self, z: Tensor) -> Tensor:
        """exp(-|z - c_i|^2 / T^2), (b, n)."""
        squared = (z * z).sum(1)[:, None] + (self.centroids**2).sum(1) - 2 * z @ self.centroids.T
        return torch.exp(-squared.clamp_min(0) / self.temperature**2)

    def inverse(self, z: Tensor) -> Tensor:
        """G^-1(z), (b, d, d)."""
        d = z.shape[1]
        mixed = (self.weights(z) @ self.matrices.reshape(-1, d * d)).reshape(-1, d, d)
        return mixed + self.floor * torch.eye(d, dtype=z.dtype, device=z.device)

    def log_volume(self, z: Tensor) -> Tensor:
        """log sqrt det G^-1(z), (b,): high where there are images."""
        factor = torch.linalg.cholesky(self.inverse(z))
        return factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def log_volume_gradient(self, z: Tensor) -> Tensor:
        """(1 / T^2) sum_i e_i (c_i - z) tr(G M_i), (b, d): the trace form; the released code has a matrix-vector
        product in its place, which is not the gradient."""
        metric = torch.cholesky_inverse(torch.linalg.cholesky(self.inverse(z)))
        traces = metric.flatten(1) @ self.matrices.flatten(1).T
        return self._towards_centroids(z, traces)

    def kinetic_gradient(self, z: Tensor, momentum: Tensor) -> Tensor:
        """Gradient by z of 1/2 q^T G^-1(z) q, (b, d)."""
        squares = torch.einsum("bj,njk,bk->bn", momentum, self.matrices, momentum)
        return self._towards_centroids(z, squares)

    def _towards_centroids(self, z: Tensor, factors: Tensor) -> Tensor:
        """(1 / T^2) sum_i e_i (c_i - z) factors_i."""
        weighted = self.weights(z) * factors
        return (weighted @ self.centroids - weighted.sum(1, keepdim=True) * z) / self.temperature**2

    def kinetic(self, z: Tensor, momentum: Tensor) -> Tensor:
        """1/2 q^T G^-1(z) q, (b,)."""
        return 0.5 * torch.einsum("bj,bjk,bk->b", momentum, self.inverse(z), momentum)

    def velocity(self, z: Tensor, momentum: Tensor) -> Tensor:
        """G^-1(z) q, (b, d)."""
        return torch.einsum("bjk,bk->bj", self.inverse(z), momentum)

    def exponential(self, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """End point and momentum of the geodesic from z with velocity v after unit time: Hamiltonian shooting from
        q = G v with ten midpoint steps."""
        q = torch.cholesky_solve(v[:, :, None], torch.linalg.cholesky(self.inverse(z)))[:, :, 0]
        step = 1 / SHOOTING_STEPS
        for _ in range(SHOOTING_STEPS):
            z_half = z + step / 2 * self.velocity(z, q)
            q_half = q - step / 2 * self.kinetic_gradient(z, q)
            z = z + step * self.velocity(z_half, q_half)
            q = q - step * self.kinetic_gradient(z_half, q_half)
        return z, q

    def curve_energy(self, points: Tensor) -> Tensor:
        """Of the polygon (m, d): (m - 1) times the sum of its squared Riemannian steps, which is the squared length
        where the steps are equal."""
        steps = points[1:] - points[:-1]
        factor = torch.linalg.cholesky(self.inverse((points[1:] + points[:-1]) / 2))
        along = torch.linalg.solve_triangular(factor, steps[:, :, None], upper=False)
        return (len(points) - 1) * along.square().sum()

    def geodesic(self, start: Tensor, end: Tensor, points: int) -> Tensor:
        """(points, d) at equal Riemannian steps from `start` to `end` (d,) along a curve of locally least energy, found
        from the straight line."""
        straight = torch.lerp(start, end, torch.linspace(0, 1, points, dtype=start.dtype)[:, None])
        if points < 3:
            return straight
        inner = straight[1:-1].clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS([inner], max_iter=GEODESIC_ROUNDS, line_search_fn="strong_wolfe")

        def energy() -> Tensor:
            optimizer.zero_grad()
            value = self.curve_energy(torch.cat([start[None], inner, end[None]]))
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(energy)
        return torch.cat([start[None], inner.detach(), end[None]])


def nearest_distance(points: Tensor) -> float:
    """Mean distance of each point (n, d) to its nearest other one."""
    distances = torch.cdist(points, points)
    distances.fill_diagonal_(float("inf"))
    return float(distances.min(dim=1).values.mean())


def reduced(metric: Metric, most: int, seed: int) -> Metric:
    """The metric with at most `most` centroids, by k-means: a cluster's matrix is the sum of its members', so that far
    away from it nothing changes."""
    if len(metric.centroids) <= most:
        return metric
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(most, random_state=seed, n_init=1).fit(metric.centroids.numpy())
    member = torch.from_numpy(found.labels_).long()
    centres = torch.from_numpy(found.cluster_centers_).to(metric.centroids)
    sums = torch.zeros(most, *metric.matrices.shape[1:], dtype=metric.matrices.dtype)
    sums.index_add_(0, member, metric.matrices)
    kept = member.unique()  # a cluster may have lost its members
    return Metric(centres[kept], sums[kept], metric.temperature, metric.floor)
