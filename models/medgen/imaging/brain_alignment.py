"""A skull-stripped T1 in the space of the brain generators: an upright box of 160 x 224 x 192 mm (left, back, crown)
with the brain in its middle, aligned affinely to a mean brain, intensities 0 to 1.

Arrays have the axes k, j, i of SimpleITK: foot to crown, front to back, right to left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.brain_study import LARGEST_BRAIN_ML, stripped_brain
from medgen.imaging.geometry import Grid, canonical, from_array, to_array
from medgen.imaging.intensity import n4
from medgen.imaging.resampling import grid_like, resample, resample_labels

FIELD_MM = (160.0, 224.0, 192.0)  # along i, j, k
TEMPLATE_MM = 4.0
BRIGHT, PERCENTILE = 0.7, 95.0  # the 95th percentile in the brain (white matter of a T1) becomes 0.7
SMALLEST_BRAIN_ML = 300.0
Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


def model_grid(voxel_mm: float) -> Grid:
    """LPS axes, the middle of the box at the world's origin."""
    size = tuple(round(length / voxel_mm) for length in FIELD_MM)
    return Grid(size, (voxel_mm,) * 3, tuple(-(n - 1) / 2 * voxel_mm for n in size), tuple(np.eye(3).ravel().tolist()))


def scale_t1(values: Array, brain: Array) -> Float32:
    """Intensities of any unit to 0..1, 0 outside `brain` (bool, same shape). Raises BadInput without signal in it."""
    bright = float(np.percentile(values[brain], PERCENTILE)) if brain.any() else 0.0
    if bright <= 0:
        raise BadInput("The T1 shows nothing inside the brain.")
    return (np.clip(values * (BRIGHT / bright), 0, 1) * brain).astype(np.float32)


@dataclass(frozen=True)
class StrippedBrain:
    """image: float32, 0..1, 0 outside the brain, upright (index axes L, P, S); brain: its mask, uint8, same grid;
    scan: the grid of the scan as it came; unit: what 1 means in the scan's own intensities."""

    image: sitk.Image
    brain: sitk.Image
    scan: Grid
    unit: float


def strip_brain(scan: sitk.Image, mask: sitk.Image | None = None, working_mm: float = 2.0) -> StrippedBrain:
    """A T1 without its skull and bias field, in voxels of `working_mm` or larger.

    mask: of the brain, on any grid; without one the scan must be skull-stripped already. Raises BadInput for a scan
    that shows more or less than a brain, or nothing.
    """
    upright, _ = canonical(scan)
    coarse = resample(upright, grid_like(upright, np.maximum(upright.GetSpacing(), working_mm).tolist()), fill=0.0)
    if mask is None:
        brain = resample_labels(stripped_brain(upright), coarse)
    else:
        brain = resample_labels(sitk.Cast(mask != 0, sitk.sitkUInt8), coarse)
    inside = to_array(brain) != 0
    millilitres = float(inside.sum() * np.prod(brain.GetSpacing()) / 1000)
    if millilitres > LARGEST_BRAIN_ML:
        raise BadInput(
            f"The T1 shows {millilitres:.0f} ml, which is more than a brain: give a brain mask, or strip the skull "
            "first."
        )
    if millilitres < SMALLEST_BRAIN_ML:
        raise BadInput(f"The T1 or its mask shows {millilitres:.0f} ml of brain; a whole brain is needed.")
    flat = n4(coarse, brain, shrink_mm=8.0) if to_array(coarse)[inside].std() > 0 else coarse
    values = to_array(flat)
    scaled = scale_t1(values, inside)
    unit = float(np.percentile(values[inside], PERCENTILE)) / BRIGHT
    return StrippedBrain(from_array(scaled, coarse), brain, Grid.of(scan), unit)


def align_brain(moving: sitk.Image, template: sitk.Image) -> sitk.AffineTransform:
    """Takes points of `template` to points of `moving` (both skull-stripped, 0..1): rotation, scale and shear that
    raise the correlation of the images in voxels of 4 and 8 mm, begun with the centres of mass on each other."""
    coarse = resample(moving, grid_like(moving, np.maximum(moving.GetSpacing(), TEMPLATE_MM).tolist()), fill=0.0)
    start = sitk.AffineTransform(
        sitk.CenteredTransformInitializer(
            template, coarse, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    way = sitk.ImageRegistrationMethod()
    way.SetMetricAsCorrelation()
    way.SetMetricSamplingStrategy(way.REGULAR)
    way.SetMetricSamplingPercentage(0.5)
    way.SetInterpolator(sitk.sitkLinear)
    way.SetOptimizerAsRegularStepGradientDescent(1.0, 0.002, 150, 0.6)
    way.SetOptimizerScalesFromPhysicalShift()
    way.SetShrinkFactorsPerLevel([2, 1])
    way.SetSmoothingSigmasPerLevel([4, 0])
    way.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    way.SetInitialTransform(start, inPlace=True)
    way.SetNumberOfThreads(1)  # several would add up in another order every time
    way.Execute(template, coarse)
    return start


def to_model(image: sitk.Image, model_to_scan: sitk.Transform, voxel_mm: float) -> Float32:
    """[k, j, i] on the model's grid, averaged over its voxels; 0 where the image does not reach."""
    fine = min(2.0, voxel_mm)
    target = from_array(np.zeros(tuple(reversed(model_grid(fine).size)), np.float32), model_grid(fine))
    moved = to_array(sitk.Resample(image, target, model_to_scan, sitk.sitkLinear, 0.0, sitk.sitkFloat32))
    return pooled(moved.astype(np.float32), round(voxel_mm / fine))


def pooled(values: Float32, factor: int) -> Float32:
    """Means of blocks of factor^3; the shape is a multiple of it."""
    k, j, i = (n // factor for n in values.shape)
    return values.reshape(k, factor, j, factor, i, factor).mean((1, 3, 5), dtype=np.float32)
