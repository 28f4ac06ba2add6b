"""One update of the network that draws masks, and of a plain U-Net to compare it with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medgen.diffusion.training import DiffusionStep
from medgen.training.loop import Update


class MaskStep(DiffusionStep):
    """Both networks learn from the same batches: 'image', masks 0/1 [n, 1, h, w], and 'condition' [n, c, h, w].

    The drawing network ('denoiser') sees the images and the noisy mask and tells the chance of each pixel, by
    cross-entropy: its best answer is the mean of the masks that the noisy one may stem from, which is all a sampler
    needs. The paper's network tells the noise, whose error hardly weighs the levels where the mask is hidden: a small
    one learns to clean masks and never to find lesions. What the noisy pixel itself says is added by Bayes' rule, so
    that the network has to learn the images and the neighbours only. The plain U-Net ('plain') sees the images alone.
    """

    def __init__(self, denoiser: nn.Module, plain: nn.Module, learning_rate: float) -> None:
        super().__init__(denoiser, {"plain": (plain, "mask")}, learning_rate)

    def run(self, batch: Any, update: Update) -> dict[str, float]:
        mask, condition = batch["image"], batch["condition"]
        t = torch.randint(1, self.top + 1, (len(mask),), device=mask.device)
        noisy = self.schedule.add_noise(mask, torch.randn_like(mask), t)
        drawn = self.networks["denoiser"](torch.cat([condition, noisy], dim=1), t) + self.schedule.evidence(noisy, t)
        plain = self.networks["plain"](condition, torch.ones_like(t))
        figures = {}
        for name, logits in (("denoiser", drawn), ("plain", plain)):
            loss = F.binary_cross_entropy_with_logits(logits.float(), mask)
            update(name, loss)
            figures[name] = float(loss.detach())
        return figures
