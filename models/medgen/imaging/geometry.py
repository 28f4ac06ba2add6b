"""Exact geometry of SimpleITK images, 2D and 3D: grids, axes, crops. World coordinates are LPS millimetres.

A grid may be oblique, left-handed, anisotropic or one voxel thick. Its direction matrix is orthonormal: SimpleITK holds
no other, so a sheared grid (a gantry-tilted CT stacked as it was scanned) must have been resampled when it was read.
Arrays have the axes of `SimpleITK.GetArrayFromImage`: k, j, i (j, i in 2D), channels last.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

Array = npt.NDArray[np.generic]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Where voxels lie. All in the order i, j, k; `direction` row by row, its columns the axes; `origin` the centre of
    the first voxel, LPS mm."""

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def axes(self) -> Matrix:
        """[n, n], column a is the unit vector of index axis a."""
        return np.array(self.direction, dtype=np.float64).reshape(len(self.size), -1)

    @property
    def ijk_to_lps(self) -> Matrix:
        """[n+1, n+1], homogeneous: voxel index to LPS mm."""
        n = len(self.size)
        matrix = np.eye(n + 1)
        matrix[:n, :n] = self.axes * self.spacing_mm
        matrix[:n, n] = self.origin
        return matrix

    @property
    def edges(self) -> Matrix:
        """[2^n, n], LPS mm: the outer corners of the corner voxels."""
        corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in self.size))))
        return self.to_world(corners)

    def to_world(self, indices: npt.ArrayLike) -> Matrix:
        """Indices [m, n] (fractions allowed) to LPS mm [m, n]."""
        n, matrix = len(self.size), self.ijk_to_lps
        return np.asarray(np.asarray(indices, dtype=np.float64) @ matrix[:n, :n].T + matrix[:n, n])

    def to_index(self, points: npt.ArrayLike) -> Matrix:
        """LPS mm [m, n] to fractional indices [m, n]."""
        offsets = np.asarray(points, dtype=np.float64) - np.array(self.origin)
        return np.asarray(offsets @ self.axes / np.array(self.spacing_mm))  # orthonormal: the transpose is the inverse


def ijk_to_lps(image: sitk.Image) -> Matrix:
    """[n+1, n+1], homogeneous: voxel index to LPS mm."""
    return Grid.of(image).ijk_to_lps


def ijk_to_ras(image: sitk.Image) -> Matrix:
    """[n+1, n+1], homogeneous: voxel index to RAS mm (NIfTI, 3D Slicer)."""
    matrix = ijk_to_lps(image)
    matrix[:2] *= -1
    return matrix


def to_array(image: sitk.Image) -> Array:
    """A copy of the voxels, axes k, j, i, channels last."""
    return sitk.GetArrayFromImage(image)


def from_array(array: Array, reference: sitk.Image | Grid) -> sitk.Image:
    """The image of `array` (axes k, j, i, channels last where there is one more) on the grid of `reference`.

    Raises ValueError when the shape is not the grid's. bool becomes uint8.
    """
    grid = reference if isinstance(reference, Grid) else Grid.of(reference)
    dimension = len(grid.size)
    if array.shape[:dimension] != tuple(reversed(grid.size)) or array.ndim > dimension + 1:
        raise ValueError(f"an array of shape {array.shape} does not fit a grid of size {grid.size}")
    if array.dtype == bool:
        array = array.astype(np.uint8)
    image = sitk.GetImageFromArray(array, isVector=array.ndim == dimension + 1)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def same_grid(a: sitk.Image | Grid, b: sitk.Image | Grid, tolerance: float = 1e-3) -> bool:
    """Same size, and no corner further apart than `tolerance` voxels."""
    a, b = (x if isinstance(x, Grid) else Grid.of(x) for x in (a, b))
    if a.size != b.size:
        return False
    return bool(np.abs(a.to_index(b.edges) - a.to_index(a.edges)).max() <= tolerance)


def overlap_fraction(a: sitk.Image | Grid, b: sitk.Image | Grid) -> float:
    """Part of the world-space box of `a` (edge to edge) that lies in the box of `b`, 0 to 1.

    Counted on at most 32 points along each axis of `a`, so it is right to about 0.03.
    """
    a, b = (x if isinstance(x, Grid) else Grid.of(x) for x in (a, b))
    ticks = []
    for n in a.size:
        count = min(n, 32) if n > 1 else 8
        ticks.append((np.arange(count) + 0.5) * n / count - 0.5)
    points = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, len(a.size))
    index = b.to_index(a.to_world(points))
    return float(np.all((index >= -0.5) & (index <= np.array(b.size) - 0.5), axis=1).mean())


