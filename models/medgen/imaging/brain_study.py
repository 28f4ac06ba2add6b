"""A brain in T1, T1c, T2 and FLAIR as a stack of axial slices for 2D networks, and maps back onto the scan's own grid.

The networks see skull-stripped slices of 128 x 128 pixels of 1.5 mm, 0 to 1: every sequence is divided by its median in
the brain, times 0.4, cut off at 1. (Percentiles, as the papers take them, would tell a large bright lesion by the
darkness of all other tissue.) A sequence that is not there is 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import Grid, Reorientation, canonical, from_array, to_array
from medgen.imaging.resampling import resample, resample_labels

BRAIN_SEQUENCES = ("T1", "T1c", "T2", "FLAIR")
SIDE, PIXEL_MM = 128, 1.5
MEDIAN = 0.4
LARGEST_BRAIN_ML = 2200.0
SMALLEST_SLICE = 200  # pixels of brain
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def scale_brain(values: Float32, brain: Mask) -> Float32:
    """One sequence, any shape, to 0..1 as above; 0 outside the brain. A sequence without signal becomes 0."""
    median = float(np.median(values[brain])) if brain.any() else 0.0
    if median <= 0:
        return np.zeros(values.shape, np.float32)
    return (np.clip(values * np.float32(MEDIAN / median), 0, 1) * brain).astype(np.float32)


@dataclass(frozen=True)
class BrainStudy:
    """slices: float32 [z, 4, 128, 128] in the order of BRAIN_SEQUENCES, feet to head, rows to the back, columns to the
    person's left; brain: bool [z, 128, 128]; present: which sequences are there; grid: where the slices lie."""

    slices: Float32
    brain: Mask
    present: tuple[bool, ...]
    grid: Grid
    upright: Grid
    way: Reorientation

    def to_scan(self, values: npt.NDArray[np.generic]) -> sitk.Image:
        """[z, 128, 128] on the grid of the scan; labels (integers) stay labels; 0 where the slices do not reach."""
        image = from_array(values, self.grid)
        if np.issubdtype(values.dtype, np.floating):
            return self.way.undo(resample(image, self.upright, fill=0.0))
        return self.way.undo(resample_labels(image, self.upright))

    def one_slice(self, values: npt.NDArray[np.generic], row: int) -> sitk.Image:
        """[1, 128, 128] where slice `row` lies, upright."""
        grid = self.grid
        origin = tuple(grid.to_world([[0, 0, row]])[0].tolist())
        return from_array(values, Grid((*grid.size[:2], 1), grid.spacing_mm, origin, grid.direction))

    @property
    def positions_mm(self) -> npt.NDArray[np.float64]:
        """[z]: how far each slice lies above the lowest one."""
        return np.asarray(np.arange(len(self.brain)) * self.grid.spacing_mm[2])

    @property
    def centres_ras(self) -> npt.NDArray[np.float64]:
        """[z, 3]: the middle of each slice, mm."""
        middle = [(n - 1) / 2 for n in self.grid.size[:2]]
        found = self.grid.to_world([[*middle, z] for z in range(len(self.brain))])
        return np.asarray(found * (-1, -1, 1))

    def inside(self, roi: Mapping[str, Any] | None) -> Mask:
        """bool [z, 128, 128]: the pixels in a box as `medgen.spec.ROI` has it; all of them without one."""
        if roi is None:
            return np.ones_like(self.brain)
        x, y, z = self.grid.size
        index = np.stack(np.meshgrid(np.arange(x), np.arange(y), np.arange(z), indexing="ij"), -1).reshape(-1, 3)
        away = (self.grid.to_world(index) - np.asarray(roi["center"])) @ np.asarray(roi["axes"])
        return np.asarray((np.abs(away) <= np.asarray(roi["size_mm"]) / 2).all(1).reshape(x, y, z).transpose(2, 1, 0))


