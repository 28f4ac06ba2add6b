"""Skull-stripped brain slices with and without lesions, rendered once and kept as arrays: what 2D networks train on.

A set is a folder: images.npy uint8 [n, 4, 128, 128] (0..255 for the 0..1 of `medgen.imaging.brain_study`), lesion.npy
uint8 [n, 128, 128] (0 or 1) and index.npy int32 [n, 4]: head, variant, kind (0 none, 1 wmh, 2 tumour, 3 stroke), slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.brain_study import BRAIN_SEQUENCES, PIXEL_MM, SIDE, scale_brain
from medgen.imaging.phantoms.anatomy import part_fat, read_head, strip_skull
from medgen.imaging.phantoms.deformation import random_deformation
from medgen.imaging.phantoms.lesions import Kind, insert_lesions
from medgen.imaging.phantoms.render import SEQUENCES, Scan, Sequence, render_mr
from medgen.imaging.phantoms.tissue import AIR, BRAIN, TISSUE_OF_LABEL, TISSUES
from medgen.method import Progress, SilentProgress

KINDS: tuple[Kind | None, ...] = (None, "wmh", "tumour", "stroke")
SMALLEST_SLICE = 1000  # pixels of brain
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class BrainSet:
    """images: uint8 [n, 4, 128, 128]; lesion: uint8 [n, 128, 128]; index: int32 [n, 4]. See the module."""

    images: Array
    lesion: Array
    index: Array

    @property
    def lesion_pixels(self) -> Array:
        return self.lesion.reshape(len(self.lesion), -1).sum(1, dtype=np.int64)

    def of_heads(self, heads: range) -> Array:
        """Numbers of the slices of these heads."""
        return np.flatnonzero(np.isin(self.index[:, 0], list(heads)))


def load_brain_set(folder: Path) -> BrainSet:
    """Memory-mapped. Raises BadInput where the folder is no set."""
    try:
        return BrainSet(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "lesion", "index")))
    except OSError:
        raise BadInput(f"'{folder}' holds no rendered brain slices.") from None


def render_brain_set(
    maps: dict[int, Path], kinds: dict[int, list[int]], seed: int, folder: Path, progress: Progress | None = None
) -> BrainSet:
    """Renders and saves a set. maps: whole-head label maps by number; kinds: for each head, the kind of each variant.

    A head's variants differ in shape, lesion, contrast and scan. Goes on where an earlier call was stopped.
    """
    progress = progress or SilentProgress()
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    for number, head in enumerate(sorted(kinds)):
        part = folder / f"head{head:02d}.npz"
        parts.append(part)
        if part.is_file():
            continue
        progress.raise_if_cancelled()
        labels = brain_box(part_fat(read_head(maps[head]), np.random.default_rng(head)))
        studies = [_study_slices(labels, head, v, kind, seed) for v, kind in enumerate(kinds[head])]
        stacks = [np.concatenate(arrays) for arrays in zip(*studies, strict=True)]
        partial = part.with_suffix(".partial.npz")
        np.savez(partial, images=stacks[0], lesion=stacks[1], index=stacks[2])
        partial.replace(part)
        progress.report("Rendering slices", (number + 1) / len(kinds), f"head {head}")
    for name in ("index", "lesion", "images"):  # the images last: where they are, all is there
        save_array(folder / f"{name}.npy", np.concatenate([np.load(part)[name] for part in parts]))
    for part in parts:
        part.unlink()
    return load_brain_set(folder)


def save_array(path: Path, values: Array) -> None:
    """The file appears whole or not at all: a training that was killed takes what it finds."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, values)
    partial.replace(path)


def _study_slices(labels: sitk.Image, head: int, variant: int, kind: int, seed: int) -> tuple[Array, Array, Array]:
    images, lesion, brain = render_study(labels, KINDS[kind], np.random.default_rng((seed, head, variant)))
    kept = np.flatnonzero(brain.reshape(len(brain), -1).sum(1) >= SMALLEST_SLICE)
    index = np.stack([np.full(len(kept), head), np.full(len(kept), variant), np.full(len(kept), kind), kept], axis=1)
    return np.round(images[kept] * 255).astype(np.uint8), lesion[kept], index.astype(np.int32)


