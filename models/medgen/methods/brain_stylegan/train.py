"""Training the starter weights on rendered brains: `medgen train brain_stylegan --data DIR -o DIR`.

The first DIR holds a set of aligned brains (`medgen.imaging.phantoms.aligned_brains`); an empty one gets it first, from
the head label maps of the shared data. Heads 1 to 14 are learnt from, mirrored too; the others are left for tests.
Stages follow on each other: a larger network begins with what the one of half its size has learnt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.errors import BadInput
from medgen.imaging.brain_alignment import FIELD_MM, TEMPLATE_MM
from medgen.imaging.phantoms import TRAIN_HEADS
from medgen.imaging.phantoms.aligned_brains import AlignedBrains, load_aligned_brains, render_aligned_brains
from medgen.method import Progress
from medgen.methods.brain_stylegan.learning import Config, Step, TrainedGenerator
from medgen.methods.brain_stylegan.spec import TRAINING_SET
from medgen.methods.brain_stylegan.stored import state_to_store
from medgen.nets.stylegan3d import Architecture, Generator
from medgen.training.export import chosen_config, export_weights, made_by
from medgen.training.loop import LoopConfig
from medgen.training.loop import train as train_loop
from medgen.weights import load_card

CODED = 24  # voxels along k of the pictures whose principal components are the codes, whatever the network's size
VARIANTS = {**dict.fromkeys(range(1, 15), 26), **dict.fromkeys(range(15, 21), 8)}
GENERATOR, DISCRIMINATOR = "generator.pt", "discriminator.pt"  # of a stage, for the next one
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Stage:
    """weights: the file it makes; variants: how many brains of each head, all stages of a training alike; ema_decay:
    of the averaged generator, which is what ships."""

    weights: str
    config: Config
    ema_decay: float = 0.995
    variants: tuple[tuple[int, int], ...] = tuple(VARIANTS.items())


def starter(*filters: int) -> Architecture:
    return Architecture(filters, latent=64, mapping=2, skips=True)


FD64 = Architecture((64,) * 5, 64)
CONFIGS: dict[str, tuple[Stage, ...]] = {
    "smoke": (
        Stage("brain_8mm.safetensors", Config(Architecture((8, 8, 8), 8), 6, 2, batch=4, r1_every=2, path_every=2),
              variants=((1, 2), (2, 2))),
    ),
    "small": (
        Stage("brain_16mm.safetensors", Config(starter(64, 32), steps=4200, warm=4200, warm_rate=5.0)),
        Stage("brain_8mm.safetensors", Config(starter(64, 32, 32), steps=2250, warm=1500, warm_rate=3.0)),
        Stage("brain_4mm.safetensors", Config(starter(64, 32, 32, 16), steps=500, warm=400, batch=4,
              learning_rate=1e-3, r1=10.0, r1_every=8), ema_decay=0.98),
    ),
    "paper": (
        Stage("brain_2mm.safetensors",
              Config(FD64, steps=60_000, warm=0, batch=16, betas=(0.0, 0.99), anchor=0.0, r1=0.0, half=False),
              ema_decay=0.999),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Material:
    """images: float32 [n, k, j, i] in [-1, 1], the second half the first one mirrored; codes: [n, latent], principal
    components, each with standard deviation 1; template: what the brains were aligned to, 0 to 1."""

    images: Float32
    codes: Float32
    template: Float32

    def batch(self, size: int, seed: int) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
        def sample(number: int) -> tuple[Tensor, Tensor, Tensor]:
            chosen = np.random.default_rng((seed, number)).integers(len(self.images), size=size)
            images, codes = torch.from_numpy(self.images[chosen][:, None]), torch.from_numpy(self.codes[chosen])
            return images, codes, torch.tensor(number)

        return sample


def material(brains: AlignedBrains, architecture: Architecture) -> Material:
    """Raises BadInput where the brains' voxels are larger than the network's."""
    pool = brains.images.shape[1] // architecture.shape()[0]
    if pool < 1:
        raise BadInput("These brains are coarser than the network: render them in finer voxels.")
    numbers = brains.of_heads(TRAIN_HEADS)
    images, coarse = (2 * brains.values(numbers, factor) - 1 for factor in (pool, brains.images.shape[1] // CODED))
    images, coarse = (np.concatenate([part, part[..., ::-1]]) for part in (images, coarse))
    return Material(images, principal_codes(coarse, architecture.latent), brains.template)


def principal_codes(images: Float32, latent: int) -> Float32:
    """[n, latent]: scores on the principal components, in standard deviations; 0 for components that are not there."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(0)
    values, vectors = np.linalg.eigh(flat @ flat.T)
    count = min(latent, int((values > 1e-6 * values[-1]).sum()))
    codes = np.zeros((len(images), latent), np.float32)
    codes[:, :count] = vectors[:, : -count - 1 : -1] * np.sqrt(len(images))
    return codes


