"""The simplest synthetic CT: one HU value for each of a few segments, as Philips' MRCAT and bulk-density overrides."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import SimpleITK as sitk

from medgen.imaging.geometry import from_array, to_array
from medgen.imaging.resampling import resample_labels

AIR_HU, FAT_HU, SOFT_HU, BONE_HU = -1000.0, -80.0, 40.0, 500.0


def bulk_density(
    body: sitk.Image,
    layers: Iterable[tuple[sitk.Image, float]],
    soft_hu: float = SOFT_HU,
    outside_hu: float = AIR_HU,
) -> sitk.Image:
    """HU, int16, on the grid of `body` (a mask): `soft_hu` inside, `outside_hu` outside.

    layers: (mask on any grid, HU) of fat, bone, air cavities, ...; a later one covers an earlier one; none reaches out
    of the body.
    """
    inside = to_array(body) != 0
    hu = np.where(inside, soft_hu, outside_hu)
    for mask, value in layers:
        hu[(to_array(resample_labels(mask, body)) != 0) & inside] = value
    return from_array(np.rint(hu).astype(np.int16), body)
