"""Encode slices part-way into noise and decode them toward a wanted lesion size or a painted lesion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor, nn

from medgen.diffusion.guidance import Network, more_or_less, toward_mask, toward_value
from medgen.diffusion.networks import ANY_LABEL, NoiseNetwork, compile_for_gpu, load_networks, network_names
from medgen.diffusion.sampling import Guide
from medgen.diffusion.studies import study_of
from medgen.diffusion.translation import Setting, Translator
from medgen.errors import BadInput
from medgen.imaging.brain_study import BRAIN_SEQUENCES, BrainStudy, chosen_slices
from medgen.imaging.geometry import canonical, to_array
from medgen.imaging.resampling import resample_labels
from medgen.method import Context
from medgen.metrics.overlap import dice
from medgen.nets.diffusion_unet import DiffusionUNet

SHARED = {  # what a file need not have, because another method's has it: method, file, and its name there
    "denoiser": ("diffusion_anomaly", "brain_mr.safetensors", "denoiser"),
    "judge": ("diffusion_segmentation", "plain_unet.safetensors", "plain"),
}
BATCH = 16
HEALTHY, DISEASED = 0, 1
SMALLEST_LESION = 0.005  # share of the brain from which a slice counts as diseased
NEAR_REGION = 5  # pixels round the region where change is no surprise
SIZE_SCALE, MASK_SCALE = 60_000.0, 0.2  # c at strength 1, chosen on heads 15 and 16; masks: of the sum over pixels
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: any of FLAIR, T2, T1, T1c, brain, and region. outputs: as the spec says, all images on the grid of the
    first sequence there is. Raises BadInput where there is nothing to edit."""
    edit = parameters["edit"]
    if edit == "region" and "region" not in inputs:
        raise BadInput("Paint or choose the region that the lesion shall fill.")
    context.progress.report("Loading the networks", 0.0)
    networks = networks_of(context)
    if parameters["compile"]:
        compile_for_gpu(networks["denoiser"], context)
    study = study_of(inputs, context)
    region = region_on_slices(inputs["region"], study) if edit == "region" else np.zeros_like(study.brain)
    before = predicted_sizes(study.slices, study.brain, networks, context)
    box = study.inside(inputs.get("roi"))
    within = chosen_slices(study, parameters["from_mm"], parameters["to_mm"], box)
    rows = rows_to_edit(edit, within, region, before)
    setting = Setting(parameters["noise_level"], min(parameters["steps"], parameters["noise_level"]),
                      parameters["solver"])  # fmt: skip
    edited = study.slices.copy()
    edited[rows], error = translate(
        study.slices[rows], networks, setting, labels_of(edit, parameters["label"]),
        lambda part: [
            guide_of(parameters, networks, region[rows][part], study.brain[rows][part], context.device)
        ],
        context,
    )  # fmt: skip
    edited = np.clip(edited, 0, 1) * study.brain[:, None]
    context.progress.report("Measuring the edit", 0.95)
    return outputs_of(study, edited, region, rows, parameters, before, networks, context, error)


def labels_of(edit: str, told: str) -> tuple[int, int]:
    """What the noise network is told on the way in and out: a slice keeps its own class, and one that gets a lesion is
    encoded as healthy and decoded as diseased; or nothing."""
    if told == "any":
        return ANY_LABEL, ANY_LABEL
    return (HEALTHY if edit == "region" else DISEASED), DISEASED


def networks_of(context: Context) -> dict[str, nn.Module]:
    """'denoiser', 'segmenter', 'judge' and perhaps 'regressor', kept for the next job; what the file lacks comes from
    another method's weights. Raises BadInput where they are missing."""
    path = context.weights
    assert path is not None
    lacking = [name for name in SHARED if name not in network_names(path)]
    others = {name: context.borrow(*SHARED[name][:2]) for name in lacking}

    def load() -> dict[str, nn.Module]:
        networks = load_networks(path, context.device)
        return networks | {name: load_networks(file, context.device)[SHARED[name][2]] for name, file in others.items()}

    return context.cached(("diffusion_edit", str(path), *context.borrowed.values(), context.device), load)


def region_on_slices(region: sitk.Image, study: BrainStudy) -> Mask:
    """The painted region inside the brain, [z, 128, 128]."""
    upright, _ = canonical(sitk.Cast(region != 0, sitk.sitkUInt8))
    return (to_array(resample_labels(upright, study.grid)) != 0) & study.brain


def rows_to_edit(edit: str, within: npt.NDArray[np.int64], region: Mask, sizes: Float32) -> npt.NDArray[np.int64]:
    """Those of the slices `within` that show some of the region, or a lesion. Raises BadInput where there are none."""
    wanted = np.asarray(region.reshape(len(region), -1).any(1) if edit == "region" else sizes >= SMALLEST_LESION)
    rows = within[wanted[within]]
    if not len(rows):
        raise BadInput(
            "The region does not meet the brain." if edit == "region" else "No slice shows a lesion to change."
        )
    return rows


def predicted_sizes(slices: Float32, brain: Mask, networks: dict[str, nn.Module], context: Context) -> Float32:
    """[n]: the lesion's share of the brain in each slice, as the network that guides sees it. brain: [n, h, w]."""
    found = _in_batches(
        lambda x, part: share_seen(networks, brain[part], context.device)(x, _without_noise(x)), slices, context
    )
    return found[:, 0]