def train(
    data: Path, out: Path, config: str = "small", seed: int = 0, device: str = "auto", progress: Progress | None = None
) -> Path:
    """Trains every stage, or goes on where a run in `out` stopped, and writes weights and card to `out`; returns the
    last weights file. Raises BadInput for an unknown configuration or where nothing can be rendered."""
    stages, path = chosen_config(CONFIGS, config), out
    finest = FIELD_MM[2] / stages[-1].config.architecture.shape()[0]
    if (data / "images.npy").is_file():
        brains = load_aligned_brains(data)
    else:
        brains = render_aligned_brains(dict(stages[0].variants), seed, data, progress, min(TEMPLATE_MM, finest))
    before: Path | None = None
    for stage in stages:
        seen, folder = material(brains, stage.config.architecture), out / stage.weights.removesuffix(".safetensors")
        network, steps = train_stage(stage.config, seen, folder, before, seed, device, progress, stage.ema_decay)
        path, before = export(network, seen, out, stage.weights, steps, config, seed, device), folder
    export_brains(brains, out)
    return path


def train_stage(
    config: Config,
    brains: Material,
    folder: Path,
    before: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    ema_decay: float | None = 0.995,
    max_seconds: float | None = None,
) -> tuple[Generator, int]:
    """The averaged generator, on the CPU, and the number of steps it had; `folder` gets checkpoints and what the next
    stage needs. before: the folder of the stage of half the size."""
    start = None
    if before is not None:
        start = tuple(torch.load(before / name, weights_only=True) for name in (GENERATOR, DISCRIMINATOR))
    mean = torch.from_numpy(brains.images.mean(0)) if config.anchor else None
    step = Step(config, seed, start, mean)
    loop = LoopConfig(
        steps=config.steps,
        seed=seed,
        device=device,
        schedule=lambda number: schedule(number, config),
        ema_decay=ema_decay,
        log_every=10,
        checkpoint_every=100,
        max_seconds=max_seconds,
    )
    outcome = train_loop(step, brains.batch(config.batch, seed), folder, loop, progress=progress)
    whole = outcome.networks["generator"]
    assert isinstance(whole, TrainedGenerator)
    network = whole.network.cpu().eval()
    torch.save(network.state_dict(), folder / GENERATOR)
    torch.save({k: v.cpu() for k, v in step.discriminator.state_dict().items()}, folder / DISCRIMINATOR)
    return network, outcome.step


def schedule(number: int, config: Config) -> float:
    """`warm_rate` while only the generator learns, then 1, down to a tenth over the last third."""
    if number < config.alone:
        return config.warm_rate
    return 1.0 - 0.9 * max(0.0, 3 * number / config.steps - 2)


def export(
    network: Generator, brains: Material, out: Path, weights: str, steps: int, config: str, seed: int, device: str
) -> Path:
    """The averaged generator with its card."""
    state, metadata = state_to_store(network, torch.from_numpy(brains.template))
    export_weights(state, out, weights, card(steps, config, seed, device), metadata=metadata)
    return out / weights


def export_brains(brains: AlignedBrains, out: Path) -> Path:
    """Two of each training head and the other heads as they are: what copies are looked for in, and what a quick proof
    measures on. The card must be there already."""
    table = brains.table
    first, second = (brains.of_heads(TRAIN_HEADS)[table[brains.of_heads(TRAIN_HEADS), 1] == v] for v in (0, 5))
    tested = np.flatnonzero((table[:, 1] == 0) & ~np.isin(table[:, 0], list(TRAIN_HEADS)))
    state = {
        "images": brains.images[[*first, *second]],
        "tested": brains.images[tested],
        "tested_ventricles": table[tested, 2],
        "ventricles": brains.ventricles,
    }
    facts = {name: value for name, value in load_card(out).items() if name != "files"}
    export_weights({name: torch.from_numpy(array) for name, array in state.items()}, out, TRAINING_SET, facts)
    return out / TRAINING_SET


def card(steps: int, config: str, seed: int, device: str) -> dict[str, Any]:
    brains = sum(VARIANTS[head] for head in TRAIN_HEADS)
    return {
        **made_by("brain_stylegan", config, seed, steps, device),
        "title": "Brains",
        "training_data": f"{brains} skull-stripped T1 brains, mirrored too, rendered from head label maps 1 to 14, "
        "bent at random, ventricles and sulci widened as by atrophy; heads 15 to 20 are kept for tests.",
        "intended_use": "Synthetic brains to teach, test and share. Research only.",
        "known_failures": ["Lesions, infant brains and other contrasts than T1 were never seen."],
    }