def render_study(labels: sitk.Image, kind: Kind | None, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """One person's brain, another shape every time: images float32 [z, 4, 128, 128] 0..1, lesion uint8 and brain bool
    [z, 128, 128]. labels: a head label map (LPS, with lesions or without)."""
    grid = _grid(labels)
    transform = random_deformation(grid, rng, rotation_degrees=5.0, size_change=0.05)
    shaped = sitk.Resample(labels, grid, transform, sitk.sitkNearestNeighbor, AIR)
    lesion = np.zeros(sitk.GetArrayViewFromImage(shaped).shape, np.uint8)
    if kind is not None:
        shaped, mask = insert_lesions(shaped, kind, rng)
        lesion = sitk.GetArrayFromImage(mask)
    shaped = strip_skull(shaped, csf_mm=float(rng.uniform(0.0, 3.0)))
    brain = sitk.GetArrayViewFromImage(shaped) != AIR
    thick = float(rng.uniform(2.0, 5.0)) if rng.random() < 0.3 else 0.0
    images = []
    for name in BRAIN_SEQUENCES:
        scan = Scan(
            psf_fwhm_mm=float(rng.uniform(0.8, 2.5)),
            slice_mm=thick,
            bias=float(rng.uniform(0.0, 0.2)),
            texture=float(rng.uniform(0.01, 0.08)),
            texture_scale_mm=float(rng.uniform(1.5, 4.0)),
            noise=float(rng.uniform(0.003, 0.03)),
        )
        rendered = sitk.GetArrayFromImage(render_mr(shaped, jittered(name, rng), rng, scan))
        images.append(scale_brain(rendered, brain))
    return np.stack(images, axis=1), lesion, brain


def jittered(name: str, rng: np.random.Generator) -> Array:
    """float32 [labels]: the contrast of a sequence with its times and the tissues a little off, as between scanners."""
    sequence = SEQUENCES[name]
    times = [t * float(np.exp(rng.normal(0, 0.1))) for t in (sequence.tr_ms, sequence.te_ms, sequence.ti_ms)]
    changed = Sequence(times[0], times[1], times[2], sequence.contrast)
    means = np.array([changed.signal(tissue) for tissue in TISSUES]) * np.exp(rng.normal(0, 0.05, len(TISSUES)))
    return (means / means.max()).astype(np.float32)[TISSUE_OF_LABEL]


def brain_box(labels: sitk.Image, margin: int = 25) -> sitk.Image:
    """The part round the brain: the rest is air in every slice, and slow to carry along."""
    where = np.argwhere(np.isin(sitk.GetArrayViewFromImage(labels), BRAIN))[:, ::-1]
    low = np.maximum(where.min(0) - margin, 0)
    high = np.minimum(where.max(0) + 1 + margin, labels.GetSize())
    return sitk.RegionOfInterest(labels, (high - low).tolist(), low.tolist())


def _grid(labels: sitk.Image) -> sitk.Image:
    """An empty image: 128 x 128 pixels of 1.5 mm round the brain's middle, as many slices as it needs."""
    where = np.argwhere(np.isin(sitk.GetArrayViewFromImage(labels), BRAIN))[:, ::-1]
    if len(where) == 0:
        raise BadInput("The label map holds no brain.")
    low, high = where.min(0), where.max(0)
    spacing = np.array([PIXEL_MM] * 3)
    deep = int(np.ceil((high[2] - low[2] + 1) * labels.GetSpacing()[2] / PIXEL_MM)) + 4
    size = np.array([SIDE, SIDE, deep])
    centre = np.array(labels.TransformContinuousIndexToPhysicalPoint(((low + high) / 2).tolist()))
    grid = sitk.Image(size.tolist(), sitk.sitkUInt8)
    grid.SetSpacing(spacing.tolist())
    grid.SetDirection(labels.GetDirection())
    axes = np.array(labels.GetDirection()).reshape(3, 3)
    grid.SetOrigin((centre - axes @ ((size - 1) / 2 * spacing)).tolist())
    return grid
