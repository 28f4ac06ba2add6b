"""Other people's heads from one: random affine maps and smooth displacements that never fold."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import SimpleITK as sitk

from medgen.imaging.phantoms.anatomy import smooth_field, spacing_zyx

MAXIMUM_GRADIENT = 0.5  # of the displacement, mm per mm: below 1 over all axes together the map is invertible


def random_deformation(
    reference: sitk.Image,
    rng: np.random.Generator,
    displacement_mm: float = 4.0,
    scale_mm: float = 40.0,
    rotation_degrees: float = 8.0,
    size_change: float = 0.08,
) -> sitk.Transform:
    """A transform of points of the deformed image to points of `reference`, for SimpleITK.Resample; LPS mm.

    displacement_mm: standard deviation of each component, correlated over `scale_mm`, made smaller where it would
    stretch by more than MAXIMUM_GRADIENT; rotation_degrees, size_change: standard deviations about and along each axis,
    round the image's centre.
    """
    middle = reference.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in reference.GetSize()])
    affine = sitk.AffineTransform(3)
    affine.SetCenter(middle)
    angles = np.radians(rng.normal(0, rotation_degrees, 3))
    affine.SetMatrix((_rotation(angles) @ np.diag(np.exp(rng.normal(0, size_change, 3)))).ravel().tolist())
    field = np.stack([smooth_field(reference.GetSize()[::-1], spacing_zyx(reference), scale_mm, rng) for _ in range(3)])
    field *= displacement_mm
    steepest = largest_gradient(field, reference)
    if steepest > MAXIMUM_GRADIENT:
        field *= MAXIMUM_GRADIENT / steepest
    image = sitk.GetImageFromArray(np.moveaxis(field, 0, -1).astype(np.float64), isVector=True)
    image.CopyInformation(reference)
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(image)])


def largest_gradient(field: np.ndarray, reference: sitk.Image) -> float:
    """field: mm, [3, z, y, x]. The largest Frobenius norm of its Jacobian, mm per mm."""
    squares = np.zeros(field.shape[1:], np.float32)
    for component in field:
        for derivative in np.gradient(component, *spacing_zyx(reference)):
            squares += derivative.astype(np.float32) ** 2
    return math.sqrt(float(squares.max()))


def _rotation(angles: np.ndarray) -> np.ndarray:
    """3x3, turns about x, then y, then z by radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def deform_labels(
    labels: sitk.Image, transform: sitk.Transform, interpolation: Literal["nearest", "linear"] = "nearest"
) -> sitk.Image:
    """The label map, deformed, on its own grid; air comes in from outside. 'linear': in each voxel the label whose own
    mask, interpolated linearly, is largest: smoother borders, several times slower."""
    kind = sitk.sitkNearestNeighbor if interpolation == "nearest" else sitk.sitkLabelLinear
    return sitk.Resample(labels, labels, transform, kind, 0)
