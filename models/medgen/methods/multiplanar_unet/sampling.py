"""Cutting planes through a volume in which only a few planes are labelled, and voting over several slicing directions.

Everything here is in voxels of an isotropic array [z, y, x]; positions are (z, y, x), the first voxel's centre is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

Array = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]
HALF_THICKNESS = math.sqrt(3) / 2  # voxels: a plane this thick leaves no holes when it is sampled nearest-neighbour
PITCH = (0.9, 1.1)  # voxels between the pixels of a training plane: the scale augmentation, without a second resampling
MINIMUM_LABELLED = 0.01  # of a training plane's pixels inside the volume


@dataclass(frozen=True)
class SparseVolume:
    """image: float32, robustly scaled; labels: uint8; known: bool, where labels count; pad: intensity outside."""

    image: Float32
    labels: npt.NDArray[np.uint8]
    known: npt.NDArray[np.bool_]
    pad: float


@dataclass(frozen=True)
class CutPlanes:
    """images float32, labels uint8, known bool, each [n, side, side]."""

    images: Float32
    labels: npt.NDArray[np.uint8]
    known: npt.NDArray[np.bool_]


def random_rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """3x3, uniform over all rotations (QR of a Gaussian matrix, signs fixed)."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q[:, ::-1]


def plane_points(
    centre: npt.ArrayLike, rows: npt.ArrayLike, columns: npt.ArrayLike, side: int
) -> npt.NDArray[np.float64]:
    """Positions [3, side, side] of a square grid at voxel pitch; rows, columns: the steps along its two axes."""
    steps = np.arange(side) - (side - 1) / 2
    rows, columns, centre = (np.asarray(v, float)[:, None, None] for v in (rows, columns, centre))
    return np.asarray(centre + rows * steps[:, None] + columns * steps)


def cut(volume: SparseVolume, points: npt.NDArray[np.float64]) -> tuple[Float32, Array, Array, float]:
    """Image (trilinear), labels and known (nearest) at points [3, h, w], and the share of points inside the volume."""
    image = ndimage.map_coordinates(volume.image, points, order=1, mode="grid-constant", cval=volume.pad)
    labels = ndimage.map_coordinates(volume.labels, points, order=0, mode="constant", cval=0)
    known = ndimage.map_coordinates(volume.known.view(np.uint8), points, order=0, mode="constant", cval=0)
    limit = np.array(volume.image.shape)[:, None, None] - 0.5
    inside = ((points >= -0.5) & (points <= limit)).all(0).mean()
    return image, labels, known.astype(bool), float(inside)


def multiple(length: float, block: int) -> int:
    return max(block, math.ceil(length / block) * block)


def training_planes(
    volume: SparseVolume,
    count: int,
    side: int,
    rng: np.random.Generator,
    checkpoint: Callable[[], None] = lambda: None,
) -> CutPlanes:
    """`count` random planes: uniform normal, uniform in-plane angle, offset uniform over the part of the volume that
    the plane cuts; planes with less than 1 % labelled pixels are drawn again (fifty times at most).

    Where `side` is smaller than the volume the plane's window is placed at random, half of the time on painted voxels.
    checkpoint: called before each plane; what it raises ends the drawing.
    """
    painted = np.argwhere(volume.known & (volume.labels > 0))
    found = []
    for _ in range(count):
        checkpoint()
        best: tuple[float, tuple[Array, ...]] = (-1.0, ())
        for _attempt in range(50):
            image, labels, known, inside = cut(volume, _random_window(volume, side, painted, rng))
            share = float(known.mean()) / max(inside, 1e-6)
            if share > best[0]:
                best = (share, (image, labels, known))
            if share >= MINIMUM_LABELLED:
                break
        found.append(best[1])
    images, label_planes, known_planes = (np.stack(part) for part in zip(*found, strict=True))
    return CutPlanes(images, label_planes, known_planes)


