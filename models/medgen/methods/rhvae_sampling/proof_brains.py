"""Slices of MNI152 bent into many brains, and the area of their ventricles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Picture = npt.NDArray[np.float32]
SIDE = 64
SLICE = 46  # of the T1 at 2 mm, through both lateral ventricles
FOREGROUND = 0.1
HEART = (27.0, 31.5)  # row and column between the ventricles, on the 64 x 64 picture
REACH = 11.0  # pixels
BEND, BEND_SMOOTH = 1.2, 8.0  # pixels


def base_slice() -> Picture:
    """The axial slice, (64, 64) in [0, 1], nose up. Raises ImportError without nilearn."""
    from nilearn.datasets import load_mni152_template

    plane = np.asarray(load_mni152_template(resolution=2).dataobj)[:, :, SLICE].T[::-1]
    rows, columns = (np.flatnonzero((plane > FOREGROUND).any(axis=a))[[0, -1]] for a in (1, 0))
    plane = plane[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]
    side = max(plane.shape) + 8
    before = [(side - n) // 2 for n in plane.shape]
    square = np.pad(plane, [(b, side - n - b) for b, n in zip(before, plane.shape, strict=True)])
    small = ndimage.zoom(square, SIDE / side, order=1, grid_mode=True, mode="grid-constant")
    return small.clip(0, 1).astype(np.float32)


def brains(base: Picture, count: int, enlargement: float, rng: np.random.Generator) -> Picture:
    """(count, 64, 64): smooth random bends, gain and size of the ventricles. enlargement: mean factor by which lengths
    grow between the ventricles."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    found = []
    for _ in range(count):
        noise = rng.normal(size=(2, SIDE, SIDE))
        bend = np.stack([ndimage.gaussian_filter(n, BEND_SMOOTH) for n in noise])
        bend *= BEND / bend.std()
        swell = max(0.7, enlargement * np.exp(rng.normal(0, 0.1)))
        dr, dc = rows - HEART[0], columns - HEART[1]
        near = np.exp(-(dr**2 + dc**2) / (2 * REACH**2))
        factor = 1 + near * (1 / swell - 1)
        where = [HEART[0] + dr * factor + bend[0], HEART[1] + dc * factor + bend[1]]
        found.append(ndimage.map_coordinates(base, where, order=1) * rng.uniform(0.9, 1.05))
    return np.stack(found).clip(0, 1).astype(np.float32)


def ventricle_area(pictures: Picture) -> npt.NDArray[np.float64]:
    """Share of the region of the ventricles that is fluid (n,): how far each pixel is darker than the brain is
    there. Partial volumes count in part, so that a blurred picture has the area of the sharp one."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    near = (rows - HEART[0]) ** 2 + (columns - HEART[1]) ** 2 < (1.4 * REACH) ** 2
    inside = pictures[:, near].astype(np.float64)
    tissue = np.percentile(inside, 75, axis=1, keepdims=True)
    return (1 - inside / tissue).clip(0, 1).mean(axis=1)


def nearest_difference(pictures: Picture, others: Picture) -> npt.NDArray[np.float64]:
    """Root mean square difference of each picture to the nearest of the others, leaving out itself, (n,)."""
    flat, reference = pictures.reshape(len(pictures), -1), others.reshape(len(others), -1)
    squared = ((flat[:, None] - reference[None]) ** 2).mean(axis=2)
    if pictures is others:
        np.fill_diagonal(squared, np.inf)
    return np.sqrt(squared.min(axis=1))
