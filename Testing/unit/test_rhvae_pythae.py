"""Metric and loss against pythae's, with the same weights and draws. Skipped where pythae is not installed: it is no
dependency (`pip install --no-deps pythae cloudpickle imageio`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medgen.methods.rhvae_sampling import learning
from medgen.methods.rhvae_sampling.geometry import Metric
from medgen.methods.rhvae_sampling.net import Rhvae

models = pytest.importorskip("pythae.models")


def theirs(network: Rhvae, temperature: float, floor: float) -> Any:
    """pythae's RHVAE over our networks, with one leapfrog step."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder, BaseMetric

    class Encoder(BaseEncoder):
        def forward(self, images: torch.Tensor) -> Any:
            mean, log_variance, _root = network(images[:, 0])
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=network.decode(z).sigmoid())

    class Root(BaseMetric):
        def forward(self, images: torch.Tensor) -> Any:
            return ModelOutput(L=network(images[:, 0])[2])

    config = models.RHVAEConfig(
        input_dim=(1, 8, 8), latent_dim=2, n_lf=1, eps_lf=learning.STEP, beta_zero=learning.BETA_ZERO_ROOT,
        temperature=temperature, regularization=floor, reconstruction_loss="bce",
    )  # fmt: skip
    return models.RHVAE(config, Encoder(), Decoder(), Root())


def test_loss_and_metric_are_those_of_pythae(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one leapfrog step whose second part is explicit, as pythae has it."""
    monkeypatch.setattr(learning, "LEAPS", 1)
    explicit = Metric.velocity
    start: list[torch.Tensor] = []

    def velocity(metric: Metric, z: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
        start.append(z)
        return explicit(metric, start[0], momentum)

    torch.manual_seed(0)
    images = torch.rand(20, 8, 8)
    network = Rhvae(images.mean(0), 2)
    settings = learning.Settings(2)
    model = theirs(network, 0.8, settings.floor).train()
    torch.manual_seed(1)
    expected = float(model({"data": images[:, None]}).loss.detach())
    torch.manual_seed(1)
    monkeypatch.setattr(Metric, "velocity", velocity)
    assert float(learning.negative_elbo(network, images, 0.8, settings).detach()) == pytest.approx(expected, abs=1e-4)
    model.update()
    codes, matrices = learning.encode(network, images)
    z = torch.randn(50, 2)
    ours = Metric(codes, matrices, 0.8, settings.floor).inverse(z)
    assert torch.allclose(model.G_inv(z), ours, atol=1e-4)
