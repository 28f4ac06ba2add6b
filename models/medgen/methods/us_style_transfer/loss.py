"""What the network is trained with: style (Gram) and perceptual distances of VGG features, and the KL divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medgen.methods.us_style_transfer.net import Posterior
from medgen.nets.vgg import VGGFeatures, gram


def kl_to_normal(posterior: Sequence[Posterior], as_printed: bool = False) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + sigma^2 - log sigma^2 - 1) / 2, averaged over the elements of a scale and
    summed over scales. as_printed: the paper's equation 6, which divides mu^2 by sigma^2 and is no such divergence."""
    total = torch.zeros((), device=posterior[0].mu.device)
    for q in posterior:
        mu, variance = q.mu.float(), q.sigma.float().square()
        pull = mu.square() / variance if as_printed else mu.square()
        total = total + 0.5 * (pull + variance - variance.log() - 1).mean()
    return total


class Distances:
    """Style and content distances by VGG features.

    Both are in units of what two pictures of the pool differ by on average, layer by layer, so that they mean the same
    with any trunk: 0 for equal, about 1 for two unrelated pictures. (The paper's own weights of the layers, 0.1, 0.002,
    0.001, 0.01, 10 and 0.01 for content, fit its trunk alone.)
    """

    def __init__(self, vgg: VGGFeatures, pool: Tensor) -> None:
        """pool: float [n, 1, h, w], n even: pictures whose differences are the unit."""
        self.vgg = vgg
        with torch.no_grad():
            features = [f.float() for f in vgg(pool)]
            others = [f.roll(1, 0) for f in features]
            self.style_units = [float(_norm(gram(a) - gram(b)).mean()) for a, b in zip(features, others, strict=True)]
            structures = [(_structure(a), _structure(b)) for a, b in zip(features, others, strict=True)]
            self.content_units = [float(_norm(a - b).mean()) for a, b in structures]

    def features(self, images: Tensor) -> list[Tensor]:
        return self.vgg(images)

    def style(self, features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Mean over the five layers of the norm of the Gram difference in its unit. features: of the pictures; wanted:
        Gram matrices. Returns [n]."""
        parts = [_norm(gram(f) - g) / unit for f, g, unit in zip(features, wanted, self.style_units, strict=True)]
        return torch.stack(parts).mean(0)

    def content(self, features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Mean over block 2 to 5 of the norm of the difference in structure in its unit, [n]. features: of the
        pictures; wanted: of the content images."""
        both = zip(features[1:], wanted[1:], self.content_units[1:], strict=True)
        return torch.stack([_norm(_structure(f) - _structure(w)) / unit for f, w, unit in both]).mean(0)


def _structure(features: Tensor) -> Tensor:
    """Where each feature is more or less than on average, of root mean square 1: free of brightness and contrast, which
    belong to the style. [n, c, h, w]."""
    away = features.float() - features.float().mean((2, 3), keepdim=True)
    return away / _norm(away).view(-1, 1, 1, 1)


def _norm(difference: Tensor) -> Tensor:
    """Of each sample, root mean square; as the paper prints its distances (its code squares them, which leaves little
    gradient to dark pictures)."""
    return difference.flatten(1).square().mean(1).add(1e-12).sqrt()
