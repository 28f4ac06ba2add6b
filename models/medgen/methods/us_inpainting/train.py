"""Training the inpainter: `medgen train us_inpainting --data DIR -o DIR [--config small]`.

DIR is a folder of ultrasound pictures (PNG, JPEG; cut to their fans); what real frames this machine has besides
(`training/ultrasound_frames`, the training split) and simulated ones come along. Configurations that end in _l2 and
_no_vi are the comparators: the same network, steps and data, without latents, with the squared error alone or with all
losses but the KL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from medgen.errors import BadInput
from medgen.imaging.ultrasound import grey_frame
from medgen.method import Progress
from medgen.methods.us_inpainting.loss import Weights, content_loss, kl_loss, mean_loss, reconstruction_loss, style_loss
from medgen.methods.us_inpainting.masks import distance_inside, random_hole
from medgen.methods.us_inpainting.net import HierarchicalInpainter, Shape, to_state
from medgen.methods.us_inpainting.pyramid import blended
from medgen.nets.vgg import load_vgg
from medgen.training.export import chosen_config, export_weights, made_by
from medgen.training.loop import LoopConfig, Update
from medgen.training.loop import train as train_loop
from medgen.training.ultrasound_frames import (
    UltrasoundFrame,
    attribution,
    cropped_frame,
    random_patch,
    real_frames,
    simulated_frame,
)

SIMULATED_SHARE = 0.35
WARM_UP = 50  # steps; then one learning rate, which averaging the weights makes up for


@dataclass(frozen=True)
class Config:
    """size: pixels of a patch's side; simulated: frames to draw patches of; only_squares: the squared error alone;
    file: of the weights."""

    shape: Shape
    weights: Weights
    steps: int
    batch: int = 8
    size: int = 64
    learning_rate: float = 1.5e-3
    simulated: int = 300
    only_squares: bool = False
    file: str = "b_mode.safetensors"


_SMALL = Config(Shape(), Weights(), steps=2000)  # the shipped weights had 1298
_DETERMINISTIC = replace(_SMALL, shape=Shape(latents=0))
CONFIGS = {
    "smoke": replace(_SMALL, shape=Shape((4, 8, 8, 8, 8, 8)), steps=3, batch=2, simulated=2),
    "small": _SMALL,
    "small_l2": replace(_DETERMINISTIC, only_squares=True, file="b_mode_l2.safetensors"),
    "small_no_vi": replace(_DETERMINISTIC, file="b_mode_no_vi.safetensors"),
    "paper": Config(
        Shape((64, 128, 256, 512, 1024, 1024), units=(2, 2)), Weights(style=(1.0,) * 5), 100_000, size=256,
        learning_rate=1e-5, simulated=4000,
    ),
}  # fmt: skip


class Patches:
    """Patches of real and simulated frames with random holes; the same step gives the same batch."""

    def __init__(self, real: list[UltrasoundFrame], config: Config, seed: int) -> None:
        self.real, self.config, self.seed = real, config, seed
        rng = np.random.default_rng((seed, 7))
        self.simulated = [simulated_frame(rng) for _ in range(config.simulated)]

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """truth, hole, distance to the nearest seen pixel (0 outside the hole): float32 [n, 1, h, w] each."""
        rng = np.random.default_rng((self.seed, 8, step))
        pairs = [(self._patch(rng), random_hole(rng, self.config.size)) for _ in range(self.config.batch)]
        truth = torch.from_numpy(np.stack([patch for patch, _ in pairs]))[:, None]
        hole = torch.from_numpy(np.stack([mask for _, mask in pairs]).astype(np.float32))[:, None]
        distance = torch.from_numpy(np.stack([distance_inside(mask) for _, mask in pairs]))[:, None]
        return truth, hole, distance

    def _patch(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        simulated = not self.real or rng.random() < SIMULATED_SHARE
        patch = random_patch(self.simulated if simulated else self.real, rng, self.config.size)
        return np.clip(patch ** rng.uniform(0.8, 1.25) * rng.uniform(0.8, 1.2), 0, 1).astype(np.float32)


class _Step:
    def __init__(self, config: Config) -> None:
        self.config = config
        network = HierarchicalInpainter(config.shape).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks: dict[str, nn.Module] = {"inpainter": network}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "inpainter": torch.optim.Adam(network.parameters(), config.learning_rate, fused=True)
        }
        self.vgg = None if config.only_squares else load_vgg()

    def run(self, batch: Any, update: Update) -> dict[str, float]:
        truth, hole, distance = batch
        config, network = self.config, self.networks["inpainter"]
        draws, rebuilt, kls = network(truth, hole)
        draw, *others, rebuilt = (composited(image, truth, hole) for image in (*draws, rebuilt))
        if self.vgg is None:
            losses = {"squares": config.weights.reconstruction * ((draw - truth) ** 2).mean()}
        else:
            losses = {"reconstruction": reconstruction_loss(rebuilt, truth, distance, config.weights)}
            losses |= self._feature_losses(draw, truth, hole)
            if kls:
                losses["kl"] = kl_loss(kls, config.weights)
                losses["mean"] = mean_loss(draw, others[0], truth, config.weights)
        update("inpainter", torch.stack(list(losses.values())).sum())
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _feature_losses(self, draw: Tensor, truth: Tensor, hole: Tensor) -> dict[str, Tensor]:
        """Of a draw from the prior: what a user will see must have the texture, not only what the posterior rebuilds
        (there the paper has them)."""
        assert self.vgg is not None
        weights = self.config.weights
        self.vgg.to(truth.device)
        with torch.autocast(truth.device.type, torch.bfloat16):
            with torch.no_grad():
                target = self.vgg(truth, len(weights.style))
            found = self.vgg(draw, len(weights.style))
        return {
            "style": style_loss(found, target, hole, weights),
            "content": content_loss(found, target, weights),
        }


def composited(image: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
    """The network's image blended into what was seen, as filling does it."""
    wide = torch.nn.functional.max_pool2d(hole, 5, 1, 2)
    return blended(image, torch.where(hole > 0, image, truth), wide)


