"""The classifier two-sample test of Tronchin et al. 2021: a small CNN learns real from synthetic; where it fails, the
generator is good, and its last features measure how far the sets lie apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen.metrics.generation import Features

BATCH, RATE, FEATURES = 64, 1e-3, 128


class TwoSampleNet(nn.Module):
    """Image (n, 1, size, size) in [0, 1] -> logit of being synthetic (n,). Four blocks of two 3x3 convolutions and a
    2x2 maximum, `width` channels doubling per block, then 128 features."""

    def __init__(self, size: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for block in range(4):
            out = width << block
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(out, out, 3, padding=1), nn.LeakyReLU(0.2), nn.MaxPool2d(2)]
            channels = out
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.dense = nn.Linear(channels * (size // 16) ** 2, FEATURES)
        self.last = nn.Linear(FEATURES, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def features(self, images: Tensor) -> Tensor:
        """(n, 128), after the activation."""
        return F.leaky_relu(self.dense(self.convolutions(images)), 0.2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.features(images))[:, 0]


def fit(
    real: Tensor, synthetic: Tensor, epochs: int, seed: int, device: str, step: Callable[[float], None]
) -> TwoSampleNet:
    """Trains on (n, 1, size, size) of each kind, as many of one as of the other in every epoch.

    step: told the share that is done, may raise Cancelled.
    """
    torch.manual_seed(seed)
    network = TwoSampleNet(real.shape[-1]).to(device)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    order = torch.Generator().manual_seed(seed)
    count = max(len(real), len(synthetic))
    half = min(BATCH // 2, count)
    rounds = -(-count // half)
    for epoch in range(epochs):
        picks = [_order(len(images), rounds * half, order) for images in (real, synthetic)]
        for number in range(rounds):
            part = slice(number * half, (number + 1) * half)
            images = torch.cat([real[picks[0][part]], synthetic[picks[1][part]]]).to(device)
            truth = torch.cat([torch.zeros(half), torch.ones(half)]).to(device)
            loss = F.binary_cross_entropy_with_logits(network(images), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step((epoch * rounds + number + 1) / (epochs * rounds))
    return network.eval()


def _order(length: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` indices below `length`, every one as often as the others, give or take one."""
    rounds = -(-count // length)
    return torch.cat([torch.randperm(length, generator=generator) for _ in range(rounds)])[:count]


@torch.inference_mode()
def judge(network: TwoSampleNet, images: Tensor, device: str) -> tuple[Features, np.ndarray]:
    """Features (n, 128) and whether each image is taken for synthetic (n,)."""
    found, taken = [], []
    for start in range(0, len(images), BATCH):
        features = network.features(images[start : start + BATCH].to(device))
        found.append(features.cpu().double().numpy())
        taken.append((network.last(features)[:, 0] > 0).cpu().numpy())
    return np.concatenate(found), np.concatenate(taken)
