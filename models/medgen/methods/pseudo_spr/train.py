"""Training on rendered heads or on a user's own pairs: `medgen train pseudo_spr --data DIR -o DIR`.

DIR holds whole-head label maps (numbered; 1 to 14 are learnt from, 15 and 16 choose the best weights, others are left
alone), or a folder a patient with any of water, t1 and fat, and spr or ct, registered and as .nii.gz; bone is
bone.nii.gz, where there is one, else what lies above 300 HU. Of those every eighth chooses the best weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from medgen.errors import BadInput
from medgen.imaging.geometry import canonical, crop_to_mask, to_array
from medgen.imaging.intensity import z_score
from medgen.imaging.phantoms import (
    TRAIN_HEADS,
    VALIDATION_HEADS,
    Scan,
    crop_to_head,
    deform_labels,
    numbered_maps,
    part_fat,
    random_deformation,
    read_head,
    render_dixon,
    render_mr,
    render_spr,
)
from medgen.imaging.phantoms.render import SEQUENCES, Sequence, sequence_contrast
from medgen.imaging.phantoms.tissue import BONE, MARROW
from medgen.imaging.resampling import grid_like, resample, resample_labels
from medgen.imaging.water_path import spr_from_hu
from medgen.method import Progress
from medgen.methods.pseudo_spr.learning import (
    AIR_SPR,
    BONE_HU,
    INPUTS,
    SPACING_MM,
    Case,
    Recipe,
    draw_batch,
    patient_mask,
    spr_loss,
)
from medgen.methods.pseudo_spr.spec import CHANNELS
from medgen.nets.unet3d import PAPER_WIDEST, UNet3d
from medgen.training.export import chosen_config, export_weights, made_by
from medgen.training.loop import LoopConfig, Update
from medgen.training.loop import train as train_loop

WEIGHTS = "head_dixon.safetensors"


@dataclass(frozen=True)
class Config:
    """copies: renderings of each head, all but the first bent; seconds: of one call of training, None for no end."""

    width: int
    steps: int
    batch: int = 2
    patch: int = 64
    learning_rate: float = 2e-3
    heads: int = len(TRAIN_HEADS)
    copies: int = 2
    widest: int = PAPER_WIDEST
    seconds: float | None = None


CONFIGS = {
    "smoke": Config(width=4, steps=3, batch=1, patch=32, heads=1, copies=1),
    # 16 channels, a multiple of what the CPU's vectors hold in bfloat16, are faster than 8
    "small": Config(width=16, widest=64, steps=1300, batch=1),
    "paper": Config(width=32, steps=60_000, batch=4, learning_rate=2e-4, copies=8),
}


# --------------------------------------------------------------------------------------------------------------- cases


def make_case(
    channels: Mapping[str, sitk.Image], bone: sitk.Image, spr: sitk.Image, spacing_mm: float = SPACING_MM
) -> Case:
    """Everything on the working grid (cubic voxels of `spacing_mm`) round the body; outside it SPR is that of air.

    The channels hold z-scores in the body.
    """
    leading = next(channels[name] for name in CHANNELS if name in channels)
    upright, _ = canonical(leading)
    whole = grid_like(upright, spacing_mm)
    found = patient_mask([resample(image, whole, fill=0.0) for image in channels.values()])
    box = crop_to_mask(found, found, margin_mm=4 * spacing_mm)
    inside = to_array(resample_labels(found, box)) != 0
    arrays = {
        name: z_score(to_array(resample(image, box, fill=0.0)).astype(np.float32), inside).astype(np.float16)
        for name, image in channels.items()
    }
    values = to_array(resample(spr, box, fill=AIR_SPR)).astype(np.float32)
    values[~inside & (values < 0.5)] = AIR_SPR  # skin that the mask misses stays
    return Case(arrays, to_array(resample_labels(bone, box)), inside, values.astype(np.float16))


def render_case(labels: sitk.Image, rng: np.random.Generator, spacing_mm: float = SPACING_MM) -> Case:
    """A head label map as Dixon, T1 of random times, and SPR, on the working grid."""
    scan = Scan(
        psf_fwhm_mm=float(rng.uniform(0.8, 1.8)),
        slice_mm=float(rng.uniform(2, 4)) if rng.random() < 0.35 else 0.0,
        bias=float(rng.uniform(0.03, 0.3)),
        texture=float(rng.uniform(0.02, 0.08)),
        noise=float(rng.uniform(0.004, 0.03)),
    )
    base = SEQUENCES[("T1", "T1se", "T1c")[int(rng.choice(3, p=(0.5, 0.35, 0.15)))]]
    times = [t * float(np.exp(rng.normal(0, 0.15))) for t in (base.tr_ms, base.te_ms, base.ti_ms)]
    t1 = render_mr(labels, sequence_contrast(Sequence(times[0], times[1], times[2], base.contrast)), rng, scan)
    water, fat = render_dixon(labels, rng, scan)
    bone = sitk.GetImageFromArray(np.isin(sitk.GetArrayViewFromImage(labels), (BONE, MARROW)).astype(np.uint8))
    bone.CopyInformation(labels)
    return make_case({"water": water, "t1": t1, "fat": fat}, bone, render_spr(labels, rng), spacing_mm)


def rendered_head(path: Path, number: int, copy: int, seed: int) -> Case:
    """Head label map `path` rendered; copies above 0 are bent to another person's head."""
    rng = np.random.default_rng((seed, number, copy))
    labels = crop_to_head(part_fat(read_head(path), np.random.default_rng(number)))
    if copy:
        labels = deform_labels(labels, random_deformation(labels, rng))
    return render_case(labels, rng)


