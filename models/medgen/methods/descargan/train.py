"""`medgen train descargan --data DIR -o DIR`: redraws images as healthy or diseased, from image-level labels alone.

DIR holds whole-head label maps or slices rendered from them (the FLAIR slices are learnt), or X-rays with labels.csv.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen.diffusion.networks import joined_state
from medgen.diffusion.training import BrainSampler, brain_set
from medgen.imaging.brain_study import BRAIN_SEQUENCES, SIDE
from medgen.imaging.xray_set import XraySampler, load_xrays
from medgen.method import Progress
from medgen.methods.descargan.net import Discriminator, Generator, Size
from medgen.training.export import chosen_config, export_weights, made_by
from medgen.training.loop import LoopConfig, Update
from medgen.training.loop import train as train_loop

WEIGHTS = "flair.safetensors"
NOISE = 0.05  # U(0, 0.05) on every image the discriminator sees


@dataclass(frozen=True)
class Config:
    """seconds: of one call, after which it exports what there is; called again, it goes on. On a CPU bfloat16 is only
    fast where the generator's width is a multiple of 16."""

    size: Size
    steps: int
    batch: int
    learning_rate: float = 1e-4
    seconds: float | None = None


CONFIGS = {
    "smoke": Config(Size(4, 2, SIDE), steps=6, batch=2),
    "small": Config(Size(16, 8, SIDE // 2), steps=20_000, batch=8, learning_rate=3e-4, seconds=1800),
    "paper": Config(Size(64, 32, 256), steps=100_000, batch=10),
}


@dataclass(frozen=True)
class Weights:
    """Of the loss terms; the paper's. penalty: 10, within the factor 20 of the critics' loss, as in the paper's text.
    In the authors' code it stands outside the factor: the critics' slopes grow until nothing else counts."""

    adversarial_d: float = 20.0
    class_d: float = 5.0
    penalty: float = 200.0
    reconstruction: float = 50.0
    identity: float = 50.0
    critic_steps: int = 5


class DescarganStep:
    """batch: 'image' [n, 1, h, w], -1..1, and 'label' int64 [n]. Updates the discriminator every time and the generator
    every fifth time (WGAN-GP)."""

    def __init__(
        self, generator: Generator, discriminator: Discriminator, learning_rate: float, weights: Weights = Weights()
    ) -> None:
        for module in [*generator.modules(), *discriminator.modules()]:
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
        for module in discriminator.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
        self.networks: dict[str, nn.Module] = {
            name: network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for name, network in (("generator", generator), ("discriminator", discriminator))
        }
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(network.parameters(), learning_rate, betas=(0.5, 0.999))
            for name, network in self.networks.items()
        }
        self.weights = weights

    def run(self, batch: Any, update: Update) -> dict[str, float]:
        image, label = batch["image"].contiguous(memory_format=torch.channels_last), batch["label"]
        loss_d = self._discriminator_loss(image + NOISE * torch.rand_like(image), label)
        update("discriminator", loss_d)
        figures = {"discriminator": float(loss_d.detach())}
        if batch["number"] % self.weights.critic_steps == self.weights.critic_steps - 1:
            loss_g = self._generator_loss(image, label)
            update("generator", loss_g)
            figures["generator"] = float(loss_g.detach())
        return figures

    def _discriminator_loss(self, image: Tensor, label: Tensor) -> Tensor:
        """Every image is also redrawn as the other class; what is alike for both classes goes through in one pass."""
        generator, weights = self.networks["generator"], self.weights
        fakes = [torch.empty_like(image[:0])] * 2
        for wanted in (0, 1):
            others = image[label != wanted]
            if len(others):
                with torch.no_grad():
                    fakes[wanted] = generator(others, wanted)
        fake = torch.cat(fakes)
        fake = fake + NOISE * torch.rand_like(fake)
        made = torch.arange(2, device=label.device).repeat_interleave(torch.bincount(1 - label, minlength=2))
        scores, logits = self.networks["discriminator"](torch.cat([image, fake]))
        critic = scores.gather(1, torch.cat([label, made])[:, None])[:, 0]
        adversarial = critic[len(image) :].mean() - critic[: len(image)].mean()
        return (
            weights.adversarial_d * adversarial
            + weights.penalty * self._penalty(image, label, fake, made)
            + weights.class_d * F.cross_entropy(logits[: len(image)], label)
        )

    def _penalty(self, image: Tensor, label: Tensor, fake: Tensor, made: Tensor) -> Tensor:
        """(norm of a critic's gradient - 1)^2 between real images of its class and images made into it, summed over the
        two critics."""
        counts = [int(min((label == c).sum(), (made == c).sum())) for c in (0, 1)]
        if not sum(counts):
            return fake.new_zeros(())
        sides = ((image, label), (fake, made))
        real, unreal = (torch.cat([x[of == c][:count] for c, count in enumerate(counts)]) for x, of in sides)
        critic = torch.arange(2, device=label.device).repeat_interleave(torch.tensor(counts, device=label.device))
        t = torch.rand(len(real), 1, 1, 1, device=fake.device)
        between = (t * real + (1 - t) * unreal).detach().requires_grad_(True)
        wrapped = self.networks["discriminator"]
        plain = getattr(wrapped, "module", wrapped)  # Fabric's wrapper forbids a gradient of a gradient
        score = plain(between)[0].gather(1, critic[:, None]).sum()
        gradient = torch.autograd.grad(score, between, create_graph=True)[0]
        squares = (gradient.flatten(1).norm(dim=1) - 1) ** 2
        return squares.mean() * sum(count > 0 for count in counts)

    def _generator_loss(self, image: Tensor, label: Tensor) -> Tensor:
        generator, discriminator = self.networks["generator"], self.networks["discriminator"]
        total = image.new_zeros(())
        for own in (0, 1):
            here = image[label == own]
            if not len(here):
                continue
            noisy = here + NOISE * torch.rand_like(here)
            other = 1 - own
            changed, same = generator(noisy, other), generator(noisy, own)
            scores, logits = discriminator(changed + NOISE * torch.rand_like(changed))
            wanted = torch.full((len(here),), other, device=image.device)
            share = len(here) / len(image)
            total = total + share * (
                -scores[:, other].mean()
                + F.cross_entropy(logits, wanted)
                + self.weights.identity * F.mse_loss(same, here)
                + self.weights.reconstruction * F.mse_loss(generator(changed, own), here)
            )
        return total


def train(
    data: Path,
    out: Path,
    config: str = "small",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    max_seconds: float | None = None,
) -> Path:
    """Trains, or goes on where a run in `out` stopped, and writes the weights and their card to `out`; returns the
    weights file. max_seconds: of this call, instead of the configuration's. Raises BadInput."""
    chosen = chosen_config(CONFIGS, config)
    xrays = (data / "labels.csv").is_file()
    size = chosen.size if xrays else replace(chosen.size, side=min(chosen.size.side, SIDE))
    draw = _xrays(data, size.side, seed, chosen.batch) if xrays else _brains(
        data, out, seed, chosen.batch, size.side, config == "smoke", progress
    )  # fmt: skip
    torch.manual_seed(seed)
    step = DescarganStep(
        Generator(size.generator_width), Discriminator(size.discriminator_width, size.side), chosen.learning_rate
    )
    loop = LoopConfig(
        steps=chosen.steps, seed=seed, device=device, precision="bf16-mixed", ema_decay=0.995, clip_norm=10.0,
        checkpoint_every=200, max_seconds=chosen.seconds if max_seconds is None else max_seconds,
    )  # fmt: skip
    outcome = train_loop(step, lambda number: {**draw(number), "number": number}, out, loop, progress=progress)
    kind = "xray" if xrays else "brain"
    save(outcome.networks, out, size, kind, outcome.step, seed, device, config)
    return out / WEIGHTS


def save(
    networks: dict[str, nn.Module], out: Path, size: Size, kind: str, steps: int, seed: int, device: str, config: str
) -> None:
    """kind: 'brain' (FLAIR slices as brain_study makes them) or 'xray'. The critics, which only training needs, are
    left out."""
    what = {
        "brain": "Skull-stripped FLAIR slices rendered from head label maps 1 to 14 with inserted hyperintensities, "
        "tumours and infarcts; image-level labels only. No scan was used.",
        "xray": "NIH Clinical Center chest X-rays (Wang et al., CVPR 2017), no finding and pneumonia, four fifths of "
        "the patients; labels are text-mined.",
    }
    card: dict[str, Any] = {
        **made_by("descargan", config, seed, steps, device),
        "title": "FLAIR slices, healthy and diseased" if kind == "brain" else "Chest X-rays, no finding and pneumonia",
        "training_data": what[kind],
        "intended_use": "Research only; not for diagnosis or treatment.",
        "trained_on_rendered": kind == "brain",
    }
    metadata = {"descargan": json.dumps({**asdict(size), "kind": kind})}
    state = {k: v for k, v in joined_state(networks).items() if not k.startswith("discriminator.critics.")}
    export_weights(state, out, WEIGHTS, card, metadata=metadata)


def _brains(
    data: Path, out: Path, seed: int, batch: int, side: int, quick: bool, progress: Progress | None
) -> Callable[[int], dict[str, Tensor]]:
    sampler = BrainSampler(brain_set(data, out, seed, quick, progress), seed, batch, missing=0.0)
    flair = BRAIN_SEQUENCES.index("FLAIR")

    def draw(number: int) -> dict[str, Tensor]:
        drawn = sampler(number)
        image = F.avg_pool2d(drawn["image"][:, flair : flair + 1], SIDE // side)
        return {"image": image * 2 - 1, "label": drawn["label"]}

    return draw


def _xrays(data: Path, side: int, seed: int, batch: int) -> Callable[[int], dict[str, Tensor]]:
    sampler = XraySampler(load_xrays(data, side), seed, batch)

    def draw(number: int) -> dict[str, Tensor]:
        drawn = sampler(number)
        return {"image": drawn["image"] * 2 - 1, "label": drawn["label"]}

    return draw
