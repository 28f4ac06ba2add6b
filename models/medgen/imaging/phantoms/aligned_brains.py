"""Skull-stripped T1 brains in the space of the brain generators, rendered from head label maps: other shapes,
ventricles and sulci widened as by atrophy, other contrasts. Kept as arrays, since training is to wait for nothing.

A set is a folder of arrays with the axes k, j, i (foot to crown, front to back, right to left):
images.npy uint8 [n, 48, 56, 40], 0..255 for 0..1, voxels of 4 mm (finer where asked for);
table.npy float32 [n, 5]: head, variant, lateral ventricles (ml), widening of ventricles and of sulci (mm);
template.npy float32 [48, 56, 40]: the mean brain that all were aligned to, always in voxels of 4 mm;
ventricles.npy float32 [48, 56, 40]: how much of each voxel is lateral ventricle, mean of the training brains.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from medgen.errors import BadInput
from medgen.imaging.brain_alignment import TEMPLATE_MM, align_brain, model_grid, pooled, scale_t1, to_model
from medgen.imaging.geometry import from_array, to_array
from medgen.imaging.phantoms.anatomy import TRAIN_HEADS, load_head, strip_skull
from medgen.imaging.phantoms.brain_set import brain_box, jittered, save_array
from medgen.imaging.phantoms.deformation import random_deformation
from medgen.imaging.phantoms.render import Scan, render_mr
from medgen.imaging.phantoms.tissue import AIR, BRAIN, CSF, VENTRICLES
from medgen.method import Progress, SilentProgress

RENDER_MM = 2.0
REACH_MM = 12.0  # over which the tissue round a widened ventricle gives way
CORTEX = (3, 42)
PARTS = ("images", "table", "template", "ventricles")
Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AlignedBrains:
    """See the module."""

    images: Array
    table: Array
    template: Float32
    ventricles: Float32

    def of_heads(self, heads: range) -> Array:
        """Numbers of the brains of these heads."""
        return np.flatnonzero(np.isin(self.table[:, 0], list(heads)))

    def values(self, numbers: Array, pool: int = 1) -> Float32:
        """float32 [m, k, j, i], 0..1, blocks of pool^3 voxels averaged."""
        found = self.images[numbers].astype(np.float32) / np.float32(255)
        return np.stack([pooled(image, pool) for image in found]) if pool > 1 else found


def load_aligned_brains(folder: Path) -> AlignedBrains:
    """Raises BadInput where the folder is no set."""
    try:
        return AlignedBrains(*(np.load(folder / f"{name}.npy") for name in PARTS))
    except OSError:
        raise BadInput(f"'{folder}' holds no aligned brains.") from None


def render_aligned_brains(
    variants: dict[int, int],
    seed: int,
    folder: Path,
    progress: Progress | None = None,
    voxel_mm: float = TEMPLATE_MM,
) -> AlignedBrains:
    """Renders and saves a set. variants: how many of each head of the shared data; the first is the head as it is;
    voxel_mm: 4, 2 or 1."""
    progress = progress or SilentProgress()
    heads = {}
    for number, head in enumerate(sorted(variants)):
        progress.raise_if_cancelled()
        progress.report("Reading heads", 0.3 * number / len(variants), f"head {head}")
        heads[head] = head_anatomy(brain_box(load_head(head), margin=12))
    template = _template([h for n, h in heads.items() if n in TRAIN_HEADS] or list(heads.values()))
    images, rows = [], []
    ventricles, trained = np.zeros(template.GetSize()[::-1], np.float32), 0
    for number, (head, anatomy) in enumerate(heads.items()):
        way = align_brain(anatomy.t1, template)
        for variant in range(variants[head]):
            progress.raise_if_cancelled()
            rng = np.random.default_rng((seed, head, variant))
            image, inside, widened = _render(anatomy, way, rng, voxel_mm, plain=variant == 0)
            images.append(np.round(255 * image).astype(np.uint8))
            rows.append((head, variant, float(inside.sum()) * TEMPLATE_MM**3 / 1000, *widened))
            if head in TRAIN_HEADS:
                ventricles, trained = ventricles + inside, trained + 1
        progress.report("Rendering brains", 0.3 + 0.7 * (number + 1) / len(heads), f"head {head}")
    folder.mkdir(parents=True, exist_ok=True)
    table = np.array(rows, np.float32)
    shares = (ventricles / max(trained, 1)).astype(np.float32)
    found = AlignedBrains(np.stack(images), table, to_array(template).astype(np.float32), shares)
    for name in reversed(PARTS):  # the images last: where they are, all is there
        save_array(folder / f"{name}.npy", getattr(found, name))
    return found


@dataclass(frozen=True)
class HeadAnatomy:
    """labels: round the brain, 1 mm; t1: clean, stripped, 0..1; to_ventricle: mm to the lateral ventricles, 0 inside;
    away: its gradient [3 (x, y, z), k, j, i]; to_csf: mm to the CSF outside the brain."""

    labels: sitk.Image
    t1: sitk.Image
    to_ventricle: Float32
    away: Float32
    to_csf: Float32


def head_anatomy(labels: sitk.Image) -> HeadAnatomy:
    """labels: a head label map in voxels of 1 mm, LPS axes."""
    array = to_array(labels)
    t1 = _stripped_t1(labels, np.random.default_rng(0), Scan(bias=0, texture=0, noise=0), None)
    to_ventricle = ndimage.distance_transform_edt(~np.isin(array, VENTRICLES)).astype(np.float32)
    smooth = ndimage.gaussian_filter(to_ventricle, 2.0)
    away = np.stack(np.gradient(smooth)[::-1])
    away /= np.maximum(np.linalg.norm(away, axis=0), 1e-3)
    outside = array == CSF
    return HeadAnatomy(labels, t1, to_ventricle, away, ndimage.distance_transform_edt(~outside).astype(np.float32))


def _template(heads: list[HeadAnatomy]) -> sitk.Image:
    """The mean of the heads: first with their centres on each other, then aligned to that mean."""
    grid = model_grid(TEMPLATE_MM)
    found = []
    for head in heads:
        where = np.argwhere(np.isin(sitk.GetArrayViewFromImage(head.labels), BRAIN))[:, ::-1]
        middle = head.labels.TransformContinuousIndexToPhysicalPoint(((where.min(0) + where.max(0)) / 2).tolist())
        found.append(to_model(head.t1, sitk.TranslationTransform(3, middle), TEMPLATE_MM))
    mean = from_array(np.mean(found, 0, dtype=np.float32), grid)
    moved = [to_model(head.t1, align_brain(head.t1, mean), TEMPLATE_MM) for head in heads]
    return from_array(np.mean(moved, 0, dtype=np.float32), grid)


def _stripped_t1(labels: sitk.Image, rng: np.random.Generator, scan: Scan, contrast: Array | None) -> sitk.Image:
    stripped = strip_skull(labels, csf_mm=float(rng.uniform(0.5, 2.0)))
    brain = sitk.GetArrayViewFromImage(stripped) != AIR
    rendered = to_array(render_mr(stripped, "T1" if contrast is None else contrast, rng, scan))
    return from_array(scale_t1(rendered, brain), labels)


def _render(
    head: HeadAnatomy, way: sitk.Transform, rng: np.random.Generator, voxel_mm: float, plain: bool
) -> tuple[Float32, Float32, tuple[float, float]]:
    """The T1 [k, j, i], the lateral ventricles' share of each voxel of 4 mm, and the widening (mm) of ventricles and
    sulci. plain: the head's own shape."""
    fine = min(RENDER_MM, voxel_mm)
    grid = from_array(np.zeros(tuple(reversed(model_grid(fine).size)), np.uint8), model_grid(fine))
    wide, open_ = 0.0, 0.0
    if not plain:
        bent = random_deformation(grid, rng, displacement_mm=3.5, rotation_degrees=1.5, size_change=0.03)
        way = sitk.CompositeTransform([way, bent])
        old = rng.beta(1.0, 1.6)  # of 1; young brains are as frequent as in a clinic's normal scans
        wide, open_ = 7.0 * old * rng.uniform(0.6, 1.2), 2.0 * old * rng.uniform(0.5, 1.3)
    points = _points(grid, way, head.labels)
    labels = atrophied(head, points, wide, open_)
    ventricle = pooled(np.isin(labels, VENTRICLES).astype(np.float32), round(TEMPLATE_MM / fine))
    scan = Scan(
        psf_fwhm_mm=float(rng.uniform(1.0, 2.5)),
        bias=float(rng.uniform(0.0, 0.06)),
        texture=float(rng.uniform(0.01, 0.04)),
        texture_scale_mm=4.0,
        noise=float(rng.uniform(0.003, 0.015)),
    )
    t1 = _stripped_t1(from_array(labels, grid), rng, scan, jittered("T1", rng))
    values = pooled(to_array(t1).astype(np.float32), round(voxel_mm / fine))
    return values, ventricle, (wide, open_)


