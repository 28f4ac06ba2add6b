"""Encode every slice part-way into noise, decode it toward 'healthy', and map what changed."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from medgen.diffusion.guidance import toward_class
from medgen.diffusion.networks import NoiseNetwork, load_networks
from medgen.diffusion.translation import Setting, Translator
from medgen.imaging.brain_study import BRAIN_SEQUENCES, PIXEL_MM, BrainStudy, brain_study
from medgen.imaging.islands import without_islands
from medgen.method import Context
from medgen.nets.diffusion_unet import DiffusionUNet

HEALTHY = 0
SMALLEST_SLICE = 200  # pixels of brain
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: any of FLAIR, T2, T1, T1c, and brain. outputs: as the spec says, all images on the grid of the first
    sequence there is."""
    context.progress.report("Loading the networks", 0.0)
    networks = networks_of(context)
    study = brain_study({n: inputs[n] for n in BRAIN_SEQUENCES if n in inputs}, inputs.get("brain"))
    with_brain = np.flatnonzero(study.brain.reshape(len(study.brain), -1).sum(1) >= SMALLEST_SLICE)
    diseased = np.zeros(len(study.brain), np.float32)
    diseased[with_brain] = probability_diseased(study.slices[with_brain], networks["classifier"], context)
    rows = with_brain if parameters["slices"] == "all" else with_brain[diseased[with_brain] >= 0.5]
    setting = Setting(
        parameters["noise_level"], min(parameters["steps"], parameters["noise_level"]), parameters["solver"],
        parameters["clamp"],
    )  # fmt: skip
    healthy = study.slices.copy()
    error = 0.0
    if len(rows):
        healthy[rows], error = pseudo_healthy(study.slices[rows], networks, setting, parameters["guidance"], context)
    context.progress.report("Measuring what changed", 0.96)
    inside = shrunk(study.brain, parameters["rim"])
    change = anomaly_map(study.slices, healthy, inside)
    found, cut = segment(change, inside, rows, parameters, study)
    outputs: dict[str, Any] = {"anomaly": study.to_scan(found.astype(np.uint8)), "anomaly_map": study.to_scan(change)}
    for channel, name in enumerate(BRAIN_SEQUENCES):
        if study.present[channel]:
            outputs[f"healthy_{name}"] = study.to_scan(np.clip(healthy[:, channel], 0, 1) * study.brain)
    flair = BRAIN_SEQUENCES.index("FLAIR")
    if study.present[flair]:
        bright = equalised(study.slices[:, flair], study.brain) >= parameters["percentile"] / 100
        outputs["flair_threshold"] = study.to_scan((bright & study.brain).astype(np.uint8))
    position = np.arange(len(diseased)) * study.grid.spacing_mm[2]
    outputs["diseased"] = {
        "position_mm": position[with_brain].round(1).tolist(),
        "p_diseased": diseased[with_brain].round(4).tolist(),
    }
    volume = float(found.sum() * np.prod(study.grid.spacing_mm) / 1000)
    outputs["report"] = {
        "quantity": ["slices", "slices redrawn", "slices likely diseased", "anomaly, ml", "threshold",
                     "round-trip error without guidance"],
        "value": [len(with_brain), len(rows), int((diseased >= 0.5).sum()), round(volume, 2), round(cut, 4),
                  round(error, 4)],
    }  # fmt: skip
    return outputs


def networks_of(context: Context) -> dict[str, nn.Module]:
    """'denoiser' and 'classifier', kept for the next job."""
    path = context.weights
    assert path is not None
    return context.cached(("diffusion_anomaly", str(path), context.device), lambda: load_networks(path, context.device))


@torch.no_grad()
def probability_diseased(slices: Float32, classifier: nn.Module, context: Context, batch: int = 16) -> Float32:
    """[n], of the slices without noise."""
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(slices), batch):
        context.progress.raise_if_cancelled()
        x = torch.from_numpy(slices[start : start + batch]).to(context.device)
        logits = classifier(x, torch.ones(len(x), device=x.device))
        found.append(logits.float().softmax(1)[:, 1 - HEALTHY].cpu().numpy())
    return np.concatenate(found)


def pseudo_healthy(
    slices: Float32, networks: dict[str, nn.Module], setting: Setting, guidance: float, context: Context
) -> tuple[Float32, float]:
    """The slices [n, 4, h, w] redrawn as healthy, and the round-trip error of the setting without guidance."""
    noise = NoiseNetwork(cast(DiffusionUNet, networks["denoiser"]), label=HEALTHY)
    translator = Translator(noise, setting, context)

    def classifier(x: Tensor, t: Tensor) -> Tensor:
        return networks["classifier"](x, t)

    guides = [toward_class(classifier, HEALTHY, guidance)] if guidance else []
    x = torch.from_numpy(slices)
    latents = translator.encode(x, lambda f: context.progress.report("Encoding", 0.02 + 0.38 * f))
    drawn = translator.decode(
        latents, lambda _rows: guides, lambda f: context.progress.report("Redrawing as healthy", 0.4 + 0.5 * f)
    )
    context.progress.report("Measuring the round trip", 0.92)
    return drawn.numpy(), translator.round_trip(x, latents)


def anomaly_map(slices: Float32, healthy: Float32, inside: Mask) -> Float32:
    """[n, h, w]: sum over the sequences of |x - x_0|, 0 outside. A sequence that is not there is 0 in both but for what
    the network draws into it, so it is left out."""
    present = slices.reshape(*slices.shape[:2], -1).any(axis=(0, 2))
    return np.abs(slices - healthy)[:, present].sum(1) * inside


def shrunk(brain: Mask, pixels: int) -> Mask:
    """[n, h, w], every slice eroded by so many pixels."""
    if not pixels:
        return brain
    return ndimage.binary_erosion(brain, np.ones((1, 3, 3), bool), iterations=pixels)


def segment(
    change: Float32, inside: Mask, rows: npt.NDArray[np.int64], parameters: dict[str, Any], study: BrainStudy
) -> tuple[Mask, float]:
    """The anomaly and the threshold that cut it out of the map."""
    values = change[rows][inside[rows]]
    if not values.size or values.max() <= 0:
        return np.zeros(change.shape, bool), 0.0
    if parameters["threshold"] == "otsu":
        from skimage.filters import threshold_otsu

        cut = float(threshold_otsu(values))
    elif parameters["threshold"] == "fixed":
        cut = parameters["value"]
    else:
        cut = float(np.percentile(values, parameters["percentile"]))
    voxels = round(parameters["smallest"] / (PIXEL_MM**2 * study.grid.spacing_mm[2]))
    return without_islands((change > cut) & inside, voxels), cut


def equalised(values: Float32, brain: Mask) -> Float32:
    """Rank of every voxel among the brain's, 0..1 (histogram equalisation); 0 outside. Meissen et al. 2021 found that a
    threshold on it rivals networks on bright lesions."""
    out = np.zeros(values.shape, np.float32)
    inside = values[brain]
    order = np.searchsorted(np.sort(inside), inside, side="right")
    out[brain] = order / max(len(inside), 1)
    return out
