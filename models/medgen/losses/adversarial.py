"""Adversarial losses on a discriminator's raw scores (logits), any shape: one number a sample or a map of patches.

'vanilla' (Goodfellow et al., NeurIPS 2014, the generator's non-saturating form), 'lsgan' (least squares: Mao et al.,
ICCV 2017), 'relativistic' (average: Jolicoeur-Martineau, ICLR 2019): a = real - mean(fake), b = fake - mean(real),
and the generator wants them exchanged.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Adversarial = Literal["vanilla", "lsgan", "relativistic"]


def discriminator_loss(real: Tensor, fake: Tensor, kind: Adversarial) -> Tensor:
    """Half the sum of the loss on real and on fake scores. `fake` must come from a detached image."""
    return _wanting(*_seen(real, fake, kind), kind) / 2


def generator_loss(real: Tensor | None, fake: Tensor, kind: Adversarial) -> Tensor:
    """What makes the discriminator take `fake` for real. Only 'relativistic' looks at `real` (detached, or not)."""
    if kind == "relativistic":
        assert real is not None
        a, b = _seen(real, fake, kind)
        return _wanting(b, a, kind) / 2
    return _distance(fake, 1.0, kind)


def _seen(real: Tensor, fake: Tensor, kind: Adversarial) -> tuple[Tensor, Tensor]:
    return (real - fake.mean(), fake - real.mean()) if kind == "relativistic" else (real, fake)


def _wanting(as_real: Tensor, as_fake: Tensor, kind: Adversarial) -> Tensor:
    return _distance(as_real, 1.0, kind) + _distance(as_fake, 0.0, kind)


def _distance(scores: Tensor, target: float, kind: Adversarial) -> Tensor:
    wanted = scores.new_full(scores.shape, target)
    if kind == "lsgan":
        return F.mse_loss(scores, wanted)
    return F.binary_cross_entropy_with_logits(scores, wanted)
