"""A head of ellipsoids and tubes with the labels of the real maps, for machines that have no label maps.

Painted back to front: later shapes cover earlier ones. Coordinates in mm: x to the left, y to the back, z up, from the
middle of the cerebrum. Shapes with x > 0 are painted on both sides, the right side with its own label.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.imaging.phantoms.anatomy import like, part_fat, smooth_field, spacing_zyx

Array = npt.NDArray[Any]
Point = tuple[float, float, float]
RIGHT_OF = {
    **{2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 25: 57, 26: 58},
    **{28: 60, 30: 62, 136: 163, 137: 164},
}
LOWEST, HIGHEST = (-88.0, -112.0, -142.0), (88.0, 112.0, 92.0)

# (label, centre, radii) is an ellipsoid, (label, from, to, radius) a tube with round ends.
FACE: tuple[tuple[Any, ...], ...] = (
    (515, (48, 24, -52), (17, 20, 22)),
    (516, (50, 30, -60), (9, 9, 9)),
    (515, (0, -26, -48), (24, 26, 12)),  # skull base
    (516, (0, -10, -52), (12, 8, 7)),
    (515, (28, -66, -70), (17, 17, 17)),
    (0, (28, -66, -70), (14.5, 14.5, 14.5)),  # maxillary sinus
    (515, (0, -40, -52), (16, 16, 11)),
    (0, (0, -40, -52), (13, 13, 8.5)),  # sphenoid sinus
    (515, (0, -92, 2), (20, 9, 13)),
    (0, (9, -92, 2), (7, 5, 9)),  # frontal sinus
    (509, (0, -76, -62), (12, 24, 24)),
    (0, (5, -80, -66), (2.4, 24, 15)),
    (0, (0, -42, -72), (0, -26, -145), 8),  # pharynx
    (0, (84, 14, -46), (44, 14, -44), 3.2),  # ear canal
    (515, (54, -10, -80), (50, -22, -62), 7),
    (515, (52, -14, -92), (14, -88, -108), 7.5),
    (515, (14, -88, -108), (0, -90, -108), 7.5),  # mandible
    (516, (50, -16, -93), (14, -86, -108), 4.2),
    (507, (34, -76, -38), (17, 22, 14)),  # orbit: fat and muscle
    (508, (44, -78, -37), (18, -46, -40), 2.6),
    (508, (25, -78, -38), (15, -46, -41), 2.6),
    (530, (34, -74, -38), (9, -26, -27), 2.4),
    (506, (34, -84, -38), (12, 12, 12)),
)
DEEP: tuple[tuple[Any, ...], ...] = (
    (16, (0, 10, -16), (0, 22, -78), 12),
    (28, (9, 8, -11), (8, 9, 5)),
    (10, (11, 6, 2), (8, 14, 9)),
    (13, (20, -2, -2), (5, 10, 7)),
    (12, (27, -5, 1), (5.5, 17, 11)),
    (26, (10, -28, -7), (5, 6, 4)),
    (30, (30, 12, -9), (2.4, 2.4, 2.4)),
    (4, (9, -38, 9), (13, 4, 19), 6),
    (4, (13, 4, 19), (23, 32, 10), 7),
    (5, (25, 30, 2), (33, -2, -24), 4.2),
    (11, (15, -26, 6), (6, 11, 9)),
    (11, (18, -18, 13), (21, 14, 20), 3),
    (136, (18, 20, 14), (22, 30, 10), 3),
    (137, (27, 24, -4), (30, 12, -12), 2.4),
    (25, (27, 36, 18), (5, 8, 5)),
    (17, (24, 24, -15), (27, -8, -26), 4.6),
    (18, (24, -16, -23), (7, 7, 7)),
    (14, (0, 2, 0), (2.6, 14, 9)),
    (72, (0, -20, 15), (2.2, 6, 3)),
    (15, (0, 33, -42), (6, 5, 9)),
    (85, (0, -24, -25), (9, 3, 2.6)),
)
NECK: tuple[tuple[Any, ...], ...] = (
    (502, (28, -4, -145), (22, -6, -66), 3.6),
    (502, (22, -6, -66), (12, -16, -32), 3.0),
    (515, (0, 16, -145), (0, 14, -84), 14),
    (516, (0, 16, -145), (0, 14, -86), 11),
    (515, (0, 40, -145), (0, 36, -84), 16),
    (507, (0, 62, -145), (0, 60, -80), 8),
    (24, (0, 38, -145), (0, 30, -70), 10),
    (512, (0, 38, -145), (0, 24, -76), 5.5),
)


def analytic_head(rng: np.random.Generator, spacing_mm: float = 1.0) -> sitk.Image:
    """A whole head (176 x 224 x 234 mm, LPS, uint16) with every label of the real maps; each draw differs in size, in
    its folds and in its fat."""
    size = [round((high - low) / spacing_mm) for low, high in zip(LOWEST, HIGHEST)]
    image = sitk.Image(size, sitk.sitkUInt16)
    image.SetSpacing([spacing_mm] * 3)
    image.SetOrigin([low + spacing_mm / 2 for low in LOWEST])
    scale = rng.uniform(0.94, 1.02, 3)
    x, y, z = (
        ((low + spacing_mm * (0.5 + np.arange(n))) / s).astype(np.float32) for low, n, s in zip(LOWEST, size, scale)
    )
    grid = z[:, None, None], y[None, :, None], x[None, None, :]
    labels = np.zeros(size[::-1], np.uint16)
    _outer_head(labels, grid, image)
    _paint(labels, grid, FACE)
    _skull_and_brain(labels, grid, image, rng)
    _paint(labels, grid, NECK)
    _paint(labels, grid, DEEP)
    return part_fat(like(labels, image), rng)


def _radius(grid: tuple[Array, ...], centre: Point, radii: Point) -> Array:
    """1 on the ellipsoid, less inside."""
    z, y, x = grid
    return np.sqrt(
        ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((z - centre[2]) / radii[2]) ** 2
    )


def _in_tube(grid: tuple[Array, ...], start: Point, end: Point, radius: float) -> Array:
    z, y, x = grid
    ends = np.asarray([start, end], float)
    along = ends[1] - ends[0]
    at = ((x - start[0]) * along[0] + (y - start[1]) * along[1] + (z - start[2]) * along[2]) / (along @ along)
    at = np.clip(at, 0, 1)
    squares = [(axis - first - at * step) ** 2 for axis, first, step in zip((x, y, z), start, along)]
    return squares[0] + squares[1] + squares[2] < radius**2


def _paint(labels: Array, grid: tuple[Array, ...], shapes: tuple[tuple[Any, ...], ...]) -> None:
    """Paints each shape and, where it lies on the left, its mirror image; the air outside the head stays."""
    for label, first, second, *radius in shapes:
        reach = radius[0] if radius else np.asarray(second)
        ends = np.asarray([first, second] if radius else [first])
        for side in (1, -1) if first[0] > 0 else (1,):
            z, y, x = grid
            axes, window = [], []
            for axis, low, high in zip((z, y, x * side), (ends.min(0) - reach)[::-1], (ends.max(0) + reach)[::-1]):
                near = np.flatnonzero((axis.ravel() >= low) & (axis.ravel() <= high))
                window.append(slice(near[0], near[-1] + 1) if len(near) else slice(0, 0))
                axes.append(axis)
            box = tuple(np.take(a, range(w.start, w.stop), n) for n, (a, w) in enumerate(zip(axes, window)))
            part = labels[tuple(window)]
            region = _in_tube(box, first, second, *radius) if radius else _radius(box, first, second) < 1
            part[region & _in_head(box)] = RIGHT_OF.get(label, label) if side < 0 else label


def _in_head(grid: tuple[Array, ...]) -> Array:
    """The soft outline of the head."""
    z, y, x = grid
    head = _radius(grid, (0, 2, -6), (82, 103, 86)) < 1
    head |= _radius(grid, (0, -42, -62), (62, 62, 62)) < 1
    head |= _radius(grid, (0, -100, -58), (12, 13, 20)) < 1  # nose
    return head | ((((x / 60) ** 2 + ((y - 20) / 66) ** 2) < 1) & (z < -50))


def _outer_head(labels: Array, grid: tuple[Array, ...], image: sitk.Image) -> None:
    """Soft tissue with a skin of 3 mm."""
    head = _in_head(grid)
    depth = sitk.GetArrayFromImage(
        sitk.SignedMaurerDistanceMap(like(head.astype(np.uint8), image), squaredDistance=False, useImageSpacing=True)
    )
    labels[head] = 507
    labels[head & (depth > -max(3.0, 1.2 * image.GetSpacing()[0]))] = 511


def _skull_and_brain(labels: Array, grid: tuple[Array, ...], image: sitk.Image, rng: np.random.Generator) -> None:
    z, y, x = grid
    cavity = (_radius(grid, (0, 2, -6), (71, 90, 74)) - 1) * 78  # about mm outside the inner table
    floor = -52 - 0.42 * np.minimum(y, 0)  # the base of the skull rises towards the front
    vault = (cavity < 8) & (z > floor - 5)
    labels[vault] = 515
    thickness = 5.2 + 0.8 * smooth_field(labels.shape, spacing_zyx(image), 30.0, rng)
    labels[vault & (cavity > 2.4) & (cavity < thickness) & (z > -30)] = 516
    inside = cavity < 0
    inside &= z > floor
    labels[inside] = 24
    labels[(np.abs(x) < 4.5) & (cavity > -6) & inside & ((z > 10) | (y > 60)) & (y > -60)] = 514
    _cerebrum(labels, grid, image, inside, rng)
    cerebellum = np.minimum(*(_radius((z, y, x * side), (23, 46, -44), (27, 27, 21)) for side in (1, -1)))
    inner = (1 - cerebellum) * 24
    leaves = np.abs((z + 0.4 * y) % 7.0 - 3.5) < 2.2  # folia: thin leaves of cortex
    left = np.broadcast_to(x > 0, labels.shape)
    whole = (cerebellum < 1) & inside
    labels[whole] = np.where(left, 8, 47)[whole]
    core = whole & ((inner > 12) | ((inner > 5) & ~leaves))
    labels[core] = np.where(left, 7, 46)[core]


def _distance_to_sheets(image: sitk.Image, scale_mm: float, rng: np.random.Generator) -> Array:
    """About mm to the zero surface of a random field: |f| / |grad f|."""
    field = smooth_field(image.GetSize()[::-1], spacing_zyx(image), scale_mm, rng)
    slope = np.sqrt(sum(g**2 for g in np.gradient(field, *spacing_zyx(image))))
    return np.abs(field) / (slope + 0.02)


def _cerebrum(
    labels: Array, grid: tuple[Array, ...], image: sitk.Image, inside: Array, rng: np.random.Generator
) -> None:
    """White matter under a cortex of 3 mm that follows random sulci, which are sheets of CSF up to 15 mm deep."""
    z, y, x = grid
    lobes = [((0, -2, 6), (66, 84, 58)), ((40, -8, -26), (22, 38, 20)), ((-40, -8, -26), (22, 38, 20))]
    depth = np.maximum.reduce([(1 - _radius(grid, c, r)) * float(np.mean(r)) for c, r in lobes])
    depth = np.where((z < -8) & (y > 14), -1, depth)  # room for the cerebellum
    from_sulcus = np.minimum(*(_distance_to_sheets(image, 10.0, rng) for _ in range(2)))
    cleft = np.where(
        _radius(grid, (0, 0, 4), (50, 48, 26)) < 1, 1e3, np.abs(x)
    )  # between the hemispheres, not callosum
    sulcus = ((from_sulcus < 0.7) & (depth < 15)) | (cleft < 1.6)
    cortex = (depth < 3.2) | ((from_sulcus < 3.8) & (depth < 18)) | (cleft < 4.5)
    brain = (depth > 0) & inside
    left = np.broadcast_to(x > 0, labels.shape)
    labels[brain] = np.where(left, 2, 41)[brain]
    labels[brain & cortex] = np.where(left, 3, 42)[brain & cortex]
    labels[brain & sulcus & (labels != 514)] = 24
