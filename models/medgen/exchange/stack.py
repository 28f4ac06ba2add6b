"""Parallel slices to one right-angled, even grid; tilted and uneven stacks are resampled, and a note says so."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from medgen.errors import BadInput

MAX_SLICES = 4096
SAME_PLACE = 0.01  # of a pixel or of a slice distance: below it a deviation is rounding in the header


@dataclass
class Stack:
    """The grid that holds the slices.

    origin, spacing_mm, axes (3x3, rows are the unit vectors along i, j, k), size (i, j, k): of the grid;
    shifts: [slices, 2], where each slice's first pixel lies on the grid, in pixels along i and j;
    heights: [slices], its place along k, in slices. For a regular stack shifts are 0 and heights 0, 1, 2, ...
    """

    origin: np.ndarray
    spacing_mm: tuple[float, float, float]
    axes: np.ndarray
    size: tuple[int, int, int]
    shifts: np.ndarray
    heights: np.ndarray
    notes: list[str] = field(default_factory=list)

    @property
    def is_regular(self) -> bool:
        return not self.notes

    def set_geometry(self, image: sitk.Image) -> None:
        image.SetOrigin(self.origin.tolist())
        image.SetSpacing([float(s) for s in self.spacing_mm])
        image.SetDirection(self.axes.T.ravel().tolist())


def stack_of(
    positions: np.ndarray, axes: np.ndarray, spacing_mm: tuple[float, float], size: tuple[int, int], gap_mm: float
) -> Stack:
    """positions: [slices, 3], LPS mm, sorted along the normal; axes: 2x3; spacing_mm and size: along i, j; gap_mm: the
    slice distance where there is one slice only. Raises BadInput for a stack too long to be one image."""
    normal = np.cross(*axes)
    frame = np.vstack([axes, normal / np.linalg.norm(normal)])
    places = (positions - positions[0]) @ frame.T  # mm along i, j, k from the first slice
    count, heights = len(positions), places[:, 2]
    step = round(float(heights[-1] / (count - 1)), 9) if count > 1 else gap_mm
    notes = []
    uneven = bool(np.abs(heights - step * np.arange(count)).max() > SAME_PLACE * step)
    if uneven:
        steps = np.diff(heights)
        step = float(np.median(steps))
        notes.append(
            f"The slices are {steps.min():.3g} to {steps.max():.3g} mm apart: resampled to every {step:.3g} mm."
            if steps.max() < 1.9 * step
            else f"Slices are missing (a gap of {steps.max():.3g} mm among steps of {step:.3g} mm): filled in between."
        )
    tilted = bool((np.abs(places[:, :2]) > 0.1 * np.array(spacing_mm)).any())
    if tilted:
        drift = places[-1, :2] / max(heights[-1], 1e-9)
        angle = np.degrees(np.arctan(np.linalg.norm(drift)))
        notes.insert(0, f"The gantry was tilted by {angle:.1f} degrees: resampled to a right-angled grid.")
    shifts = places[:, :2] / np.array(spacing_mm) if tilted else np.zeros((count, 2))
    low, room = shifts.min(0), np.ceil(np.ptp(shifts, axis=0) - 1e-6).astype(int)
    slices = round(heights[-1] / step) + 1 if uneven else count
    if slices > MAX_SLICES or room.max() > 4 * max(size):
        raise BadInput("The slices of this series lie too far apart to be one image.")
    origin = positions[0] + (low * np.array(spacing_mm)) @ axes if tilted else positions[0]
    grid_size = (size[0] + int(room[0]), size[1] + int(room[1]), slices)
    grid_heights = heights / step if uneven else np.arange(count, dtype=float)
    spacing = (spacing_mm[0], spacing_mm[1], float(step))
    return Stack(origin, spacing, frame, grid_size, shifts - low, grid_heights, notes)


def level_slices(slices: np.ndarray, stack: Stack) -> np.ndarray:
    """slices: [slices, rows, columns(, colours)] in the stack's order. Returns the values on the stack's grid, axes
    k, j, i; linear interpolation where the stack is not regular, the image's lowest value outside the slices."""
    if stack.is_regular:
        return slices
    columns, rows, count = stack.size
    outside = slices.min()
    room = ((0, rows - slices.shape[1]), (0, columns - slices.shape[2]))

    def level(index: int) -> np.ndarray:
        plane = np.pad(slices[index].astype(np.float32), room, constant_values=outside)
        shift = stack.shifts[index][::-1]
        return ndimage.shift(plane, shift, order=1, cval=float(outside)) if shift.any() else plane

    result = np.empty((count, rows, columns), slices.dtype)
    above = np.clip(np.searchsorted(stack.heights, np.arange(count), side="right"), 1, max(1, len(slices) - 1))
    for k, upper in enumerate(above):
        low, high = stack.heights[upper - 1], stack.heights[min(upper, len(slices) - 1)]
        part = np.clip((k - low) / (high - low), 0, 1) if high > low else 0.0
        plane = level(upper - 1) if part < 1 else level(upper)
        if 0 < part < 1:
            plane = (1 - part) * plane + part * level(upper)
        result[k] = np.rint(plane) if np.issubdtype(slices.dtype, np.integer) else plane
    return result
