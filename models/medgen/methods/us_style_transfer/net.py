"""The network of Hung and Galeotti 2021: content encoder, variational style encoder, decoder, AdaIN at every scale.

A style is, for every scale, the mean and the standard deviation that AdaIN gives each feature: all that the decoder
learns of the style image. Images: float [n, 1, h, w], 0 to 1, h and w multiples of 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (8, 16, 32, 64, 96)
PAPER_WIDTHS = (64, 128, 256, 512, 1024)
EPSILON = 1e-5
Kind = Literal["variational", "no_latents", "adain"]
Position = Literal["skip", "post"]
KINDS: tuple[Kind, ...] = ("variational", "no_latents", "adain")
POSITIONS: tuple[Position, ...] = ("skip", "post")


@dataclass(frozen=True)
class Architecture:
    """kind: 'variational' (the paper), 'no_latents' (the same network, nothing drawn), 'adain' (Huang and Belongie
    2017: one encoder for content and style, its features' moments swapped); position: of AdaIN, on the skip
    connections (as printed) or after every block of the decoder (as released)."""

    widths: tuple[int, ...] = WIDTHS
    kind: Kind = "variational"
    position: Position = "skip"


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of every channel at one scale, [n, c, 1, 1]."""

    mean: Tensor
    std: Tensor


Style = list[Moments]


@dataclass(frozen=True)
class Posterior:
    """q(z | style image) at one scale, [n, c, h, w]: mu in (-1, 1), sigma in (0, 1)."""

    mu: Tensor
    sigma: Tensor


def moments(features: Tensor, inside: Tensor | None = None) -> Moments:
    """Over the positions where `inside` ([n, 1, h, w], 0 to 1; None: everywhere) counts them; 1e-5 is added to std."""
    values = features.float()
    if inside is None:
        mean = values.mean((2, 3), keepdim=True)
        return Moments(mean, values.var((2, 3), keepdim=True, unbiased=False).add(1e-12).sqrt() + EPSILON)
    weight = F.adaptive_avg_pool2d(inside, (features.shape[2], features.shape[3])).float()
    weight = weight / weight.sum((2, 3), keepdim=True).clamp(min=EPSILON)
    mean = (values * weight).sum((2, 3), keepdim=True)
    variance = ((values - mean).square() * weight).sum((2, 3), keepdim=True)
    return Moments(mean, variance.add(1e-12).sqrt() + EPSILON)


def adain(features: Tensor, style: Moments, inside: Tensor | None = None, strength: float = 1.0) -> Tensor:
    """Equation 2: features with the mean and standard deviation of the style; strength mixes with the features as they
    were."""
    own = moments(features, inside)
    changed = style.std * (features.float() - own.mean) / own.std + style.mean
    return (strength * changed + (1 - strength) * features.float()).to(features.dtype)


def mix(first: Style, second: Style, share: float) -> Style:
    """A style between two: 0 the first, 1 the second."""
    return [Moments(a.mean.lerp(b.mean, share), a.std.lerp(b.std, share)) for a, b in zip(first, second, strict=True)]


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU(inplace=True)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Five blocks with pooling between them; gives every block's output."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(a, b) for a, b in zip((1, *widths), widths, strict=False))

    def forward(self, images: Tensor) -> list[Tensor]:
        features, found = images, []
        for number, block in enumerate(self.blocks):
            features = block(F.max_pool2d(features, 2) if number else features)
            found.append(features)
        return found


class StyleEncoder(nn.Module):
    """An encoder whose features become a Gaussian per position and channel; what is drawn from it goes through one more
    block and gives the style feature."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = Encoder(widths)
        self.heads = nn.ModuleList(nn.Conv2d(w, 2 * w, 1) for w in widths)
        self.after = nn.ModuleList(_block(w, w) for w in widths)

    def posterior(self, images: Tensor) -> list[Posterior]:
        found = []
        for head, features in zip(self.heads, self.trunk(images), strict=True):
            mu, sigma = head(features).chunk(2, dim=1)
            found.append(Posterior(mu.tanh(), sigma.sigmoid()))
        return found

    def features(self, latents: list[Tensor]) -> list[Tensor]:
        return [after(z) for after, z in zip(self.after, latents, strict=True)]


class Decoder(nn.Module):
    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        deep = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        # 2x2 convolutions: padded by one pixel to the right and below, so that sizes stay
        self.up = nn.ModuleList(nn.Conv2d(a, b, 2) for a, b in deep)
        self.merge = nn.ModuleList(_block(2 * b, b) for _, b in deep)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(
        self, features: list[Tensor], after: list[Moments] | None, inside: Tensor | None, strength: float
    ) -> Tensor:
        """after: what AdaIN gives each block's output, deepest first (position 'post')."""
        values = features[-1]
        for number, (up, merge) in enumerate(zip(self.up, self.merge, strict=True)):
            values = F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
            values = F.silu(up(F.pad(values, (0, 1, 0, 1), mode="replicate")))
            values = merge(torch.cat([values, features[-2 - number]], dim=1))
            if after is not None:
                values = adain(values, after[number], inside, strength)
        return self.head(values).float().sigmoid()


class StyleTransfer(nn.Module):
    """`architecture` travels with the weights (`arch` is saved with them)."""

    arch: Tensor

    def __init__(self, architecture: Architecture = Architecture()) -> None:
        super().__init__()
        self.architecture = architecture
        widths = architecture.widths
        self.content = Encoder(widths)
        self.style = None if architecture.kind == "adain" else StyleEncoder(widths)
        self.decoder = Decoder(widths)
        numbers = [KINDS.index(architecture.kind), POSITIONS.index(architecture.position), *widths]
        self.register_buffer("arch", torch.tensor(numbers, dtype=torch.int64))

    # ---------------------------------------------------------------------------------------------------------- styles

    def posterior(self, images: Tensor) -> list[Posterior]:
        assert self.style is not None
        return self.style.posterior(images)

    def style_of_latents(self, latents: list[Tensor], inside: Tensor | None = None) -> Style:
        assert self.style is not None
        return [moments(f, inside) for f in self.style.features(latents)]

    def style_of(self, images: Tensor, inside: Tensor | None = None) -> Style:
        """Without drawing: the means of the posterior."""
        if self.style is None:
            return [moments(f, inside) for f in self.content(images)]
        return self.style_of_latents([q.mu for q in self.posterior(images)], inside)

    # --------------------------------------------------------------------------------------------------------- picture

    def forward(self, images: Tensor, style: Style, inside: Tensor | None = None, strength: float = 1.0) -> Tensor:
        """The images in that style, [n, 1, h, w], 0 to 1. inside: where the picture is, [n, 1, h, w]; what lies outside
        does not count in the content's moments."""
        features = self.content(images)
        if self.architecture.position == "post":
            deepest = adain(features[-1], style[-1], inside, strength)
            return self.decoder([*features[:-1], deepest], style[-2::-1], inside, strength)
        changed = [adain(f, s, inside, strength) for f, s in zip(features, style, strict=True)]
        return self.decoder(changed, None, None, 1.0)


def network_from_state(state: dict[str, Tensor]) -> StyleTransfer:
    """The network whose weights these are, in evaluation mode, float32."""
    kind, position, *widths = state["arch"].tolist()
    network = StyleTransfer(Architecture(tuple(widths), KINDS[kind], POSITIONS[position]))
    own = {name: value for name, value in state.items() if not name.startswith("map.")}
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in own.items()})
    return network.eval()


