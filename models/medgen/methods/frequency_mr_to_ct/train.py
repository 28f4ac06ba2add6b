"""Training: `medgen train frequency_mr_to_ct --data DIR -o DIR`.

DIR holds whole-head label maps (numbered NIfTI; 1 to 14 are learnt from, 15 and 16 choose the best weights, others are
left for tests), from which pairs are rendered, or a folder a patient with its own pair (`training.paired_scans`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen.errors import BadInput
from medgen.imaging.phantoms import TRAIN_HEADS, VALIDATION_HEADS, numbered_maps
from medgen.imaging.phantoms.brain_set import save_array
from medgen.losses.adversarial import discriminator_loss, generator_loss
from medgen.method import Progress, SilentProgress
from medgen.methods.frequency_mr_to_ct.loss import LOWEST_HU, RANGE_HU, SPACING_MM, frequency_loss, low_frequencies
from medgen.methods.frequency_mr_to_ct.net import Critic, FrequencyNet
from medgen.nets.half_precision import half_precision
from medgen.nets.unet3d import PAPER_WIDEST
from medgen.training.export import chosen_config, export_weights, made_by
from medgen.training.loop import LoopConfig, Update
from medgen.training.loop import train as train_loop
from medgen.training.paired_heads import BentHead, bent_heads, draw_patch
from medgen.training.paired_scans import PairedScan, draw_crop, pair_folders, read_pair, wants_registration

Array = npt.NDArray[Any]
Batch = tuple[Tensor, Tensor, Tensor]
WEIGHTS = "head_mr_to_ct.safetensors"
TISSUE_EDGES_HU = (-500.0, -20.0, 100.0, 600.0)  # air, fat, soft tissue, spongy and compact bone


@dataclass(frozen=True)
class Config:
    """sigma: of the low-pass, voxels, or net.BOX; adversarial: weight of the high-frequency critic's term, which comes
    in after the first fifth of the steps, 0 for none; tissue: weight of the cross-entropy that names each voxel's class
    of HU (TISSUE_EDGES_HU) from the features, 0 for none, as in the paper; copies: heads made of each label map;
    seconds: of one call."""

    width: int
    steps: int
    patch: int = 48
    batch: int = 1
    learning_rate: float = 2e-3
    kernel: int = 13
    sigma: float = 15.0
    high_weight: float = 1.0
    adversarial: float = 0.0
    tissue: float = 0.0
    heads: int = len(TRAIN_HEADS)
    copies: int = 2
    widest: int = PAPER_WIDEST
    seconds: float | None = None


CONFIGS = {
    "smoke": Config(width=4, steps=4, patch=32, kernel=3, heads=1, copies=1),
    # 16 channels, a multiple of what the CPU's vectors hold in bfloat16, are faster than 8
    "small": Config(width=16, widest=64, steps=12_000, patch=64, learning_rate=1.5e-3, tissue=0.05),
    "paper": Config(width=32, steps=225_000, batch=2, learning_rate=1e-3, adversarial=1e-3, copies=8, patch=64),
}


class FrequencyStep:
    """The networks, their optimisers and one update on (MR, CT, high frequencies of the CT).

    A mean absolute error pulls a voxel that is bone with a chance below one half towards soft tissue, whatever the
    chance; thin bone then stays unseen for long. The cross-entropy does not. Its layer is left out of the weights.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.number = config, 0
        network = FrequencyNet(config.width, config.kernel, lowpass=config.sigma, widest=config.widest)
        self.networks: dict[str, nn.Module] = {"net": network}
        betas = (0.5 if config.adversarial else 0.9, 0.999)
        if config.adversarial:
            self.networks["critic"] = Critic(config.width)
        learnt = {name: list(net.parameters()) for name, net in self.networks.items()}
        if config.tissue:
            self.networks["tissue"] = nn.Conv3d(config.width, len(TISSUE_EDGES_HU) + 1, 1)
            learnt["net"] += self.networks["tissue"].parameters()
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(weights, config.learning_rate, betas) for name, weights in learnt.items()
        }
        for net in self.networks.values():
            net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def run(self, batch: Batch, update: Update) -> dict[str, float]:
        mr, ct, high = (part.contiguous(memory_format=torch.channels_last_3d) for part in batch)
        found = self.networks["net"](mr)
        loss, whole = frequency_loss(found, ct, high, self.config.high_weight)
        figures = {"loss": float(loss.detach()), "mae_hu": float(whole.detach()) * RANGE_HU}
        if self.config.adversarial and self.number >= self.config.steps // 5:
            critic = self.networks["critic"]
            judged = discriminator_loss(critic(high, mr), critic(found.high.detach(), mr), "relativistic")
            update("critic", judged)
            fooled = generator_loss(critic(high, mr).detach(), critic(found.high, mr), "relativistic")
            loss = loss + self.config.adversarial * fooled
            figures |= {"critic": float(judged.detach()), "fooled": float(fooled.detach())}
        if self.config.tissue:
            named = F.cross_entropy(self.networks["tissue"](found.features), tissue_classes(ct))
            loss = loss + self.config.tissue * named
            figures["tissue"] = float(named.detach())
        update("net", loss)
        self.number += 1
        return figures


