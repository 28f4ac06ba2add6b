"""How well two segmentations agree. Masks are numpy arrays of the same shape; anything but 0 is inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.generic]


def dice(a: Mask, b: Mask) -> float:
    """2 |a and b| / (|a| + |b|), 0 to 1; 1 where both are empty."""
    inside_a, inside_b = np.asarray(a != 0), np.asarray(b != 0)
    total = int(inside_a.sum()) + int(inside_b.sum())
    return 2 * int(np.logical_and(inside_a, inside_b).sum()) / total if total else 1.0


def dice_by_label(a: Mask, b: Mask, labels: Sequence[int]) -> dict[int, float]:
    """Dice of each label of two label maps."""
    return {label: dice(a == label, b == label) for label in labels}


def assd_mm(a: Mask, b: Mask, spacing_mm: Sequence[float]) -> float:
    """Average symmetric surface distance: mean distance from each border voxel of either mask to the other's border.

    spacing_mm in the order of the array's axes (k, j, i for an array of SimpleITK: its spacing reversed).
    0 where both are empty, infinite where one is.
    """
    borders = [_border(mask != 0) for mask in (a, b)]
    if not all(border.any() for border in borders):
        return float("inf") if any(border.any() for border in borders) else 0.0
    first, second = borders
    to_first, to_second = (ndimage.distance_transform_edt(~border, sampling=spacing_mm) for border in borders)
    return float(np.concatenate([to_second[first], to_first[second]]).mean())


def _border(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Voxels of the mask with a face neighbour outside it; the array's edge counts as outside."""
    return inside & ~ndimage.binary_erosion(inside)
