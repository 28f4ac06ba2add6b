"""A style-based generator and its discriminator for volumes, after 3D-StyleGAN (Hong et al., DGM4MICCAI 2021) and
StyleGAN2 (Karras et al., CVPR 2020), written from their equations.

Volumes are float [n, 1, k, j, i] in [-1, 1], levels from 6 x 7 x 5 voxels upwards, twice as many along every axis at
each. Layer 0 is the convolution of the coarsest level, then each level has two; `styles` counts the layers and the one
that makes the image. Weights are N(0, 1) and scaled by 1/sqrt(fan in) in use ("equalised learning rate").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASE = (6, 7, 5)  # voxels along k, j, i
SLOPE, GAIN = 0.2, math.sqrt(2)
MAPPING_RATE = 0.01
GROUP = 4  # of the minibatch's standard deviation
EPS = 1e-8
FAINT = 0.1


@dataclass(frozen=True)
class Architecture:
    """filters: channels of every level, the coarsest first: three levels make 24 x 28 x 20 voxels, five the paper's
    96 x 112 x 80 (with the same number at each), six 192 x 224 x 160; latent: length of z and w; mapping: layers from z
    to w; skips: every level makes a picture and the sum counts, as StyleGAN2 has it and the paper has not: a network of
    one level more begins as good as the one it grows from."""

    filters: tuple[int, ...] = (32, 32, 32)
    latent: int = 32
    mapping: int = 8
    skips: bool = False

    @property
    def levels(self) -> int:
        return len(self.filters)

    @property
    def styles(self) -> int:
        return 2 * self.levels

    def shape(self, level: int | None = None) -> tuple[int, int, int]:
        """Voxels along k, j, i at a level (the last one where None)."""
        factor = 2 ** (self.levels - 1 if level is None else level)
        return BASE[0] * factor, BASE[1] * factor, BASE[2] * factor

    @property
    def noise_shapes(self) -> list[tuple[int, int, int]]:
        """Of every layer's noise map."""
        return [self.shape((layer + 1) // 2) for layer in range(self.styles - 1)]


class EqualLinear(nn.Module):
    """rate: factor on the learning rate, as StyleGAN's mapping network has it."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


def activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE) * GAIN


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """[n, c] or [c] as factors or summands of x [n, c, k, j, i], in its type."""
    return values.reshape(*values.shape, 1, 1, 1).to(x.dtype)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by an affine map of w; `demodulate`: each output channel divided by
    the norm of its scaled weights, so that unit variance stays unit variance.

    The scales are applied to the features, not to the weights, which is the same and lets a batch share one
    convolution. Upsampling before the convolution is by trilinear interpolation: zeros between the voxels and the
    filter [1, 3, 3, 1] / 4 along every axis.
    """

    def __init__(self, inputs: int, outputs: int, latent: int, kernel: int = 3, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel, kernel))
        self.style = EqualLinear(latent, inputs, bias=1.0)
        self.scale, self.demodulate = 1 / math.sqrt(inputs * kernel**3), demodulate

    def forward(self, x: Tensor, w: Tensor, up: bool = False) -> Tensor:
        """x: [n, c, k, j, i] in the type to compute in; w: [n, latent], float32."""
        scales, weight = self.style(w), self.weight * self.scale
        x = x * _channels(scales, x)
        if up:
            x = F.interpolate(x, scale_factor=2, mode="trilinear")
        x = F.conv3d(x, weight.to(x.dtype), padding="same")
        if self.demodulate:
            x = x * _channels(torch.rsqrt(scales.square() @ weight.square().sum((2, 3, 4)).T + EPS), x)
        return x


class StyledConv(nn.Module):
    """Modulated convolution, noise of a learned strength, bias, LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, latent: int) -> None:
        super().__init__()
        self.convolution = ModulatedConv(inputs, outputs, latent)
        self.strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor, up: bool = False) -> Tensor:
        x = self.convolution(x, w, up)
        return activated(x + (self.strength * noise).to(x.dtype) + _channels(self.bias, x))


class Generator(nn.Module):
    """`mapped` takes z to w, `forward` a w for every layer to the volume. `mean_w` is the running mean of w;
    `mean_image`, [1, 1, k, j, i], is added to what is made, 0 but for `begin_with`."""

    mean_w: Tensor
    mean_image: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture, latent = architecture, architecture.latent
        self.mapping = nn.ModuleList(
            EqualLinear(latent, latent, rate=MAPPING_RATE) for _ in range(architecture.mapping)
        )
        filters = architecture.filters
        self.constant = nn.Parameter(torch.randn(1, filters[0], *BASE))
        widths = [width for width in filters for _ in range(2)]  # of what goes in and out of the layers
        self.layers = nn.ModuleList(StyledConv(a, b, latent) for a, b in pairwise(widths))
        self.to_images = nn.ModuleList(
            ModulatedConv(width, 1, latent, kernel=1, demodulate=False)
            for width in (filters if architecture.skips else filters[-1:])
        )
        self.image_bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean_w", torch.zeros(latent))
        self.register_buffer("mean_image", torch.zeros(1, 1, *architecture.shape()))

    def begin_with(self, mean: Tensor) -> None:
        """mean: [k, j, i], the mean picture of a small training: what is learnt is how others differ from it. The last
        level, which has learnt nothing yet, adds next to nothing at first."""
        self.mean_image.copy_(mean)
        with torch.no_grad():
            self.to_images[-1].weight.mul_(FAINT)  # type: ignore[union-attr,operator]

    def mapped(self, z: Tensor) -> Tensor:
        """[n, latent] to [n, latent]."""
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + EPS)
        for layer in self.mapping:
            w = activated(layer(w))
        return w

    def truncated(self, w: Tensor, psi: float) -> Tensor:
        """Drawn towards the mean w: at psi 0 all are the mean."""
        return self.mean_w + psi * (w - self.mean_w)

    def for_layers(self, w: Tensor) -> Tensor:
        """[n, latent] to [n, styles, latent], the same for every layer."""
        return w[:, None].expand(-1, self.architecture.styles, -1)

    def noise(self, count: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """Fresh noise maps of every layer, [count, 1, k, j, i], on the device of the network where `generator` is
        None, else on the generator's."""
        device = self.mean_w.device if generator is None else generator.device
        shapes = self.architecture.noise_shapes
        return [torch.randn(count, 1, *shape, generator=generator, device=device) for shape in shapes]

    def forward(self, w: Tensor, noise: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """w: [n, styles, latent]; noise: of every layer, [n or 1, 1, k, j, i]; dtype: that the features are computed
        in. Float32 [n, 1, k, j, i], about -1 to 1."""
        x = self.constant.expand(len(w), -1, -1, -1, -1).to(dtype).contiguous(memory_format=torch.channels_last_3d)
        image = None
        for number, (layer, values) in enumerate(zip(self.layers, noise, strict=True)):
            x = layer(x, w[:, number], values, up=number % 2 == 1)
            last = number == len(self.layers) - 1
            if number % 2 == 0 and (last or self.architecture.skips):
                # what a coarse level shows goes with the level's own style, the last picture has a style to itself
                style = w[:, number + 1] if last else w[:, number]
                made = self.to_images[number // 2 if self.architecture.skips else 0](x, style).float()
                image = made if image is None else F.interpolate(image, scale_factor=2, mode="trilinear") + made
        assert image is not None
        return image + self.image_bias + self.mean_image


def mixed(first: Tensor, second: Tensor, crossover: int) -> Tensor:
    """Styles [n, styles, latent]: those of `first` below layer `crossover`, of `second` from there on."""
    layer = torch.arange(first.shape[1], device=first.device)[:, None]
    return torch.where(layer < crossover, first, second)


# ------------------------------------------------------------------------------------------------------ discriminator


class EqualConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**3)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv3d(x, (self.weight * self.scale).to(x.dtype), bias, padding="same")


def halved(x: Tensor) -> Tensor:
    """[n, c, k, j, i] filtered by [1, 3, 3, 1] / 8 along every axis, every second voxel kept; 0 outside."""
    for axis in (4, 3, 2):
        pad = [0, 0] * (4 - axis) + [1, 1]
        x = F.pad(x, pad)
        n = x.shape[axis] // 2 - 1

        def every_second(start: int, x: Tensor = x, axis: int = axis, n: int = n) -> Tensor:
            return x[(slice(None),) * axis + (slice(start, start + 2 * n - 1, 2),)]

        x = (every_second(0) + every_second(3)) * 0.125 + (every_second(1) + every_second(2)) * 0.375
    return x


class ResidualDown(nn.Module):
    """Two convolutions to half the size, beside a 1 x 1 x 1 one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = EqualConv(inputs, inputs, 3), EqualConv(inputs, outputs, 3)
        self.skip = EqualConv(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        beside = self.skip(halved(x))
        x = activated(halved(self.second(activated(self.first(x)))))
        return (x + beside) / math.sqrt(2)


def minibatch_deviation(x: Tensor, group: int = GROUP) -> Tensor:
    """x [n, c, ...] with one more channel: the standard deviation over groups of the batch, averaged over the rest."""
    size = math.gcd(group, len(x))
    spread = x.float().unflatten(0, (size, -1)).var(0, correction=0).add(EPS).sqrt().flatten(1).mean(1)
    spread = spread.repeat(size).reshape(-1, 1, 1, 1, 1)
    return torch.cat([x, spread.expand(-1, 1, *x.shape[2:]).to(x.dtype)], 1)


class Discriminator(nn.Module):
    """Residual; blocks are numbered from the coarsest level, so that one of fewer levels is the end of one of more."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        filters = architecture.filters
        self.from_image = EqualConv(1, filters[-1], 1)
        self.blocks = nn.ModuleList(ResidualDown(fine, coarse) for coarse, fine in pairwise(filters))
        self.last = EqualConv(filters[0] + 1, filters[0], 3)
        self.dense = EqualLinear(filters[0] * math.prod(BASE), filters[0])
        self.score = EqualLinear(filters[0], 1)

    def forward(self, image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """[n, 1, k, j, i] to scores [n], float32: above 0 for real."""
        x = image.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        x = activated(self.from_image(x))
        for block in reversed(self.blocks):
            x = block(x)
        x = activated(self.last(minibatch_deviation(x)))
        return self.score(activated(self.dense(x.float().flatten(1))))[:, 0]
