"""Encode slices part-way into noise and decode them toward a wanted lesion size or a painted lesion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    first sequence there is; of a series {size in %: image}. Raises BadInput where there is nothing to edit."""
    edit, sizes = parameters["edit"], wanted_sizes(parameters)
    if edit != "size" and parameters["sizes"] > 1:
        context.progress.notice("Only 'bring the lesion to a size' makes a series; this is one image.")
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
    each, wanted = np.tile(rows, len(sizes)), np.repeat(sizes, len(rows))  # row and size of every decoded slice

    def guides_of(part: slice) -> list[Guide]:
        asked = {**parameters, "size": wanted[part]}
        return [guide_of(asked, networks, region[each[part]], study.brain[each[part]], context.device)]

    drawn, error = translate(
        study.slices[rows], networks, setting, labels_of(edit, parameters["label"]), guides_of, context, len(sizes)
    )
    context.progress.report("Measuring the edit", 0.95)
    job = Job(study, region, rows, before, networks, context, error)
    redrawn = np.split(drawn, len(sizes))
    if len(sizes) == 1:
        edited = job.whole(redrawn[0])
        lesion = job.chance(edited) > 0.5
        return outputs_of(job, edited, lesion, parameters) | {"lesion": study.to_scan(lesion.astype(np.uint8))}
    return series_of(job, [(size, job.whole(part)) for size, part in zip(sizes, redrawn, strict=True)], parameters)


def wanted_sizes(parameters: dict[str, Any]) -> list[float]:
    """In %: one, or those of a series, evenly from the first to the last. Raises BadInput where these are the same."""
    first, last, count = parameters["size"], parameters["last_size"], parameters["sizes"]
    if parameters["edit"] != "size" or count == 1:
        return [first]
    sizes = [round(size, 2) for size in np.linspace(first, last, count).tolist()]
    if len(set(sizes)) < count:
        raise BadInput("The wanted size and the last size of a series must lie further apart.")
    return sizes


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
    return lesion_chance(slices, network, context) > 0.5


def lesion_chance(slices: Float32, network: nn.Module, context: Context) -> Float32:
    """[n, h, w], 0 to 1: how sure a segmenter is of lesion in slices without noise."""
    return _in_batches(lambda x, _part: network(x, _without_noise(x)).sigmoid(), slices, context)[:, 0]


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
    """region, brain: of the slices in the batch, [n, h, w]; the parameter size may be [n] too."""
    edit, strength = parameters["edit"], parameters["strength"]
    if edit == "region":
        wanted = torch.from_numpy(region[:, None].astype(np.float32)).to(device)
        return toward_mask(_call(networks["segmenter"]), wanted, strength * MASK_SCALE)
    share = share_seen(networks, brain, device)
    if edit == "size":
        wanted = torch.as_tensor(parameters["size"] / 100, dtype=torch.float32, device=device)
        return toward_value(share, wanted, strength * SIZE_SCALE)
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
    copies: int = 1,
) -> tuple[Float32, float]:
    """The edited slices [copies * n, 4, h, w], copy by copy, and the round-trip error without guidance. Slices are
    encoded once however many copies are decoded. labels: on the way in and out; guides_of: of a range of the copies."""
    denoiser = cast(DiffusionUNet, networks["denoiser"])
    encoder, decoder = (NoiseNetwork(denoiser, label=label) for label in labels)
    translator = Translator(decoder, setting, context, encoder)
    x = torch.from_numpy(slices)
    latents = translator.encode(x, lambda f: context.progress.report("Encoding", 0.05 + 0.35 * f))
    drawn = translator.decode(
        latents.repeat(copies, 1, 1, 1), guides_of, lambda f: context.progress.report("Redrawing", 0.4 + 0.5 * f)
    )
    return drawn.numpy(), translator.round_trip(x, latents)


