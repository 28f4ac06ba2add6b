"""A cohort's images on one working grid, in [0, 1], by class; and made images back as images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medgen.errors import BadInput
from medgen.imaging.geometry import Grid, canonical, crop_to_mask, from_array, to_array
from medgen.imaging.resampling import grid_like, resample, resample_labels

FEWEST = 5  # images of a class
AXES = {"i": 0, "j": 1, "k": 2}
LOW, HIGH = 0.5, 99.5  # percentiles that become 0 and 1


@dataclass(frozen=True)
class Cohort:
    """values: (n, *shape), axes k, j, i without those of one voxel; range: the intensities that 0 and 1 stand for;
    grid: of the working images; flat: the images came without a third dimension."""

    values: Tensor
    range: tuple[float, float]
    grid: Grid
    flat: bool

    def image(self, values: Tensor) -> sitk.Image:
        """A made image (*shape), float32, in the cohort's intensities and place."""
        low, high = self.range
        array = (values.numpy() * (high - low) + low).astype(np.float32)
        image = from_array(array.reshape(tuple(reversed(self.grid.size))), self.grid)
        return image[:, :, 0] if self.flat else image


def read_cohort(images: Sequence[sitk.Image], mask: sitk.Image | None, parameters: dict[str, Any]) -> Cohort:
    """Raises BadInput for colour, different sizes, an empty mask or an image that shows nothing."""
    if len(images) < FEWEST:
        raise BadInput(f"At least {FEWEST} images are needed, not {len(images)}.")
    for number, image in enumerate(images, 1):
        if image.GetNumberOfComponentsPerPixel() > 1:
            raise BadInput("Colour images cannot be learnt; give grey values.")
        if image.GetSize() != images[0].GetSize():
            raise BadInput(f"Image {number} is of another size than the first; align the images first.")
    arrays, grid = [], Grid.of(images[0])
    for image in images:
        small = _working_image(image, mask, images[0], parameters)
        arrays.append(to_array(small).astype(np.float32))
        grid = grid if len(arrays) > 1 else Grid.of(small)
    ranges = np.array([np.percentile(array, (LOW, HIGH)) for array in arrays])
    for number, array in enumerate(arrays, 1):
        if array.max() <= array.min():
            raise BadInput(f"Image {number} shows nothing.")
    if parameters["intensities"] == "cohort":
        ranges[:] = ranges[:, 0].min(), ranges[:, 1].max()
    ranges[:, 1] = np.maximum(ranges[:, 1], ranges[:, 0] + 1e-6)  # sparse images: the percentiles may be one value
    scaled = [((a - low) / (high - low)).clip(0, 1) for a, (low, high) in zip(arrays, ranges, strict=True)]
    low, high = ranges.mean(axis=0).tolist()
    values = torch.from_numpy(np.stack([array.squeeze() for array in scaled]).astype(np.float32))
    if min(values.shape[1:]) < 4 or values.ndim < 3:
        raise BadInput("The images are too small to learn from; at least 4 voxels are needed along each axis.")
    return Cohort(values, (low, high), grid, images[0].GetDimension() == 2)


def _working_image(
    image: sitk.Image, mask: sitk.Image | None, first: sitk.Image, parameters: dict[str, Any]
) -> sitk.Image:
    """Cut to the mask, one slice if asked, at most `size` voxels a side. The images are aligned voxel by voxel: all
    take the first one's place."""
    image = sitk.Cast(image, sitk.sitkFloat32)
    image.CopyInformation(first)
    if mask is not None:
        image = _masked(image, mask)
    image = sitk.JoinSeries(image) if image.GetDimension() == 2 else canonical(image)[0]
    if parameters["content"] == "slice" and min(image.GetSize()) > 1:
        image = _slice(image, AXES[parameters["axis"]], parameters["position"] / 100)
    spacing = np.array(image.GetSpacing())
    several = np.array(image.GetSize()) > 1
    extent = float((spacing * image.GetSize())[several].max())
    wanted = np.where(several, np.maximum(spacing, extent / parameters["size"]), spacing)
    return resample(image, grid_like(image, wanted.tolist()))


def _masked(image: sitk.Image, mask: sitk.Image) -> sitk.Image:
    inside = resample_labels(mask, image) if mask.GetDimension() == image.GetDimension() else mask
    if inside.GetSize() != image.GetSize():
        raise BadInput("The region does not fit the images.")
    try:
        box = crop_to_mask(image, inside)
    except ValueError:
        raise BadInput("The region is empty or lies outside the images.") from None
    lowest = float(to_array(image).min())
    return sitk.Mask(box, sitk.Cast(crop_to_mask(inside, inside), sitk.sitkUInt8), lowest)


def _slice(image: sitk.Image, axis: int, position: float) -> sitk.Image:
    size, start = list(image.GetSize()), [0, 0, 0]
    start[axis] = min(size[axis] - 1, int(position * size[axis]))
    size[axis] = 1
    return sitk.RegionOfInterest(image, size, start)


def classes_of(table: dict[str, list[Any]] | None, column: str, count: int) -> tuple[list[str], list[str]]:
    """Class and name of each image. Raises BadInput for a table that does not fit."""
    if not table:
        return ["all"] * count, [str(n + 1) for n in range(count)]
    if column not in table:
        raise BadInput(f"The table of classes has no column '{column}' (it has: {', '.join(table)}).")
    if len(table[column]) != count:
        raise BadInput(f"The table of classes has {len(table[column])} rows for {count} images.")
    names = [_text(v) for v in table["id"]] if "id" in table else [str(n + 1) for n in range(count)]
    classes = [_text(v) for v in table[column]]
    for label in sorted(set(classes)):
        if classes.count(label) < FEWEST:
            raise BadInput(f"Class '{label}' has {classes.count(label)} images; at least {FEWEST} are needed.")
    return classes, names


def _text(value: Any) -> str:
    """1.0 of a table of numbers is class 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
