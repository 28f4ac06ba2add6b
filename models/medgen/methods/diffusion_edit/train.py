"""`medgen train diffusion_edit --data DIR -o DIR`: noise network, size regressor, lesion segmenter and a judge.

DIR holds whole-head label maps (numbers 1 to 14 are learnt from), or slices rendered from them before. Where
diffusion_anomaly has weights of the same layout, its noise network is taken over (they have the same task) and only the
guides are trained.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from medgen.diffusion.training import (
    HALF_WAY,
    TRANSLATING,
    BrainSampler,
    DiffusionStep,
    brain_set,
    plan_of,
    ready_noise_network,
    run_plan,
    save_networks,
)
from medgen.imaging.brain_study import SIDE
from medgen.method import Progress
from medgen.nets.diffusion_unet import DiffusionUNet, EncoderClassifier, Layout, paper_classifier, paper_unet

WEIGHTS = "edit.safetensors"
REGRESSOR = {
    "smoke": Layout(4, 1, 8, (1, 2), 1, (), groups=4, patch=4, scale_shift=True, block_resampling=True),
    "small": Layout(4, 1, 16, (1, 2, 2, 2), 1, (8,), 8, 32, patch=2, scale_shift=True, block_resampling=True),
    "paper": paper_classifier(1, side=SIDE),
}
SEGMENTER = {
    "smoke": Layout(4, 1, 8, (1, 2), 1, (), groups=4, patch=4),
    "small": Layout(4, 1, 16, (1, 2, 2), 1, (), groups=8, patch=2),
    "paper": paper_unet(4, 1),
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
    ready = ready_noise_network(TRANSLATING[config])
    torch.manual_seed(seed)
    regressor = EncoderClassifier(REGRESSOR[config], SIDE)
    segmenter = DiffusionUNet(SEGMENTER[config])
    torch.manual_seed(seed + 1)  # the judge must not err as the segmenter does
    judge = DiffusionUNet(SEGMENTER[config])
    step = DiffusionStep(
        DiffusionUNet(TRANSLATING[config]) if ready is None else None,
        {"regressor": (regressor, "value"), "segmenter": (segmenter, "mask"), "judge": (judge, "mask")},
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
    networks: dict[str, nn.Module] = dict(outcome.networks)
    if ready is not None:
        networks["denoiser"] = ready
    card = {
        "title": "Brain MR (T1, T1c, T2, FLAIR): diffusion network, lesion size regressor, segmenter and judge",
        "training_data": "Skull-stripped slices rendered from head label maps 1 to 14 with inserted hyperintensities, "
        "tumours and infarcts, and their masks. No scan was used.",
        "command": f"medgen train diffusion_edit --config {config}",
        "seed": seed,
        "steps": outcome.step,
        "device": device,
    }
    return save_networks(networks, out, WEIGHTS, card)


def lesion_share(image: Tensor, lesion: Tensor) -> Tensor:
    """[n]: lesion pixels as a share of the brain's. image: [n, c, h, w], 0 outside the brain; lesion: [n, 1, h, w]."""
    brain = image.amax(1).gt(0).flatten(1).sum(1).clamp(min=1)
    return lesion.flatten(1).sum(1) / brain
