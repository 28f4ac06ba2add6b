"""Proton stopping power relative to water (SPR), and the water-equivalent length of a line through it.

SPR from CT numbers is a piecewise line through knots, which every site measures for its own scanner. The length of the
line in each voxel is exact (Siddon, Med Phys 1985;12:252): no sampling step. Coordinates are LPS millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.geometry import Grid
from medgen.imaging.spr_table import HU_COLUMN, SPR_COLUMN, SPR_KNOTS

Values = npt.NDArray[np.float64]
Knots = tuple[Sequence[float], Sequence[float]]


def spr_from_hu(hu: npt.ArrayLike, knots: Knots = SPR_KNOTS) -> npt.NDArray[np.float32]:
    """SPR (water 1) of CT numbers of any shape; outside the knots the end values hold."""
    return np.interp(np.asarray(hu), *knots).astype(np.float32)


def hu_from_spr(spr: npt.ArrayLike, knots: Knots = SPR_KNOTS) -> npt.NDArray[np.float32]:
    """The inverse of `spr_from_hu` between the end values."""
    return np.interp(np.asarray(spr), knots[1], knots[0]).astype(np.float32)


def knots_of_table(table: Mapping[str, Sequence[Any]]) -> Knots:
    """Columns HU and SPR (their names in any case; else the first two), in any order of rows.

    Raises BadInput where they are no function that rises: two values for one HU, an SPR that falls or stays, below 0.
    """
    columns = {name.strip().lower(): values for name, values in table.items()}
    named = [columns[name.lower()] for name in (HU_COLUMN, SPR_COLUMN) if name.lower() in columns]
    pair = named if len(named) == 2 else list(table.values())[:2]
    try:
        rows = np.array(pair, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput("The HU to SPR table must hold two columns of numbers, HU and SPR.") from None
    if rows.ndim != 2 or len(rows) != 2 or rows.shape[1] < 2 or not np.isfinite(rows).all():
        raise BadInput("The HU to SPR table needs two columns, HU and SPR, and two rows or more.")
    hu, spr = rows[:, np.argsort(rows[0], kind="stable")]
    if spr.min() < 0 or (np.diff(hu) <= 0).any() or (np.diff(spr) <= 0).any():
        raise BadInput("In the HU to SPR table SPR must rise with HU, from 0 or above, one row for each HU.")
    return hu.tolist(), spr.tolist()


@dataclass(frozen=True)
class Profile:
    """SPR and water-equivalent depth along a line, one entry for each piece of the line in one voxel.

    edges_mm [n+1]: geometric depth from the start where the pieces meet; spr [n]: value in each piece; outside_mm: how
    much of the line lies outside the image.
    """

    edges_mm: Values
    spr: Values
    outside_mm: float

    @property
    def wet_mm(self) -> Values:
        """[n+1] water-equivalent depth at each edge (WEPL); the last is the line's water-equivalent thickness (WET)."""
        return np.concatenate([[0.0], np.cumsum(self.spr * np.diff(self.edges_mm))])

    @property
    def total_mm(self) -> float:
        return float(self.wet_mm[-1])

    @property
    def length_mm(self) -> float:
        return float(self.edges_mm[-1])

    def wet_at(self, depth_mm: npt.ArrayLike) -> Values:
        """Water-equivalent depth, mm, at geometric depths; exact, since it is linear within a voxel."""
        return np.asarray(np.interp(np.asarray(depth_mm), self.edges_mm, self.wet_mm))

    def spr_at(self, depth_mm: npt.ArrayLike) -> Values:
        pieces = np.searchsorted(self.edges_mm, np.asarray(depth_mm, np.float64), side="right") - 1
        return self.spr[np.clip(pieces, 0, len(self.spr) - 1)]


def water_path(spr: sitk.Image, start: Sequence[float], end: Sequence[float], outside: float = 0.0) -> Profile:
    """Along the straight line from `start` to `end` (LPS mm) through a 3D map of SPR (water 1).

    outside: SPR of what lies beyond the image; 0 counts nothing there. Raises BadInput for a line without length, or
    one that misses the image.
    """
    grid = Grid.of(spr)
    length = float(np.linalg.norm(np.subtract(end, start)))
    if not length > 0:  # NaN fails the comparison too
        raise BadInput("The line has no length: place its two ends apart.")
    first, last = grid.to_index([start, end])
    edges = _crossings(first, last, grid.size)
    middles = (edges[:-1] + edges[1:]) / 2
    voxels = np.rint(first + middles[:, None] * (last - first)).astype(int)
    inside = ((voxels >= 0) & (voxels < grid.size)).all(axis=1)
    if not inside.any():
        raise BadInput("The line misses the image.")
    values = np.full(len(voxels), float(outside))
    i, j, k = voxels[inside].T
    values[inside] = sitk.GetArrayViewFromImage(spr)[k, j, i]
    return Profile(edges * length, values, float(np.diff(edges)[~inside].sum()) * length)


def _crossings(first: Values, last: Values, size: Sequence[int]) -> Values:
    """Fractions 0..1 of the way, sorted, at which it passes from voxel to voxel; both ends among them."""
    found = [np.array([0.0, 1.0])]
    for a, b, n in zip(first, last, size, strict=True):
        if a != b:
            low, high = max(-0.5, min(a, b)), min(n - 0.5, max(a, b))
            walls = np.arange(np.ceil(low - 0.5) + 0.5, high + 1e-9) if low <= high else np.array([])
            found.append((walls - a) / (b - a))
    return np.unique(np.clip(np.concatenate(found), 0.0, 1.0))
