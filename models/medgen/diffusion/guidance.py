"""What pulls the decoding toward a class, a value or a mask: gradients of log p(wanted | x_t), scaled.

`network(x, t)` gives logits or values for a batch; all gradients are with respect to x, image by image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from medgen.diffusion.sampling import Guide

Network = Callable[[Tensor, Tensor], Tensor]


def _gradient(x: Tensor, t: int, objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Of the sum over the batch of objective(x, t): images do not mix, so each gets its own."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        steps = torch.full((len(x),), max(t, 1), device=x.device)
        return torch.autograd.grad(objective(x, steps).sum(), x)[0]


def toward_class(network: Network, wanted: int, scale: float) -> Guide:
    """scale * gradient of log C(wanted | x_t, t) (Wolleb et al., MICCAI 2022, algorithm 1)."""
    return lambda x, t: scale * _gradient(x, t, lambda y, s: F.log_softmax(network(y, s), dim=1)[:, wanted])


def toward_value(network: Network, wanted: float | Tensor, scale: float) -> Guide:
    """scale * (wanted - R) * gradient of R: the pull weakens near the goal and turns round beyond it (Wolleb et al.,
    arXiv 2204.02641, algorithm 1). wanted: one value, or [n], one for each image."""
    return lambda x, t: scale * _gradient(x, t, lambda y, s: -0.5 * (wanted - network(y, s)[:, 0]) ** 2)


def more_or_less(network: Network, sign: float, scale: float) -> Guide:
    """scale * sign * gradient of R: 'more' (+1) or 'less' (-1), with no goal."""
    return lambda x, t: scale * sign * _gradient(x, t, lambda y, s: network(y, s)[:, 0])


def toward_mask(network: Network, wanted: Tensor, scale: float, normalise: bool = False) -> Guide:
    """scale * gradient of the log likelihood of the mask `wanted` (0/1, [n, 1, h, w]), summed over the pixels.

    The paper divides by the number of pixels and prints the opposite sign, which leads away from the mask (its own
    derivation, and a test, show it). normalise: the gradient of every image is brought to root mean square 1 first.
    """

    def guide(x: Tensor, t: int) -> Tensor:
        gradient = _gradient(
            x, t, lambda y, s: -F.binary_cross_entropy_with_logits(network(y, s), wanted, reduction="sum")
        )
        if normalise:
            gradient = gradient / gradient.pow(2).mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
        return scale * gradient

    return guide
