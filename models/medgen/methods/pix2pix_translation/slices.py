"""What training and inference share: axial slices of the working pixel size, and intensities in [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.imaging.intensity import hu_to_unit, percentile_scale
from medgen.imaging.resampling import Grid, grid_like
from medgen.methods.pix2pix_translation.learning import HIGH_HU, LOW_HU, SPACING_MM

Array = npt.NDArray[Any]


def slice_grid(upright: sitk.Image, spacing_mm: float = SPACING_MM) -> Grid:
    """Axial slices of an image (axes L, P, S) on pixels of `spacing_mm`, as far apart as they are."""
    return grid_like(upright, (spacing_mm, spacing_mm, upright.GetSpacing()[2]))


def mr_unit(values: Array, body: Array) -> npt.NDArray[np.float32]:
    """MR to [-1, 1]: percentiles 0.5 and 99.5 of the body."""
    return percentile_scale(values, 0.5, 99.5, body != 0) * 2 - 1


def ct_unit(hu: Array) -> npt.NDArray[np.float32]:
    return hu_to_unit(hu, LOW_HU, HIGH_HU)
