"""How an image lies in the patient. Coordinates are LPS mm."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk


def is_axial(image: sitk.Image) -> bool:
    """True where the slices (k) are stacked along the body: no in-plane axis leaves the xy plane by over 0.001."""
    return bool(np.abs(np.reshape(image.GetDirection(), (3, 3))[2, :2]).max() < 1e-3)


def corners(image: sitk.Image) -> np.ndarray:
    """[8, 3]: the centres of the voxels at the corners."""
    size = image.GetSize()
    ends = [(i, j, k) for i in (0, size[0] - 1) for j in (0, size[1] - 1) for k in (0, size[2] - 1)]
    return np.array([image.TransformIndexToPhysicalPoint(end) for end in ends])
