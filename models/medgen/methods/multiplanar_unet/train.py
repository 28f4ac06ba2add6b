"""Training the starter weights on rendered slices of label maps: `medgen train multiplanar_unet --data DIR -o DIR`.

DIR holds whole-head label maps (NIfTI, 1 mm, numbered; labels.SOURCES says which values count). Numbers 1 to 14 are
learnt from, 15 and 16 choose the best weights, the others are left for tests. Slices are rendered anew for every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen.errors import BadInput
from medgen.imaging.head_labels import CLASSES
from medgen.imaging.phantoms import TRAIN_HEADS, VALIDATION_HEADS, numbered_maps
from medgen.method import Progress
from medgen.methods.multiplanar_unet.render import Head, prepare_head, read_label_map, render_batch
from medgen.nets.unet2d import UNet2d
from medgen.training.export import chosen_config, export_weights, made_by
from medgen.training.loop import LoopConfig, Update
from medgen.training.loop import train as train_loop

WEIGHTS = "head_mr.safetensors"


@dataclass(frozen=True)
class Config:
    """size: pixels of a slice's side (every fourth batch is 32 larger); heads: at most, for learning."""

    width: int
    steps: int
    batch: int = 8
    size: int = 160
    learning_rate: float = 2e-3
    heads: int = len(TRAIN_HEADS)


CONFIGS = {
    "smoke": Config(width=4, steps=4, batch=2, size=64, heads=1),
    "small": Config(width=16, steps=14_000),
    "paper": Config(width=64, steps=22_400, size=224),
}


def one_cycle(step: int, steps: int, warm: float = 0.05) -> float:
    """Factor on the learning rate: from 1/25 to 1 over the first part, then to nought, both along a cosine."""
    rise = warm * steps
    if step < rise:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * step / rise)) / 2
    return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def segmentation_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy plus 1 - soft Dice, the latter over the structures of more than 20 pixels in the batch.

    logits: float [batch, classes, h, w]; classes: int64 [batch, h, w].
    """
    log_probability = F.log_softmax(logits, dim=1)
    probability, count = log_probability.exp(), logits.shape[1]
    # summing the probability of the true class by class costs a quarter of a product with one-hot labels
    of_truth = probability.gather(1, classes[:, None]).flatten()
    both = torch.zeros(count, device=logits.device).index_add(0, classes.flatten(), of_truth)
    size = torch.bincount(classes.flatten(), minlength=count)
    dice = (2 * both + 1) / (probability.sum((0, 2, 3)) + size + 1)
    return F.nll_loss(log_probability, classes) + 1 - dice[size > 20].mean()


class _Step:
    def __init__(self, config: Config) -> None:
        network = UNet2d(CLASSES, config.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks: dict[str, nn.Module] = {"unet": network}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "unet": torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=1e-4)
        }

    def run(self, batch: Any, update: Update) -> dict[str, float]:
        images, classes = batch
        logits = self.networks["unet"](images.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits.float(), classes)
        update("unet", loss)
        return {"loss": float(loss.detach())}


def train(
    data: Path, out: Path, config: str = "small", seed: int = 0, device: str = "auto", progress: Progress | None = None
) -> Path:
    """Trains, or goes on where a run in `out` stopped, and writes the weights and their card to `out`; returns the
    weights file. Raises BadInput for an unknown configuration or a folder without label maps."""
    chosen, maps = chosen_config(CONFIGS, config), numbered_maps(data)
    learnt_from = _heads(maps, TRAIN_HEADS, chosen.heads)
    if not learnt_from:
        raise BadInput(f"There are no label maps numbered 1 to 14 (*_01.nii.gz ...) to train on in {data}.")
    held_back = _heads(maps, VALIDATION_HEADS, chosen.heads)
    checks = [render_batch(held_back, (9, i), 8, chosen.size + 32) for i in range(6)] if held_back else []

    def sample(step: int) -> tuple[Tensor, Tensor]:
        size = chosen.size if step % 4 else chosen.size + 32
        return render_batch(learnt_from, (seed + 1, step), chosen.batch, size)

    def validate(networks: Mapping[str, nn.Module]) -> float:
        return mean_dice(networks["unet"], checks)

    torch.manual_seed(seed)
    loop = LoopConfig(
        steps=chosen.steps,
        seed=seed,
        device=device,
        precision="bf16-mixed",
        schedule=lambda step: one_cycle(step, chosen.steps),
        ema_decay=0.998,
        clip_norm=5.0,
    )
    outcome = train_loop(_Step(chosen), sample, out, loop, validate if checks else None, progress)
    card = {
        **made_by("multiplanar_unet", config, seed, outcome.step, device),
        "title": f"Head MR, {config}",
        "training_data": f"Slices rendered from {len(learnt_from)} label maps.",
        "intended_use": "A first draft to correct by hand. Research only.",
        "figures": {"Mean Dice on rendered slices of the validation heads": outcome.best},
    }
    export_weights(outcome.networks["unet"].state_dict(), out, WEIGHTS, card)
    return out / WEIGHTS


def _heads(maps: Mapping[int, Path], numbers: range, count: int) -> list[Head]:
    return [prepare_head(read_label_map(maps[n])) for n in [n for n in numbers if n in maps][:count]]


def mean_dice(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Over the classes that occur, background too, all batches together."""
    both, either = np.zeros(CLASSES), np.zeros(CLASSES)
    device = next(network.parameters()).device
    for images, truth in batches:
        found = network(images.to(device)).argmax(1).cpu().numpy()
        for value in range(CLASSES):
            here, there = found == value, truth.numpy() == value
            both[value] += 2 * (here & there).sum()
            either[value] += here.sum() + there.sum()
    return float((both[either > 0] / either[either > 0]).mean())
