"""Lesions put into a head label map, so that every modality rendered from it shows them.

Shapes: a few to many hyperintensities round the ventricles, a tumour with necrotic core, enhancing rim and oedema, and
an infarct of cortex and the white matter beneath. They are labels (tissue.LESIONS); signals come from the tissue table.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.phantoms.anatomy import like, smooth_field, spacing_zyx
from medgen.imaging.phantoms.tissue import (
    BRAIN,
    GREY_MATTER,
    LESIONS,
    NECROSIS,
    OEDEMA,
    STROKE,
    TUMOUR,
    VENTRICLES,
    WHITE_MATTER,
    WMH,
)

Array = npt.NDArray[Any]
Kind = Literal["wmh", "tumour", "stroke"]
FLUID = (4, 43, 5, 44, 14, 15, 24, 72)


def insert_lesions(labels: sitk.Image, kind: Kind, rng: np.random.Generator) -> tuple[sitk.Image, sitk.Image]:
    """(label map with lesions, lesion mask uint8 0/1). Raises BadInput where there is no white matter to put one in."""
    array = sitk.GetArrayFromImage(labels)
    if not np.isin(array, WHITE_MATTER).any():
        raise BadInput("A lesion needs a label map with cerebral white matter.")
    {"wmh": _hyperintensities, "tumour": _tumour, "stroke": _infarct}[kind](array, spacing_zyx(labels), rng)
    return like(array, labels), like(np.isin(array, LESIONS).astype(np.uint8), labels)


def _distance_mm(shape: tuple[int, ...], spacing: tuple[float, ...], point: Array, stretch: Array) -> Array:
    """From a voxel, in mm, an axis at a time divided by `stretch`: float32 [z, y, x]."""
    squares = np.zeros(shape, np.float32)
    for axis in range(3):
        line = ((np.arange(shape[axis]) - point[axis]) * spacing[axis] / stretch[axis]) ** 2
        squares += line.reshape([-1 if a == axis else 1 for a in range(3)]).astype(np.float32)
    return np.sqrt(squares)


def _any_voxel(mask: Array, rng: np.random.Generator, weights: Array | None = None) -> Array:
    where = np.flatnonzero(mask)
    chance = None if weights is None else weights.ravel()[where] / weights.ravel()[where].sum(dtype=np.float64)
    return np.array(np.unravel_index(int(rng.choice(where, p=chance)), mask.shape))


def _hyperintensities(array: Array, spacing: tuple[float, ...], rng: np.random.Generator) -> None:
    """3 to 25 blobs of 2 to 7 mm in white matter, the nearer to the ventricles the likelier."""
    from scipy.ndimage import distance_transform_edt

    white = np.isin(array, WHITE_MATTER)
    from_fluid = distance_transform_edt(~np.isin(array, VENTRICLES), sampling=spacing).astype(np.float32)
    weights = np.exp(-from_fluid / 6).astype(np.float64)
    rough = 1 + 0.25 * smooth_field(array.shape, spacing, 4.0, rng)
    for _ in range(int(rng.integers(3, 26))):
        centre, radius = _any_voxel(white, rng, weights), rng.uniform(2, 7)
        reach = _distance_mm(array.shape, spacing, centre, rng.uniform(0.7, 1.4, 3))
        array[(reach * rough < radius) & white] = WMH


def _tumour(array: Array, spacing: tuple[float, ...], rng: np.random.Generator) -> None:
    """One, of 8 to 20 mm radius with a rough edge, in the cerebrum; oedema spreads through white matter only."""
    white, brain = np.isin(array, WHITE_MATTER), np.isin(array, BRAIN) & ~np.isin(array, FLUID)
    centre, radius = _any_voxel(white, rng), rng.uniform(8, 20)
    reach = _distance_mm(array.shape, spacing, centre, rng.uniform(0.8, 1.25, 3))
    reach *= 1 + 0.15 * smooth_field(array.shape, spacing, 9.0, rng)
    array[(reach < radius * rng.uniform(1.2, 1.9)) & white] = OEDEMA
    array[(reach < radius) & brain] = TUMOUR
    array[(reach < radius * rng.uniform(0.4, 0.75)) & brain] = NECROSIS


def _infarct(array: Array, spacing: tuple[float, ...], rng: np.random.Generator) -> None:
    """Cortex and white matter of one hemisphere within 15 to 35 mm of a point of the cortex."""
    side = int(rng.integers(2))
    here = np.isin(array, (WHITE_MATTER[side], GREY_MATTER[side]))
    centre = _any_voxel(array == GREY_MATTER[side], rng)
    reach = _distance_mm(array.shape, spacing, centre, rng.uniform(0.75, 1.3, 3))
    reach *= 1 + 0.15 * smooth_field(array.shape, spacing, 10.0, rng)
    array[(reach < rng.uniform(15, 35)) & here] = STROKE
