"""The diffusion U-Net and its encoder half, as Wolleb et al. (MIDL 2022, MICCAI 2022, arXiv 2204.02641) use them.

The layouts are those of Nichol and Dhariwal (ICML 2021) and Dhariwal and Nichol (NeurIPS 2021). MONAI's
DiffusionModelUNet is another one (linear query, key and value with a projection of their own, no attention pooling), so
it cannot have the papers' parameter counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """width: channels of the first level; multipliers: of each level; blocks: residual blocks a level (one more on the
    way up); attention: the down-sampling factors at which levels attend; head_channels: None is one head; classes: of
    the label embedding, 0 for none; patch: pixels that are folded into channels on the way in and unfolded on the way
    out, which makes a small network fast; scale_shift, block_resampling: of the classifier's blocks; predicts: what the
    outputs mean, 'noise' or 'chance' (the logit that a pixel of a mask is 1, but for what a noisy mask says there)."""

    channels_in: int
    channels_out: int
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    groups: int = 32
    head_channels: int | None = None
    classes: int = 0
    patch: int = 1
    scale_shift: bool = False
    block_resampling: bool = False
    predicts: str = "noise"

    @property
    def block(self) -> int:
        """Height and width of an image must be multiples of it."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        fields = json.loads(text)
        return cls(**{**fields, "multipliers": tuple(fields["multipliers"]), "attention": tuple(fields["attention"])})


