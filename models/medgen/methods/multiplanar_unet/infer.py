"""The starter weights on a head MR: cut the volume into slices along each axis, label each, let the axes vote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from scipy import ndimage

from medgen.imaging.foreground import filled, foreground_mask
from medgen.imaging.geometry import canonical, crop_to_mask, from_array, paste_back, to_array
from medgen.imaging.resampling import grid_like, resample, resample_labels
from medgen.method import Context
from medgen.methods.multiplanar_unet.labels import BONE, CLASSES, LABELS
from medgen.nets.half_precision import half_precision
from medgen.nets.unet2d import UNet2d, unet_from_state

SPACING_MM = 1.0
BATCH = 8
SPECK_MM3 = 30.0
AXES = {"1": (0,), "3": (0, 1, 2)}  # of a z, y, x array: axial, coronal, sagittal


def robust_scale(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intensities of a head in its bounding box, brought to about 0 to 1 as the training images are: divided by the
    98th percentile of what is brighter than the mean, cut off at 2."""
    values = values - min(float(values.min()), 0.0)
    bright = values[values > values.mean()]
    scale = float(np.percentile(bright, 98)) if bright.size else 1.0
    return np.clip(values / np.float32(scale), 0, 2)


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: image. outputs, on its grid: segmentation (uint8), uncertainty (float32), and the table volumes; or
    bone_air (uint8) alone."""
    context.progress.report("Loading the network", 0.0)
    network = load_network(context)
    labels, uncertainty = segment(inputs["image"], network, AXES[parameters["orientations"]], context)
    if parameters["structures"] == "bone_air":
        return {"bone_air": bone_and_air(labels)}
    return {"segmentation": labels, "uncertainty": uncertainty, "volumes": volumes_table(labels)}


def bone_and_air(labels: sitk.Image) -> sitk.Image:
    """1 where bone or marrow is, 2 in what the head encloses, in space or in a plane along the axes, without being
    tissue; specks of less than 30 mm3, as folds of the skin enclose, do not count."""
    values = to_array(labels)
    head = np.asarray(values != 0)
    pieces, _ = ndimage.label(filled(head) & ~head)
    large = np.bincount(pieces.ravel()) * np.prod(labels.GetSpacing()) >= SPECK_MM3
    large[0] = False
    return from_array(np.isin(values, BONE) + 2 * large[pieces].astype(np.uint8), labels)


def load_network(context: Context) -> UNet2d:
    """The network of `context.weights`, kept for the next job."""
    path = context.weights
    assert path is not None

    def load() -> UNet2d:
        network = unet_from_state(load_file(path)).eval()
        return network.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    return context.cached(("multiplanar_unet", str(path), context.device), load)


def segment(
    image: sitk.Image, network: UNet2d, axes: tuple[int, ...], context: Context
) -> tuple[sitk.Image, sitk.Image]:
    """Labels (uint8) and uncertainty (float32, 0 to 1) on the image's own grid; air outside the head is background."""
    upright, way = canonical(image)
    context.progress.report("Preparing the image", 0.02)
    model_image = resample(upright, grid_like(upright, SPACING_MM))
    head = crop_to_mask(model_image, foreground_mask(model_image), margin_mm=3)
    scores = vote(torch.from_numpy(robust_scale(to_array(head).astype(np.float32))), network, axes, context)
    context.progress.report("Returning to the image's grid", 0.97)
    best, chosen = scores.max(dim=0)
    unsure = 1 - best.float() / len(axes)
    label_image = paste_back(from_array(chosen.to(torch.uint8).numpy(), head), model_image)
    unsure_image = paste_back(from_array(unsure.clamp(0, 1).numpy(), head), model_image)
    return way.undo(resample_labels(label_image, upright)), way.undo(resample(unsure_image, upright, fill=0.0))


def vote(volume: torch.Tensor, network: UNet2d, axes: tuple[int, ...], context: Context) -> torch.Tensor:
    """volume: float32 [z, y, x], 1 mm. Returns the sum over `axes` of the class probabilities, float16
    [classes, z, y, x]: the only copy of all classes that is held."""
    scores = torch.zeros((CLASSES, *volume.shape), dtype=torch.float16)
    batch = max(1, round(BATCH * context.batch_scale))
    total, done = sum(volume.shape[axis] for axis in axes), 0
    for axis in axes:
        planes, sums = volume.movedim(axis, 0), scores.movedim(axis + 1, 0)
        for start in range(0, len(planes), batch):
            context.progress.raise_if_cancelled()
            here = slice(start, min(start + batch, len(planes)))
            if planes[here].any():
                sums[here] += probabilities(planes[here], network, context.device)
            else:
                sums[here, 0] += 1
            done += here.stop - here.start
            context.progress.report("Labelling slices", 0.05 + 0.92 * done / total)
    return scores


@torch.no_grad()
def probabilities(planes: torch.Tensor, network: UNet2d, device: str) -> torch.Tensor:
    """float32 [n, h, w] to float16 [n, classes, h, w] on the CPU; padded with air to what the pooling needs."""
    height, width = planes.shape[1:]
    block = 2**network.pools
    padded = torch.zeros((len(planes), 1, -(-height // block) * block, -(-width // block) * block))
    padded[:, 0, :height, :width] = planes
    padded = padded.to(device, memory_format=torch.channels_last)
    with half_precision(device):
        logits = network(padded)
    return logits[..., :height, :width].float().softmax(1).to("cpu", torch.float16)


def volumes_table(labels: sitk.Image) -> dict[str, list[Any]]:
    """Volume of every structure found, ml."""
    ml = float(np.prod(labels.GetSpacing())) / 1000
    counts = np.bincount(to_array(labels).ravel(), minlength=CLASSES)
    rows = list(_found(counts))
    return {"structure": [name for name, _ in rows], "volume_ml": [round(n * ml, 3) for _, n in rows]}


def _found(counts: npt.NDArray[np.int64]) -> Iterator[tuple[str, int]]:
    for label in LABELS:
        if counts[label.value]:
            yield label.name, int(counts[label.value])