def train(
    data: Path,
    out: Path,
    config: str = "small",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    max_seconds: float | None = None,
) -> Path:
    """Trains, or goes on where a run in `out` stopped, for `max_seconds` at most, and writes the weights and their card
    to `out`; returns the weights file. Raises BadInput for an unknown configuration."""
    chosen = chosen_config(CONFIGS, config)
    frames = [*_own_frames(data), *real_frames("train")]
    torch.manual_seed(seed)
    loop = LoopConfig(
        steps=chosen.steps,
        seed=seed,
        device=device,
        precision="32-true",  # so small a network is slower in mixed precision on a CPU; VGG takes bfloat16
        schedule=lambda step: min(1.0, (step + 1) / WARM_UP),
        ema_decay=0.995,
        clip_norm=5.0,
        checkpoint_every=100,
        max_seconds=max_seconds,
    )
    outcome = train_loop(_Step(chosen), Patches(frames, chosen, seed), out, loop, progress=progress)
    network = outcome.networks["inpainter"]
    assert isinstance(network, HierarchicalInpainter)
    card = {
        **made_by("us_inpainting", config, seed, outcome.step, device),
        "title": f"B-mode, {config}",
        "training_data": f"Patches of {len(frames)} real B-mode frames and {chosen.simulated} simulated ones. Real: "
        + attribution(sorted({frame.source for frame in frames} - {"own"})),
        "intended_use": "Plausible speckle in small holes of B-mode frames. Research only: the fill is invented.",
    }
    export_weights(to_state(network), out, chosen.file, card)
    return out / chosen.file


def _own_frames(folder: Path) -> list[UltrasoundFrame]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    found = [cropped_frame(grey_frame(_read(path)), "own", "own", path.name) for path in files]
    return [frame for frame in found if frame is not None]


def _read(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise BadInput(f"'{path}' cannot be read as an image.") from error
