"""Where the patient is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from medgen.imaging.geometry import from_array, to_array
from medgen.imaging.resampling import grid_like, resample, resample_labels

Mask = npt.NDArray[np.bool_]


def foreground_mask(image: sitk.Image, coarse_mm: float = 3.0) -> sitk.Image:
    """Head or body in CT (HU) or MR, with or without skull: uint8 0/1 on the image's grid, in one piece, holes filled.

    Works on voxels of `coarse_mm`. CT: above -500 HU. MR: above the threshold of Otsu (IEEE TSMC 9:62, 1979) found on
    the square root of the intensity, which keeps bright fat from raising it, and lowered so that dark tissue stays in.
    Then the largest piece, parted from couch and head rest by one erosion; holes filled in every plane, so that
    sinuses, airways and lungs count as inside. An image without contrast is all foreground.
    """
    coarse = grid_like(image, np.maximum(image.GetSpacing(), coarse_mm).tolist())
    values = to_array(resample(image, coarse)).astype(np.float32)
    low, high = (float(v) for v in np.percentile(values, (0.5, 99)))
    if high <= low:
        return from_array(np.ones(tuple(reversed(image.GetSize())), np.uint8), image)
    if low < -500 < float(values.max()):  # else no CT: an MR with an offset
        inside = values > -500
    else:
        root = np.sqrt(np.clip(values, low, high) - low)
        inside = filled(root > 0.75 * _otsu(root))  # scalp and brain are one piece, with dark bone between them
    return resample_labels(from_array(_solid(inside), coarse), image, fill=None)


def _otsu(values: npt.NDArray[np.float32]) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(values))


def _solid(inside: Mask) -> Mask:
    """The largest piece of a mask, 2D or 3D, without what hangs on it by a thin bridge, and without holes."""
    cross = ndimage.generate_binary_structure(inside.ndim, 1)
    for axis, n in enumerate(inside.shape):
        if n <= 3:  # a few thick slices: nothing is thin along them
            np.moveaxis(cross, axis, 0)[[0, 2]] = False
    core = _largest(ndimage.binary_erosion(inside, cross, border_value=1))
    if core.any():
        inside = ndimage.binary_dilation(core, cross) & inside
    return filled(_largest(inside))


def filled(inside: Mask) -> Mask:
    """Without holes, in space or in any plane along the axes."""
    inside = ndimage.binary_fill_holes(inside)
    if inside.ndim == 3:
        for axis in range(3):
            for plane in np.moveaxis(inside, axis, 0):
                plane[...] = ndimage.binary_fill_holes(plane)
    return inside


def _largest(inside: Mask) -> Mask:
    labels, count = ndimage.label(inside)
    return inside if count < 2 else np.asarray(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))
