"""Aligned MR and CT pairs of 2 mm for the proof: rendered heads, and a pseudo-MR made from a real head CT.

The CT is the one of Debian's package invesalius-examples. It is measured on where it is installed, and nothing that is
made from it is kept.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage

from medgen.imaging.geometry import to_array
from medgen.imaging.intensity import z_score
from medgen.imaging.phantoms import crop_to_head, load_head, random_deformation, render_ct, render_mr, resample_labels
from medgen.imaging.phantoms.anatomy import smooth_field
from medgen.imaging.resampling import grid_like, resample
from medgen.methods.frequency_mr_to_ct.loss import LOWEST_HU, RANGE_HU, low_frequencies

Array = npt.NDArray[Any]
SPACING_MM = 2.0
CRANIUM = Path("/usr/share/doc/invesalius-examples/examples/Cranium.inv3")
CRANIUM_SHAPE, CRANIUM_SPACING = (108, 256, 256), (0.957, 0.957, 1.5)
TOP_SLICES, TRAINING_SLICES = 30, 60  # of the CT as it is stored, 1.5 mm each


@dataclass(frozen=True)
class Pair:
    """mr: z-scores in the head; hu; high: the CT's high frequencies, HU; all float32 [z, y, x]; head: bool."""

    mr: Array
    hu: Array
    high: Array
    head: Array


def make_pair(mr: Array, hu: Array) -> Pair:
    head = np.stack([ndimage.binary_fill_holes(plane) for plane in hu > -500])
    mr = z_score(mr, head)
    return Pair(mr, hu.astype(np.float32), (hu - low_frequencies(hu)).astype(np.float32), head)


def head_pair(number: int, seed: int) -> Pair:
    """Head `number` of the shared label maps, as T1. Raises BadInput without them."""
    rng = np.random.default_rng((seed, number))
    labels = crop_to_head(resample_labels(load_head(number), SPACING_MM))
    return make_pair(to_array(render_mr(labels, "T1", rng)), to_array(render_ct(labels, rng, 0, SPACING_MM)))


def cranium() -> sitk.Image | None:
    """The real head CT, float32 HU, 2 mm; None where it is not installed."""
    if not CRANIUM.is_file():
        return None
    with tarfile.open(CRANIUM) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("/matrix.dat"))
        file = archive.extractfile(member)
        assert file is not None
        stored = np.frombuffer(file.read(), np.int16)
    image = sitk.GetImageFromArray(stored[-int(np.prod(CRANIUM_SHAPE)) :].reshape(CRANIUM_SHAPE).astype(np.float32))
    image.SetSpacing(CRANIUM_SPACING)
    return resample(image, grid_like(image, SPACING_MM))


def cranium_pairs(ct: sitk.Image, copies: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(to learn from, held out): the lower slices and the top ones, as they are and in `copies` elastic warps."""
    rng = np.random.default_rng(seed)
    learnt, held_out = [], []
    for copy in range(1 + copies):
        hu = to_array(ct)
        if copy:
            bend = random_deformation(ct, rng, displacement_mm=3.0)
            hu = to_array(sitk.Resample(ct, ct, bend, sitk.sitkLinear, LOWEST_HU))
        slice_mm = CRANIUM_SPACING[2] / SPACING_MM
        lower, top = hu[: round(TRAINING_SLICES * slice_mm)], hu[-round(TOP_SLICES * slice_mm) :]
        learnt.append(make_pair(pseudo_mr(lower, rng), lower))
        held_out.append(make_pair(pseudo_mr(top, rng), top))
    return learnt, held_out


def pseudo_mr(hu: Array, rng: np.random.Generator) -> Array:
    """An MR-like image of a CT: classes by HU, bone and air dark, fat bright, bias, point spread, Rician noise."""
    signal = np.select(
        [hu < -300, hu < -30, hu <= 150, hu <= 250],
        [0.02, 1.0, 0.55 + 0.001 * np.clip(hu - 40, -60, 60), 0.3],
        0.08,
    ).astype(np.float32)
    signal = ndimage.gaussian_filter(signal, 0.7)
    signal *= np.exp(0.15 * smooth_field(hu.shape, (SPACING_MM,) * 3, 80.0, rng))
    noise = 0.03 * rng.standard_normal((2, *hu.shape), np.float32)
    return np.hypot(signal + noise[0], noise[1])


Crop = tuple[Array, Array, Array, Array]


def crops(pairs: list[Pair], size: tuple[int, int, int], count: int, seed: tuple[int, ...]) -> list[Crop]:
    """`count` crops (mr, hu, high, head) of `size` voxels (z, y, x), a fifth of them head; the same seed gives the
    same."""
    rng = np.random.default_rng(seed)
    found: list[Crop] = []
    while len(found) < count:
        pair = pairs[int(rng.integers(len(pairs)))]
        start = [int(rng.integers(n - s + 1)) for n, s in zip(pair.hu.shape, size, strict=True)]
        box = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        if pair.head[box].mean() > 0.2:
            found.append((pair.mr[box], pair.hu[box], pair.high[box], pair.head[box]))
    return found


def as_tensors(batch: Iterable[Crop]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """MR, CT and its high frequencies as the network's: float32 [n, 1, z, y, x], the CT in its unit."""
    mr, hu, high, _ = (np.stack(part)[:, None] for part in zip(*batch, strict=True))
    unit = torch.from_numpy((hu - LOWEST_HU) / RANGE_HU), torch.from_numpy(high / RANGE_HU)
    return tuple(t.float().contiguous(memory_format=torch.channels_last_3d) for t in (torch.from_numpy(mr), *unit))  # type: ignore[return-value]