def tissue_classes(ct: Tensor) -> Tensor:
    """int64 [batch, z, y, x], 0 for air to 4 for compact bone, of a CT [batch, 1, z, y, x] in the network's unit."""
    return torch.bucketize(ct[:, 0] * RANGE_HU + LOWEST_HU, torch.tensor(TISSUE_EDGES_HU, device=ct.device))


def one_cycle(step: int, steps: int, warm: float = 0.05) -> float:
    """Factor on the learning rate: from 1/25 to 1 over the first part, then to nought, both along a cosine."""
    rise = warm * steps
    if step < rise:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * step / rise)) / 2
    return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def to_unit(hu: Array) -> Tensor:
    """float32 tensor of any shape, (HU + 1024) / 3276.7."""
    return torch.from_numpy((hu - np.float32(LOWEST_HU)) / np.float32(RANGE_HU))


@dataclass(frozen=True)
class Rendered:
    """A bent head with the low frequencies of its CT, float16 [z, y, x]."""

    head: BentHead
    low: Array

    def draw(self, size: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        patch = draw_patch(self.head, (size,) * 3, rng)
        return patch.mr, patch.cut(self.head.hu), patch.cut(self.low)


@dataclass(frozen=True)
class Own:
    """A user's pair with the low frequencies of its CT, float16 [z, y, x]."""

    scan: PairedScan
    low: Array

    def draw(self, size: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        mr, hu, low = draw_crop((self.scan.mr, self.scan.hu, self.low), size, rng)
        return mr * np.float32(rng.uniform(0.9, 1.1)), hu, low


def own_pairs(data: Path, sigma: float, progress: Progress) -> tuple[list[Own], list[Own]]:
    """(to learn from, every eighth to choose the best weights by). Pairs that do not fit are told and left out."""
    register, found = wants_registration(data), []
    for folder in pair_folders(data):
        progress.raise_if_cancelled()
        try:
            scan = read_pair(folder, SPACING_MM, register)
        except BadInput as error:
            progress.log(f"Left out: {error}")
            continue
        found.append(Own(scan, low_frequencies(scan.hu, sigma).astype(np.float16)))
    return [pair for i, pair in enumerate(found) if i % 8 != 7], found[7::8]


def rendered(maps: list[Path], cache: Path, copies: int, sigma: float, progress: Progress) -> list[Rendered]:
    """Made once and kept in `cache`."""
    found = []
    for head, stem in bent_heads(maps, cache, copies, 0, SPACING_MM, progress.log):
        kept = Path(f"{stem}.low{sigma:g}.npy")
        if not kept.is_file():
            save_array(kept, low_frequencies(head.hu, sigma).astype(np.float16))
        found.append(Rendered(head, np.load(kept, mmap_mode="r")))
    return found


def draw_batch(sources: list[Any], size: int, count: int, seed: tuple[int, int]) -> Batch:
    """MR, CT and its high frequencies, float32 [count, 1, size, size, size]; seed: (run, step)."""
    rng = np.random.default_rng(seed)
    drawn = [sources[int(rng.integers(len(sources)))].draw(size, rng) for _ in range(count)]
    mr, hu, low = (np.stack(part)[:, None] for part in zip(*drawn, strict=True))
    return torch.from_numpy(mr), to_unit(hu), torch.from_numpy((hu - low) / np.float32(RANGE_HU))


def body_mae_hu(network: nn.Module, batches: list[Batch]) -> float:
    """Mean absolute error in HU over what is no air in the true patches."""
    errors: list[float] = []
    device = next(network.parameters()).device
    for mr, ct, _ in batches:
        with half_precision(device):
            found = network(mr.to(device).contiguous(memory_format=torch.channels_last_3d)).ct.cpu()
        inside = ct * RANGE_HU + LOWEST_HU > -500
        errors.append(float((found - ct)[inside].abs().mean()) * RANGE_HU)
    return float(np.mean(errors))


def train(
    data: Path, out: Path, config: str = "small", seed: int = 0, device: str = "auto", progress: Progress | None = None
) -> Path:
    """Trains, or goes on where a run in `out` stopped, and writes the weights and their card to `out`; returns the
    weights file. Raises BadInput for an unknown configuration or a folder without what training needs."""
    return train_as(data, out, chosen_config(CONFIGS, config), config, seed, device, progress or SilentProgress())


def train_as(data: Path, out: Path, chosen: Config, name: str, seed: int, device: str, progress: Progress) -> Path:
    """`train` with any configuration; name: what the card calls it."""
    learnt_from, held_back, story = _sources(data, out, chosen, progress)
    checks = [draw_batch(held_back, chosen.patch, 1, (99, i)) for i in range(16)] if held_back else []

    def validate(networks: Mapping[str, nn.Module]) -> float:
        return -body_mae_hu(networks["net"], checks)

    torch.manual_seed(seed)
    loop = LoopConfig(
        steps=chosen.steps,
        seed=seed,
        device=device,
        precision="bf16-mixed",
        schedule=lambda step: one_cycle(step, chosen.steps),
        ema_decay=0.998,
        clip_norm=1.0,
        checkpoint_every=100,
        validate_every=500,
        log_every=25,
        max_seconds=chosen.seconds,
    )
    outcome = train_loop(
        FrequencyStep(chosen),
        lambda step: draw_batch(learnt_from, chosen.patch, chosen.batch, (seed + 1, step)),
        out,
        loop,
        validate if checks else None,
        progress,
    )
    card = {
        **made_by("frequency_mr_to_ct", name, seed, outcome.step, device),
        "title": f"Head MR to synthetic CT, {name}",
        "training_data": story,
        "figures": {"Validation patches, mean absolute error in the body, HU": -(outcome.best or 0.0)},
        "intended_use": "Research on MR-only planning. Not validated for treatment.",
        "trained_on_rendered": isinstance(learnt_from[0], Rendered),
    }
    export_weights(outcome.networks["net"].state_dict(), out, WEIGHTS, card)
    return out / WEIGHTS


def _sources(data: Path, out: Path, chosen: Config, progress: Progress) -> tuple[list[Any], list[Any], str]:
    """(to learn from, to choose by, what the card says of them)."""
    if pair_folders(data):
        own, choose_by = own_pairs(data, chosen.sigma, progress)
        if not own:
            raise BadInput(f"None of the pairs in {data} can be used; the log says why.")
        return own, choose_by, f"{len(own)} registered MR and CT pairs of the user."
    maps = numbered_maps(data)
    wanted = [maps[n] for n in TRAIN_HEADS if n in maps][: chosen.heads]
    if not wanted:
        raise BadInput(
            f"There are neither label maps numbered 1 to 14 (*_01.nii.gz ...) nor patients' folders with mr.nii.gz and "
            f"ct.nii.gz in {data}."
        )
    held = [maps[n] for n in VALIDATION_HEADS if n in maps][: chosen.heads]
    learnt_from = rendered(wanted, out / "heads", chosen.copies, chosen.sigma, progress)
    held_back = rendered(held, out / "heads", 1, chosen.sigma, progress)
    return learnt_from, held_back, f"Pairs rendered from {len(wanted)} head label maps. No scan was used."
