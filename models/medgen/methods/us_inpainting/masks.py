"""Holes for training and measuring: free-form brush strokes (after Yu et al., ICCV 2019) and shapes of artefacts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Mask = npt.NDArray[np.bool_]


def brush_mask(rng: np.random.Generator, size: int, share: tuple[float, float] = (0.05, 0.3)) -> Mask:
    """bool [size, size]: strokes until `share` of the square is covered; never all of it."""
    target, most = rng.uniform(*share), share[1] + 0.1
    mask = np.zeros((size, size), bool)
    for _ in range(60):
        drawn = mask | _stroke(rng, size)
        if drawn.mean() <= most:
            mask = drawn
        if mask.mean() >= target:
            break
    return mask if mask.any() else _box(rng, size)


def random_hole(rng: np.random.Generator, size: int) -> Mask:
    """Half brush strokes; else a box, as erased along a needle, a slanting strip, as under reverberations, or thin
    lines, as callipers and letters leave."""
    kind = rng.integers(6)
    if kind < 3:
        return brush_mask(rng, size)
    return (_box, _strip, _lines)[kind - 3](rng, size)


def distance_inside(mask: Mask) -> npt.NDArray[np.float32]:
    """Pixels from each pixel of the hole to the nearest one outside it; 0 outside."""
    from scipy import ndimage

    return ndimage.distance_transform_edt(mask).astype(np.float32)


def _drawn(size: int, lines: list[tuple[list[tuple[float, float]], float]]) -> Mask:
    canvas = Image.new("1", (size, size))
    pen = ImageDraw.Draw(canvas)
    for points, width in lines:
        pen.line(points, fill=1, width=max(1, round(width)), joint="curve")
        for x, y in points:
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=1)
    return np.asarray(canvas)


def _stroke(rng: np.random.Generator, size: int) -> Mask:
    width = size * rng.uniform(0.06, 0.25)
    x, y, turn = *rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
    points: list[tuple[float, float]] = [(x, y)]
    for number in range(int(rng.integers(1, 6))):
        turn += rng.uniform(0.2, 1.2) * (1 if number % 2 else -1)
        length = size * rng.uniform(0.08, 0.3)
        x, y = np.clip((x + length * np.cos(turn), y + length * np.sin(turn)), 0, size)
        points.append((float(x), float(y)))
    return _drawn(size, [(points, width)])


def _box(rng: np.random.Generator, size: int) -> Mask:
    mask = np.zeros((size, size), bool)
    for _ in range(rng.integers(1, 4)):
        height, width = (size * rng.uniform(0.1, 0.4, 2)).astype(int)
        row, column = int(rng.integers(size - height)), int(rng.integers(size - width))
        mask[row : row + height, column : column + width] = True
    return mask


def _strip(rng: np.random.Generator, size: int) -> Mask:
    turn, offset = rng.uniform(0, np.pi), rng.uniform(-0.25, 0.25) * size
    away = np.array((np.cos(turn), np.sin(turn))) * 2 * size
    middle = np.array((size / 2 - offset * np.sin(turn), size / 2 + offset * np.cos(turn)))
    ends: list[Any] = [tuple(middle - away), tuple(middle + away)]
    return _drawn(size, [(ends, size * rng.uniform(0.08, 0.28))])


def _lines(rng: np.random.Generator, size: int) -> Mask:
    lines: list[tuple[list[tuple[float, float]], float]] = []
    for _ in range(rng.integers(4, 12)):
        x, y = rng.uniform(0, size, 2)
        turn, length = rng.uniform(0, np.pi), size * rng.uniform(0.05, 0.25)
        end = (float(x + length * np.cos(turn)), float(y + length * np.sin(turn)))
        lines.append(([(float(x), float(y)), end], size * rng.uniform(0.02, 0.06)))
    return _drawn(size, lines)
