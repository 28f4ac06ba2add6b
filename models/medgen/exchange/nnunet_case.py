"""What nnU-Net v2 does to a case before and after its network: crop, normalise, resample; scores back to labels.

Behaviour of nnU-Net 2.x (Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z), written anew. Splines
are applied axis by axis as matrices, which gives the same values as resizing the volume at once, in less time; scores
are resampled one class at a time. Arrays have axes z, y, x as nnU-Net's readers give them, channels first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

ANISOTROPIC = 3  # ratio of spacings above which slices are resampled one by one


@dataclass
class Case:
    """A prepared case. data: float32 [channels, *spatial] in the network's axis order and spacing; full_shape, box:
    where the crop lies in the whole image; crop_shape, spacing: of the crop before resampling. All in the network's
    order."""

    data: np.ndarray
    full_shape: tuple[int, ...]
    box: tuple[slice, ...]
    crop_shape: tuple[int, ...]
    spacing: tuple[float, ...]


# ----------------------------------------------------------------------------------------------------------- resampling


@lru_cache(maxsize=64)
def _axis_matrix(size: int, new_size: int, order: int) -> np.ndarray:
    """[new_size, size]: the spline interpolation of a line of pixels, edges held, pixel areas aligned."""
    columns = [
        ndimage.zoom(unit, new_size / size, order=order, mode="nearest", grid_mode=True) for unit in np.eye(size)
    ]
    return np.stack(columns, 1)


def _along_axis(matrix: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)


def _resize(array: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    """Any number of axes; not beyond the range of the input. Splines are summed in float64, so that the result is
    nnU-Net's to the last bit of a float32; linear interpolation, of scores that are float16 anyway, in float32."""
    if array.shape == tuple(shape):
        return array
    kind = np.float64 if order > 1 else np.float32
    result = array.astype(kind, copy=False)
    for axis in sorted(range(array.ndim), key=lambda a: shape[a] / array.shape[a]):  # shrink first
        if shape[axis] != array.shape[axis]:
            result = _along_axis(_axis_matrix(array.shape[axis], shape[axis], order).astype(kind), result, axis)
    return np.clip(result, array.min(), array.max()) if order > 1 else result


def separate_axis(spacing: Sequence[float], new_spacing: Sequence[float], forced: bool | None) -> int | None:
    """The axis whose slices are resampled one by one, None where the volume is resampled as one."""
    if forced is False:
        return None
    for candidate in (spacing, new_spacing):
        if forced or max(candidate) / min(candidate) > ANISOTROPIC:
            coarse = [axis for axis, s in enumerate(candidate) if s == max(candidate)]
            return coarse[0] if len(coarse) == 1 else None
    return None


def resample(array: np.ndarray, shape: Sequence[int], axis: int | None, order: int, order_across: int) -> np.ndarray:
    """array: float32, three axes. axis: resample the slices across it in the plane, then between them."""
    if array.shape == tuple(shape):
        return array
    if axis is None:
        return _resize(array, shape, order)
    in_plane = [n for a, n in enumerate(shape) if a != axis]
    slices = np.stack([_resize(plane, in_plane, order) for plane in np.moveaxis(array, axis, 0)], axis)
    if slices.shape[axis] == shape[axis]:
        return slices
    scale = slices.shape[axis] / shape[axis]
    places = scale * (np.arange(shape[axis]) + 0.5) - 0.5
    if order_across == 0:
        nearest = np.clip(np.floor(places + 0.5).astype(int), 0, slices.shape[axis] - 1)
        return np.take(slices, nearest, axis)
    moved = np.moveaxis(slices, axis, 0)
    lines = [ndimage.map_coordinates(unit, [places], order=order_across, mode="nearest") for unit in np.eye(len(moved))]
    return np.moveaxis(np.tensordot(np.stack(lines, 1).astype(np.float32), moved, (1, 0)), 0, axis)


def _resample_by(rule: Mapping[str, Any], array: np.ndarray, shape: Sequence[int], axis: int | None) -> np.ndarray:
    return resample(array, shape, axis, int(rule["order"]), int(rule["order_z"]))


# ---------------------------------------------------------------------------------------------------------- preparation


def _bounding_box(images: np.ndarray) -> tuple[slice, ...]:
    """Where any channel is not 0; the whole image where all are."""
    inside: np.ndarray = np.any(images, axis=0)
    if not inside.any():
        return tuple(slice(0, n) for n in inside.shape)
    box = []
    for axis in range(inside.ndim):
        along = np.flatnonzero(np.moveaxis(inside, axis, 0).reshape(inside.shape[axis], -1).any(1))
        box.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(box)


