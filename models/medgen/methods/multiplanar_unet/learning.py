"""The masked loss, the augmentation and the short training of a network on cut planes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgen.methods.multiplanar_unet.sampling import CutPlanes
from medgen.nets.unet2d import UNet2d

BATCH = 4


def masked_cross_entropy(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """L = sum_p v_p CE(y_p, s_p) / sum_p v_p (Laprade et al., section 2): only known pixels give loss and gradient.

    logits: [n, c, h, w], c = 1 for one structure (sigmoid), else background and structures (softmax); labels: int64
    [n, h, w]; known: bool [n, h, w].
    """
    if logits.shape[1] == 1:
        losses = F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")
    else:
        losses = F.cross_entropy(logits, labels, reduction="none")
    weight = known.to(losses.dtype)
    return (losses * weight).sum() / weight.sum().clamp(min=1)


def probabilities(logits: Tensor) -> Tensor:
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def augment(images: Tensor, labels: Tensor, known: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One flip for the whole batch, and for each image brightness, contrast, gamma 0.8 to 1.25 and noise of 0.05 IQR
    (which is 1). Turning and scaling happen when the planes are cut: resampling twice would smooth the noise away.

    images: float32 [n, 1, h, w]; labels: int64, known: bool [n, h, w].
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((len(images), 1, 1, 1), generator=generator)

    flips = [axis for axis in (-2, -1) if torch.rand((), generator=generator) < 0.5]
    images, labels, known = images.flip(flips), labels.flip(flips), known.flip(flips)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    span = (high - low).clamp(min=1e-6)
    images = ((images - low) / span) ** uniform(0.8, 1.25) * span + low
    images = images * uniform(0.9, 1.1) + uniform(-0.1, 0.1)
    return images + 0.05 * torch.randn(images.shape, generator=generator), labels, known


def fit(
    network: UNet2d,
    planes: CutPlanes,
    updates: int,
    learning_rate: float,
    generator: torch.Generator,
    device: str = "cpu",
    progress: Callable[[int, float], None] = lambda _update, _loss: None,
    batch: int = BATCH,
) -> list[float]:
    """Trains in place on batches of `batch` planes; returns the loss of every update, leaves the network in eval mode.

    Adam (0.9, 0.999, eps 1e-7), the learning rate falling to a tenth along a cosine. progress: called after every
    update; what it raises ends the training.
    """
    images = torch.from_numpy(planes.images)[:, None]
    labels = torch.from_numpy(planes.labels.astype(np.int64))
    known = torch.from_numpy(planes.known)
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(network.parameters(), learning_rate, betas=(0.9, 0.999), eps=1e-7)
    losses = []
    for update in range(updates):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (0.55 + 0.45 * math.cos(math.pi * update / updates))
        pick = torch.randint(len(images), (batch,), generator=generator)
        picked = augment(images[pick], labels[pick], known[pick], generator)
        image, label, valid = (part.to(device) for part in picked)
        loss = masked_cross_entropy(network(image.contiguous(memory_format=torch.channels_last)), label, valid)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        progress(update, losses[-1])
    settle_statistics(network, images, device)
    return losses


@torch.no_grad()
def settle_statistics(network: UNet2d, images: Tensor, device: str, batches: int = 16) -> None:
    """Means and variances of batch normalisation measured anew on the planes as they are, for the final weights: after
    a short training the running ones lag behind. Leaves the network in eval mode."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average over all batches
    network.train()
    for batch in images.split(BATCH)[:batches]:
        network(batch.to(device))
    for norm in norms:
        norm.momentum = 0.1
    network.eval()
