"""The 3D U-Net of Shi et al. 2021 (frequency-supervised MR-to-CT), at any width, and its encoder."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pooling = Literal["max", "average"]
SLOPE = 0.2  # of LeakyReLU
PAPER_WIDEST = 256  # channels of the deepest level; fewer make the weights smaller, hardly the time


class InstanceNorm(nn.Module):
    """Instance normalisation: each channel of each sample to its own mean and spread; 2D or 3D.

    Batch normalisation of one sample is the same thing, and on a CPU with channels last several times faster, backwards
    above all, than PyTorch's instance or group normalisation. single: gives float32 whatever comes in, for the last one
    before a linear layer in float32.
    """

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = True, single: bool = False) -> None:
        super().__init__()
        self.eps, self.single = eps, single
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, features: Tensor) -> Tensor:
        if len(features) > 1:
            return torch.cat([self(sample) for sample in features.split(1)])
        features = features.float() if self.single else features
        return F.batch_norm(features, None, None, self.weight, self.bias, True, eps=self.eps)


class FewOutputs(nn.Conv3d):
    """The linear 3x3x3 convolution that ends a network, in float32 whatever comes in: half precision would round what
    it gives.

    Its three planes go side by side as channels, and their results are shifted and added: PyTorch's kernels make 16
    channels also where one is asked for, so this takes 0.4 of the time.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            planes = self.weight.permute(2, 0, 1, 3, 4).flatten(0, 1).unsqueeze(2)
            found = F.pad(F.conv3d(input.float(), planes, padding=(0, 1, 1)), (0, 0, 0, 0, 1, 1))
        below, here, above = found.chunk(3, dim=1)
        assert self.bias is not None
        return below[:, :, :-2] + here[:, :, 1:-1] + above[:, :, 2:] + self.bias.view(-1, 1, 1, 1)


def conv_norm(
    channels_in: int, channels_out: int, kernel: int | tuple[int, int, int] = 3, single: bool = False
) -> nn.Sequential:
    """Convolution that keeps the size, instance normalisation, LeakyReLU(0.2). The convolution has no bias, which the
    normalisation would take off again."""
    convolution = nn.Conv3d(channels_in, channels_out, kernel, padding="same", bias=False)
    return _normalised(convolution, channels_out, single)


def _up(channels: int) -> nn.Sequential:
    return _normalised(nn.ConvTranspose3d(channels, channels, 4, stride=2, padding=1, bias=False), channels)


def _normalised(convolution: nn.Module, channels: int, single: bool = False) -> nn.Sequential:
    return nn.Sequential(convolution, InstanceNorm(channels, single=single), nn.LeakyReLU(SLOPE, inplace=True))


def _two_convs(channels_in: int, channels_out: int, single: bool = False) -> nn.Sequential:
    return nn.Sequential(conv_norm(channels_in, channels_out), conv_norm(channels_out, channels_out, single=single))


class Encoder3d(nn.Module):
    """Two 3x3x3 convolutions a level, twice the channels after each of `pools` poolings, up to `widest`.

    forward: float [batch, channels_in, z, y, x], sizes multiples of 2**pools, to the features of every level, the
    finest first.
    """

    def __init__(
        self, channels_in: int, width: int, pools: int = 3, pooling: Pooling = "max", widest: int = PAPER_WIDEST
    ) -> None:
        super().__init__()
        self.widths = [min(width * 2**level, widest) for level in range(pools + 1)]
        self.blocks = nn.ModuleList(
            _two_convs(a, b) for a, b in zip([channels_in, *self.widths], self.widths, strict=False)
        )
        self.pool = nn.MaxPool3d(2) if pooling == "max" else nn.AvgPool3d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for level, block in enumerate(self.blocks):
            found.append(block(self.pool(found[-1]) if level else image))
        return found


class UNet3d(nn.Module):
    """Encoder, 4x4x4 transposed convolutions of stride 2 back up, skip connections, a linear 3x3x3 convolution last.

    forward: float [batch, channels_in, z, y, x], sizes multiples of 2**pools, to [batch, channels_out, z, y, x];
    `features` gives what the last layer sees, float32 [batch, width, z, y, x]. The paper's width is 32, its pools 3.
    In memory format channels_last_3d a CPU runs it several times faster.
    """

    def __init__(
        self,
        channels_in: int = 1,
        channels_out: int = 1,
        width: int = 32,
        pools: int = 3,
        pooling: Pooling = "max",
        widest: int = PAPER_WIDEST,
    ) -> None:
        super().__init__()
        self.encoder = Encoder3d(channels_in, width, pools, pooling, widest)
        rising = self.encoder.widths[::-1]
        self.up = nn.ModuleList(_up(w) for w in rising[:-1])
        self.merge = nn.ModuleList(
            _two_convs(w + skip, skip, single=skip == width) for w, skip in zip(rising, rising[1:], strict=False)
        )
        self.head = FewOutputs(width, channels_out)

    def features(self, image: Tensor) -> Tensor:
        *skips, features = self.encoder(image)
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat([up(features), skips.pop()], dim=1))
        return features

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))