def _random_window(
    volume: SparseVolume, side: int, painted: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    shape = np.array(volume.image.shape)
    normal, rows, columns = random_rotation(rng).T
    pitch = rng.uniform(*PITCH)
    middle = (shape - 1) / 2
    reach = float(np.abs(normal) @ (shape - 1)) / 2
    centre = middle + rng.uniform(-reach, reach) * normal
    if side < shape.max():
        if len(painted) and rng.random() < 0.5:
            centre = painted[rng.integers(len(painted))].astype(float)
        else:
            centre = rng.uniform(0, shape - 1)
        centre = centre + rows * rng.uniform(-side / 4, side / 4) + columns * rng.uniform(-side / 4, side / 4)
    return plane_points(centre, pitch * rows, pitch * columns, side)


def plane_axes(normal: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Two unit vectors that span the plane; for an axis-aligned normal they are the other two axes in their order."""
    normal = np.asarray(normal, float) / np.linalg.norm(normal)
    axes = [np.eye(3)[a] for a in range(3) if a != int(np.abs(normal).argmax())]
    rows = axes[0] - (axes[0] @ normal) * normal
    rows /= np.linalg.norm(rows)
    columns = axes[1] - (axes[1] @ normal) * normal - (axes[1] @ rows) * rows
    return rows, columns / np.linalg.norm(columns)


def painted_planes(
    volume: SparseVolume,
    planes: Sequence[tuple[Array, Array]],
    side: int,
    copies: int = 1,
    rng: np.random.Generator | None = None,
) -> CutPlanes:
    """The painted planes (point, normal) themselves, as wide as the volume: what `n_t = 0` trains on. Each comes as it
    is and in `copies - 1` further cuts, turned in itself and scaled at random by `rng`."""
    middle = (np.array(volume.image.shape) - 1) / 2
    found = []
    for point, normal in planes:
        unit = np.asarray(normal, float) / np.linalg.norm(normal)
        centre = middle + ((np.asarray(point, float) - middle) @ unit) * unit
        rows, columns = plane_axes(unit)
        found.append(cut(volume, plane_points(centre, rows, columns, side))[:3])
        for _ in range(copies - 1):
            assert rng is not None
            angle, pitch = rng.uniform(0, 2 * math.pi), rng.uniform(*PITCH)
            turned = pitch * (math.cos(angle) * rows + math.sin(angle) * columns)
            other = pitch * (math.cos(angle) * columns - math.sin(angle) * rows)
            found.append(cut(volume, plane_points(centre, turned, other, side))[:3])
    images, labels, known = (np.stack(part) for part in zip(*found, strict=True))
    return CutPlanes(images, labels, known)


def near_plane(shape: Sequence[int], point: npt.ArrayLike, normal: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Voxels at most HALF_THICKNESS from a plane."""
    unit = np.asarray(normal, float) / np.linalg.norm(normal)
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = sum(u * (g - p) for u, g, p in zip(unit, grids, np.asarray(point, float), strict=True))
    return np.asarray(np.abs(distance) <= HALF_THICKNESS)


# --------------------------------------------------------------------------------------------------------------- voting

Orientation = int | npt.NDArray[np.float64]  # an axis to slice along, or a rotation
Predict = Callable[[Tensor], Tensor]  # float32 [n, 1, h, w] -> probabilities [n, c, h, w]


def orientations(count: int, rng: np.random.Generator) -> list[Orientation]:
    """The three axes first, then random rotations."""
    return [axis if axis < 3 else random_rotation(rng) for axis in range(count)]


@dataclass(frozen=True)
class Vote:
    """mean: float32 [c, z, y, x]; spread: float32 [z, y, x], standard deviation over the orientations (of the class
    where it is largest), 0 to 0.5; visits: uint8 [z, y, x], how many orientations saw the voxel."""

    mean: Tensor
    spread: Tensor
    visits: npt.NDArray[np.uint8]


def vote(
    image: Float32,
    pad: float,
    directions: Sequence[Orientation],
    predict: Predict,
    block: int = 16,
    batch: int = 8,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Vote:
    """Runs `predict` on every slice along every direction and averages the probabilities.

    block: slices are padded with `pad` to a multiple of it. progress: fraction done; what it raises ends the run.
    """
    total = torch.zeros(())
    squares = torch.zeros(())
    visits = np.zeros(image.shape, np.uint8)
    for number, direction in enumerate(directions):

        def step(fraction: float, number: int = number) -> None:
            progress((number + fraction) / len(directions))

        if isinstance(direction, int):
            probability, seen = _along_axis(image, pad, direction, predict, block, batch, step)
        else:
            probability, seen = _rotated(image, pad, direction, predict, block, batch, step)
        total = total + probability
        squares = squares + probability**2
        visits += seen
    mean = total / len(directions)
    variance = (squares / len(directions) - mean**2).clamp_(min=0)
    return Vote(mean, variance.amax(0).sqrt(), visits)


def _predict_planes(
    planes: Iterator[Float32], count: int, pad: float, predict: Predict, block: int, batch: int,
    progress: Callable[[float], None],
) -> Tensor:  # fmt: skip
    """Probabilities [c, count, h, w] of planes of one size."""
    collected: list[Tensor] = []
    done = 0
    while done < count:
        group = np.stack([next(planes) for _ in range(min(batch, count - done))])
        height, width = group.shape[1:]
        padded = torch.full((len(group), 1, multiple(height, block), multiple(width, block)), pad)
        padded[:, 0, :height, :width] = torch.from_numpy(group)
        collected.append(predict(padded)[..., :height, :width].float().cpu())
        done += len(group)
        progress(done / count)
    return torch.cat(collected).movedim(1, 0)


def _along_axis(
    image: Float32, pad: float, axis: int, predict: Predict, block: int, batch: int, progress: Callable[[float], None]
) -> tuple[Tensor, npt.NDArray[np.uint8]]:
    planes = np.moveaxis(image, axis, 0)
    probability = _predict_planes(iter(planes), len(planes), pad, predict, block, batch, progress)
    return probability.movedim(1, axis + 1), np.ones(image.shape, np.uint8)


def _rotated(
    image: Float32, pad: float, rotation: npt.NDArray[np.float64], predict: Predict, block: int, batch: int,
    progress: Callable[[float], None],
) -> tuple[Tensor, npt.NDArray[np.uint8]]:  # fmt: skip
    """The volume turned into a cube that holds all of it, sliced, and the probabilities turned back (trilinear)."""
    side = multiple(math.ceil(float(np.linalg.norm(image.shape))) + 1, block)
    middle = (np.array(image.shape) - 1) / 2
    half = (side - 1) / 2
    normal, rows, columns = rotation.T

    def planes() -> Iterator[Float32]:
        for depth in np.arange(side) - half:
            points = plane_points(middle + depth * normal, rows, columns, side)
            yield ndimage.map_coordinates(image, points, order=1, mode="grid-constant", cval=pad)

    turned = _predict_planes(planes(), side, pad, predict, block, batch, progress).numpy()
    back = np.empty((len(turned), *image.shape), np.float32)
    visits = np.empty(image.shape, np.uint8)
    for z in range(image.shape[0]):  # a slice at a time: the positions take six times an image's memory
        grid = np.stack(np.meshgrid(z, *(np.arange(n) for n in image.shape[1:]), indexing="ij")).astype(float)
        where = np.tensordot(rotation.T, grid - middle[:, None, None, None], 1) + half
        visits[z] = np.all((where >= 0) & (where <= side - 1), axis=(0, 1))
        for channel, values in enumerate(turned):
            back[channel, z] = ndimage.map_coordinates(values, where, order=1)[0]
    return torch.from_numpy(back), visits


def widest_disagreement(
    spread: npt.NDArray[np.float32], done: Sequence[tuple[Array, Array]], distance: float = 3.0
) -> tuple[int, int]:
    """(axis, index) of the axis-aligned plane whose mean spread is highest, none within `distance` voxels of a parallel
    plane (point, normal) that is done already."""
    best = (-1.0, 0, 0)
    for axis in range(3):
        means = spread.mean(tuple(a for a in range(3) if a != axis))
        for point, normal in done:
            if abs(normal[axis]) / np.linalg.norm(normal) > 0.95:
                means[np.abs(np.arange(len(means)) - point[axis]) < distance] = -1
        best = max(best, (float(means.max()), axis, int(means.argmax())))
    return best[1], best[2]
