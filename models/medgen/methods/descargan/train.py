"""`medgen train descargan --data DIR -o DIR`: redraws images as healthy or diseased, from image-level labels alone.

DIR holds whole-head label maps or slices rendered from them (the FLAIR slices are learnt), or X-rays with labels.csv.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen.diffusion.networks import joined_state
from medgen.diffusion.training import CLEAR_LESION, brain_set
from medgen.errors import BadInput
from medgen.imaging.brain_study import BRAIN_SEQUENCES, SIDE
from medgen.imaging.phantoms import TRAIN_HEADS, VALIDATION_HEADS
from medgen.imaging.phantoms.brain_set import BrainSet
from medgen.imaging.xray_set import XraySampler, load_xrays
from medgen.method import Progress
from medgen.methods.descargan.net import MOMENTUM, Discriminator, Generator, Size
from medgen.metrics.ranking import auroc
from medgen.training.export import chosen_config, export_weights, made_by
from medgen.training.loop import LoopConfig, Update, Validate
from medgen.training.loop import train as train_loop

WEIGHTS = "flair.safetensors"
NEAR = 3  # slices, within which healthy and diseased ones lie at the same height
NOISE = 0.05  # spread of the uniform noise on every image that a network sees in training
SOME = 40  # batches on which the generator's normalisations start, and are measured anew
VALIDATION_SLICES = 48  # with a clear lesion, and as many without


@dataclass(frozen=True)
class Weights:
    """Of the loss terms; the paper's. penalty: 10, within the factor 20 of the critics' loss, as in the paper's text.
    A critic's slope then settles at 1 + distance / 20, the distance being that between real and redrawn images (L2, 32
    between grey and a slice of 64 x 64 pixels). With the penalty outside the factor, as in the authors' code, it
    settles at 1 + distance, and drowns identity and reconstruction while the generator still draws badly."""

    adversarial_d: float = 20.0
    class_d: float = 5.0
    penalty: float = 200.0
    reconstruction: float = 50.0
    identity: float = 50.0
    critic_steps: int = 5


@dataclass(frozen=True)
class Config:
    """seconds: of one call, after which it exports what there is; called again, it goes on. On a CPU bfloat16 is only
    fast where the generator's widths are multiples of 16."""

    size: Size
    steps: int
    batch: int
    learning_rate: float = 1e-4
    ema_decay: float = 0.995
    seconds: float | None = None
    weights: Weights = Weights()


