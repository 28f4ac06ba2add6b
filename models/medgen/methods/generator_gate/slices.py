"""From images of any size to comparable square slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from medgen.errors import BadInput
from medgen.imaging.geometry import canonical, to_array
from medgen.imaging.intensity import percentile_scale

AXES = {"k": 0, "j": 1, "i": 2}
FOREGROUND = 0.1  # of the scaled intensities: above it lies the body


def slices_of(images: Sequence[sitk.Image], count: int, axis: str, size: int) -> tuple[Tensor, Tensor]:
    """(n, size, size) in [0, 1] and the number of the image that each comes from (n,).

    Volumes are turned upright, scaled between their 0.5 and 99.5 percentiles, cut at `count` places spread over the
    middle 60 % of their foreground, and each volume's foreground box fills the square, at its own proportions.
    """
    found, owners = [], []
    for number, image in enumerate(images):
        planes = _planes(image, count, axis)
        if planes.max() <= planes.min():
            raise BadInput(f"Image {number + 1} of the set shows nothing.")
        found.append(_square(planes, size))
        owners += [number] * len(planes)
    return torch.cat(found), torch.tensor(owners)


def _planes(image: sitk.Image, count: int, axis: str) -> np.ndarray:
    """(count, height, width), cropped to the foreground."""
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise BadInput("Colour images cannot be compared; give grey values.")
    flat = image.GetDimension() == 2
    values = to_array(image)[None] if flat else np.moveaxis(to_array(canonical(image)[0]), AXES[axis], 0)
    scaled = percentile_scale(values.astype(np.float32), low=0.5, high=99.5)
    inside = scaled > FOREGROUND
    if not inside.any():
        return scaled[:1]
    box = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != b)))[[0, -1]] for b in range(3)]
    (first, last), rows, columns = box
    margin = 0.2 * (last - first)
    where = np.unique(np.linspace(first + margin, last - margin, 1 if flat else count).round().astype(int))
    return scaled[where, rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]


def _square(planes: np.ndarray, size: int) -> Tensor:
    height, width = planes.shape[1:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = F.pad(torch.from_numpy(planes), (left, side - width - left, top, side - height - top))
    scaled = F.interpolate(square[:, None], size=(size, size), mode="bilinear", antialias=side > size)
    return scaled[:, 0].clamp(0, 1)


def matched(slices: Tensor, reference: Tensor) -> Tensor:
    """Slices with the histogram of all `reference` slices together."""
    from skimage.exposure import match_histograms

    return torch.from_numpy(match_histograms(slices.numpy(), reference.numpy()).astype(np.float32))
