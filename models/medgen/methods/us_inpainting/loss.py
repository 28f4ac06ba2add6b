"""What the inpainter is trained with: pyramid reconstruction, style and content of VGG features, KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medgen.methods.us_inpainting.pyramid import gaussian_pyramid, laplacian_pyramid
from medgen.nets.vgg import gram


@dataclass(frozen=True)
class Weights:
    """reconstruction: 100 to 500 in the paper; ratio: of a level's weight to the next coarser one's (r); fade: alpha,
    the weight falls as alpha ** -(pixels to the nearest seen pixel); style: of VGG blocks 1 to 5 (as many as are used);
    content: of the deepest of them; kl: of the mean over a latent's elements (10 in the paper, where the norms of the
    other terms differ; with squared errors that much leaves the posterior nothing to say); mean: of `mean_loss`, which
    the paper does not have."""

    reconstruction: float = 300.0
    ratio: float = 1 / 1.5
    fade: float = 1.1
    style: tuple[float, ...] = (1.0, 1.0, 1.0)
    content: float = 0.1
    kl: float = 0.1
    mean: float = 300.0


def reconstruction_loss(found: Tensor, truth: Tensor, distance: Tensor, weights: Weights) -> Tensor:
    """sum over levels k of r^j mean(alpha^-d_k (I_k - I^_k)^2), j = 0 the coarsest. The paper prints the distance, its
    code has the square. All [n, 1, h, w]; distance: of hole pixels to the nearest seen pixel, 0 outside."""
    differences = laplacian_pyramid(found - truth)
    distances = gaussian_pyramid(distance)
    total = torch.zeros((), device=found.device)
    for coarseness, (difference, away) in enumerate(zip(reversed(differences), reversed(distances), strict=True)):
        total = total + weights.ratio**coarseness * (weights.fade**-away * difference**2).mean()
    return weights.reconstruction * total


def mean_loss(one: Tensor, other: Tensor, truth: Tensor, weights: Weights) -> Tensor:
    """(I^_1 - I)(I^_2 - I) of two independent draws from the prior, averaged: its expectation is the squared error of
    the mean of all draws, without the draws' variance, so that it asks for no blur. [n, 1, h, w]."""
    return weights.mean * ((one - truth) * (other - truth)).mean()


def style_loss(found: Sequence[Tensor], truth: Sequence[Tensor], hole: Tensor, weights: Weights) -> Tensor:
    """sum over blocks of w_j ||G_j - G^_j|| / ||G_j||, the Gram matrices taken over the hole alone (over all of the
    image the seen part would hide the fill), the norms averaged over the images (so that any VGG trunk has one scale).
    Features as VGGFeatures gives them; hole: [n, 1, h, w]."""
    total = torch.zeros((), device=hole.device)
    for one, other, weight in zip(found, truth, weights.style, strict=False):
        here = F.adaptive_avg_pool2d(hole, (one.shape[-2], one.shape[-1])).sqrt()
        target = gram(other.float() * here)
        difference = torch.linalg.matrix_norm(gram(one.float() * here) - target).mean()
        total = total + weight * difference / torch.linalg.matrix_norm(target).mean().clamp(min=1e-12)
    return total


def content_loss(found: Sequence[Tensor], truth: Sequence[Tensor], weights: Weights) -> Tensor:
    """w ||psi - psi^|| / ||psi|| of the deepest block at hand (block 5 in the paper), over all images together."""
    difference = torch.linalg.vector_norm(found[-1].float() - truth[-1].float())
    return weights.content * difference / torch.linalg.vector_norm(truth[-1].float()).clamp(min=1e-12)


def kl_loss(kls: Sequence[Tensor], weights: Weights, free: float = 0.0) -> Tensor:
    """free: nats an element that each latent has for nothing, against a posterior that collapses."""
    return weights.kl * torch.stack([kl.mean().clamp(min=free) for kl in kls]).sum()
