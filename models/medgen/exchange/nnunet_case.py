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
import torch
from scipy import ndimage

SLAB = 16  # slices of the result that are made at once
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


def _matrix(array: np.ndarray, shape: Sequence[int], axis: int, order: int) -> np.ndarray | None:
    """None where the axis keeps its size. Splines are summed in float64, so that the result is nnU-Net's to the last
    bit of a float32; linear interpolation, of scores that are float16 anyway, in float32."""
    if array.shape[axis] == shape[axis]:
        return None
    return _axis_matrix(array.shape[axis], shape[axis], order).astype(np.float64 if order > 1 else np.float32)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left @ right in torch's threads: numpy's own pool would wake beside them and cost more than the products do."""
    kind = np.result_type(left, right)
    return (torch.from_numpy(left.astype(kind, copy=False)) @ torch.from_numpy(right.astype(kind, copy=False))).numpy()


def _resize_plane(plane: np.ndarray, rows: np.ndarray | None, columns: np.ndarray | None) -> np.ndarray:
    if rows is not None:
        plane = _product(rows, plane)
    return plane if columns is None else _product(plane, columns.T)


def _across(matrix: np.ndarray, array: np.ndarray) -> np.ndarray:
    """The matrix along the first axis of an array of three."""
    return _product(matrix, array.reshape(len(array), -1)).reshape(len(matrix), *array.shape[1:])


def _resize(array: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    """float32, two or three axes; not beyond the range of the input. Works slice by slice to need little memory."""
    if array.shape == tuple(shape):
        return array
    matrices = [_matrix(array, shape, axis, order) for axis in range(array.ndim)]
    if array.ndim == 2:
        result = _resize_plane(array, *matrices)
    else:
        deep = matrices[0]
        planes = np.stack([_resize_plane(plane, *matrices[1:]) for plane in array])
        result = np.empty(shape, np.float32)
        for row in range(shape[1]):
            result[:, row] = planes[:, row] if deep is None else _product(deep, planes[:, row])
    return np.clip(result, array.min(), array.max(), out=result if order > 1 and array.ndim == 3 else None)


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
        return np.take(slices, _nearest_slices(slices.shape[axis], shape[axis]), axis)
    moved = np.moveaxis(slices, axis, 0)
    lines = [ndimage.map_coordinates(unit, [places], order=order_across, mode="nearest") for unit in np.eye(len(moved))]
    return np.moveaxis(_across(np.stack(lines, 1).astype(np.float32), moved), 0, axis)


def resample_labels(labels: np.ndarray, shape: Sequence[int], axis: int | None) -> np.ndarray:
    """labels: whole numbers. Each voxel gets the label whose mask, interpolated linearly, is largest there; of labels
    that are level the one at the nearest voxel. axis: as in `resample`; across it the nearest slice is taken."""
    if labels.shape == tuple(shape):
        return labels
    if axis is None:
        return _resize_labels(labels, shape)
    in_plane = [n for a, n in enumerate(shape) if a != axis]
    slices = np.stack([_resize_labels(plane, in_plane) for plane in np.moveaxis(labels, axis, 0)], axis)
    return np.take(slices, _nearest_slices(slices.shape[axis], shape[axis]), axis)


def _nearest_slices(count: int, new_count: int) -> np.ndarray:
    places = count / new_count * (np.arange(new_count) + 0.5) - 0.5
    return np.clip(np.floor(places + 0.5).astype(int), 0, count - 1)


def _resize_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    if labels.shape == tuple(shape):
        return labels
    factors = [new / old for new, old in zip(shape, labels.shape, strict=True)]

    def zoom(array: np.ndarray, order: int) -> np.ndarray:
        # scipy's own float64 sums: which labels are level is a matter of the last bit
        return ndimage.zoom(array.astype(float), factors, order=order, mode="nearest", grid_mode=True)

    nearest, values = zoom(labels, 0), np.unique(labels)
    winner, nearest_leads = np.full(shape, values[0]), nearest == values[0]
    best = np.clip(zoom(labels == values[0], 1), 0, 1)
    for value in values[1:]:
        score = np.clip(zoom(labels == value, 1), 0, 1)
        higher, level = score > best, score == best
        nearest_leads = np.where(higher, nearest == value, nearest_leads | (level & (nearest == value)))
        winner[higher] = value
        np.maximum(best, score, out=best)
    return np.where(nearest_leads, nearest, winner).astype(labels.dtype)


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
    crop_shape = source.shape[1:]
    target = target_spacing(stage, spacing)
    shape = [round(s / t * n) for s, t, n in zip(spacing, target, crop_shape, strict=True)]
    before = previous.transpose(transpose)[box].astype(np.int32) if previous is not None else None
    mask = None
    if before is not None or any(stage["use_mask_for_norm"]):
        mask = ndimage.binary_fill_holes(source.any(0))
        if before is not None:
            mask = mask | (before > 0)
    channels = len(source) + (len(labels) if before is not None else 0)
    data = np.empty((channels, *shape), np.float32)
    rule = stage["resample_data"]
    axis = separate_axis(spacing, target, rule["force_separate_z"])
    for channel, (how, masked) in enumerate(zip(stage["normalization"], stage["use_mask_for_norm"], strict=True)):
        image = source[channel].copy()
        _normalise(image, source[channel], how, mask if masked else None, stage["intensity"][channel])
        data[channel] = _resample_by(rule, image, shape, axis)
    if before is not None:
        before[(before == 0) & ~mask] = -1  # type: ignore[operator]
        axis = separate_axis(spacing, target, stage["resample_seg"]["force_separate_z"])
        resampled = resample_labels(before, shape, axis)
        data[len(source) :] = [resampled == label for label in labels]
    return Case(data, images.shape[1:], box, crop_shape, spacing)


def target_spacing(stage: Mapping[str, Any], spacing: Sequence[float]) -> tuple[float, ...]:
    """The network's spacing; a 2D network leaves the slices where they are."""
    wanted = [float(s) for s in stage["spacing"]]
    return tuple(wanted if len(wanted) == 3 else [spacing[0], *wanted])


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
    depth = len(labels) if axis in (1, 2) else SLAB
    for start in range(0, len(labels), depth):
        slab = slice(start, min(start + depth, len(labels)))
        _label_slab(labels[slab], scores, slab, case.crop_shape, axis, rule, regions)
    whole = np.zeros(case.full_shape, labels.dtype)
    whole[case.box] = labels
    return whole.transpose(np.argsort(transpose))