def _points(grid: sitk.Image, way: sitk.Transform, labels: sitk.Image) -> Float32:
    """Where each voxel of the grid lies in the label map: fractional indices [3 (k, j, i), k, j, i]."""
    shift = to_array(
        sitk.TransformToDisplacementField(
            way, sitk.sitkVectorFloat64, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
        )
    )
    k, j, i = np.indices(shift.shape[:3])
    world = np.stack([i, j, k], -1) * np.array(grid.GetSpacing()) + np.array(grid.GetOrigin()) + shift
    index = (world - np.array(labels.GetOrigin())) / np.array(labels.GetSpacing())  # both have LPS axes
    return np.moveaxis(index[..., ::-1], -1, 0).astype(np.float32)


def atrophied(head: HeadAnatomy, points: Array, wide: float, open_: float) -> Array:
    """Labels at the points (indices [3 (k, j, i), ...] in the label map), ventricles `wide` mm wider on every side,
    sulci opened by `open_` mm of cortex on both.

    What lies nearer to a ventricle than `wide` becomes ventricle; what lies at the distance d beyond it comes from
    d - wide exp(-(d - wide) / REACH): at the new wall from the old one, further out from ever nearer to itself.
    """
    if wide > 0:
        distance = _at(head.to_ventricle, points, order=1)
        push: Array = wide * np.exp(-np.maximum(distance - wide, 0) / REACH_MM)
        points = points - np.stack([_at(part, points, order=1) for part in head.away[::-1]]) * push
    labels = _at(to_array(head.labels), points, order=0)
    if wide > 0:
        labels[(distance < wide) & np.isin(labels, BRAIN)] = VENTRICLES[0]
        labels[np.isin(labels, CORTEX) & (_at(head.to_csf, points, order=1) < open_)] = CSF
    return labels


def _at(values: Array, points: Array, order: int) -> Array:
    return ndimage.map_coordinates(values, points, order=order, mode="constant", cval=0 if order == 0 else 99.0)
