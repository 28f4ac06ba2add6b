"""One training step for a noise network and for the networks that guide it, and the rendered slices they learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen.diffusion.loss import hybrid_loss
from medgen.diffusion.networks import joined_state, layouts_of, load_networks
from medgen.diffusion.schedule import Schedule
from medgen.errors import BadInput
from medgen.imaging.phantoms import TEST_HEADS, TRAIN_HEADS, VALIDATION_HEADS, numbered_maps
from medgen.imaging.phantoms.brain_set import BrainSet, load_brain_set, render_brain_set
from medgen.method import Progress
from medgen.nets.diffusion_unet import DiffusionUNet, Layout, paper_unet
from medgen.training.export import chosen_config, export_weights
from medgen.training.loop import LoopConfig, Outcome, Update
from medgen.training.loop import train as train_loop
from medgen.weights import STARTER_WEIGHTS

Batch = dict[str, Tensor]
HALF_WAY = 600  # the noise level up to which translating methods go
TRANSLATING = {  # noise networks by configuration, shared: an edit takes over what the anomaly maps have learnt
    "smoke": Layout(4, 8, 8, (1, 2), 1, (), groups=4, classes=2, patch=4),
    "small": Layout(4, 8, 32, (1, 2, 2, 2), 1, (), groups=8, classes=2, patch=2),
    "paper": paper_unet(4, 8, classes=2),
}


def ready_noise_network(layout: Layout) -> nn.Module | None:
    """That of the installed starter weights of diffusion_anomaly, where it has this layout."""
    path = STARTER_WEIGHTS / "diffusion_anomaly" / "brain_mr.safetensors"
    if not path.is_file():
        return None
    network = load_networks(path, "cpu")["denoiser"]
    return network if isinstance(network, DiffusionUNet) and network.layout == layout else None


Target = Literal["class", "value", "mask"]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "class": F.cross_entropy,
    "value": lambda out, wanted: F.mse_loss(out[:, 0], wanted),
    "mask": F.binary_cross_entropy_with_logits,
}
CLEAR_LESION = 20  # pixels; slices with less, but some, are neither healthy nor diseased


class DiffusionStep:
    """Updates every network on one batch: 'image' [n, c, h, w]; 'label' int64 [n] and 'condition' [n, k, h, w] where
    the noise network takes them; and what each guide is to tell, under the guide's name.

    guides: by name, the network and what it learns on noisy images; top: the levels 1..top are learnt, all equally
    likely (networks that only ever encode half-way need no more).
    """

    def __init__(
        self,
        denoiser: nn.Module | None,
        guides: Mapping[str, tuple[nn.Module, Target]],
        learning_rate: float,
        top: int = 1000,
    ) -> None:
        self.schedule, self.top = Schedule(), top
        self.targets = {name: target for name, (_, target) in guides.items()}
        nets = {"denoiser": denoiser} if denoiser is not None else {}
        nets |= {name: network for name, (network, _) in guides.items()}
        self.networks: dict[str, nn.Module] = {
            name: network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for name, network in nets.items()
        }
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.0)
            for name, network in self.networks.items()
        }

    def run(self, batch: Any, update: Update) -> dict[str, float]:
        image = batch["image"]
        t = torch.randint(1, self.top + 1, (len(image),), device=image.device)
        noise = torch.randn_like(image)
        noisy = self.schedule.add_noise(image, noise, t).contiguous(memory_format=torch.channels_last)
        figures = {}
        if "denoiser" in self.networks:
            given = torch.cat([batch["condition"], noisy], dim=1) if "condition" in batch else noisy
            output = self.networks["denoiser"](given, t, batch.get("label"))
            loss = hybrid_loss(output, image, noisy, noise, t, self.schedule).mean()
            update("denoiser", loss)
            figures["denoiser"] = float(loss.detach())
        for name, target in self.targets.items():
            loss = LOSSES[target](self.networks[name](noisy, t).float(), batch[name])
            update(name, loss)
            figures[name] = float(loss.detach())
        return figures


# --------------------------------------------------------------------------------------------------------- brain slices

EACH_HEAD = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]  # kinds of the ten variants of a training head
HELD_OUT = [0, 1, 2, 3]


def brain_set(data: Path, out: Path, seed: int, quick: bool, progress: Progress | None) -> BrainSet:
    """The rendered slices in `data`, or those of the label maps in `data` rendered into `out`/slices: ten variants of
    heads 1 to 14, four of the others. quick: one of one head. Raises BadInput where there is neither."""
    if (data / "images.npy").is_file():
        return load_brain_set(data)
    if (out / "slices" / "images.npy").is_file():
        return load_brain_set(out / "slices")
    maps = numbered_maps(data)
    kinds = {n: EACH_HEAD for n in TRAIN_HEADS if n in maps}
    if not kinds:
        raise BadInput(f"There are no label maps numbered 1 to 14 (*_01.nii.gz ...) to train on in '{data}'.")
    if quick:
        kinds = {min(kinds): [2]}
    else:
        kinds |= {n: HELD_OUT for n in (*VALIDATION_HEADS, *TEST_HEADS) if n in maps}
    return render_brain_set(maps, kinds, seed, out / "slices", progress)


@dataclass(frozen=True)
class BrainSampler:
    """Random batches of a set's training slices, half of them healthy; the same number gives the same batch.

    Left and right are swapped half of the time, every sequence is 10 % brighter or darker, and in `missing` of the
    batches' images some sequences are taken away, so that the networks manage without them. crop: pixels of the square
    part, at random, that a batch shows, where only masks are learnt: a lesion may lie outside.
    """

    source: BrainSet
    seed: int
    batch: int
    missing: float = 0.4
    crop: int | None = None
    healthy: np.ndarray = field(init=False)
    diseased: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        numbers = self.source.of_heads(TRAIN_HEADS)
        pixels = self.source.lesion_pixels[numbers]
        object.__setattr__(self, "healthy", numbers[pixels == 0])
        object.__setattr__(self, "diseased", numbers[pixels >= CLEAR_LESION])
        if not len(self.healthy) or not len(self.diseased):
            raise BadInput("Training needs slices with a lesion and slices without.")

    def __call__(self, step: int) -> Batch:
        """'image' float32 [n, 4, 128, 128], 'lesion' float32 [n, 1, 128, 128], 'label' int64 [n], 0 is healthy."""
        rng = np.random.default_rng((self.seed, step))
        sick = np.arange(self.batch) % 2
        numbers = [int(rng.choice(self.diseased if s else self.healthy)) for s in sick]
        images = np.stack([self.source.images[n] for n in numbers]).astype(np.float32) / 255
        lesions = np.stack([self.source.lesion[n] for n in numbers]).astype(np.float32)[:, None]
        images = np.clip(images * rng.uniform(0.9, 1.1, (self.batch, 4, 1, 1)).astype(np.float32), 0, 1)
        for row in np.flatnonzero(rng.random(self.batch) < self.missing):
            kept = rng.random(4) < 0.5
            kept[rng.choice(4, p=(0.15, 0.15, 0.1, 0.6))] = True  # FLAIR is the one that is seldom missing
            images[row, ~kept] = 0
        for row in np.flatnonzero(rng.random(self.batch) < 0.5):
            images[row], lesions[row] = images[row, ..., ::-1].copy(), lesions[row, ..., ::-1].copy()
        if self.crop is not None:
            top, left = rng.integers(0, np.array(images.shape[2:]) - self.crop + 1)
            part = (..., slice(top, top + self.crop), slice(left, left + self.crop))
            images, lesions = images[part], lesions[part]
        return {
            "image": torch.from_numpy(images),
            "lesion": torch.from_numpy(lesions),
            "label": torch.from_numpy(sick.astype(np.int64)),
        }


# ------------------------------------------------------------------------------------------------------ run and export


@dataclass(frozen=True)
class Plan:
    """seconds: of one call, after which it exports what there is; called again, it goes on."""

    steps: int
    batch: int
    learning_rate: float
    ema_decay: float = 0.999
    seconds: float | None = None


PLANS = {
    "smoke": Plan(steps=3, batch=2, learning_rate=3e-4),
    "small": Plan(steps=20_000, batch=8, learning_rate=4e-4, ema_decay=0.998, seconds=3000),
    "paper": Plan(steps=50_000, batch=10, learning_rate=1e-4, ema_decay=0.9999),
}


def plan_of(config: str) -> Plan:
    """Raises BadInput for an unknown configuration."""
    return chosen_config(PLANS, config)


def run_plan(
    step: DiffusionStep,
    sample: Callable[[int], Batch],
    out: Path,
    plan: Plan,
    seed: int,
    device: str,
    progress: Progress | None,
    max_seconds: float | None,
) -> Outcome:
    """The learning rate rises over 200 steps and then stays, so that the averaged weights are good whenever it ends."""
    loop = LoopConfig(
        steps=plan.steps,
        seed=seed,
        device=device,
        precision="bf16-mixed",
        schedule=lambda number: min(1.0, (number + 1) / 200),
        ema_decay=plan.ema_decay,
        clip_norm=1.0,
        checkpoint_every=200,
        max_seconds=plan.seconds if max_seconds is None else max_seconds,
    )
    return train_loop(step, sample, out, loop, progress=progress)


def save_networks(networks: Mapping[str, nn.Module], out: Path, name: str, card: Mapping[str, Any]) -> Path:
    """All networks in one file beside their card."""
    whole = {"intended_use": "Research only; not for diagnosis or treatment.", **card}
    export_weights(joined_state(networks), out, name, whole, metadata=layouts_of(networks))
    return out / name
