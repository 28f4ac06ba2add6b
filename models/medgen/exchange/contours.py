"""Outlines of a plane: closed polygons at half-pixel accuracy and better, with holes joined to them."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from skimage.measure import find_contours, points_in_poly


def outlines(field: np.ndarray, level: float = 0.5) -> list[np.ndarray]:
    """field: [rows, columns], larger inside. Returns [n, 2] arrays of (row, column), one for each island, not closed
    twice.

    Marching squares: a pixel of a binary mask lies inside its polygon exactly if it is set. A hole is joined to the
    outline around it by a slit of no width, so that even-odd and winding fills both leave it empty.
    """
    rings = [ring[:-1] for ring in find_contours(np.pad(field.astype(np.float32), 1), level) if len(ring) > 3]
    areas = np.array([_signed_area(ring) for ring in rings])
    islands = [ring - 1 for ring, area in zip(rings, areas, strict=True) if area > 0]
    holes: list[list[np.ndarray]] = [[] for _ in islands]
    sizes = [_signed_area(ring) for ring in islands]
    for ring, area in zip(rings, areas, strict=True):
        if area < 0:
            around = [n for n, island in enumerate(islands) if points_in_poly(ring[:1] - 1, island)[0]]
            holes[min(around, key=sizes.__getitem__)].append(ring - 1)
    return [_simplified(_keyhole(island, inner)) for island, inner in zip(islands, holes, strict=True)]


def _signed_area(ring: np.ndarray) -> float:
    """Positive for outlines, negative for holes, as `find_contours` winds them."""
    row, column = ring.T
    return float(row @ np.roll(column, 1) - column @ np.roll(row, 1)) / 2


def _keyhole(outline: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    """Joins the nearest hole first: a slit to the nearest point can then cross no other hole."""
    holes = list(holes)
    while holes:
        tree = cKDTree(outline)
        gaps = [tree.query(hole) for hole in holes]
        nearest = min(range(len(holes)), key=lambda n: gaps[n][0].min())
        start = int(gaps[nearest][0].argmin())
        at = int(gaps[nearest][1][start])
        hole = np.roll(holes.pop(nearest), -start, axis=0)
        outline = np.concatenate([outline[: at + 1], hole, hole[:1], outline[at:]])
    return outline


def _simplified(ring: np.ndarray) -> np.ndarray:
    """Leaves out the points on straight runs."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    straight = (np.abs(cross) < 1e-9) & ((before * after).sum(1) > 0)
    return ring[~straight]
