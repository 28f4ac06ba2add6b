"""Draw masks for every slice, agree on one, and show where they disagree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from medgen.diffusion.networks import NoiseNetwork, compile_for_gpu, load_networks
from medgen.diffusion.sampling import Draws, ancestral, decode, stochastic_ddim
from medgen.diffusion.schedule import Schedule
from medgen.diffusion.studies import study_of
from medgen.imaging.brain_study import PIXEL_MM, BrainStudy, chosen_slices
from medgen.imaging.islands import without_islands
from medgen.method import Context
from medgen.nets.diffusion_unet import DiffusionUNet

BATCH = 16
STAPLE_ITERATIONS = 50  # masks that hardly overlap never converge
SPACING = 1.5  # of DPM-Solver++: of ten even steps the last would leave many pixels between 0 and 1
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: any of FLAIR, T2, T1, T1c, and brain and roi. outputs: as the spec says, all images on the grid of the
    first sequence there is. Raises BadInput."""
    context.progress.report("Loading the network", 0.0)
    network = network_of(context)
    if parameters["compile"]:
        compile_for_gpu(network, context)
    study = study_of(inputs, context)
    box = study.inside(inputs.get("roi"))
    rows = chosen_slices(study, parameters["from_mm"], parameters["to_mm"], box)
    draws = np.zeros((parameters["draws"], *study.brain.shape), np.float32)
    draws[:, rows] = draw_masks(
        study.slices[rows], network, parameters["draws"], parameters["sampler"], parameters["steps"], context,
        lambda done: context.progress.report("Drawing masks", 0.03 + 0.9 * done), parameters["eta"],
    )  # fmt: skip
    draws *= study.brain & box
    context.progress.report("Agreeing on one mask", 0.95)
    mean, variance, votes = draws.mean(0), draws.var(0), (draws > 0.5).mean(0, dtype=np.float32)
    agreed = staple(draws)
    voxel = PIXEL_MM**2 * study.grid.spacing_mm[2]
    lesion = consensus(mean, votes, agreed, parameters["consensus"], parameters["threshold"])
    lesion = without_islands(lesion, round(parameters["smallest"] / voxel))
    labels = np.where(lesion, 1, np.where(variance > parameters["uncertain"], 2, 0)).astype(np.uint8)
    outputs: dict[str, Any] = {
        "segmentation": study.to_scan(labels),
        "mean": _unit(study, mean),
        "votes": _unit(study, votes),
        "staple": _unit(study, agreed),
        "variance": study.to_scan(variance),
        "volumes": volumes(draws > 0.5, lesion, voxel / 1000, len(rows)),
    }
    if parameters["keep"]:
        outputs["draws"] = [_unit(study, draw) for draw in draws]
    return outputs


def _unit(study: BrainStudy, values: Float32) -> sitk.Image:
    return sitk.Clamp(study.to_scan(np.clip(values, 0, 1)), lowerBound=0.0, upperBound=1.0)


def network_of(context: Context) -> DiffusionUNet:
    """The network of `context.weights`, kept for the next job."""
    path = context.weights
    assert path is not None
    key = ("diffusion_segmentation", str(path), context.device)
    return cast(DiffusionUNet, context.cached(key, lambda: load_networks(path, context.device))["denoiser"])


def draw_masks(
    slices: Float32,
    network: DiffusionUNet,
    count: int,
    sampler: str,
    steps: int,
    context: Context,
    report: Callable[[float], None] = lambda done: None,
    eta: float = 0.0,
) -> Float32:
    """slices: [n, 4, h, w]; returns [count, n, h, w], about 0..1. Every slice and draw has its own random numbers, so
    that neither batches nor the number of draws change one. steps: evaluations for each draw; eta: of DDIM."""
    schedule = Schedule()
    times = schedule.times(schedule.levels, steps, SPACING if sampler == "dpm2" else 1.0)
    out = np.zeros((count, len(slices), *slices.shape[2:]), np.float32)
    pairs = [(draw, row) for row in range(len(slices)) for draw in range(count)]
    batch = max(1, round(BATCH * context.batch_scale))
    for start in range(0, len(pairs), batch):
        here = pairs[start : start + batch]
        condition = torch.from_numpy(slices[[row for _, row in here]]).to(context.device)
        noise = NoiseNetwork(network, condition=condition)
        draws = Draws([(context.seed, row, draw) for draw, row in here])
        x = draws.like(condition[:, :1])
        tick = context.progress.raise_if_cancelled
        if sampler == "ddpm":
            x = ancestral(x, noise.predict, schedule, times, draws, limits=(-1, 1), tick=tick)
        elif sampler == "ddim":
            x = stochastic_ddim(x, noise, schedule, times, draws, eta, tick)
        else:
            x = decode(x, noise, schedule, times, "dpm2", tick=tick)
        for (draw, row), mask in zip(here, x[:, 0].cpu().numpy(), strict=True):
            out[draw, row] = mask
        report(min(1.0, (start + len(here)) / len(pairs)))
    return out


def staple(draws: Float32) -> Float32:
    """draws: [n, ...]; the probability [...] that a pixel is lesion, where every mask counts by how far the others bear
    it out (Warfield et al., IEEE TMI 2004)."""
    masks = draws > 0.5
    if len(masks) == 1 or not masks.any():
        return masks.mean(0, dtype=np.float32)
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    return np.asarray(sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0, 1.0, STAPLE_ITERATIONS)), np.float32)


def consensus(mean: Float32, votes: Float32, agreed: Float32, how: str, threshold: float) -> Mask:
    """'mean' and 'staple' are cut at the threshold; for 'majority' more than half of the masks must hold a pixel."""
    if how == "majority":
        return np.asarray(votes > 0.5)
    return np.asarray((agreed if how == "staple" else mean) > threshold)


def volumes(masks: Mask, lesion: Mask, voxel_ml: float, slices: int) -> dict[str, list[Any]]:
    """A row for each draw, then what they say together."""
    each = masks.reshape(len(masks), -1).sum(1) * voxel_ml
    empty = int((~masks.any(axis=(-2, -1))).all(0).sum()) - (masks.shape[1] - slices)
    low, high = np.percentile(each, (5, 95))
    rows = [(f"draw {number + 1}, ml", float(value)) for number, value in enumerate(each)]
    rows += [("mean, ml", float(each.mean())), ("standard deviation, ml", float(each.std())),
             ("5 %, ml", float(low)), ("95 %, ml", float(high)), ("consensus, ml", float(lesion.sum() * voxel_ml)),
             ("slices", float(slices)), ("slices empty in every draw", float(empty))]  # fmt: skip
    return {"quantity": [name for name, _ in rows], "value": [round(value, 3) for _, value in rows]}
