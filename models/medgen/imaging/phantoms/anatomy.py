"""Head label maps: loading, parting fat from muscle, cropping, resampling, skull stripping.

Every function takes and gives SimpleITK images, so that geometry is never lost. Their arrays have SimpleITK's order
[z, y, x]; a loaded head is LPS, so z runs to the crown, y to the back, x to the person's left. Labels are uint16.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.phantoms.tissue import AIR, BRAIN, CSF, EYE, FAT, MUSCLE, SKIN, TOP_LABEL
from medgen.shared_data import shared_folder

Array = npt.NDArray[Any]
TRAIN_HEADS, VALIDATION_HEADS, TEST_HEADS = range(1, 15), range(15, 17), range(17, 21)


def like(array: Array, reference: sitk.Image) -> sitk.Image:
    """An array [z, y, x] as an image on the reference's grid."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(reference)
    return image


def spacing_zyx(image: sitk.Image) -> tuple[float, float, float]:
    x, y, z = image.GetSpacing()
    return z, y, x


def smooth_field(
    shape: Sequence[int], spacing_mm: Sequence[float], scale_mm: float | Sequence[float], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """A Gaussian random field: mean 0, standard deviation 1, correlated over about `scale_mm` (an axis each, or one).

    White noise on a coarse grid, spread by Gaussian weights whose squares sum to 1 in every voxel, so that the standard
    deviation is 1 everywhere without measuring it.
    """
    scales = np.broadcast_to(np.asarray(scale_mm, float), len(shape))
    weights = []
    for size, spacing, scale in zip(shape, spacing_mm, scales):
        step = max(scale, spacing)
        knots = np.arange(-2, int(np.ceil(size * spacing / step)) + 3) * step
        w = np.exp(-0.5 * ((np.arange(size)[:, None] * spacing - knots) / (0.8 * step)) ** 2)
        weights.append((w / np.linalg.norm(w, axis=1, keepdims=True)).astype(np.float32))
    field = rng.standard_normal([w.shape[1] for w in weights], np.float32)
    for w in weights:
        field = np.tensordot(field, w, axes=(0, 1))  # takes the first axis off, puts its voxels last
    return np.ascontiguousarray(field)


def load_head(number: int, fat_seed: Optional[int] = None) -> sitk.Image:
    """Head 1 to 20 of `head_label_maps` (256^3, 1 mm, LPS, uint16), its largest component, fat parted from muscle.

    fat_seed: of the parting; the head's number where None, so that a head always has the same fat. BadInput without the
    shared data.
    """
    folder = shared_folder()
    path = None if folder is None else folder / "head_label_maps" / f"training_seg_{number:02d}.nii.gz"
    if path is None or not path.is_file():
        raise BadInput(f"Head label map {number} is not on this machine (no shared data folder).")
    return part_fat(read_head(path), np.random.default_rng(number if fat_seed is None else fat_seed))


def numbered_maps(folder: Path) -> dict[int, Path]:
    """The NIfTI files of a folder by the last number in their names."""
    digits = {path: re.findall(r"\d+", path.name.split(".")[0]) for path in sorted(folder.glob("*.nii*"))}
    return {int(numbers[-1]): path for path, numbers in digits.items() if numbers}


def read_head(path: Path) -> sitk.Image:
    """Any head label map from a file: LPS, uint16, voxels that float outside the largest component removed."""
    image = sitk.Cast(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS"), sitk.sitkUInt16)
    if int(sitk.GetArrayViewFromImage(image).max()) >= TOP_LABEL:
        raise BadInput(f"{path.name} holds labels above {TOP_LABEL - 1} and is no head label map.")
    return sitk.Mask(image, sitk.RelabelComponent(sitk.ConnectedComponent(image > 0), sortByObjectSize=True) == 1)


def part_fat(labels: sitk.Image, rng: np.random.Generator) -> sitk.Image:
    """Soft tissue (507, muscle and fat together) parted: what is fat becomes FAT (520), the rest stays muscle.

    Fat is likely under the skin and round the eyes, and lies in streaks along the body axis between deeper muscles. The
    parting is part of the label map, so every modality rendered from it shares it.
    """
    array = sitk.GetArrayFromImage(labels)
    spacing = spacing_zyx(labels)
    soft = array == MUSCLE
    under_skin = _distance_mm(labels, (SKIN, AIR))
    near_eye = _distance_mm(labels, (EYE,))
    streaks = smooth_field(array.shape, spacing, (14.0, 5.0, 5.0), rng)
    layer = 5.0 + 1.8 * smooth_field(array.shape, spacing, 25.0, rng)  # mm of fat under the skin
    fat = (under_skin < layer) | (near_eye < 16.0) | (streaks > 0.95)
    array[soft & fat & (streaks > -1.8)] = FAT
    return like(array, labels)


def _distance_mm(labels: sitk.Image, to: Sequence[int]) -> Array:
    """Distance to the nearest voxel of these labels, found on a grid of 2 mm: fast, and good to about 1 mm."""
    coarse = resample_labels(labels, [max(2.0, s) for s in labels.GetSpacing()])
    inside = like(np.isin(sitk.GetArrayViewFromImage(coarse), to).astype(np.uint8), coarse)
    if not sitk.GetArrayViewFromImage(inside).any():
        return np.full(labels.GetSize()[::-1], np.inf, np.float32)
    distance = sitk.SignedMaurerDistanceMap(inside, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(sitk.Resample(distance, labels, sitk.Transform(), sitk.sitkLinear, 100.0))


def resample_labels(labels: sitk.Image, spacing_mm: float | Sequence[float]) -> sitk.Image:
    """Nearest neighbour to another spacing (x, y, z order, or one for all), the same field of view."""
    wanted = np.broadcast_to(np.asarray(spacing_mm, float), 3)
    old = np.asarray(labels.GetSpacing())
    size = np.maximum(1, np.round(np.asarray(labels.GetSize()) * old / wanted)).astype(int)
    first = labels.TransformContinuousIndexToPhysicalPoint((0.5 * (wanted / old - 1)).tolist())
    return sitk.Resample(
        labels, size.tolist(), sitk.Transform(), sitk.sitkNearestNeighbor, first, wanted.tolist(), labels.GetDirection()
    )


def crop_to_head(labels: sitk.Image, margin_mm: float = 8.0) -> sitk.Image:
    """The box round all that is not air, plus a margin where the volume has it: half the voxels of a 256^3 head."""
    array = sitk.GetArrayViewFromImage(labels)
    window = []
    for axis, spacing in zip((2, 1, 0), labels.GetSpacing()):
        full = np.flatnonzero(array.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = round(margin_mm / spacing)
        window.append(slice(max(0, int(full[0]) - margin), int(full[-1]) + 1 + margin))
    return labels[tuple(window)]


def strip_skull(labels: sitk.Image, csf_mm: float = 1.5) -> sitk.Image:
    """Only the brain and a rim of `csf_mm` of the CSF round it, all else air, as brain extraction leaves it."""
    array = sitk.GetArrayFromImage(labels)
    brain = np.isin(array, BRAIN)
    rim = (_distance_mm(like(brain.astype(np.uint16), labels), (1,)) <= csf_mm) & (array == CSF)
    array[~(brain | rim)] = AIR
    return like(array, labels)


def deface(labels: sitk.Image, rng: np.random.Generator) -> sitk.Image:
    """The face cut off by a tilted plane in front of the brain and below its middle, as defacing tools leave it."""
    array = sitk.GetArrayFromImage(labels)
    z, y, _ = np.nonzero(np.isin(array, BRAIN))
    spacing = spacing_zyx(labels)
    top = (z.min() + (0.3 + 0.1 * rng.random()) * (z.max() - z.min())) * spacing[0]
    front = (y.min() + (0.0 + 0.15 * rng.random()) * (y.max() - y.min())) * spacing[1]
    slope = 0.3 + 0.4 * rng.random()  # mm backwards for each mm further down
    height = np.arange(array.shape[0])[:, None] * spacing[0]
    depth = np.arange(array.shape[1])[None] * spacing[1]
    cut = (height < top) & (depth < front + slope * (top - height))
    array[cut[:, :, None] & ~np.isin(array, (*BRAIN, 512, CSF))] = AIR
    return like(array, labels)
