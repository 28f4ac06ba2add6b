"""`medgen train diffusion_segmentation --data DIR -o DIR`: a network that draws lesion masks on T1, T1c, T2 and FLAIR.

DIR holds whole-head label maps (numbers 1 to 14 are learnt from), or slices rendered from them before.
"""

from __future__ import annotations

from pathlib import Path

import torch

from medgen.diffusion.training import BrainSampler, DiffusionStep, brain_set, plan_of, run_plan, save_networks
from medgen.method import Progress
from medgen.nets.diffusion_unet import DiffusionUNet, Layout, paper_unet

WEIGHTS = "lesions.safetensors"
UNET = {
    "smoke": Layout(5, 2, 8, (1, 2), 1, (), groups=4, patch=4),
    "small": Layout(5, 2, 32, (1, 2, 2, 2), 1, (), groups=8, patch=2),
    "paper": paper_unet(5, 2),
}


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
    sampler = BrainSampler(brain_set(data, out, seed, config == "smoke", progress), seed, plan.batch)
    torch.manual_seed(seed)
    step = DiffusionStep(DiffusionUNet(UNET[config]), {}, plan.learning_rate)

    def sample(number: int) -> dict[str, torch.Tensor]:
        batch = sampler(number)
        return {"image": batch["lesion"], "condition": batch["image"]}

    outcome = run_plan(step, sample, out, plan, seed, device, progress, max_seconds)
    card = {
        "title": "Brain MR lesions (T1, T1c, T2, FLAIR): diffusion network that draws masks",
        "training_data": "Skull-stripped slices rendered from head label maps 1 to 14 with inserted hyperintensities, "
        "tumours and infarcts, and their masks. No scan was used.",
        "command": f"medgen train diffusion_segmentation --config {config}",
        "seed": seed,
        "steps": outcome.step,
        "device": device,
    }
    return save_networks(outcome.networks, out, WEIGHTS, card)