def sinusoids(t: Tensor, width: int) -> Tensor:
    """[n] time steps to [n, width]: cosines, then sines, of frequencies from 1 to 1/10000."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class GroupNorm(nn.GroupNorm):
    """Always in float32: with channels last, PyTorch's backward in bfloat16 takes a CPU five times as long."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def _zero(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResBlock(nn.Module):
    """forward: (n, channels_in, h, w) and embedding (n, 4 width) to (n, channels_out, h, w), or half of h and w."""

    def __init__(self, channels_in: int, channels_out: int, layout: Layout, down: bool = False) -> None:
        super().__init__()
        self.down, self.scale_shift = down, layout.scale_shift
        self.norm_in = GroupNorm(layout.groups, channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.embed = nn.Linear(4 * layout.width, channels_out * (2 if layout.scale_shift else 1))
        self.norm_out = GroupNorm(layout.groups, channels_out)
        self.conv_out = _zero(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.norm_in(x))
        if self.down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h, shift = self.conv_in(h), self.embed(F.silu(embedding))[:, :, None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = self.norm_out(h) * (1 + scale) + shift
        else:
            h = self.norm_out(h + shift)
        return self.skip(x) + self.conv_out(F.silu(h))


def _attend(qkv: Tensor, heads: int) -> Tensor:
    """[n, 3 c, tokens] to [n, c, tokens], scaled by 1/sqrt(channels of a head)."""
    n, _, tokens = qkv.shape
    q, k, v = qkv.view(n, 3, heads, -1, tokens).transpose(-1, -2).unbind(1)
    return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, -1, tokens)


class Attention(nn.Module):
    """Every pixel looks at every pixel; (n, c, h, w) to the same."""

    def __init__(self, channels: int, layout: Layout) -> None:
        super().__init__()
        self.heads = 1 if layout.head_channels is None else channels // layout.head_channels
        self.norm = GroupNorm(layout.groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.out(_attend(self.qkv(self.norm(x).flatten(2)), self.heads))
        return x + h.view_as(x)


class _Level(nn.Module):
    """A residual block and what follows it."""

    def __init__(self, block: ResBlock, attention: Attention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x)


class _Down(nn.Module):
    """Convolution of stride 2; takes the embedding only to look like a block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, _embedding: Tensor) -> Tensor:
        return self.conv(x)


class _Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Encoder(nn.Module):
    """Time embedding, the way down and the middle: what the U-Net and the classifier share."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout, width = layout, layout.width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.label = nn.Embedding(layout.classes, 4 * width) if layout.classes else None
        self.first = nn.Conv2d(layout.channels_in * layout.patch**2, width, 3, padding=1)
        self.down = nn.ModuleList()
        self.skips, channels, factor = [width], width, 1  # skips: channels of every kept feature map
        for level, multiplier in enumerate(layout.multipliers):
            for _ in range(layout.blocks):
                block = ResBlock(channels, multiplier * width, layout)
                channels = multiplier * width
                self.down.append(_Level(block, Attention(channels, layout) if factor in layout.attention else None))
                self.skips.append(channels)
            if level + 1 < len(layout.multipliers):
                self.down.append(
                    ResBlock(channels, channels, layout, down=True) if layout.block_resampling else _Down(channels)
                )
                self.skips.append(channels)
                factor *= 2
        self.channels, self.factor = channels, factor
        self.middle = nn.ModuleList(
            [ResBlock(channels, channels, layout), Attention(channels, layout), ResBlock(channels, channels, layout)]
        )

    def embed(self, t: Tensor, label: Tensor | None) -> Tensor:
        embedding = self.time(sinusoids(t, self.layout.width))
        if self.label is not None:
            if label is None:
                raise ValueError("this network needs a label for every image")
            embedding = embedding + self.label(label)
        return embedding

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The middle's features and what the way up is given back, the finest first."""
        h = self.first(F.pixel_unshuffle(x, self.layout.patch))
        kept = [h]
        for part in self.down:
            h = part(h, embedding)
            kept.append(h)
        first, attention, last = self.middle
        return last(attention(first(h, embedding)), embedding), kept


class DiffusionUNet(Encoder):
    """Predicts the noise (and, with twice the channels, the variance between its bounds) of a noisy image.

    forward: x (n, channels_in, h, w), t (n,) time steps, label (n,) int64 or None -> (n, channels_out, h, w). h and w
    are multiples of `layout.block`. With 4 channels in, 8 out and 2 classes it has 113,681,160 parameters.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        width, skips, channels, factor = layout.width, list(self.skips), self.channels, self.factor
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(layout.multipliers))):
            for number in range(layout.blocks + 1):
                block = ResBlock(channels + skips.pop(), multiplier * width, layout)
                channels = multiplier * width
                self.up.append(_Level(block, Attention(channels, layout) if factor in layout.attention else None))
                if level and number == layout.blocks:
                    self.up.append(_Up(channels))
                    factor //= 2
        self.norm = GroupNorm(layout.groups, channels)
        last = nn.Conv2d(channels, layout.channels_out * layout.patch**2, 3, padding=1)
        self.last = _zero(last)
        if layout.predicts == "chance":  # few pixels of a mask are 1
            assert last.bias is not None
            nn.init.constant_(last.bias, -4.0)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        embedding = self.embed(t, label)
        h, kept = self.encode(x, embedding)
        for part in self.up:
            h = part(h) if isinstance(part, _Up) else part(torch.cat([h, kept.pop()], dim=1), embedding)
        return F.pixel_shuffle(self.last(F.silu(self.norm(h))), self.layout.patch)


class EncoderClassifier(Encoder):
    """The encoder half with attention pooling: logits or a value of a noisy image.

    forward: x (n, channels_in, side, side), t (n,) -> (n, channels_out). The pooling has a learned position for every
    pixel of the deepest level, so `side` (pixels) is fixed.
    """

    def __init__(self, layout: Layout, side: int) -> None:
        super().__init__(layout)
        self.side = side
        tokens = (side // layout.block) ** 2 + 1
        self.heads = 1 if layout.head_channels is None else self.channels // layout.head_channels
        self.norm = GroupNorm(layout.groups, self.channels)
        self.position = nn.Parameter(torch.randn(self.channels, tokens) / math.sqrt(self.channels))
        self.qkv = nn.Conv1d(self.channels, 3 * self.channels, 1)
        self.last = nn.Conv1d(self.channels, layout.channels_out, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h, _ = self.encode(x, self.embed(t, None))
        tokens = F.silu(self.norm(h)).flatten(2)
        tokens = torch.cat([tokens.mean(dim=-1, keepdim=True), tokens], dim=-1) + self.position
        return self.last(_attend(self.qkv(tokens), self.heads))[..., 0]


class LocalClassifier(Encoder):
    """Healthy or diseased, from evidence that each place gives by itself: P(healthy) is the chance that no place is
    diseased, the product of (1 - p) over the places (noisy-or). So what pulls toward 'healthy' is local, which a
    network of few training steps with attention pooling does not learn.

    forward: x (n, channels_in, h, w), t (n,) -> logits (n, 2), healthy first.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        del self.middle  # its attention would mix all places
        self.norm = GroupNorm(layout.groups, self.channels)
        self.last = nn.Conv2d(self.channels, 1, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.constant_(self.last.bias, -7.0)

    def evidence(self, x: Tensor, t: Tensor) -> Tensor:
        """(n, 1, h / block, w / block): the logit that a place is diseased."""
        embedding = self.embed(t, None)
        h = self.first(F.pixel_unshuffle(x, self.layout.patch))
        for part in self.down:
            h = part(h, embedding)
        return self.last(F.silu(self.norm(h)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        # S = -log P(healthy); the log odds of 'diseased' are log(exp(S) - 1)
        s = F.softplus(self.evidence(x, t).float()).flatten(1).sum(1)
        odds = s + torch.log(-torch.expm1(-s).clamp(max=-1e-12))
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


# ------------------------------------------------------------------------------------------------ the papers' networks


def paper_unet(channels_in: int, channels_out: int, classes: int = 0) -> Layout:
    """At 256 x 256: 113,681,160 parameters with 4, 8 and 2; 113,674,370 with 5, 2 and no classes."""
    return Layout(channels_in, channels_out, classes=classes)


def faces_unet() -> Layout:
    """At 128 x 128, attention at 16 x 16: 85,606,150 parameters."""
    return Layout(3, 6, multipliers=(1, 1, 2, 3, 4), attention=(8,))


def paper_classifier(outputs: int, channels_in: int = 4, width: int = 32, side: int = 256) -> Layout:
    """At 256 x 256 with 2 outputs 5,452,962 parameters, with 1 output 5,452,833; at 128 x 128, width 128, 3 channels in
    and 1 output 67,061,121. Attention at 32, 16 and 8 pixels."""
    multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4) if side == 256 else (1, 1, 2, 3, 4)
    attention: Iterable[int] = (side // pixels for pixels in (32, 16, 8))
    return Layout(
        channels_in,
        outputs,
        width,
        tuple(multipliers),
        blocks=4,
        attention=tuple(attention),
        head_channels=64,
        scale_shift=True,
        block_resampling=True,
    )