@dataclass(frozen=True)
class Job:
    """What all edited images of a run share. rows: the slices that were edited; before: the sizes that the guide saw;
    error: of the round trip."""

    study: BrainStudy
    region: Mask
    rows: npt.NDArray[np.int64]
    before: Float32
    networks: dict[str, nn.Module]
    context: Context
    error: float

    def whole(self, drawn: Float32) -> Float32:
        """All slices [z, 4, h, w], those of the rows as drawn."""
        edited = self.study.slices.copy()
        edited[self.rows] = drawn
        return np.clip(edited, 0, 1) * self.study.brain[:, None]

    def chance(self, slices: Float32) -> Float32:
        """[z, h, w]: of lesion in the rows of these slices, as the judge sees it; 0 elsewhere."""
        found = np.zeros(self.study.brain.shape, np.float32)
        found[self.rows] = lesion_chance(slices[self.rows], self.networks["judge"], self.context)
        return found * self.study.brain

    def change(self, edited: Float32) -> Float32:
        """[z, h, w]: summed over the sequences that are there."""
        present = np.array(self.study.present)
        return np.asarray(np.abs(edited - self.study.slices)[:, present].sum(1))

    def share(self, lesion: Mask) -> float:
        """Of the lesion in the brain in %, mean over the rows."""
        pixels = [mask[self.rows].reshape(len(self.rows), -1).sum(1) for mask in (lesion, self.study.brain)]
        return float((pixels[0] / pixels[1]).mean() * 100)


def outputs_of(job: Job, edited: Float32, lesion: Mask, parameters: dict[str, Any]) -> dict[str, Any]:
    """The images and the report of one edit; lesion: as the judge sees it."""
    study, rows, change = job.study, job.rows, job.change(edited)
    reached = predicted_sizes(edited[rows], study.brain[rows], job.networks, job.context)
    report: dict[str, list[Any]] = {
        "slice": rows.tolist(),
        "size before": job.before[rows].astype(float).round(4).tolist(),
        "size wanted": [round(parameters["size"] / 100, 4) if parameters["edit"] == "size" else None] * len(rows),
        "size reached": reached.astype(float).round(4).tolist(),
    }
    if parameters["edit"] == "region":
        report["Dice with the region"] = [round(dice(lesion[row], job.region[row]), 4) for row in rows]
        report["change outside"] = [round(v, 4) for v in change_outside(change, job.region, study.brain, rows)]
    report["round-trip error"] = [round(job.error, 4)] * len(rows)
    images = {
        f"edited_{name}": study.to_scan(edited[:, channel])
        for channel, name in enumerate(BRAIN_SEQUENCES)
        if study.present[channel]
    }
    return {
        **images,
        "difference": study.to_scan(change),
        "report": {name: values for name, values in report.items() if None not in values},
    }


def series_of(job: Job, edits: list[tuple[float, Float32]], parameters: dict[str, Any]) -> dict[str, Any]:
    """edits: size in %, slices. Images become {size: image}, reports stand one after the other, and a table tells what
    the judge, who guided nothing, sees of every size."""
    old, found = job.chance(job.study.slices) > 0.5, []
    for size, edited in edits:
        job.context.progress.raise_if_cancelled()
        chance = job.chance(edited)
        lesion = chance > 0.5
        outside = change_outside(job.change(edited), lesion | old, job.study.brain, job.rows)
        row = {
            "wanted, %": size,
            "reached, %": round(job.share(lesion), 2),
            "before, %": round(job.share(old), 2),
            "change outside": round(float(np.mean(outside)), 4),
        }
        outputs = outputs_of(job, edited, lesion, {**parameters, "size": size})
        table = {name: [value] for name, value in row.items()}
        found.append(outputs | {"chance": job.study.to_scan(chance), "sizes": table})
    merged: dict[str, Any] = {}
    for name, first in found[0].items():
        if isinstance(first, sitk.Image):
            merged[name] = {size: each[name] for (size, _), each in zip(edits, found, strict=True)}
        else:
            merged[name] = {column: [v for each in found for v in each[name][column]] for column in first}
    return merged


def change_outside(change: Float32, region: Mask, brain: Mask, rows: npt.NDArray[np.int64]) -> list[float]:
    """Mean change of each slice in the brain, 5 pixels or more from the region."""
    found = []
    for row in rows:
        far = brain[row] & ~ndimage.binary_dilation(region[row], iterations=NEAR_REGION)
        found.append(float(change[row][far].mean()) if far.any() else 0.0)
    return found
