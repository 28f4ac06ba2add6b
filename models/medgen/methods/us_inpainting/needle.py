"""A straight needle in a frame: the line through it by weighted RANSAC, and its tip (after Chen et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Grey = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
TRIES, TOLERANCE = 600, 1.5  # pairs of points; pixels from the line
STEEPEST, FLATTEST = np.deg2rad(75), np.deg2rad(13)  # flatter bright lines are fasciae
LONGEST_GAP = 10  # pixels along the needle without an echo, beyond which it has ended


@dataclass(frozen=True)
class NeedleLine:
    """entry, tip: (row, column), the entry is the shallower; support: bright pixels on the line."""

    entry: tuple[float, float]
    tip: tuple[float, float]
    support: int


def find_needle(grey: Grey, inside: npt.NDArray[np.bool_], seed: int = 0) -> NeedleLine | None:
    """The steepest-scoring bright line of a frame, the topmost of parallel ones (those below are its reverberations).
    None where there is none. grey: float32 [h, w], 0 to 1; inside: the fan."""
    above = ndimage.shift(ndimage.uniform_filter(grey, (5, 1)), (5, 0), order=0, mode="nearest")  # rows 3 to 7 above
    excess = np.clip(grey - above, 0, 1) * grey  # an edge with tissue over it; reverberations have echoes over them
    excess[~ndimage.binary_erosion(inside, iterations=2, border_value=1)] = 0
    level = max(0.12, float(np.percentile(excess[inside], 96))) if inside.any() else 1.0
    rows, columns = np.nonzero(excess > level)
    if len(rows) < 20:
        return None
    points = np.stack([rows, columns], 1).astype(np.float64)
    weights = excess[rows, columns].astype(np.float64)
    line = _best_line(points, weights, np.random.default_rng(seed))
    if line is None:
        return None
    middle, direction = _topmost(points, weights, *line)
    return _ends(grey, points, middle, direction)


def _best_line(points: Vector, weights: Vector, rng: np.random.Generator) -> tuple[Vector, Vector] | None:
    """A point on the line and its unit direction (pointing down)."""
    pairs = rng.choice(len(points), (TRIES, 2), p=weights / weights.sum())
    starts, directions = points[pairs[:, 0]], points[pairs[:, 1]] - points[pairs[:, 0]]
    lengths = np.linalg.norm(directions, axis=1)
    slope = np.arctan2(np.abs(directions[:, 0]), np.abs(directions[:, 1]))
    good = (lengths > 12) & (slope > FLATTEST) & (slope < STEEPEST)
    if not good.any():
        return None
    starts, directions = starts[good], directions[good] / lengths[good, None]
    normals = np.stack([-directions[:, 1], directions[:, 0]], 1)
    away = np.abs(normals @ points.T - (normals * starts).sum(1)[:, None])
    best = int(np.argmax((weights * (away < TOLERANCE)).sum(1)))
    middle, direction = starts[best], directions[best]
    for _ in range(3):  # weighted least squares on the inliers
        on = _distance(points, middle, direction) < TOLERANCE
        if on.sum() < 8:
            break
        middle = np.average(points[on], 0, weights[on])
        spread = np.cov((points[on] - middle).T, aweights=weights[on])
        direction = np.linalg.eigh(spread)[1][:, -1]
    return middle, direction if direction[0] > 0 else -direction


def _distance(points: Vector, middle: Vector, direction: Vector) -> Vector:
    return np.abs((points - middle) @ np.array((-direction[1], direction[0])))


def _topmost(points: Vector, weights: Vector, middle: Vector, direction: Vector) -> tuple[Vector, Vector]:
    """The uppermost parallel line with at least 0.6 of the best one's weight."""
    score = float(weights[_distance(points, middle, direction) < TOLERANCE].sum())
    for shift in range(60, 0, -1):
        other = middle - np.array((float(shift), 0.0))
        if weights[_distance(points, other, direction) < TOLERANCE].sum() >= 0.6 * score:
            near = [other + np.array((float(step), 0.0)) for step in range(4)]  # the crest of this line
            sums = [weights[_distance(points, place, direction) < TOLERANCE].sum() for place in near]
            return near[int(np.argmax(sums))], direction
    return middle, direction


def _ends(grey: Grey, points: Vector, middle: Vector, direction: Vector) -> NeedleLine:
    """The longest bright stretch of the line without a gap of more than LONGEST_GAP: at least 0.6 times as bright as
    the needle's edges."""
    edges = points[_distance(points, middle, direction) < TOLERANCE]
    along = np.arange(-sum(grey.shape), sum(grey.shape) + 1)
    places = middle + along[:, None] * direction
    crest = ndimage.maximum_filter(grey, 3)
    brightness = ndimage.map_coordinates(crest, places.T, order=1, mode="constant")
    level = 0.6 * np.median(crest[tuple(edges.astype(int).T)])
    bright = along[brightness > level]
    breaks = np.flatnonzero(np.diff(bright) > LONGEST_GAP)
    starts, stops = np.r_[0, breaks + 1], np.r_[breaks, len(bright) - 1]
    longest = int(np.argmax(stops - starts))
    first, last = (middle + bright[index] * direction for index in (starts[longest], stops[longest]))
    count = int(stops[longest] - starts[longest] + 1)
    return NeedleLine((float(first[0]), float(first[1])), (float(last[0]), float(last[1])), count)


def needle_table(lines: dict[str, NeedleLine | None]) -> dict[str, list[Any]]:
    """One row for each frame in which a needle was found."""
    found = [(name, line) for name, line in lines.items() if line is not None]
    return {
        "frame": [name for name, _ in found],
        "entry_column": [round(line.entry[1], 1) for _, line in found],
        "entry_row": [round(line.entry[0], 1) for _, line in found],
        "tip_column": [round(line.tip[1], 1) for _, line in found],
        "tip_row": [round(line.tip[0], 1) for _, line in found],
        "supporting_pixels": [line.support for _, line in found],
    }
