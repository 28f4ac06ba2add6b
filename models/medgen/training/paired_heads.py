"""Endless MR and CT pairs from head label maps: bent heads are kept in a folder, MR patches rendered as they are drawn.

A draw picks a bent head, a contrast (signal equations with random times, now and then no equation at all, with or
without fat suppression), how the scan is taken, where the field of view ends, and a box. What is kept are labels and
CT, so that no MR is seen twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.ndimage import binary_fill_holes

from medgen.imaging.geometry import pad, to_array
from medgen.imaging.phantoms import (
    crop_to_head,
    deface,
    deform_labels,
    part_fat,
    random_deformation,
    random_scan,
    read_head,
    render_ct,
    render_mr,
)
from medgen.imaging.phantoms.brain_set import save_array
from medgen.imaging.phantoms.render import SEQUENCES
from medgen.imaging.phantoms.render import Sequence as MrSequence
from medgen.imaging.phantoms.tissue import INDEX, TISSUE_OF_LABEL, TISSUES
from medgen.imaging.resampling import grid_like, resample_labels

Array = npt.NDArray[Any]
AIR_ROUND_MM = 12  # as in `imaging.head_preparation`
BORDER = 5  # voxels rendered beyond a patch, which the point spread reaches into
FATTY = [INDEX["fat"], INDEX["marrow"], INDEX["skin"]]
FLOWING = [INDEX["vessel"], INDEX["dura and sinus"]]
WATERY = [INDEX["outer csf"], INDEX["ventricular csf"], INDEX["eyeball"]]
FAMILIES = {"T1": 0.5, "T1c": 0.07, "T1se": 0.25, "T2": 0.06, "PD": 0.04, "FLAIR": 0.04, "random": 0.04}


@dataclass(frozen=True)
class BentHead:
    """labels: uint16, hu: float16, both [z, y, x], isotropic, LPS; counts: [z, tissues], voxels of each in the head
    (air in its sinuses too) in every plane."""

    labels: Array
    hu: Array
    counts: Array
    spacing_mm: float


def bent_heads(
    maps: Iterable[Path],
    cache: Path,
    copies: int,
    seed: int,
    spacing_mm: float = 1.0,
    tell: Callable[[str], None] = lambda _line: None,
) -> list[tuple[BentHead, Path]]:
    """`copies` of every label map, the first as it is, the others bent, one in four of them without a face; made once
    and kept in `cache`, as files that begin with the path that comes with each."""
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for path in maps:
        for copy in range(copies):
            stem = cache / f"{path.name.split('.')[0]}_{seed}_{copy}_{spacing_mm:g}mm"
            if not Path(f"{stem}.hu.npy").is_file():
                tell(f"Bending {path.name}, copy {copy}")
                rng = np.random.default_rng((seed, copy, *path.name.encode()))
                _keep(stem, *_bent(part_fat(read_head(path), rng), copy, spacing_mm, rng))
            labels, counts, hu = (np.load(f"{stem}.{n}.npy", mmap_mode="r") for n in ("labels", "counts", "hu"))
            found.append((BentHead(labels, hu, counts, spacing_mm), stem))
    return found


def _bent(head: sitk.Image, copy: int, spacing_mm: float, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    head = crop_to_head(head, AIR_ROUND_MM)
    if copy:
        head = deform_labels(head, random_deformation(head, rng, displacement_mm=3.0))
    if copy and rng.random() < 0.25:
        head = deface(head, rng)
    head = crop_to_head(head, AIR_ROUND_MM)
    head = pad(head, [AIR_ROUND_MM, AIR_ROUND_MM, 0], [AIR_ROUND_MM] * 3)  # the neck goes on below
    return at_spacing(head, render_ct(head, rng, noise_hu=0), spacing_mm)


def at_spacing(head: sitk.Image, ct: sitk.Image, spacing_mm: float) -> tuple[Array, Array, Array]:
    """(labels, counts, HU) of a `BentHead` from images of 1 mm, both from the very same voxels: a CT interpolated
    between them would not fit the MR rendered from the labels, and what is learnt from such pairs is blurred."""
    grid = grid_like(head, spacing_mm)
    labels: Array = to_array(resample_labels(head, grid, "nearest"))
    hu = to_array(resample_labels(ct, grid, "nearest", fill=-1000)).astype(np.float16)
    inside = np.stack([binary_fill_holes(plane) for plane in labels > 0])
    tissue = TISSUE_OF_LABEL[labels]
    counts = np.stack([np.bincount(t[i], minlength=len(TISSUES)) for t, i in zip(tissue, inside, strict=True)])
    return labels, counts, hu


def _keep(stem: Path, labels: Array, counts: Array, hu: Array) -> None:
    for name, array in (("labels", labels), ("counts", counts), ("hu", hu)):  # hu last: its presence says all is there
        save_array(Path(f"{stem}.{name}.npy"), array)


# --------------------------------------------------------------------------------------------------------------- draws


def scanner_contrast(rng: np.random.Generator) -> Array:
    """float32 [tissues]: a mean signal for every tissue, the brightest 1."""
    name = str(rng.choice(list(FAMILIES), p=list(FAMILIES.values())))
    if name == "random":
        means = rng.uniform(0.0, 1.0, len(TISSUES))
        means[INDEX["cortical bone"]] *= 0.3
    else:
        base = SEQUENCES[name]
        times = [t * float(np.exp(rng.normal(0, 0.2))) for t in (base.tr_ms, base.te_ms, base.ti_ms)]
        sequence = MrSequence(times[0], times[1], times[2], base.contrast)
        means = np.array([sequence.signal(t) for t in TISSUES]) * np.exp(rng.normal(0, 0.1, len(TISSUES)))
        means[INDEX["cortical bone"]] *= rng.uniform(0.3, 2.0)
        # the equation leaves CSF as dark as bone; a readout of many pulses does not
        if base.ti_ms and rng.random() < 0.5:
            means[WATERY] += rng.uniform(0, 0.35) * means[INDEX["cerebral white matter"]]
    if rng.random() < 0.2:
        means[FATTY] *= rng.uniform(0.05, 0.5)
    means[INDEX["marrow"]] *= rng.uniform(0.5, 1.2)
    means[FLOWING] *= rng.uniform(0.1, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, 2.5)
    means[0] = 0.0
    return (means / means.max()).astype(np.float32)


@dataclass(frozen=True)
class Patch:
    """mr: float32 z-scores in the head, [z, y, x]; where: in the head, before the mirror; mirrored: left to right."""

    mr: Array
    where: tuple[slice, ...]
    mirrored: bool

    def cut(self, volume: Array) -> Array:
        """The same patch, float32, of a volume [z, y, x] on the head's grid."""
        part = volume[self.where].astype(np.float32)
        return np.ascontiguousarray(part[..., ::-1]) if self.mirrored else part


