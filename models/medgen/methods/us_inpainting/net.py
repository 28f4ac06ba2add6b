"""The hierarchical conditional VAE of Hung et al. 2021 (a probabilistic U-Net with a residual posterior).

Two encoders of one layout, for [incomplete image, mask] and for [complete image, mask]; a decoder with skips from the
first, which takes a spatial Gaussian before each of its first blocks; and the first part of a like decoder beside the
second encoder, which says how the posterior differs from the prior.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_CHANNELS = 5


@dataclass(frozen=True)
class Shape:
    """widths: filters of the six encoder layers (64, 128, 256, 512, 1024, 1024 in the paper); dilations: of them, those
    with 1 are followed by down-sampling, except the deepest; latents: decoder blocks, the deepest first, that take a
    sample (4 in the authors' code, 0: a deterministic network); units: convolutions a block, in the encoders and in the
    decoder (one in the paper, two in the code; one beside the posterior)."""

    widths: tuple[int, ...] = (16, 32, 48, 48, 48, 48)
    dilations: tuple[int, ...] = (1, 1, 2, 2, 2, 4)
    latents: int = 4
    units: tuple[int, int] = (1, 2)


class ChannelThenSpatialAttention(nn.Module):
    """CBAM (Woo et al., ECCV 2018): weights for channels, from their mean and maximum through one small network, then
    weights for places, from mean and maximum over the channels. Same shape out as in."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(2, channels // reduction)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.place = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        weight = torch.sigmoid(self.channel(features.mean((2, 3))) + self.channel(features.amax((2, 3))))
        features = features * weight[:, :, None, None]
        both = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], 1)
        return features * torch.sigmoid(self.place(both))


