"""The starter weights on a head MR: cut the volume into slices along each axis, label each, let the axes vote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage

from medgen.imaging.foreground import filled, foreground_mask
from medgen.imaging.geometry import canonical, crop_to_mask, from_array, paste_back, to_array
from medgen.imaging.head_labels import BONE, CLASSES, LABELS
from medgen.imaging.head_segmentation import SPACING_MM, load_head_network, robust_scale, vote
from medgen.imaging.resampling import grid_like, resample, resample_labels
from medgen.method import Context
from medgen.nets.unet2d import UNet2d

SPECK_MM3 = 30.0
AXES = {"1": (0,), "3": (0, 1, 2)}  # of a z, y, x array: axial, coronal, sagittal


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
    assert context.weights is not None
    return load_head_network(context.weights, context)


def segment(
    image: sitk.Image, network: UNet2d, axes: tuple[int, ...], context: Context
) -> tuple[sitk.Image, sitk.Image]:
    """Labels (uint8) and uncertainty (float32, 0 to 1) on the image's own grid; air outside the head is background."""
    upright, way = canonical(image)
    context.progress.report("Preparing the image", 0.02)
    model_image = resample(upright, grid_like(upright, SPACING_MM))
    head = crop_to_mask(model_image, foreground_mask(model_image), margin_mm=3)

    def tell(done: float) -> None:
        context.progress.report("Labelling slices", 0.05 + 0.92 * done)

    scores = vote(torch.from_numpy(robust_scale(to_array(head).astype(np.float32))), network, axes, context, tell)
    context.progress.report("Returning to the image's grid", 0.97)
    best, chosen = scores.max(dim=0)
    unsure = 1 - best.float() / len(axes)
    label_image = paste_back(from_array(chosen.to(torch.uint8).numpy(), head), model_image)
    unsure_image = paste_back(from_array(unsure.clamp(0, 1).numpy(), head), model_image)
    return way.undo(resample_labels(label_image, upright)), way.undo(resample(unsure_image, upright, fill=0.0))


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
