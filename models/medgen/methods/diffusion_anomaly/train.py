"""`medgen train diffusion_anomaly --data DIR -o DIR`: noise network and classifier, from image-level labels alone.

DIR holds whole-head label maps (numbers 1 to 14 are learnt from, 15 and up are held back), or slices rendered from them
before; the lesion masks decide only whether a slice counts as healthy or diseased. Or it holds X-rays with labels.csv:
then the networks are those of `diffusion_anomaly_xray`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

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
from medgen.errors import BadInput
from medgen.imaging.brain_study import SIDE
from medgen.imaging.xray_set import XraySampler, load_xrays
from medgen.method import Progress
from medgen.nets.diffusion_unet import DiffusionUNet, EncoderClassifier, Layout, LocalClassifier, paper_classifier

WEIGHTS, XRAY_WEIGHTS = "brain_mr.safetensors", "xray.safetensors"
BRAINS = {
    "title": "Brain MR (T1, T1c, T2, FLAIR): diffusion network and healthy/diseased classifier",
    "training_data": "Skull-stripped slices rendered from head label maps 1 to 14 with inserted hyperintensities, "
    "tumours and infarcts; image-level labels only. No scan was used.",
    "trained_on_rendered": True,
}
XRAYS = {
    "title": "Chest X-rays: diffusion network and no-finding/pneumonia classifier",
    "training_data": "NIH Clinical Center chest X-rays (Wang et al., CVPR 2017), no finding and pneumonia, four fifths "
    "of the patients; labels are text-mined.",
    "trained_on_rendered": False,
}
CLASSIFIER = {
    "smoke": Layout(4, 2, 8, (1, 2), 1, (), groups=4, patch=4, scale_shift=True, block_resampling=True),
    "small": Layout(4, 1, 16, (1, 2, 2), 1, (), groups=8, patch=2, scale_shift=True, block_resampling=True),
    "paper": paper_classifier(2, side=SIDE),
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
    weights file. max_seconds: of this call, instead of the configuration's. config 'classifier': as 'small', but the
    noise network is taken from the starter weights. Raises BadInput."""
    only_classifier = config == "classifier"
    config = "small" if only_classifier else config
    plan = plan_of(config)
    xrays = (data / "labels.csv").is_file()
    sampler: Callable[[int], dict[str, torch.Tensor]] = (
        XraySampler(load_xrays(data, SIDE), seed, plan.batch)
        if xrays
        else BrainSampler(brain_set(data, out, seed, config == "smoke", progress), seed, plan.batch)
    )
    channels = 1 if xrays else 4
    torch.manual_seed(seed)
    layout = replace(TRANSLATING[config], channels_in=channels, channels_out=2 * channels)
    ready = ready_noise_network(layout) if only_classifier else None
    if only_classifier and ready is None:
        raise BadInput("There are no starter weights whose noise network could be taken over.")
    step = DiffusionStep(
        DiffusionUNet(layout) if ready is None else None,
        {"classifier": (_classifier(config, channels), "class")},
        plan.learning_rate,
        HALF_WAY,
    )

    def sample(number: int) -> dict[str, torch.Tensor]:
        batch = sampler(number)
        return {"image": batch["image"], "label": batch["label"], "classifier": batch["label"]}

    outcome = run_plan(step, sample, out, plan, seed, device, progress, max_seconds)
    card = {
        **(XRAYS if xrays else BRAINS),
        "command": f"medgen train diffusion_anomaly --config {config}"
        + (", then --config classifier" if only_classifier else ""),
        "seed": seed,
        "steps": outcome.step,
        "device": device,
    }
    networks = {**outcome.networks, **({} if ready is None else {"denoiser": ready})}
    return save_networks(networks, out, XRAY_WEIGHTS if xrays else WEIGHTS, card)


def _classifier(config: str, channels: int) -> nn.Module:
    """The paper's with attention pooling, or a small one that looks at each place by itself."""
    layout = replace(CLASSIFIER[config], channels_in=channels)
    return EncoderClassifier(layout, SIDE) if layout.channels_out == 2 else LocalClassifier(layout)