def _normalise(
    image: np.ndarray, source: np.ndarray, how: str, mask: np.ndarray | None, known: Mapping[str, float]
) -> None:
    """image: float32, changed in place; source: the same values as they lie in the whole image, since float32 sums
    depend on the order in memory; how: nnU-Net's name of the scheme; mask: where to measure and change."""
    if how == "CTNormalization":
        np.clip(image, known["percentile_00_5"], known["percentile_99_5"], out=image)
        image -= known["mean"]
        image /= max(known["std"], 1e-8)
    elif how == "ZScoreNormalization" and mask is not None:
        values = image[mask]
        image[mask] = (values - values.mean()) / max(values.std(), 1e-8)
    elif how == "ZScoreNormalization":
        mean, std = source.mean(), source.std()
        image -= mean
        image /= max(std, 1e-8)
    elif how == "RescaleTo01Normalization":
        image -= image.min()
        image /= max(image.max(), 1e-8)
    elif how == "RGBTo01Normalization":
        image /= 255.0


NORMALISATIONS = {
    "CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "RGBTo01Normalization", "NoNormalization",
}  # fmt: skip


def prepare(
    images: np.ndarray,
    spacing: Sequence[float],
    stage: Mapping[str, Any],
    transpose: Sequence[int],
    previous: np.ndarray | None = None,
    labels: Sequence[int] = (),
) -> Case:
    """images: float32 [channels, z, y, x], not changed; spacing: mm along z, y, x; stage: one configuration as
    `nnunet_import` stores it; previous: label map of the stage before, whose foreground `labels` become channels."""
    images = images.transpose(0, *(a + 1 for a in transpose))
    spacing = tuple(float(spacing[a]) for a in transpose)
    box = _bounding_box(images)
    source = images[(slice(None), *box)]
    crop = source.copy()
    target = target_spacing(stage, spacing)
    shape = [round(s / t * n) for s, t, n in zip(spacing, target, crop.shape[1:], strict=True)]
    mask = ndimage.binary_fill_holes(crop.any(0)) if any(stage["use_mask_for_norm"]) else None
    for channel, (how, masked) in enumerate(zip(stage["normalization"], stage["use_mask_for_norm"], strict=True)):
        _normalise(crop[channel], source[channel], how, mask if masked else None, stage["intensity"][channel])
    channels = len(crop) + (len(labels) if previous is not None else 0)
    data = np.empty((channels, *shape), np.float32)
    rule = stage["resample_data"]
    axis = separate_axis(spacing, target, rule["force_separate_z"])
    for channel, image in enumerate(crop):
        data[channel] = _resample_by(rule, image, shape, axis)
    if previous is not None:
        data[len(crop) :] = _one_hot(previous.transpose(transpose)[box], shape, spacing, target, stage, labels)
    return Case(data, images.shape[1:], box, crop.shape[1:], spacing)


def target_spacing(stage: Mapping[str, Any], spacing: Sequence[float]) -> tuple[float, ...]:
    """The network's spacing; a 2D network leaves the slices where they are."""
    wanted = [float(s) for s in stage["spacing"]]
    return tuple(wanted if len(wanted) == 3 else [spacing[0], *wanted])


def _one_hot(
    labelmap: np.ndarray,
    shape: Sequence[int],
    spacing: Sequence[float],
    target: Sequence[float],
    stage: Mapping[str, Any],
    labels: Sequence[int],
) -> np.ndarray:
    """Each label's mask is resampled and cut at a half; where two claim a voxel the higher one has it."""
    rule, resampled = stage["resample_seg"], np.zeros(shape, np.uint16)
    axis = separate_axis(spacing, target, rule["force_separate_z"])
    for label in sorted(labels):
        mask = (labelmap == label).astype(np.float32)
        if mask.any():
            resampled[_resample_by(rule, mask, shape, axis) >= 0.5] = label
    return np.stack([resampled == label for label in labels]).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- back again


def to_labels(
    scores: np.ndarray, case: Case, stage: Mapping[str, Any], transpose: Sequence[int], regions: Sequence[int]
) -> np.ndarray:
    """scores: float16 [classes, *spatial] on the prepared grid. Returns the label map, axes z, y, x, on the whole
    image.

    regions: the value that each channel writes where it is above 0, in order; empty where channels exclude each other.
    """
    rule = stage["resample_probabilities"]
    axis = separate_axis(target_spacing(stage, case.spacing), case.spacing, rule["force_separate_z"])
    labels = np.zeros(case.crop_shape, np.uint8 if max((len(scores), *regions)) < 256 else np.uint16)
    best: np.ndarray | None = None
    for channel, plane in enumerate(scores):
        # nnU-Net keeps float16 here, and so ties go to the same class
        values = _resample_by(rule, plane.astype(np.float32), case.crop_shape, axis).astype(np.float16)
        if regions:
            labels[values > 0] = regions[channel]
        elif best is None:
            best = values
        else:
            higher = values > best
            labels[higher] = channel
            np.copyto(best, values, where=higher)
    whole = np.zeros(case.full_shape, labels.dtype)
    whole[case.box] = labels
    return whole.transpose(np.argsort(transpose))
