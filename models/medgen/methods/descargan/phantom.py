"""The paper's synthetic set: ellipse outlines on a pattern of waves; the diseased are shrunk round one ellipse.

Lengths are the paper's for 256 pixels, times side / 256. Images are [side, side], scaled to -1..1 the same way for both
classes (the authors' script scales one of them only, which gives the class away).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """healthy, diseased: float32 [n, 1, side, side], of the same scene; inside each the same scaling."""

    healthy: npt.NDArray[np.float32]
    diseased: npt.NDArray[np.float32]

    @property
    def truth(self) -> npt.NDArray[np.float32]:
        return self.healthy - self.diseased


def draw_pairs(count: int, side: int, rng: np.random.Generator) -> Pairs:
    scenes = [_scene(side, rng) for _ in range(count)]
    return Pairs(*(np.stack(images)[:, None].astype(np.float32) for images in zip(*scenes, strict=True)))


def _scene(side: int, rng: np.random.Generator) -> tuple[Array, Array]:
    scale = side / 256
    y, x = np.mgrid[:side, :side] / scale  # in the paper's pixels
    while True:
        first, second = (_ellipse(x, y, axes, rng) for axes in ((40, 20), (70, 35)))
        apart = np.hypot(*(first[0] - second[0])) > 120
        if apart and _framed(first[1]) and _framed(second[1]) and not (first[1] & second[1]).any():
            break
    image = np.zeros((side, side))
    for centre, frequency in ((rng.uniform(50, 200, 2), (0.2, 0.35)), (second[0], (0.35, 0.5))):
        distance = np.hypot(x - centre[0], y - centre[1])
        image += rng.uniform(0.2, 0.4) * np.sin(rng.uniform(*frequency) * distance)
    image[first[1] | second[1]] = 1
    image = ndimage.gaussian_filter(image, 2 * scale)
    deformed = _shrunk(image, first[0], side, scale)
    return tuple(2 * np.clip((a + 0.8) / 1.8, 0, 1) - 1 for a in (image, deformed))  # type: ignore[return-value]


def _ellipse(
    x: Array, y: Array, axes: tuple[int, int], rng: np.random.Generator
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Centre (x, y), and the outline."""
    centre, angle = rng.uniform(50, 200, 2), rng.uniform(0, 2 * np.pi)
    a, b = (rng.normal(mean, 1) for mean in axes)
    thickness = max(3.0, round(rng.normal(5, 0.7)))
    u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    radius = np.hypot(u / a, v / b)
    gradient = np.hypot(u / a**2, v / b**2) / np.maximum(radius, 1e-6)
    return centre, np.abs(radius - 1) / np.maximum(gradient, 1e-6) < thickness / 2


def _framed(outline: npt.NDArray[np.bool_]) -> bool:
    edge = outline.copy()
    edge[1:-1, 1:-1] = False
    return bool(outline.any() and not edge.any())


def _shrunk(image: Array, centre: Array, side: int, scale: float) -> Array:
    """Sampled outward by up to 12.8 of the paper's pixels, so that all round the centre shrinks toward it."""
    y, x = np.mgrid[:side, :side].astype(float)
    dx, dy = (x / scale - centre[0]) / 128, (y / scale - centre[1]) / 128
    bell = np.exp(-(dx**2 + dy**2) / (2 * 0.19**2))
    size = np.hypot(dx, dy) * bell
    factor = 12.8 * scale / size.max()
    return ndimage.map_coordinates(image, [y + factor * dy * bell, x + factor * dx * bell], order=1, mode="nearest")