def _block(channels_in: int, channels_out: int, dilation: int, units: int) -> nn.Sequential:
    """`units` times 3x3 convolution, batch normalisation, swish, attention."""
    layers: list[nn.Module] = []
    for channels in (channels_in, *[channels_out] * (units - 1)):
        layers += [
            nn.Conv2d(channels, channels_out, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.SiLU(),
            ChannelThenSpatialAttention(channels_out),
        ]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """[n, 2, h, w] (image, mask) -> the features of every layer; h and w: multiples of 2 ** (layers of dilation 1)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dilations = shape.dilations
        inputs = (2, *shape.widths)
        self.blocks = nn.ModuleList(
            _block(a, b, d, shape.units[0]) for a, b, d in zip(inputs, shape.widths, shape.dilations, strict=False)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for block, dilation in zip(self.blocks, self.dilations, strict=True):
            image = block(image)
            features.append(image)
            image = F.max_pool2d(image, 2) if dilation == 1 else image
        return features


class Decoder(nn.Module):
    """Mirrors an encoder. forward takes one step: block `number` (0 is the deepest) on features and, for the first
    `latents` blocks, a sample, with the skip that belongs to it."""

    def __init__(self, shape: Shape, blocks: int, units: int) -> None:
        super().__init__()
        widths = tuple(reversed(shape.widths))
        dilations = tuple(reversed(shape.dilations))[1:]
        self.blocks, self.ups = nn.ModuleList(), nn.ModuleList()
        for number in range(blocks):
            inputs = widths[number] + (LATENT_CHANNELS if number < shape.latents else 0)
            outputs = widths[number + 1]
            up = nn.ConvTranspose2d(inputs, outputs, 2, 2) if dilations[number] == 1 else nn.Conv2d(inputs, outputs, 1)
            self.ups.append(up)
            self.blocks.append(_block(2 * outputs, outputs, dilations[number], units))

    def forward(self, number: int, features: Tensor, skip: Tensor) -> Tensor:
        return self.blocks[number](torch.cat([self.ups[number](features), skip], 1))


class GaussianHead(nn.Module):
    """mu = tanh, sigma = exp(3 tanh) of a 1x1 convolution times 0.1. Both float32 [n, 5, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 2 * LATENT_CHANNELS, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = (0.1 * self.convolution(features).float()).tanh().chunk(2, 1)
        return mean, (3 * log_sigma).exp()


def residual_kl(delta_mean: Tensor, delta_sigma: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mu + dmu, (sigma dsigma)^2) || N(mu, sigma^2)) of every element:
    1/2 (dmu^2 / sigma^2 + dsigma^2 - log dsigma^2 - 1). (The paper's equation 11 prints log sigma^2 there; its code and
    Vahdat and Kautz, NeurIPS 2020, equation 2 have dsigma.)"""
    square = delta_sigma**2
    return 0.5 * (delta_mean**2 / sigma**2 + square - square.log() - 1)


class HierarchicalInpainter(nn.Module):
    """Images are [n, 1, h, w], 0 to 1, the hole zeroed; masks 1 in the hole."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.factor = 2 ** sum(dilation == 1 for dilation in shape.dilations[:-1])  # sides are multiples of it
        count = len(shape.widths) - 1
        deepest = tuple(reversed(shape.widths))
        self.encoder, self.decoder = Encoder(shape), Decoder(shape, count, shape.units[1])
        self.heads = nn.ModuleList(GaussianHead(deepest[i]) for i in range(shape.latents))
        if shape.latents:
            self.posterior_encoder = Encoder(shape)
            self.posterior_decoder = Decoder(shape, shape.latents - 1, 1)
            self.posterior_heads = nn.ModuleList(GaussianHead(2 * deepest[i]) for i in range(shape.latents))
        self.last = nn.Conv2d(shape.widths[0], 1, 1)

    def encode(self, image: Tensor, mask: Tensor) -> list[Tensor]:
        return self.encoder(_channels_last(torch.cat([image, mask], 1)))

    def complete(self, features: list[Tensor], noise: list[Tensor], temperature: float = 1.0) -> Tensor:
        """A draw from the prior: float32 [n, 1, h, w]. features: of `encode`; noise: standard normal, one tensor a
        latent (`noise_shapes`); temperature multiplies sigma."""
        state = features[-1]
        for number in range(len(features) - 1):
            if number < self.shape.latents:
                mean, sigma = self.heads[number](state)
                state = torch.cat([state, (mean + temperature * sigma * noise[number]).to(state.dtype)], 1)
            state = self.decoder(number, state, features[-2 - number])
        return self.last(state).float().sigmoid()

    def reconstruct(self, features: list[Tensor], complete: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A draw from the posterior, and the KL of every element of each latent, the deepest first."""
        if not self.shape.latents:
            return self.complete(features, []), []
        seen = self.posterior_encoder(_channels_last(torch.cat([complete, mask], 1)))
        state, other, kls = features[-1], seen[-1], []
        for number in range(len(features) - 1):
            if number < self.shape.latents:
                mean, sigma = self.heads[number](state)
                delta_mean, delta_sigma = self.posterior_heads[number](torch.cat([state, other], 1))
                kls.append(residual_kl(delta_mean, delta_sigma, sigma))
                sample = mean + delta_mean + sigma * delta_sigma * torch.randn_like(sigma)
                state = torch.cat([state, sample.to(state.dtype)], 1)
                if number + 1 < self.shape.latents:
                    other = torch.cat([other, sample.to(other.dtype)], 1)
                    other = self.posterior_decoder(number, other, seen[-2 - number])
            state = self.decoder(number, state, features[-2 - number])
        return self.last(state).float().sigmoid(), kls

    def forward(self, truth: Tensor, hole: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """For training: two draws from the prior, one from the posterior, and the KLs; without latents one and the
        same image, once."""
        features = self.encode(truth * (1 - hole), hole)
        rebuilt, kls = self.reconstruct(features, truth, hole)
        if not kls:
            return [rebuilt], rebuilt, kls
        shapes = self.noise_shapes(*truth.shape[-2:])
        noises = [[torch.randn((len(truth), *shape), device=truth.device) for shape in shapes] for _ in range(2)]
        return [self.complete(features, noise) for noise in noises], rebuilt, kls

    def noise_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Of one image's noise, the deepest latent first: (channels, h, w)."""
        factor, shapes = self.factor, []
        for dilation in tuple(reversed(self.shape.dilations))[1 : 1 + self.shape.latents]:
            shapes.append((LATENT_CHANNELS, height // factor, width // factor))
            factor //= 2 if dilation == 1 else 1
        return shapes


def _channels_last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)


def to_state(network: HierarchicalInpainter) -> dict[str, Tensor]:
    """What filling needs: the weights without the posterior, and the network's shape."""
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("posterior_")}
    shape = asdict(network.shape)
    return {**state, **{f"shape.{k}": torch.tensor(v, dtype=torch.int64) for k, v in shape.items()}}


def from_state(state: dict[str, Tensor]) -> HierarchicalInpainter:
    """The network of `to_state`, float32, for `encode` and `complete`."""
    stored = {k[6:]: v.tolist() for k, v in state.items() if k.startswith("shape.")}
    shape: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    network = HierarchicalInpainter(Shape(**shape))
    weights = {k: v.float() if v.is_floating_point() else v for k, v in state.items() if not k.startswith("shape.")}
    missing, unknown = network.load_state_dict(weights, strict=False)
    if unknown or any(not name.startswith("posterior_") for name in missing):
        raise ValueError("these are no weights of the hierarchical inpainter")
    return network.eval()