def chosen_slices(
    study: BrainStudy, from_mm: float, to_mm: float, box: Mask, smallest: int = SMALLEST_SLICE
) -> npt.NDArray[np.int64]:
    """Numbers of the slices between two positions that hold so many pixels of brain and some of the box. Raises
    BadInput where there are none."""
    half = study.grid.spacing_mm[2] / 2
    near = (study.positions_mm >= from_mm - half) & (study.positions_mm <= to_mm + half)
    brain = study.brain.reshape(len(study.brain), -1).sum(1) >= smallest
    met = (box & study.brain).reshape(len(study.brain), -1).any(1)
    rows = np.flatnonzero(near & brain & met)
    if not len(rows):
        raise BadInput("No slice of the brain lies in the chosen range and region.")
    return rows


def brain_study(images: Mapping[str, sitk.Image], brain: sitk.Image | None = None) -> BrainStudy:
    """Prepares the sequences that are there (names of BRAIN_SEQUENCES), all in one place in the world.

    The first one in the order FLAIR, T2, T1, T1c gives the grid that results return to. brain: mask of it; without one
    the images must be skull-stripped. Raises BadInput for no sequence, an empty mask, or a head with its skull on.
    """
    names = [name for name in ("FLAIR", "T2", "T1", "T1c") if name in images]
    if not names:
        raise BadInput("Give at least one of FLAIR, T2, T1 and contrast-enhanced T1.")
    reference, way = canonical(images[names[0]])
    if brain is None:
        mask = stripped_brain(reference)
        millilitres = float(to_array(mask).sum() * np.prod(mask.GetSpacing()) / 1000)
        if millilitres > LARGEST_BRAIN_ML:
            raise BadInput(
                f"The image shows {millilitres:.0f} ml, which is more than a brain: give a brain mask, or strip the "
                "skull first."
            )
    else:
        mask = resample_labels(sitk.Cast(brain != 0, sitk.sitkUInt8), reference)
    if not to_array(mask).any():
        raise BadInput("The brain mask is empty.")
    grid = _slice_grid(reference, mask)
    inside = to_array(resample_labels(mask, grid)) != 0
    slices = np.zeros((inside.shape[0], len(BRAIN_SEQUENCES), SIDE, SIDE), np.float32)
    for channel, name in enumerate(BRAIN_SEQUENCES):
        if name in images:
            slices[:, channel] = scale_brain(to_array(resample(images[name], grid)).astype(np.float32), inside)
    present = tuple(name in images for name in BRAIN_SEQUENCES)
    return BrainStudy(slices, inside, present, grid, Grid.of(reference), way)


def stripped_brain(image: sitk.Image) -> sitk.Image:
    """Where a stripped image is not 0 (holes filled); where the air is not 0 but noise, its foreground."""
    values = to_array(image)
    if np.mean(values == 0) < 0.25:
        return foreground_mask(image)
    from scipy import ndimage

    return from_array(np.stack([ndimage.binary_fill_holes(plane) for plane in values != 0]), image)


def _slice_grid(image: sitk.Image, mask: sitk.Image) -> Grid:
    """Slices of 128 x 128 pixels centred on the mask's box, as thick as the image's own but at least 1.5 mm."""
    source = Grid.of(image)
    where = np.argwhere(to_array(mask) != 0)[:, ::-1]
    low, high = where.min(0) - 0.5, where.max(0) + 0.5
    thickness = max(PIXEL_MM, source.spacing_mm[2])
    count = max(1, int(np.ceil((high[2] - low[2]) * source.spacing_mm[2] / thickness - 1e-3)))
    size, spacing = (SIDE, SIDE, count), (PIXEL_MM, PIXEL_MM, thickness)
    centre = source.to_world(((low + high) / 2)[None])[0]
    origin = centre - source.axes @ ((np.array(size) - 1) / 2 * spacing)
    return Grid(size, spacing, tuple(origin.tolist()), source.direction)
