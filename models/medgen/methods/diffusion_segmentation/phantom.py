"""Discs in noise whose label is one of two radii at random: two raters who disagree, each of them sure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from medgen.diffusion.networks import NoiseNetwork
from medgen.diffusion.sampling import Draws, decode
from medgen.diffusion.schedule import Schedule
from medgen.methods.diffusion_segmentation.learning import MaskStep
from medgen.nets.diffusion_unet import DiffusionUNet, Layout
from medgen.nets.half_precision import half_precision

SIDE, RIM = 48, 4
LAYOUT = Layout(2, 1, 16, (1, 2, 2), 1, (), groups=8, patch=2, predicts="chance")
PLAIN_LAYOUT = replace(LAYOUT, channels_in=1)  # the same size, but for the noisy mask
BATCH, LEARNING_RATE = 16, 5e-4


@dataclass(frozen=True)
class Discs:
    """image, label: float32 [n, 1, 48, 48]; core, rim, background: bool, where both raters, one, or none say yes."""

    image: Tensor
    label: Tensor
    core: Tensor
    rim: Tensor

    @property
    def background(self) -> Tensor:
        return ~self.core & ~self.rim


def draw_discs(count: int, rng: np.random.Generator, raters: int = 2, contrast: float = 1.0) -> Discs:
    """raters 2: the label has radius r or r + 4, with equal chance; 1: always r, and the disc is as faint as told."""
    grid = np.arange(SIDE, dtype=np.float32)
    centre, radius = rng.uniform(16, 32, (count, 2)), rng.uniform(5, 8, count)
    away = np.hypot(grid[None, :, None] - centre[:, :1, None], grid[None, None] - centre[:, 1:, None])
    core, outer = away < radius[:, None, None], away < radius[:, None, None] + RIM
    # two raters: the image itself shows an edge in the middle of the rim, which speaks for neither
    shown = away < radius[:, None, None] + (RIM / 2 if raters == 2 else 0)
    image = 0.3 + 0.4 * contrast * shown + 0.1 * rng.standard_normal(away.shape)
    wide = rng.random(count)[:, None, None] < 0.5 if raters == 2 else np.zeros((count, 1, 1), bool)
    label = np.where(wide, outer, core)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array[:, None])

    return Discs(
        tensor(image.astype(np.float32)), tensor(label.astype(np.float32)), tensor(core), tensor(outer & ~core)
    )


def train_pair(steps: int, seed: int, raters: int, contrast: float) -> tuple[DiffusionUNet, DiffusionUNet]:
    """A diffusion network and a plain U-Net of the same size, on the same batches, with the same optimiser."""
    torch.manual_seed(seed)
    step = MaskStep(DiffusionUNet(LAYOUT), DiffusionUNet(PLAIN_LAYOUT), LEARNING_RATE)
    averages = {
        name: torch.optim.swa_utils.AveragedModel(
            network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
        )
        for name, network in step.networks.items()
    }

    def update(name: str, loss: Tensor) -> None:
        step.optimizers[name].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(step.networks[name].parameters(), 1.0)
        step.optimizers[name].step()

    for number in range(steps):
        factor = min(1.0, (number + 1) / 100) * min(1.0, 3 * (steps - number) / steps)
        for optimizer in step.optimizers.values():
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * factor
        discs = draw_discs(BATCH, np.random.default_rng((seed, number)), raters, contrast)
        with half_precision("cpu"):
            step.run({"image": discs.label, "condition": discs.image}, update)
        for name, average in averages.items():
            average.update_parameters(step.networks[name])
    drawing, plain = (averages[name].module.eval() for name in ("denoiser", "plain"))
    assert isinstance(drawing, DiffusionUNet) and isinstance(plain, DiffusionUNet)
    return drawing, plain


def plain_logits(network: DiffusionUNet, image: Tensor) -> Tensor:
    """The U-Net without its time: always level 1."""
    return network(image, torch.ones(len(image)))


@torch.no_grad()
def draw_many(network: DiffusionUNet, image: Tensor, count: int, steps: int, seed: int) -> Tensor:
    """[count, n, 1, 48, 48]: masks drawn by DPM-Solver++ from noise."""
    schedule, found = Schedule(), []
    times = schedule.times(schedule.levels, steps)
    for draw in range(count):
        x = Draws([(seed, row, draw) for row in range(len(image))]).like(image)
        found.append(decode(x, NoiseNetwork(network, condition=image), schedule, times, "dpm2"))
    return torch.stack(found)