def read_case(folder: Path) -> Case:
    """A patient's folder. Raises BadInput where a file is missing."""
    channels = {n: sitk.ReadImage(str(folder / f"{n}.nii.gz")) for n in CHANNELS if (folder / f"{n}.nii.gz").is_file()}
    if not channels:
        raise BadInput(f"There is none of water, t1 and fat (.nii.gz) in {folder}.")
    if (folder / "spr.nii.gz").is_file():
        spr = sitk.ReadImage(str(folder / "spr.nii.gz"), sitk.sitkFloat32)
    elif (folder / "ct.nii.gz").is_file():
        ct = sitk.ReadImage(str(folder / "ct.nii.gz"), sitk.sitkFloat32)
        spr = sitk.GetImageFromArray(spr_from_hu(to_array(ct)))
        spr.CopyInformation(ct)
    else:
        raise BadInput(f"There is neither spr.nii.gz nor ct.nii.gz in {folder}.")
    own = folder / "bone.nii.gz"
    bone = sitk.ReadImage(str(own), sitk.sitkUInt8) if own.is_file() else spr >= float(spr_from_hu(BONE_HU))
    return make_case(channels, bone, spr)


def _cases(
    data: Path, out: Path, config: Config, seed: int, progress: Progress | None
) -> tuple[list[Case], list[Case]]:
    """Cases to learn from and to choose by; rendered ones are kept in `out` for a run that goes on."""
    maps = numbered_maps(data)
    if not maps:
        folders = sorted(folder for folder in data.iterdir() if folder.is_dir())
        cases = [read_case(folder) for folder in folders]
        return [c for i, c in enumerate(cases) if i % 8 != 7], cases[7::8]
    wanted = [(n, copy) for n in TRAIN_HEADS[: config.heads] if n in maps for copy in range(config.copies)]
    held_back = [(n, 0) for n in VALIDATION_HEADS if n in maps and config.heads > 1]

    def all_of(which: list[tuple[int, int]]) -> Iterator[Case]:
        for number, copy in which:
            if progress is not None:
                progress.raise_if_cancelled()
                progress.report("Rendering heads", 0.0, f"head {number}, copy {copy}")
            yield _kept(out / "cases" / f"{number:02d}_{copy}.npy", maps[number], number, copy, seed)

    return list(all_of(wanted)), list(all_of(held_back))


