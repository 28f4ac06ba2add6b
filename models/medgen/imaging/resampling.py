"""To a model's grid and back. Grids are matched edge to edge, so that nothing shifts by half a voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import SimpleITK as sitk

from medgen.imaging.geometry import Grid, from_array, same_grid, to_array

__all__ = ["Grid", "grid_like", "resample", "resample_labels"]

FWHM = 2 * math.sqrt(2 * math.log(2))


def grid_like(image: sitk.Image | Grid, spacing_mm: float | Sequence[float]) -> Grid:
    """The grid of exactly this spacing (one value, or one for each of i, j, k), same axes and centre, that covers the
    image edge to edge. Where the extent is no multiple of the spacing it reaches out evenly at both ends, by less than
    half a voxel. A grid that has the spacing already is returned as it is."""
    grid = image if isinstance(image, Grid) else Grid.of(image)
    old = np.array(grid.spacing_mm)
    new = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), old.shape)
    if np.allclose(old, new, rtol=1e-6, atol=0):
        return grid
    # 1e-3: a hair's breadth more than a multiple does not cost a voxel
    size = np.maximum(1, np.ceil(np.array(grid.size) * old / new - 1e-3)).astype(int)
    centre = grid.to_world((np.array(grid.size) - 1) / 2)
    origin = centre - grid.axes @ ((size - 1) / 2 * new)
    return Grid(tuple(size.tolist()), tuple(new.tolist()), tuple(origin.tolist()), grid.direction)


def resample(
    image: sitk.Image,
    grid: sitk.Image | Grid,
    interpolation: Literal["linear", "bspline"] = "linear",
    fill: float | None = None,
) -> sitk.Image:
    """Intensities or probabilities on another grid, float32 (float64 stays). On the same grid: the values unchanged.

    Where the new voxels are larger the image is first blurred to their size, which prevents aliasing (point-spread
    functions matched as Gaussians whose full width at half maximum is the voxel: Cardoso et al., 'Scale factor point
    spread function matching', MICCAI 2015). B-splines (cubic) may overshoot: not for probabilities.
    fill: the value outside the image; None repeats the nearest voxel.
    """
    target = grid if isinstance(grid, Grid) else Grid.of(grid)
    if image.GetPixelIDValue() not in (sitk.sitkFloat64, sitk.sitkVectorFloat64):
        vector = image.GetNumberOfComponentsPerPixel() > 1
        image = sitk.Cast(image, sitk.sitkVectorFloat32 if vector else sitk.sitkFloat32)
    if same_grid(image, target):
        return _on(image, target)
    # a cubic B-spline needs a few samples along each axis
    kind = sitk.sitkBSpline if interpolation == "bspline" and min(image.GetSize()) > 3 else sitk.sitkLinear
    return _resample(_blurred_to(image, target), target, kind, fill)


def resample_labels(
    labels: sitk.Image,
    grid: sitk.Image | Grid,
    interpolation: Literal["nearest", "linear"] = "linear",
    fill: int | None = 0,
) -> sitk.Image:
    """A label map (integers) on another grid, pixel type kept. On the same grid: unchanged.

    'linear': in each voxel the label whose own mask, interpolated linearly, is largest: smooth borders, and computed
    voxel by voxel, so without a mask for each label in memory. fill: the label outside; None repeats the nearest voxel.
    """
    target = grid if isinstance(grid, Grid) else Grid.of(grid)
    if same_grid(labels, target):
        return _on(labels, target)
    kind = sitk.sitkNearestNeighbor if interpolation == "nearest" else sitk.sitkLabelLinear
    return _resample(labels, target, kind, fill)


def _on(image: sitk.Image, grid: Grid) -> sitk.Image:
    """The image with the grid's own numbers, which differ from its own by rounding only."""
    image = sitk.Image(image)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def _resample(image: sitk.Image, grid: Grid, kind: int, fill: float | None) -> sitk.Image:
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize(grid.size)
    filter_.SetOutputSpacing(grid.spacing_mm)
    filter_.SetOutputOrigin(grid.origin)
    filter_.SetOutputDirection(grid.direction)
    filter_.SetInterpolator(kind)
    filter_.SetUseNearestNeighborExtrapolator(fill is None)
    filter_.SetDefaultPixelValue(fill or 0.0)
    return filter_.Execute(image)


def _blurred_to(image: sitk.Image, target: Grid) -> sitk.Image:
    source = Grid.of(image)
    # the target's voxel as a Gaussian, its width seen along each axis of the image
    turned = source.axes.T @ target.axes
    wide = np.sqrt((turned**2) @ np.array(target.spacing_mm) ** 2)
    sigma = np.sqrt(np.maximum(0, wide**2 - np.array(source.spacing_mm) ** 2)) / FWHM / source.spacing_mm
    # a voxel seen obliquely is never wider than it is; below a tenth of a voxel the blur does nothing
    sigma[(sigma < 0.1) | (np.array(source.size) == 1)] = 0
    if not sigma.any():
        return image
    from scipy.ndimage import gaussian_filter

    array = to_array(image)
    channels = (0.0,) * (array.ndim - len(source.size))
    return from_array(gaussian_filter(array, (*sigma[::-1].tolist(), *channels), mode="nearest"), source)