def _label_slab(
    labels: np.ndarray,
    scores: np.ndarray,
    slab: slice,
    shape: Sequence[int],
    axis: int | None,
    rule: Mapping[str, Any],
    regions: Sequence[int],
) -> None:
    """Writes the labels of some slices of the crop."""
    best: np.ndarray | None = None
    for channel, plane in enumerate(scores):
        # nnU-Net keeps float16 here, and so ties go to the same class
        values = _slab_of(plane, slab, shape, axis, rule).astype(np.float16)
        if regions:
            labels[values > 0] = regions[channel]
        elif best is None:
            best = values
        else:
            higher = values > best
            labels[higher] = channel
            np.copyto(best, values, where=higher)


def _slab_of(
    plane: np.ndarray, slab: slice, shape: Sequence[int], axis: int | None, rule: Mapping[str, Any]
) -> np.ndarray:
    """The slices `slab` of one class's scores, resampled to `shape`."""
    order = int(rule["order"])
    if order > 1 or axis in (1, 2) or (axis == 0 and int(rule["order_z"]) > 0):
        return _resample_by(rule, plane.astype(np.float32), shape, axis)[slab]
    if axis == 0:
        deep = plane[_nearest_slices(len(plane), shape[0])[slab]].astype(np.float32)
    elif len(plane) == shape[0]:
        deep = plane[slab].astype(np.float32)
    else:
        rows = _axis_matrix(len(plane), shape[0], order)[slab].astype(np.float32)
        used = np.flatnonzero(rows.any(0))
        low, high = int(used[0]), int(used[-1]) + 1
        deep = _across(rows[:, low:high], plane[low:high].astype(np.float32))
    matrices = [_matrix(deep, (len(deep), *shape[1:]), a, order) for a in (1, 2)]
    return np.stack([_resize_plane(image, *matrices) for image in deep])