def _kept(file: Path, path: Path, number: int, copy: int, seed: int) -> Case:
    if not file.is_file():
        case = rendered_head(path, number, copy, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = [*(case.channels[name] for name in CHANNELS), case.bone, case.body, case.spr]
        partial = file.with_suffix(".partial.npy")
        np.save(partial, np.stack([part.astype(np.float16) for part in parts]))
        partial.replace(file)
    array = np.load(file, mmap_mode="r")
    return Case(dict(zip(CHANNELS, array, strict=False)), array[-3], array[-2], array[-1])


# ------------------------------------------------------------------------------------------------------------ training


class SprStep:
    """The network, its optimiser and one update."""

    def __init__(self, width: int, learning_rate: float, widest: int = PAPER_WIDEST) -> None:
        network = UNet3d(INPUTS, 1, width, widest=widest).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.networks: dict[str, nn.Module] = {"unet": network}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "unet": torch.optim.Adam(network.parameters(), learning_rate)
        }

    def run(self, batch: Any, update: Update) -> dict[str, float]:
        inputs, spr = (part.contiguous(memory_format=torch.channels_last_3d) for part in batch)
        loss = spr_loss(self.networks["unet"](inputs).float(), spr)
        update("unet", loss)
        return {"loss": float(loss.detach())}


def cosine(step: int, steps: int, warm: int = 50) -> float:
    """Factor on the learning rate: up over `warm` steps, then along a cosine to a hundredth."""
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def train(
    data: Path, out: Path, config: str = "small", seed: int = 0, device: str = "auto", progress: Progress | None = None
) -> Path:
    """Trains, or goes on where a run in `out` stopped, and writes the weights and their card to `out`; returns the
    weights file. Raises BadInput for an unknown configuration or a folder without what training needs."""
    chosen = chosen_config(CONFIGS, config)
    learnt_from, held_back = _cases(data, out, chosen, seed, progress)
    if not learnt_from:
        raise BadInput(f"There are neither label maps numbered 1 to 14 nor patients' folders to train on in {data}.")
    recipe = Recipe(patch=chosen.patch, batch=chosen.batch)
    checks = [draw_batch(held_back, recipe, (99, i)) for i in range(8)] if held_back else []

    def validate(networks: Mapping[str, nn.Module]) -> float:
        return -float(np.mean([float(spr_loss(networks["unet"](x), y)) for x, y in checks]))

    torch.manual_seed(seed)
    loop = LoopConfig(
        steps=chosen.steps,
        seed=seed,
        device=device,
        precision="bf16-mixed",
        schedule=lambda step: cosine(step, chosen.steps),
        ema_decay=0.995,
        clip_norm=5.0,
        checkpoint_every=100,
        validate_every=200,
        log_every=20,
        max_seconds=chosen.seconds,
    )
    outcome = train_loop(
        SprStep(chosen.width, chosen.learning_rate, chosen.widest),
        lambda step: draw_batch(learnt_from, recipe, (seed + 1, step)),
        out,
        loop,
        validate if checks else None,
        progress,
    )
    card = {
        **made_by("pseudo_spr", config, seed, outcome.step, device),
        "title": f"Head SPR from Dixon and T1, {config}",
        "training_data": f"{len(learnt_from)} cases from {data.name}.",
        "figures": {"Validation, minus (L1 + L2) of z-scored SPR": outcome.best},
        "intended_use": "Research on MR-only ion-beam planning. Not validated for treatment.",
        "trained_on_rendered": bool(list(data.glob("*.nii*"))),
    }
    export_weights(outcome.networks["unet"].state_dict(), out, WEIGHTS, card)
    return out / WEIGHTS