CONFIGS = {
    "smoke": Config(Size(4, 2, SIDE), steps=6, batch=2),
    # What is learnt is brightness, not shape: the skip at full resolution keeps every fold of the cortex in its place.
    # The identity counts four times as much as in the paper, since there are far fewer updates to learn it in.
    # After 12,000 steps the map of diseased slices gets worse again: more than lesions is redrawn.
    "small": Config(
        Size(16, 8, SIDE // 2, generator_widest=48, discriminator_widest=32, top_skip=True), 12_000, batch=8,
        learning_rate=3e-4, ema_decay=0.999, seconds=2700, weights=Weights(identity=200.0),
    ),
    "paper": Config(Size(64, 32, 256), steps=100_000, batch=10),
}  # fmt: skip


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
        loss, figures = self._discriminator_loss(_noisy(image), label)
        update("discriminator", loss)
        if batch["number"] % self.weights.critic_steps == self.weights.critic_steps - 1:
            loss, more = self._generator_loss(image, label)
            update("generator", loss)
            figures |= more
        return {name: float(value.detach()) for name, value in figures.items()}

    def _discriminator_loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Every image is also redrawn as the other class. Both classes go through together, so that batch normalisation
        in training sees what it will see afterwards, and not one wanted class at a time."""
        weights, made = self.weights, 1 - label
        with torch.no_grad():
            fake = _noisy(self.networks["generator"](image, made))
        scores, logits = self.networks["discriminator"](torch.cat([image, fake]))
        critic = scores.float().gather(1, torch.cat([label, made])[:, None])[:, 0]
        terms = {
            "distance": critic[: len(image)].mean() - critic[len(image) :].mean(),
            "penalty": self._penalty(image, label, fake, made),
            "class": F.cross_entropy(logits[: len(image)].float(), label),
        }
        loss = weights.penalty * terms["penalty"] + weights.class_d * terms["class"]
        return loss - weights.adversarial_d * terms["distance"], terms

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

    def _generator_loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        generator, other = self.networks["generator"], 1 - label
        noisy = _noisy(image)
        changed, same = generator(torch.cat([noisy, noisy]), torch.cat([other, label])).chunk(2)
        scores, logits = self.networks["discriminator"](_noisy(changed))
        terms = {
            "adversarial": -scores.float().gather(1, other[:, None]).mean(),
            "class_g": F.cross_entropy(logits.float(), other),
            "identity": F.mse_loss(same.float(), image),
            "reconstruction": F.mse_loss(generator(changed, label).float(), image),
        }
        weights = self.weights
        return (
            terms["adversarial"]
            + terms["class_g"]
            + weights.identity * terms["identity"]
            + weights.reconstruction * terms["reconstruction"]
        ), terms


def _noisy(image: Tensor) -> Tensor:
    """The authors' noise, but about 0: from 0 to 0.05 it teaches the generator to darken whatever has none."""
    return image + NOISE * (torch.rand_like(image) - 0.5)


@torch.no_grad()
def settle(generator: nn.Module, batches: Iterable[Tensor]) -> None:
    """Batch normalisation measured anew, half of the images redrawn as either class: with momentum 0.01 the running
    figures lag behind a short training, and they are not those of averaged weights."""
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    generator.train()
    device = next(generator.parameters()).device
    for images in batches:
        both = torch.cat([images, images]).to(device)
        generator(both, torch.arange(2, device=device).repeat_interleave(len(images)))
    for norm in norms:
        norm.momentum = MOMENTUM
    generator.eval()


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
    slices = None if xrays else brain_set(data, out, seed, config == "smoke", progress)
    draw = _xrays(data, size.side, seed, chosen.batch) if slices is None else _brains(
        slices, seed, chosen.batch, size.side
    )  # fmt: skip
    torch.manual_seed(seed)
    generator, discriminator = size.networks()
    some = [draw(number)["image"] for number in range(SOME)]
    generator.start_at(torch.cat(some))
    step = DescarganStep(generator, discriminator, chosen.learning_rate, chosen.weights)
    loop = LoopConfig(
        steps=chosen.steps, seed=seed, device=device, precision="bf16-mixed", ema_decay=chosen.ema_decay,
        clip_norm=10.0, checkpoint_every=200, max_seconds=chosen.seconds if max_seconds is None else max_seconds,
    )  # fmt: skip
    validate = None if slices is None else _validation(slices, size.side, some, seed)
    outcome = train_loop(step, lambda number: {**draw(number), "number": number}, out, loop, validate, progress)
    settle(outcome.networks["generator"], some)
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


def _brains(slices: BrainSet, seed: int, batch: int, side: int) -> Callable[[int], dict[str, Tensor]]:
    """Healthy and diseased slices in turn, as a pair from about the same height in any two heads, every height equally
    likely. Drawn at random, the diseased lie in the middle of the head and are larger, and the generator learns to
    shrink brains rather than to take lesions away. Left and right are swapped half of the time, and a slice is up to
    10 % brighter or darker."""
    numbers = slices.of_heads(TRAIN_HEADS)
    pixels = slices.lesion_pixels[numbers]
    piles = [numbers[pixels == 0], numbers[pixels >= CLEAR_LESION]]
    if not all(len(pile) for pile in piles):
        raise BadInput("Training needs slices with a lesion and slices without.")
    images = [torch.cat([_flair(slices, part, side).half() for part in np.array_split(pile, 20)]) for pile in piles]
    heights = [slices.index[pile, 3] for pile in piles]

    def draw(number: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((seed, number))
        drawn = []
        for place in range(batch):
            label = place % 2
            if label == 0:
                height = rng.uniform(heights[0].min(), heights[0].max())
            away = np.abs(heights[label] - height)
            image = images[label][int(rng.choice(np.flatnonzero(away <= max(NEAR, away.min()))))].float()
            image = ((image + 1) * rng.uniform(0.9, 1.1)).clamp(0, 2) - 1
            drawn.append(image.flip(-1) if rng.random() < 0.5 else image)
        return {"image": torch.stack(drawn), "label": torch.arange(batch) % 2}

    return draw


def _flair(slices: BrainSet, numbers: npt.NDArray[np.int64], side: int) -> Tensor:
    """FLAIR of these slices, -1..1 [n, 1, side, side]."""
    values = slices.images[numbers, BRAIN_SEQUENCES.index("FLAIR")]
    return F.avg_pool2d(torch.from_numpy(values).float()[:, None] / 255, SIDE // side) * 2 - 1


def _validation(slices: BrainSet, side: int, some: list[Tensor], seed: int) -> Validate | None:
    """How well the change ranks lesion pixels above the others of slices with and without a lesion, in the brains of
    the validation heads; None without those. Settles the generator that it looks at."""
    numbers = slices.of_heads(VALIDATION_HEADS)
    pixels = slices.lesion[numbers].sum((1, 2), dtype=np.int64)
    rng = np.random.default_rng(seed)
    kinds = [numbers[pixels >= CLEAR_LESION], numbers[pixels == 0]]
    chosen = np.concatenate([rng.permutation(kind)[:VALIDATION_SLICES] for kind in kinds])
    if not len(chosen):
        return None
    image = _flair(slices, chosen, side)
    lesion = F.avg_pool2d(torch.from_numpy(slices.lesion[chosen]).float()[:, None], SIDE // side) >= 0.5
    brain = image > -1

    def validate(networks: Mapping[str, nn.Module]) -> float:
        generator = networks["generator"]
        settle(generator, some)
        change = (generator(image.to(next(generator.parameters()).device), 0).cpu() - image).abs()
        return auroc(change[brain].numpy(), lesion[brain].numpy())

    return validate


def _xrays(data: Path, side: int, seed: int, batch: int) -> Callable[[int], dict[str, Tensor]]:
    sampler = XraySampler(load_xrays(data, side), seed, batch)

    def draw(number: int) -> dict[str, Tensor]:
        drawn = sampler(number)
        return {"image": drawn["image"] * 2 - 1, "label": drawn["label"]}

    return draw
