"""How an image lies in the patient. Coordinates are LPS mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.geometry import same_grid

APART = 0.1  # voxels: what headers of registered channels differ by


def refuse_other_grids(images: Sequence[sitk.Image]) -> None:
    """Raises BadInput for channels of a model that do not lie voxel on voxel: it would stack them all the same."""
    if not all(same_grid(images[0], image, APART) for image in images[1:]):
        raise BadInput("The inputs of this model must lie on one grid: resample them to the first one.")


def is_axial(image: sitk.Image) -> bool:
    """True where the slices (k) are stacked along the body: no in-plane axis leaves the xy plane by over 0.001."""
    return bool(np.abs(np.reshape(image.GetDirection(), (3, 3))[2, :2]).max() < 1e-3)


def corners(image: sitk.Image) -> np.ndarray:
    """[8, 3]: the centres of the voxels at the corners."""
    size = image.GetSize()
    ends = [(i, j, k) for i in (0, size[0] - 1) for j in (0, size[1] - 1) for k in (0, size[2] - 1)]
    return np.array([image.TransformIndexToPhysicalPoint(end) for end in ends])