def draw_patch(head: BentHead, size: Sequence[int], rng: np.random.Generator) -> Patch:
    """A patch of `size` voxels (z, y, x) of a new MR of the head; one with some tissue where a few tries find one."""
    lowest = int(rng.uniform(0, 0.35) * head.labels.shape[0]) if rng.random() < 0.5 else 0  # a scan without a neck
    lowest = min(lowest, head.labels.shape[0] - size[0])
    room = [n - s for n, s in zip(head.labels.shape, size, strict=True)]
    for _ in range(100):  # normalisation cannot stand a patch of nothing but blank air
        starts = [int(rng.integers(low, r + 1)) for low, r in zip((lowest, 0, 0), room, strict=True)]
        where = tuple(slice(a, a + s) for a, s in zip(starts, size, strict=True))
        if (head.labels[where][::4, ::4, ::4] > 0).mean() > 0.1:
            break
    mr = _render(head, where, lowest, scanner_contrast(rng), rng)
    mirrored = bool(rng.random() < 0.5)
    return Patch(np.ascontiguousarray(mr[..., ::-1]) if mirrored else mr, where, mirrored)


def _render(head: BentHead, where: tuple[slice, ...], lowest: int, means: Array, rng: np.random.Generator) -> Array:
    wide = tuple(slice(max(0, w.start - BORDER), w.stop + BORDER) for w in where)
    labels = np.ascontiguousarray(head.labels[wide])
    inner = tuple(slice(w.start - v.start, w.stop - v.start) for w, v in zip(where, wide, strict=True))
    patch = sitk.GetImageFromArray(labels)
    patch.SetSpacing([head.spacing_mm] * 3)
    image: Array = to_array(render_mr(patch, means[TISSUE_OF_LABEL], rng, random_scan(rng)))[inner]
    if rng.random() < 0.4:  # scanners and archives blank the air
        image[(labels[inner] == 0) & (image < rng.uniform(0.02, 0.12))] = 0
    gamma = np.float32(np.exp(rng.normal(0, 0.15)))
    counts = head.counts[lowest:].sum(0)
    share = counts / counts.sum()
    mean = float(share @ means**gamma)
    spread = float(np.sqrt(share @ (means**gamma - mean) ** 2))
    image = (image**gamma - np.float32(mean)) / np.float32(spread)
    return (image * np.float32(rng.uniform(0.85, 1.2)) + np.float32(rng.normal(0, 0.12))).astype(np.float32)
