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
    """Flips, rotations, scale 0.9 to 1.1, brightness, contrast, gamma 0.8 to 1.25 and noise of 0.05 IQR (which is 1).

    images: float32 [n, 1, h, w]; labels: int64, known: bool [n, h, w]. What turns in from outside is unknown.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    angle, scale, flip = uniform(0, 2 * math.pi), uniform(0.9, 1.1), uniform(0, 1).sub(0.5).sign()
    cos, sin, zero = angle.cos() / scale, angle.sin() / scale, torch.zeros(n)
    matrix = torch.stack([torch.stack([cos * flip, -sin, zero], 1), torch.stack([sin * flip, cos, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    exact = torch.stack([labels.float(), known.float()], 1)
    exact = F.grid_sample(exact, grid, mode="nearest", padding_mode="zeros", align_corners=False)

    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    gamma, gain, shift = (uniform(a, b).view(n, 1, 1, 1) for a, b in ((0.8, 1.25), (0.9, 1.1), (-0.1, 0.1)))
    span = (high - low).clamp(min=1e-6)
    images = (((images - low) / span) ** gamma * span + low) * gain + shift
    images = images + 0.05 * torch.randn(images.shape, generator=generator)
    return images, exact[:, 0].long(), exact[:, 1] > 0.5


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