def seen_lesion(slices: Float32, network: nn.Module, context: Context) -> Mask:
    """[n, h, w]: the lesion as a segmenter sees it in slices without noise."""
    return _in_batches(lambda x, _part: network(x, _without_noise(x)), slices, context)[:, 0] > 0


@torch.no_grad()
def _in_batches(network: Callable[[Tensor, slice], Tensor], slices: Float32, context: Context) -> Float32:
    parts = []
    for start in range(0, len(slices), BATCH):
        context.progress.raise_if_cancelled()
        part = slice(start, start + BATCH)
        parts.append(network(torch.from_numpy(slices[part]).to(context.device), part).float().cpu().numpy())
    return np.concatenate(parts)


def _without_noise(x: Tensor) -> Tensor:
    return torch.ones(len(x), device=x.device)


def guide_of(
    parameters: dict[str, Any], networks: dict[str, nn.Module], region: Mask, brain: Mask, device: str
) -> Guide:
    """region, brain: of the slices in the batch, [n, h, w]."""
    edit, strength = parameters["edit"], parameters["strength"]
    if edit == "region":
        wanted = torch.from_numpy(region[:, None].astype(np.float32)).to(device)
        return toward_mask(_call(networks["segmenter"]), wanted, strength * MASK_SCALE)
    share = share_seen(networks, brain, device)
    if edit == "size":
        return toward_value(share, parameters["size"] / 100, strength * SIZE_SCALE)
    return more_or_less(share, 1.0 if edit == "grow" else -1.0, strength * SIZE_SCALE)


def share_seen(networks: dict[str, nn.Module], brain: Mask, device: str) -> Network:
    """Tells the lesion's share of the brain, [n, 1], in noisy slices whose brain [n, h, w] is this: the regressor, as
    in the paper, or where the file has none, the sum of the segmenter's chances."""
    if "regressor" in networks:
        return _call(networks["regressor"])
    pixels = torch.from_numpy(brain.reshape(len(brain), -1).sum(1, dtype=np.float32)).clamp(min=1).to(device)
    segmenter = _call(networks["segmenter"])
    return lambda x, t: segmenter(x, t).sigmoid().flatten(1).sum(1, keepdim=True) / pixels[:, None]


def _call(network: nn.Module) -> Network:
    return lambda x, t: network(x, t)


def translate(
    slices: Float32,
    networks: dict[str, nn.Module],
    setting: Setting,
    labels: tuple[int, int],
    guides_of: Callable[[slice], list[Guide]],
    context: Context,
) -> tuple[Float32, float]:
    """The edited slices [n, 4, h, w] and the round-trip error without guidance. labels: on the way in and out."""
    denoiser = cast(DiffusionUNet, networks["denoiser"])
    encoder, decoder = (NoiseNetwork(denoiser, label=label) for label in labels)
    translator = Translator(decoder, setting, context, encoder)
    x = torch.from_numpy(slices)
    latents = translator.encode(x, lambda f: context.progress.report("Encoding", 0.05 + 0.35 * f))
    drawn = translator.decode(latents, guides_of, lambda f: context.progress.report("Redrawing", 0.4 + 0.5 * f))
    return drawn.numpy(), translator.round_trip(x, latents)


def outputs_of(
    study: BrainStudy,
    edited: Float32,
    region: Mask,
    rows: npt.NDArray[np.int64],
    parameters: dict[str, Any],
    before: Float32,
    networks: dict[str, nn.Module],
    context: Context,
    error: float,
) -> dict[str, Any]:
    present = np.array(study.present)
    change = np.abs(edited - study.slices)[:, present].sum(1)
    reached = predicted_sizes(edited[rows], study.brain[rows], networks, context)
    lesion = np.zeros_like(study.brain)
    lesion[rows] = seen_lesion(edited[rows], networks["judge"], context) & study.brain[rows]
    report: dict[str, list[Any]] = {
        "slice": rows.tolist(),
        "size before": before[rows].round(4).tolist(),
        "size wanted": [parameters["size"] / 100 if parameters["edit"] == "size" else None] * len(rows),
        "size reached": reached.round(4).tolist(),
    }
    if parameters["edit"] == "region":
        report["Dice with the region"] = [round(dice(lesion[row], region[row]), 4) for row in rows]
        report["change outside"] = [round(value, 4) for value in change_outside(change, region, study.brain, rows)]
    report["round-trip error"] = [round(error, 4)] * len(rows)
    outputs: dict[str, Any] = {
        f"edited_{name}": study.to_scan(edited[:, channel])
        for channel, name in enumerate(BRAIN_SEQUENCES)
        if study.present[channel]
    }
    return {
        **outputs,
        "difference": study.to_scan(change),
        "lesion": study.to_scan(lesion.astype(np.uint8)),
        "report": {name: values for name, values in report.items() if None not in values},
    }


def change_outside(change: Float32, region: Mask, brain: Mask, rows: npt.NDArray[np.int64]) -> list[float]:
    """Mean change of each slice in the brain, 5 pixels or more from the region."""
    found = []
    for row in rows:
        far = brain[row] & ~ndimage.binary_dilation(region[row], iterations=NEAR_REGION)
        found.append(float(change[row][far].mean()) if far.any() else 0.0)
    return found
