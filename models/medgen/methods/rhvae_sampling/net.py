"""The networks of the Riemannian Hamiltonian VAE: encoder, decoder and what gives each image its part of the metric."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 400  # the released code's
LARGEST_FLAT = 64 * 64  # pixels: above it a multilayer perceptron blurs and grows
SMALLEST_SIDE = 4  # pixels: strided convolutions go down to it
WIDTHS = (16, 32, 64, 64, 64)
ROOT_BOUND = 3.0  # of the logarithm on the diagonal of L, and of what is below it: a runaway metric ends in NaN


class Rhvae(nn.Module):
    """Images are (b, *shape) in [0, 1], two or three axes; codes (b, latent).

    Up to 64 x 64 pixels a multilayer perceptron as released with the paper, above it strided convolutions that encoder
    and metric share. `centre`, the mean training image, is taken off first: with thousands of pixels that all images
    share, Adam's first steps throw codes and metric far away.
    """

    centre: Tensor
    places: Tensor

    def __init__(self, centre: Tensor, latent: int) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.latent = latent
        # which value stands where in L, the last one being a zero; no assignment, so that `torch.func.vmap` can pass
        places = torch.full((latent, latent), latent * (latent + 1) // 2)
        places.diagonal().copy_(torch.arange(latent))
        below = torch.tril_indices(latent, latent, -1)
        places[below[0], below[1]] = latent + torch.arange(below.shape[1])
        self.register_buffer("places", places.flatten(), persistent=False)
        shape = tuple(centre.shape)
        if math.prod(shape) <= LARGEST_FLAT:
            self.trunk: nn.Module = nn.Flatten()
            features = math.prod(shape)
            self.decoder: nn.Module = nn.Sequential(
                nn.Linear(latent, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, features), nn.Unflatten(1, shape)
            )
        else:
            self.trunk, size, width = _shrinking(shape)
            features = width * math.prod(size)
            self.decoder = _ConvDecoder(shape, size, latent, width)
        self.encoder = nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * latent))
        self.metric = nn.Sequential(
            nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, latent * (latent + 1) // 2)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means and log-variances (b, latent) of the codes, and lower-triangular roots L (b, latent, latent) of the
        matrices of the metric, positive on the diagonal."""
        with self._quick(images):
            features = self.trunk(images - self.centre)
            codes, values = self.encoder(features).float(), self.metric(features).float()
        mean, log_variance = codes.chunk(2, dim=1)
        values = ROOT_BOUND * torch.tanh(values / ROOT_BOUND)
        entries = torch.cat([values[:, : self.latent].exp(), values[:, self.latent :], values[:, :1] * 0], dim=1)
        return mean, log_variance, entries[:, self.places].unflatten(1, (self.latent, self.latent))

    def decode(self, codes: Tensor) -> Tensor:
        """Logits of the images (b, *shape)."""
        with self._quick(codes):
            return self.decoder(codes).float()

    def _quick(self, values: Tensor) -> torch.autocast:
        """Convolutions in bfloat16: three times faster in 3D on a CPU that knows it."""
        return torch.autocast(values.device.type, torch.bfloat16, enabled=not isinstance(self.trunk, nn.Flatten))

    def negative_log_likelihood(self, images: Tensor, codes: Tensor) -> Tensor:
        """-log p(x|z) of each image (b,), Bernoulli."""
        lost = F.binary_cross_entropy_with_logits(self.decode(codes), images, reduction="none")
        return lost.flatten(1).sum(1)


def _shrinking(shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...], int]:
    """Strided convolutions and a flattening; what is left of the shape, and the channels."""
    convolution = nn.Conv2d if len(shape) == 2 else nn.Conv3d
    layers: list[nn.Module] = [nn.Unflatten(1, (1, shape[0]))]
    size, channels = shape, 1
    for width in WIDTHS:
        if min(size) < 2 * SMALLEST_SIDE and channels > 1:
            break
        layers += [convolution(channels, width, 3, stride=2, padding=1), nn.ReLU()]
        size, channels = tuple(-(-n // 2) for n in size), width
    return nn.Sequential(*layers, nn.Flatten()), size, channels


class _ConvDecoder(nn.Module):
    """The way back: doubles the size with nearest neighbours and convolves; the last doubling spreads 4 or 8 channels
    over neighbouring pixels, since convolutions at the full size would take most of the time. Cut to the shape."""

    def __init__(self, shape: tuple[int, ...], size: tuple[int, ...], latent: int, channels: int) -> None:
        super().__init__()
        self.shape = shape
        convolution = nn.Conv2d if len(shape) == 2 else nn.Conv3d
        layers: list[nn.Module] = [
            nn.Linear(latent, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, channels * math.prod(size)), nn.ReLU(), nn.Unflatten(1, (channels, *size)),
        ]  # fmt: skip
        while any(2 * n < wanted for n, wanted in zip(size, shape, strict=True)):
            width = max(WIDTHS[0], channels // 2)
            layers += [nn.Upsample(scale_factor=2), convolution(channels, width, 3, padding=1), nn.ReLU()]
            size, channels = tuple(2 * n for n in size), width
        self.layers = nn.Sequential(*layers, convolution(channels, 2 ** len(shape), 3, padding=1))

    def forward(self, codes: Tensor) -> Tensor:
        parts = self.layers(codes)
        axes = len(self.shape)
        places = parts.unflatten(1, (2,) * axes)  # b, 2, 2, (2,) *half the size
        order = [axis for n in range(axes) for axis in (1 + axes + n, 1 + n)]
        whole = places.permute(0, *order).reshape(len(codes), *(2 * n for n in parts.shape[2:]))
        return whole[(slice(None), *(slice(n) for n in self.shape))]