# ---------------------------------------------------------------------------------------------------------------- axes


@dataclass(frozen=True)
class Reorientation:
    """A permutation and flips of index axes, which move no voxel in the world.

    Axis a of the new image is axis `permutation[a]` of the old one, reversed where `flips[a]`.
    """

    source: Grid
    permutation: tuple[int, ...]
    flips: tuple[bool, ...]

    def apply(self, image: sitk.Image) -> sitk.Image:
        """The image (on the grid `source`) with its new axes, voxel values untouched."""
        self._check(image, self.source.size)
        array = self._transposed(to_array(image), self.permutation)
        return from_array(self._flipped(array), self.target)

    def undo(self, image: sitk.Image) -> sitk.Image:
        """The image (on the grid `target`) on the grid `source` again, exactly."""
        self._check(image, self.target.size)
        array = self._transposed(self._flipped(to_array(image)), tuple(np.argsort(self.permutation).tolist()))
        return from_array(array, self.source)

    @property
    def target(self) -> Grid:
        old, take = self.source, list(self.permutation)
        first = np.zeros(len(take))
        first[take] = [old.size[p] - 1 if flip else 0 for p, flip in zip(take, self.flips, strict=True)]
        axes = old.axes[:, take] * np.where(self.flips, -1.0, 1.0)
        return Grid(
            tuple(old.size[p] for p in take),
            tuple(old.spacing_mm[p] for p in take),
            tuple(old.to_world(first).tolist()),
            tuple((axes + 0.0).ravel().tolist()),  # + 0.0 turns -0.0 into 0.0
        )

    def _check(self, image: sitk.Image, size: tuple[int, ...]) -> None:
        if image.GetSize() != size:
            raise ValueError(f"an image of size {image.GetSize()} was given where {size} was expected")

    def _transposed(self, array: Array, permutation: Sequence[int]) -> Array:
        # index axis a is array axis n-1-a; channels stay last
        n = len(permutation)
        order = [n - 1 - permutation[n - 1 - axis] for axis in range(n)]
        return array.transpose(*order, *range(n, array.ndim))

    def _flipped(self, array: Array) -> Array:
        return array[tuple(slice(None, None, -1 if flip else 1) for flip in reversed(self.flips))]


def canonical(image: sitk.Image) -> tuple[sitk.Image, Reorientation]:
    """The image with index axes as near to L, P, S as permutation and flips can bring them, and the way back."""
    grid = Grid.of(image)
    axes, world = grid.axes, range(len(grid.size))
    best = max(itertools.permutations(world), key=lambda p: sum(abs(axes[w, p[w]]) for w in world))
    way = Reorientation(grid, best, tuple(bool(axes[w, best[w]] < 0) for w in world))
    return way.apply(image), way


# --------------------------------------------------------------------------------------------------------------- crops


def crop_to_mask(image: sitk.Image, mask: sitk.Image, margin_mm: float = 0.0) -> sitk.Image:
    """The part of `image` around the mask's bounding box and `margin_mm`, inside the image; geometry kept.

    `mask` lies on the image's grid. Raises ValueError when it is empty.
    """
    inside = np.argwhere(to_array(mask) != 0)[:, ::-1]
    if len(inside) == 0:
        raise ValueError("the mask is empty")
    margin = np.ceil(margin_mm / np.array(image.GetSpacing())).astype(int)
    low = np.maximum(inside.min(0) - margin, 0)
    high = np.minimum(inside.max(0) + 1 + margin, image.GetSize())
    return sitk.RegionOfInterest(image, (high - low).tolist(), low.tolist())


def paste_back(cropped: sitk.Image, reference: sitk.Image, fill: float = 0.0) -> sitk.Image:
    """The inverse of `crop_to_mask` (and of any crop of whole voxels): the grid of `reference`, `fill` around."""
    low = np.rint(Grid.of(reference).to_index(Grid.of(cropped).origin)).astype(int)
    high = np.array(reference.GetSize()) - low - cropped.GetSize()
    full = sitk.ConstantPad(cropped, low.tolist(), high.tolist(), fill)
    full.CopyInformation(reference)  # the same grid; its numbers to the last digit
    return full


def pad(image: sitk.Image, before: Sequence[int], after: Sequence[int], fill: float = 0.0) -> sitk.Image:
    """`before` and `after`: voxels to add along i, j, k; the voxels stay where they are in the world."""
    return sitk.ConstantPad(image, list(before), list(after), fill)
