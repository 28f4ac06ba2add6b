"""Small pieces of a mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]


def without_islands(mask: Mask, smallest: int) -> Mask:
    """Without the pieces (face neighbours, any dimension) of fewer than `smallest` voxels."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(sizes[labels] >= max(smallest, 1))