# -------------------------------------------------------------------------------------------------------------- drawing


def draw(posterior: list[Posterior], generator: torch.Generator, temperature: float = 1.0) -> list[Tensor]:
    """z = mu + temperature sigma eps, eps independent at every position (the paper's reparametrisation)."""
    return [
        q.mu + temperature * q.sigma * torch.randn(q.mu.shape, generator=generator).to(q.mu.device) for q in posterior
    ]


def prior_latents(
    widths: tuple[int, ...], size: tuple[int, int], generator: torch.Generator, shared: float, temperature: float = 1.0
) -> list[Tensor]:
    """z ~ N(0, temperature^2) for one image of `size` (height, width), [1, c, h, w] a scale.

    shared: share of the variance that one number a channel, the same at every position, has; the rest is independent
    noise. AdaIN keeps only moments over positions: independent noise averages out of the mean (shared = 0: nearly one
    style for every draw), and numbers that are the same everywhere have no standard deviation (shared = 1: the
    content's structure is scaled away).
    """
    found = []
    for number, width in enumerate(widths):
        here = (1, width, size[0] // 2**number, size[1] // 2**number)
        common, own = torch.randn((1, width, 1, 1), generator=generator), torch.randn(here, generator=generator)
        found.append(temperature * (shared**0.5 * common + (1 - shared) ** 0.5 * own))
    return found
