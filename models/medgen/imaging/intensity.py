"""Intensity scaling. Arrays are numpy of any shape; results are float32 and of the same shape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

Values = npt.NDArray[np.floating | np.integer]
Float32 = npt.NDArray[np.float32]


def _inside(values: Values, mask: npt.NDArray[np.bool_] | None) -> Values:
    inside = values[mask] if mask is not None else values.ravel()
    return inside if inside.size else values.ravel()


def z_score(values: Values, mask: npt.NDArray[np.bool_] | None = None) -> Float32:
    """Mean 0 and standard deviation 1 in the mask (everywhere without one). A constant image becomes 0."""
    inside = _inside(values, mask)
    return _shift_scale(values, float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64)))


def robust_z_score(values: Values, mask: npt.NDArray[np.bool_] | None = None) -> Float32:
    """Median 0 and interquartile range 1 in the mask (everywhere without one). A constant image becomes 0."""
    low, middle, high = np.percentile(_inside(values, mask), (25, 50, 75))
    return _shift_scale(values, float(middle), float(high - low))


def percentile_scale(
    values: Values, low: float = 1.0, high: float = 99.0, mask: npt.NDArray[np.bool_] | None = None
) -> Float32:
    """Clipped to these percentiles (0 to 100) of the mask and mapped to [0, 1]. A constant image becomes 0."""
    bottom, top = (float(v) for v in np.percentile(_inside(values, mask), (low, high)))
    return np.clip(_shift_scale(values, bottom, top - bottom), 0, 1)


def _shift_scale(values: Values, shift: float, scale: float) -> Float32:
    return ((values.astype(np.float32) - np.float32(shift)) / np.float32(scale if scale > 1e-12 else np.inf)).astype(
        np.float32
    )


def hu_to_unit(hu: Values, low: float = -1024.0, high: float = 3071.0) -> Float32:
    """HU, clipped to [low, high], mapped to [-1, 1]."""
    return (np.clip(hu.astype(np.float32), low, high) - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)


def unit_to_hu(unit: Values, low: float = -1024.0, high: float = 3071.0) -> Float32:
    """The inverse of `hu_to_unit`; values outside [-1, 1] are clipped."""
    return (np.clip(unit.astype(np.float32), -1, 1) + np.float32(1)) * np.float32((high - low) / 2) + np.float32(low)


def n4(image: sitk.Image, mask: sitk.Image, shrink_mm: float = 4.0, iterations: int = 30) -> sitk.Image:
    """The image without its smooth bias field (N4: Tustison et al., IEEE TMI 29:1310, 2010), float32, same grid.

    The field is found in the mask on an image shrunken to voxels of about `shrink_mm` and divided out at full
    resolution. iterations: at most, on each of three levels of the field's B-spline.
    """
    image = sitk.Cast(image, sitk.sitkFloat32)
    factors = [
        max(1, min(round(shrink_mm / s), n // 4)) for s, n in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
    small_mask = sitk.Shrink(sitk.Cast(mask != 0, sitk.sitkUInt8), factors)
    n4_filter = sitk.N4BiasFieldCorrectionImageFilter()
    n4_filter.SetMaximumNumberOfIterations([iterations] * 3)
    n4_filter.Execute(sitk.Shrink(image, factors), small_mask)
    field = sitk.Exp(n4_filter.GetLogBiasFieldAsImage(image))
    return sitk.Cast(image / sitk.Cast(field, sitk.sitkFloat32), sitk.sitkFloat32)
