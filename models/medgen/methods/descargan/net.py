"""Generator with a branch for each class, critics for each class and a classifier (Wolleb et al., section 2).

Images are [n, 1, side, side], -1..1. Class 0 is healthy, 1 diseased.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.01  # of batch normalisation


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out, momentum=MOMENTUM),
        nn.ReLU(inplace=True),
    )


def _two_blocks(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(_block(channels_in, channels_out), _block(channels_out, channels_out))


def _up(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), _block(channels_in, channels_out))


class Generator(nn.Module):
    """forward: images and the wanted class, one for all or of each [n] -> images of that class, -1..1. With width 64 it
    has 8,528,262 parameters.

    widest: no level has more channels. one_head: both classes leave by the same last blocks; top_skip: the first level
    is handed over to the last. Both are for comparison: the paper has two heads, and no skip at full resolution, which
    would forbid deformation.
    """

    def __init__(self, width: int = 64, widest: int = 512, *, one_head: bool = False, top_skip: bool = False) -> None:
        super().__init__()
        widths = [min(width * factor, widest) for factor in (1, 2, 4, 8)]
        self.one_head, self.top_skip = one_head, top_skip
        self.down = nn.ModuleList([_two_blocks(a, b) for a, b in zip([3, *widths], widths, strict=False)])
        self.pool = nn.MaxPool2d(2)
        self.up3, self.merge3 = _up(widths[3], widths[2]), _two_blocks(2 * widths[2], widths[2])
        self.up2, self.merge2 = _up(widths[2], widths[1]), _two_blocks(2 * widths[1], widths[1])
        self.up1 = _up(widths[1], width)
        into = 2 * width if top_skip else width
        self.heads = nn.ModuleList(
            nn.Sequential(_block(into, width), nn.Conv2d(width, 1, 3, padding=1), nn.BatchNorm2d(1, momentum=MOMENTUM),
                          nn.Tanh())
            for _ in range(1 if one_head else 2)
        )  # fmt: skip

    def forward(self, image: Tensor, wanted: int | Tensor) -> Tensor:
        classes = torch.as_tensor(wanted, device=image.device).expand(len(image))
        planes = F.one_hot(classes, 2).to(image.dtype)[:, :, None, None].expand(-1, -1, *image.shape[2:])
        h0 = self.down[0](torch.cat([image, planes], dim=1))
        h1 = self.down[1](self.pool(h0))
        h2 = self.down[2](self.pool(h1))
        h = self.down[3](self.pool(h2))
        h = self.merge3(torch.cat([self.up3(h), h2], dim=1))
        h = self.merge2(torch.cat([self.up2(h), h1], dim=1))
        h = self.up1(h)
        if self.top_skip:
            h = torch.cat([h, h0], dim=1)
        if self.one_head:
            return torch.as_tensor(self.heads[0](h))
        parts = [self.heads[c](h[classes == c]) for c in classes.unique().tolist()]
        return torch.cat(parts)[classes.argsort(stable=True).argsort()]

    @torch.no_grad()
    def start_at(self, images: Tensor) -> None:
        """The last normalisations start with the mean and the spread that images [n, 1, h, w] have before the tanh.
        From 0 and 1 they reach a slice's black, -1, only after thousands of updates, and draw grey until then."""
        before = torch.atanh(images.clamp(-0.99, 0.99))
        for head in self.heads:
            norm = head[2]  # type: ignore[index]
            norm.weight.fill_(float(before.std()))
            norm.bias.fill_(float(before.mean()))


def _plain(*channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Discriminator(nn.Module):
    """forward: images -> critic scores [n, 2], one of each class's critic, and class logits [n, 2].

    With width 32 and side 256 it has 18,170,180 parameters. side: a multiple of 64; widest: no layer has more channels.
    """

    def __init__(self, width: int = 32, side: int = 256, widest: int = 512) -> None:
        super().__init__()
        w, w2, w4, w8, top = (min(width * factor, widest) for factor in (1, 2, 4, 8, 16))
        self.trunk = nn.Sequential(
            _plain(1, w), nn.MaxPool2d(2), _plain(w, w2), nn.MaxPool2d(2), _plain(w2, w4, w4),
            nn.MaxPool2d(2), _plain(w4, w8, w8), nn.MaxPool2d(2), _plain(w8, w8, w8),
            nn.MaxPool2d(2), _plain(w8, top),
        )  # fmt: skip
        self.critics = nn.ModuleList(
            nn.Sequential(_plain(top, top, top), nn.Conv2d(top, 1, 1, padding=1)) for _ in range(2)
        )
        self.classifier = nn.Sequential(
            _plain(top, top, top), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(top * (side // 64) ** 2, 64),
            nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Linear(64, 2),
        )  # fmt: skip

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(image)
        scores = torch.stack([critic(h).mean(dim=(1, 2, 3)) for critic in self.critics], dim=1)
        return scores, self.classifier(h)

    def classify(self, image: Tensor) -> Tensor:
        """Class logits [n, 2] alone."""
        found: Tensor = self.classifier(self.trunk(image))
        return found


@dataclass(frozen=True)
class Size:
    generator_width: int = 64
    discriminator_width: int = 32
    side: int = 256
    generator_widest: int = 512
    discriminator_widest: int = 512
    top_skip: bool = False

    def networks(self) -> tuple[Generator, Discriminator]:
        return (
            Generator(self.generator_width, self.generator_widest, top_skip=self.top_skip),
            Discriminator(self.discriminator_width, self.side, self.discriminator_widest),
        )
