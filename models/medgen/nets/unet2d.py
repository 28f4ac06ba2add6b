"""The 2D U-Net of Laprade et al. 2021 (multi-planar U-Net), at any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv_norm(channels_in: int, channels_out: int, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding="same")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


def _two_convs(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(_conv_norm(channels_in, channels_out), _conv_norm(channels_out, channels_out))


class UNet2d(nn.Module):
    """Four (or `pools`) max-pools, two 3x3 convolutions a level, batch normalisation after every convolution, nearest
    up-sampling followed by a 2x2 convolution, skip connections, a final 1x1 convolution.

    forward: (batch, 1, height, width) float -> (batch, classes, height, width) logits; height and width are multiples
    of 2**pools. With width=64, pools=4 and classes=1 it has the paper's 31,044,289 trainable parameters.
    """

    def __init__(self, classes: int = 1, width: int = 64, pools: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(pools + 1)]
        self.pools = pools
        self.down = nn.ModuleList(_two_convs(a, b) for a, b in zip([1, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), _conv_norm(2 * w, w, kernel=2))
            for w in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(_two_convs(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        skips: list[Tensor] = []
        features = image
        for level, block in enumerate(self.down):
            features = block(self.pool(features) if level else features)
            skips.append(features)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat([skips.pop(), up(features)], dim=1))
        return self.head(features)


def unet_from_state(state: dict[str, Tensor]) -> UNet2d:
    """The network whose weights these are: width, depth and classes follow from their shapes. float32."""
    width = state["down.0.0.0.weight"].shape[0]
    pools = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("up."))
    network = UNet2d(state["head.weight"].shape[0], width, pools)
    network.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    )
    return network
