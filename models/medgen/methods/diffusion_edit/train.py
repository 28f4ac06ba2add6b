"""`medgen train diffusion_edit --data DIR -o DIR`: noise network, size regressor, lesion segmenter and a judge.

DIR holds whole-head label maps (numbers 1 to 14 are learnt from), or slices rendered from them before. Where
diffusion_anomaly has weights of the same layout, its noise network serves (they have the same task): only the guides
are trained and kept. The small configuration trains a segmenter alone: it tells sizes, too, and the judge is the plain
U-Net of diffusion_segmentation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from medgen.diffusion.training import (
    HALF_WAY,
    TRANSLATING,
    BrainSampler,
    DiffusionStep,
    Target,
    brain_set,
    plan_of,
    ready_noise_network,
    run_plan,
    save_networks,
)
from medgen.imaging.brain_study import SIDE
from medgen.method import Progress
from medgen.nets.diffusion_unet import DiffusionUNet, EncoderClassifier, Layout, paper_classifier, paper_unet
from medgen.training.export import made_by

WEIGHTS = "edit.safetensors"
SEGMENTER = {
    "smoke": Layout(4, 1, 8, (1, 2), 1, (), groups=4, patch=4, predicts="chance"),
    "small": Layout(4, 1, 16, (1, 2, 2), 1, (), groups=8, patch=2, predicts="chance"),
    "paper": replace(paper_unet(4, 1), predicts="chance"),
}
LEARNING_RATE, BATCH = 1e-3, 16  # of the small segmenters
CROP = 96  # pixels: they learn from parts of slices, which saves half of the time


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
    plan = plan_of(config)
    ready = ready_noise_network(TRANSLATING[config])
    only_masks = ready is not None and config != "paper"
    if only_masks:
        plan = replace(plan, batch=BATCH, learning_rate=LEARNING_RATE)
    slices = brain_set(data, out, seed, config == "smoke", progress)
    sampler = BrainSampler(slices, seed, plan.batch, crop=CROP if only_masks else None)
    torch.manual_seed(seed)
    guides: dict[str, tuple[nn.Module, Target]] = {"segmenter": (DiffusionUNet(SEGMENTER[config]), "mask")}
    if config == "paper":
        guides["regressor"] = EncoderClassifier(paper_classifier(1, side=SIDE), SIDE), "value"
    if config != "small":
        torch.manual_seed(seed + 1)  # the judge must not err as the segmenter does
        guides["judge"] = DiffusionUNet(SEGMENTER[config]), "mask"
    step = DiffusionStep(
        DiffusionUNet(TRANSLATING[config]) if ready is None else None,
        guides,
        plan.learning_rate,
        HALF_WAY,
    )

    def sample(number: int) -> dict[str, Tensor]:
        batch = sampler(number)
        image, lesion = batch["image"], batch["lesion"]
        return {
            "image": image,
            "label": batch["label"],
            "regressor": lesion_share(image, lesion),
            "segmenter": lesion,
            "judge": lesion,
        }

    outcome = run_plan(step, sample, out, plan, seed, device, progress, max_seconds)
    card = {
        **made_by("diffusion_edit", config, seed, outcome.step, device),
        "title": "Brain MR (T1, T1c, T2, FLAIR): lesion segmenter of noisy slices, which guides edits",
        "training_data": "Skull-stripped slices rendered from head label maps 1 to 14 with inserted hyperintensities, "
        "tumours and infarcts, and their masks. No scan was used.",
    }
    return save_networks(outcome.networks, out, WEIGHTS, card)


def lesion_share(image: Tensor, lesion: Tensor) -> Tensor:
    """[n]: lesion pixels as a share of the brain's. image: [n, c, h, w], 0 outside the brain; lesion: [n, 1, h, w]."""
    brain = image.amax(1).gt(0).flatten(1).sum(1).clamp(min=1)
    return lesion.flatten(1).sum(1) / brain
