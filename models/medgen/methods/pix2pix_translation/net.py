"""pix2pix's U-Net generator and PatchGAN discriminator (Isola et al., CVPR 2017), of any depth and width."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels)


class UNetGenerator(nn.Module):
    """4x4 convolutions of stride 2 down, mirrored 4x4 transposed ones up, a skip at every level, tanh.

    Channels double from `width` to 8 `width` and stay; `levels` 9 and `width` 64 is the paper's unet_512. Instance
    normalisation but in the first and the innermost convolution; LeakyReLU 0.2 down, ReLU up. dropout: chance, in the
    inner decoder blocks of 8 `width` channels; it is off in eval mode.

    forward: float (batch, channels_in, h, w), h and w multiples of 2**levels -> (batch, channels_out, h, w) in [-1, 1].
    """

    def __init__(
        self, channels_in: int = 1, channels_out: int = 1, levels: int = 9, width: int = 64, dropout: float = 0.5
    ) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(levels)]
        self.levels, self.width = levels, width
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (before, after) in enumerate(zip([channels_in, *widths], widths, strict=False)):
            parts: list[nn.Module] = [nn.LeakyReLU(0.2)] if level else []
            parts.append(nn.Conv2d(before, after, 4, 2, 1))
            if 0 < level < levels - 1:
                parts.append(_norm(after))
            self.down.append(nn.Sequential(*parts))
        for level in reversed(range(levels)):
            before = widths[level] * (1 if level == levels - 1 else 2)  # beside the skip, but for the innermost
            after = widths[level - 1] if level else channels_out
            parts = [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
            parts += [_norm(after)] if level else [nn.Tanh()]
            if dropout and 4 <= level < levels - 1:  # the blocks of 8 width channels within the innermost one
                parts.append(nn.Dropout(dropout))
            self.up.append(nn.Sequential(*parts))

    def forward(self, image: Tensor) -> Tensor:
        skips: list[Tensor] = []
        features = image
        for block in self.down:
            features = block(features)
            skips.append(features)
        features = self.up[0](skips.pop())
        for block in self.up[1:]:
            features = block(torch.cat([skips.pop(), features], dim=1))
        return features


def generator_from_state(state: dict[str, Tensor]) -> UNetGenerator:
    """The generator whose weights these are; depth, width and channels follow from their shapes. float32."""
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("down."))
    first, last = state["down.0.0.weight"], state[f"up.{levels - 1}.1.weight"]
    network = UNetGenerator(first.shape[1], last.shape[1], levels, first.shape[0])
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network


class PatchDiscriminator(nn.Module):
    """`layers` 4x4 convolutions of stride 2 and two of stride 1: a map of logits, each of a patch of the image.

    The side of that patch, in pixels, is 34, 70, 142, 286 for 2, 3, 4, 5 layers.
    forward: float (batch, channels_in, h, w) -> (batch, 1, h', w').
    """

    def __init__(self, channels_in: int = 1, layers: int = 3, width: int = 64) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(channels_in, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            stride = 2 if level < layers else 1
            parts += [nn.Conv2d(widths[level - 1], widths[level], 4, stride, 1), _norm(widths[level])]
            parts.append(nn.LeakyReLU(0.2))
        parts.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.layers = nn.Sequential(*parts)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def patch_side(discriminator: PatchDiscriminator) -> int:
    """Pixels along the patch that one logit looks at, from kernels and strides."""
    side = 1
    for layer in reversed(list(discriminator.layers)):
        if isinstance(layer, nn.Conv2d):
            side = (side - 1) * int(layer.stride[0]) + int(layer.kernel_size[0])
    return side


def initialise(network: nn.Module) -> nn.Module:
    """pix2pix's: every kernel drawn from N(0, 0.02), biases 0."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
