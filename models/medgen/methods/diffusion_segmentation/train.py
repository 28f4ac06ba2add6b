"""`medgen train diffusion_segmentation --data DIR -o DIR`: a network that draws lesion masks on T1, T1c, T2 and FLAIR.

DIR holds whole-head label maps (numbers 1 to 14 are learnt from), or slices rendered from them before. But for the
paper's own, every configuration trains a plain U-Net of the same size on the same batches, which the proof compares
with.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from medgen.diffusion.training import BrainSampler, DiffusionStep, brain_set, plan_of, run_plan, save_networks
from medgen.method import Progress
from medgen.methods.diffusion_segmentation.learning import MaskStep
from medgen.nets.diffusion_unet import DiffusionUNet, Layout, paper_unet
from medgen.training.export import made_by

WEIGHTS, PLAIN_WEIGHTS = "lesions.safetensors", "plain_unet.safetensors"
UNET = {
    "smoke": Layout(5, 1, 8, (1, 2), 1, (), groups=4, patch=4, predicts="chance"),
    "small": Layout(5, 1, 16, (1, 2, 2, 2), 1, (), groups=8, patch=2, predicts="chance"),
    "paper": paper_unet(5, 2),
}
LEARNING_RATE, BATCH = 1e-3, 16  # of the small networks
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
    plan, layout = plan_of(config), UNET[config]
    small = layout.predicts == "chance"
    if small:
        plan = replace(plan, batch=BATCH, learning_rate=LEARNING_RATE)
    slices = brain_set(data, out, seed, config == "smoke", progress)
    sampler = BrainSampler(slices, seed, plan.batch, crop=CROP if small else None)
    torch.manual_seed(seed)
    network = DiffusionUNet(layout)
    step = (
        MaskStep(network, DiffusionUNet(replace(layout, channels_in=4)), plan.learning_rate)
        if small
        else DiffusionStep(network, {}, plan.learning_rate)
    )

    def sample(number: int) -> dict[str, torch.Tensor]:
        batch = sampler(number)
        return {"image": batch["lesion"], "condition": batch["image"]}

    outcome = run_plan(step, sample, out, plan, seed, device, progress, max_seconds)
    card = {
        **made_by("diffusion_segmentation", config, seed, outcome.step, device),
        "title": "Brain MR lesions (T1, T1c, T2, FLAIR): diffusion network that draws masks, and a plain U-Net",
        "training_data": "Skull-stripped slices rendered from head label maps 1 to 14 with inserted hyperintensities, "
        "tumours and infarcts, and their masks. No scan was used.",
    }
    if "plain" in outcome.networks:
        save_networks({"plain": outcome.networks["plain"]}, out, PLAIN_WEIGHTS, card)
    return save_networks({"denoiser": outcome.networks["denoiser"]}, out, WEIGHTS, card)
