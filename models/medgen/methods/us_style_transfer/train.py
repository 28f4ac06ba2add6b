"""Training the starter weights: `medgen train us_style_transfer --data DIR -o DIR`.

Content and style are drawn from one pool of real and simulated frames, without any pairing of machines. DIR is not
read: frames come from `training.ultrasound_frames` (the shared data folder and the pydicom package).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgen.method import Progress
from medgen.methods.us_style_transfer.loss import Distances, kl_to_normal
from medgen.methods.us_style_transfer.net import WIDTHS, Architecture, Kind, Position, StyleTransfer, draw
from medgen.methods.us_style_transfer.style import StyleMap, to_vector
from medgen.nets.vgg import VGGFeatures, gram, load_vgg
from medgen.training.export import chosen_config, export_weights, made_by
from medgen.training.loop import LoopConfig, Update
from medgen.training.loop import train as train_loop
from medgen.training.ultrasound_frames import (
    UltrasoundFrame,
    attribution,
    random_patch,
    real_frames,
    resized,
    simulated_frame,
)

WEIGHTS = "b_mode.safetensors"
ZOOM = (0.8, 2.0)  # pixels of a frame to one of a patch
REBUILD = 50.0  # weight of the squared error


@dataclass(frozen=True)
class Config:
    """rebuild: steps at the start in which every picture is given its own style and is to come back (the paper trains
    its encoders so beforehand); rebuild_every: of the later steps those that still do; perceptual, kl: weights of these
    losses beside the style loss; simulated: how many simulated frames."""

    steps: int
    rebuild: int
    rebuild_every: int = 4
    widths: tuple[int, ...] = WIDTHS
    kind: Kind = "variational"
    position: Position = "skip"
    batch: int = 4
    size: int = 64
    learning_rate: float = 2e-3
    perceptual: float = 0.5
    kl: float = 0.01
    simulated: int = 120


CONFIGS = {
    "smoke": Config(steps=4, rebuild=2, widths=(4, 4, 8, 8, 8), batch=2, size=32, simulated=4),
    "small": Config(steps=2000, rebuild=600),
    "paper": Config(
        steps=46_000, rebuild=10_000, widths=(64, 128, 256, 512, 1024), batch=8, size=256, learning_rate=5e-5
    ),
}


class _Pass(nn.Module):
    """One training pass, as a module with a `forward` of its own for the loop."""

    def __init__(self, network: StyleTransfer) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, others: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """images in the style of others, and the KL divergence."""
        network = self.network
        if network.architecture.kind != "variational":
            return network(images, network.style_of(others)), images.new_zeros(())
        posterior = network.posterior(others)
        style = network.style_of_latents(draw(posterior, generator))
        return network(images, style), kl_to_normal(posterior)


class Step:
    def __init__(self, config: Config, distances: Distances, seed: int) -> None:
        self.config, self.distances, self.seed = config, distances, seed
        torch.manual_seed(seed)
        network = StyleTransfer(Architecture(config.widths, config.kind, config.position))
        whole = _Pass(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        self.networks: dict[str, nn.Module] = {"style": whole}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "style": torch.optim.Adam(whole.parameters(), config.learning_rate)
        }

    def run(self, batch: Any, update: Update) -> dict[str, float]:
        """batch: images [n, 1, h, w], the number of places by which the style partner is shifted, the step."""
        images, shift, number = batch
        images = images.contiguous(memory_format=torch.channels_last)
        rebuilding = int(number) < self.config.rebuild or int(number) % self.config.rebuild_every == 0
        shift = 0 if rebuilding else int(shift)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(number))
        made, kl = self.networks["style"](images, images.roll(shift, 0), generator)
        figures = self._styled(made, images, shift) if shift else {"error": (made - images).square().mean() * REBUILD}
        figures["kl"] = self.config.kl * kl
        update("style", torch.stack(list(figures.values())).sum())
        return {name: float(value.detach()) for name, value in figures.items()}

    def _styled(self, made: Tensor, images: Tensor, shift: int) -> dict[str, Tensor]:
        with torch.autocast(images.device.type, torch.bfloat16):
            with torch.no_grad():
                features = self.distances.features(images)
            of_made = self.distances.features(made)
        wanted = [gram(f).roll(shift, 0) for f in features]
        style = self.distances.style(of_made, wanted).mean()
        content = self.distances.content(of_made, features).mean()
        return {"style": style, "content": self.config.perceptual * content}


def frames_to_learn_from(simulated: int, seed: int = 0) -> list[UltrasoundFrame]:
    """The training split of the real frames, and simulated ones in eight groups, so that they are drawn as often as
    eight of the real groups."""
    rng = np.random.default_rng((seed, 7))
    made = [simulated_frame(rng) for _ in range(simulated)]
    numbered = [UltrasoundFrame(f.grey, f.inside, f.source, f"simulated {n % 8}", f.name) for n, f in enumerate(made)]
    return [*real_frames("train"), *numbered]


def patches(
    frames: Sequence[UltrasoundFrame], count: int, size: int, key: tuple[int, ...], looks: bool = True
) -> Tensor:
    """[count, 1, size, size]. looks: with a gamma from 0.7 to 1.4 and a gain from 0.8 to 1.25 of its own each, since
    the pool has few machines."""
    rng = np.random.default_rng(key)
    made = []
    for _ in range(count):
        patch = random_patch(frames, rng, size, ZOOM)
        gamma, gain = np.exp(rng.uniform(-0.35, 0.35)), np.exp(rng.uniform(-0.22, 0.22))
        made.append(np.clip(gain * patch**gamma, 0, 1) if looks else patch)
    return torch.from_numpy(np.stack(made)[:, None].astype(np.float32))


def make_sample(frames: Sequence[UltrasoundFrame], config: Config, seed: int) -> Any:
    def sample(number: int) -> tuple[Tensor, Tensor, Tensor]:
        images = patches(frames, config.batch, config.size, (seed, 1, number))
        return images, torch.tensor(1 + number % (config.batch - 1)), torch.tensor(number)

    return sample


def schedule(step: int, steps: int, warm: float = 0.03) -> float:
    return min(1.0, (step + 1) / (warm * steps + 1)) * (0.52 + 0.48 * math.cos(math.pi * step / steps))


def train_network(
    config: Config,
    frames: Sequence[UltrasoundFrame],
    folder: Path,
    vgg: VGGFeatures,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    max_seconds: float | None = None,
) -> tuple[StyleTransfer, int]:
    """The trained network on the CPU and the number of steps it had."""
    distances = Distances(vgg, patches(frames, 32, config.size, (seed, 2)))
    step = Step(config, distances, seed)
    loop = LoopConfig(
        steps=config.steps,
        seed=seed,
        device=device,
        precision="32-true",
        schedule=lambda number: schedule(number, config.steps),
        ema_decay=0.995,
        clip_norm=1.0,
        log_every=20,
        checkpoint_every=100,
        max_seconds=max_seconds,
    )
    outcome = train_loop(step, make_sample(frames, config, seed), folder, loop, progress=progress)
    whole = outcome.networks["style"]
    assert isinstance(whole, _Pass)
    return whole.network.cpu().eval(), outcome.step


@torch.no_grad()
def style_map_of(
    network: StyleTransfer, frames: Sequence[UltrasoundFrame], longest: int = 384
) -> tuple[StyleMap, list[str]]:
    """The map of up to six real frames a group, and the name of every place on it."""
    codes, names = [], []
    for group in sorted({f.group for f in frames if f.source != "simulated"}):
        members = [f for f in frames if f.group == group]
        for frame in members[:: max(1, len(members) // 6)][:6]:
            scale = longest / max(frame.grey.shape)
            size = tuple(max(16, round(n * scale / 16) * 16) for n in frame.grey.shape)
            grey, inside = (torch.from_numpy(resized(part, size))[None, None] for part in (frame.grey, frame.inside))
            codes.append(to_vector(network.style_of(grey, inside)))
            names.append(group)
    return StyleMap.of(torch.stack(codes)), names


def train(
    data: Path, out: Path, config: str = "small", seed: int = 0, device: str = "auto", progress: Progress | None = None
) -> Path:
    """Trains, or goes on where a run in `out` stopped, and writes the weights and their card to `out`; returns the
    weights file. Raises BadInput for an unknown configuration or where there are no real frames."""
    chosen, vgg = chosen_config(CONFIGS, config), load_vgg()
    frames = frames_to_learn_from(chosen.simulated, seed)
    network, steps = train_network(chosen, frames, out, vgg, seed, device, progress)
    return export(network, frames, out, steps, config, seed, device, vgg)


def export(
    network: StyleTransfer, frames: Sequence[UltrasoundFrame], out: Path, steps: int, config: str, seed: int,
    device: str, vgg: VGGFeatures,
) -> Path:  # fmt: skip
    """Network, style map and card."""
    style_map, names = style_map_of(network, frames)
    real = [f for f in frames if f.source != "simulated"]
    card = {
        **made_by("us_style_transfer", config, seed, steps, device),
        "title": "B-mode looks",
        "training_data": f"{len(real)} real frames ({attribution(sorted({f.source for f in real}))}) and "
        f"{len(frames) - len(real)} simulated ones; whole subjects, recordings or sources are kept for tests.",
        "figures": {"VGG16 trunk": f"{vgg.source} {vgg.sha256[:12]}".strip()},
        "intended_use": "More looks of labelled frames to train and test on. Research only.",
        "style_map": {
            "x": [round(float(x), 3) for x, _ in style_map.places()],
            "y": [round(float(y), 3) for _, y in style_map.places()],
            "name": names,
        },
    }
    export_weights({**network.state_dict(), **style_map.state()}, out, WEIGHTS, card)
    return out / WEIGHTS
