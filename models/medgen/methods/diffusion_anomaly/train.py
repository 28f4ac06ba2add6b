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
from medgen.training.export import made_by

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
# for X-rays: of 128 of them little can be learnt, and what tells them apart is larger than a lesion
SMALL_XRAY = (
    Layout(1, 2, 16, (1, 2, 2, 2), 1, (), groups=8, classes=2, patch=2),
    Layout(1, 1, 16, (1, 2, 2, 4), 1, (), groups=8, patch=2, scale_shift=True, block_resampling=True),
)


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
    torch.manual_seed(seed)
    layout, judge = SMALL_XRAY if xrays and config == "small" else _layouts(config, 1 if xrays else 4)
    ready = ready_noise_network(layout) if only_classifier else None
    if only_classifier and ready is None:
        raise BadInput("There are no starter weights whose noise network could be taken over.")
    step = DiffusionStep(
        DiffusionUNet(layout) if ready is None else None,
        {"classifier": (_classifier(judge), "class")},
        plan.learning_rate,
        HALF_WAY,
    )

    def sample(number: int) -> dict[str, torch.Tensor]:
        batch = sampler(number)
        return {"image": batch["image"], "label": batch["label"], "classifier": batch["label"]}

    outcome = run_plan(step, sample, out, plan, seed, device, progress, max_seconds)
    said = config + (", then --config classifier" if only_classifier else "")
    card = {**made_by("diffusion_anomaly", said, seed, outcome.step, device), **(XRAYS if xrays else BRAINS)}
    networks = {**outcome.networks, **({} if ready is None else {"denoiser": ready})}
    return save_networks(networks, out, XRAY_WEIGHTS if xrays else WEIGHTS, card)


def _layouts(config: str, channels: int) -> tuple[Layout, Layout]:
    """Of the noise network and of the classifier."""
    noise = replace(TRANSLATING[config], channels_in=channels, channels_out=2 * channels)
    return noise, replace(CLASSIFIER[config], channels_in=channels)


def _classifier(layout: Layout) -> nn.Module:
    """The paper's with attention pooling, or a small one that looks at each place by itself."""
    return EncoderClassifier(layout, SIDE) if layout.channels_out == 2 else LocalClassifier(layout)
