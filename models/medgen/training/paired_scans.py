"""A user's own registered MR and CT pairs: reading, rigid registration where asked for, refusal of what does not fit.

A folder a patient with `mr.nii.gz`, `ct.nii.gz`, and where there is one `mr_to_ct.tfm` (a SimpleITK transform that
takes points of the MR to points of the CT). `pairs.json` beside them with {"register": true} has every pair registered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from medgen.errors import BadInput
from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import to_array
from medgen.imaging.head_preparation import prepare_head
from medgen.imaging.resampling import grid_like, resample
from medgen.metrics.overlap import dice

Array = npt.NDArray[Any]
AIR_HU = -1000.0
COARSE_MM = 3.0
OUTLINES_BAR = 0.8  # Dice of the two outlines where both images reach: a shift of 15 mm of a head falls below
COVERED_BAR = 0.7  # of the MR's head by the CT


@dataclass(frozen=True)
class PairedScan:
    """mr: z-scores in the head; hu: the CT, air where it does not reach; both float16 [z, y, x], isotropic, LPS."""

    mr: Array
    hu: Array


def pair_folders(data: Path) -> list[Path]:
    """Patients' folders that hold both images, in the order of their names."""
    return sorted(path.parent for path in data.glob("*/mr.nii*") if list(path.parent.glob("ct.nii*")))


def wants_registration(data: Path) -> bool:
    """What `pairs.json` says; no where there is none. Raises BadInput where it cannot be read."""
    path = data / "pairs.json"
    try:
        return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("register", False))
    except (ValueError, AttributeError):
        raise BadInput(f'{path.name} is not a JSON object such as {{"register": true}}.') from None


def read_pair(folder: Path, spacing_mm: float, register: bool) -> PairedScan:
    """Raises BadInput with one sentence for a pair that cannot be read or does not fit together."""
    mr, ct = (_read(next(iter(sorted(folder.glob(f"{name}.nii*"))))) for name in ("mr", "ct"))
    if float(np.percentile(sitk.GetArrayViewFromImage(ct)[::4, ::4, ::4], 1)) > -200:
        raise BadInput(f"The CT of '{folder.name}' is not in Hounsfield units: it has no air.")
    given = folder / "mr_to_ct.tfm"
    way: sitk.Transform = sitk.ReadTransform(str(given)) if given.is_file() else sitk.Transform(3, sitk.sitkIdentity)
    if register:
        way = rigid_registration(mr, ct, way)
    check_pair(mr, ct, way, folder.name)
    head = prepare_head(mr, None, spacing_mm)
    moved = sitk.Resample(_smoothed(ct, spacing_mm), head.image, way, sitk.sitkLinear, AIR_HU, sitk.sitkFloat32)
    return PairedScan(to_array(head.image).astype(np.float16), to_array(moved).astype(np.float16))


def _read(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError:
        raise BadInput(f"{path.parent.name}/{path.name} cannot be read as an image.") from None


def _smoothed(ct: sitk.Image, spacing_mm: float) -> sitk.Image:
    """The CT with voxels no finer than the network's, so that nothing aliases."""
    return resample(ct, grid_like(ct, np.maximum(ct.GetSpacing(), spacing_mm).tolist()))


def _coarse(image: sitk.Image) -> sitk.Image:
    return resample(image, grid_like(image, np.maximum(image.GetSpacing(), COARSE_MM).tolist()))


def rigid_registration(mr: sitk.Image, ct: sitk.Image, start: sitk.Transform) -> sitk.Transform:
    """Takes points of the MR to points of the CT: `start`, then a rotation and translation that raise the mutual
    information (Mattes et al., IEEE TMI 2003;22:120) of the images in voxels of 3 mm. The same images give the same."""
    fixed, moving = _coarse(mr), sitk.Clamp(_coarse(ct), sitk.sitkFloat32, -1000, 1500)
    turn = sitk.Euler3DTransform()
    turn.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    way = sitk.ImageRegistrationMethod()
    way.SetMetricAsMattesMutualInformation(32)
    way.SetMetricSamplingStrategy(way.REGULAR)
    way.SetMetricSamplingPercentage(0.2)
    way.SetInterpolator(sitk.sitkLinear)
    way.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 200, 0.6)
    way.SetOptimizerScalesFromPhysicalShift()
    way.SetShrinkFactorsPerLevel([2, 1])
    way.SetSmoothingSigmasPerLevel([4, 2])
    way.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    way.SetMovingInitialTransform(start)
    way.SetInitialTransform(turn, inPlace=True)
    way.Execute(fixed, moving)
    return sitk.CompositeTransform([start, turn])


def mutual_information(a: Array, b: Array, bins: int = 32) -> float:
    """Nats, of two arrays of one shape, by their joint histogram."""
    joint = np.histogram2d(a.ravel(), b.ravel(), bins)[0]
    p = joint / joint.sum()
    rows, columns = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
    there = p > 0
    return float((p[there] * np.log(p[there] / (rows * columns)[there])).sum())


def check_pair(mr: sitk.Image, ct: sitk.Image, mr_to_ct: sitk.Transform, name: str) -> None:
    """Raises BadInput where the CT does not cover the head, the outlines lie apart, or the images would fit better
    12 mm away."""
    fixed, moving = _coarse(mr), _coarse(ct)
    moved: Array = to_array(sitk.Resample(moving, fixed, mr_to_ct, sitk.sitkLinear, -4000.0))
    reached = moved > -3000
    head = to_array(foreground_mask(fixed)) != 0
    if not head.any() or (reached & head).sum() < COVERED_BAR * head.sum():
        raise BadInput(f"The CT of '{name}' covers too little of the head in the MR; are both of one frame?")
    body = sitk.Resample(foreground_mask(moving), fixed, mr_to_ct, sitk.sitkNearestNeighbor, 0)
    fit = dice(head & reached, (to_array(body) != 0) & reached)
    if fit < OUTLINES_BAR:
        raise BadInput(
            f"The MR and CT of '{name}' do not lie on each other (Dice of the outlines {fit:.2f}); register them."
        )
    values, hu = to_array(fixed), np.clip(moved, -1000, 1500)
    here = mutual_information(values[head], hu[head])
    step = round(12 / COARSE_MM)
    for axis in range(3):
        for way in (-step, step):
            if mutual_information(values[head], np.roll(hu, way, axis)[head]) > here:
                raise BadInput(f"The MR and CT of '{name}' fit better 12 mm apart than as they lie; register them.")


def draw_crop(volumes: Sequence[Array], size: int, rng: np.random.Generator) -> list[Array]:
    """The same patch of size^3, float32, of volumes on one grid (the first the MR's z-scores): turned about z by up to
    10 degrees in a third of the draws, mirrored left to right in half."""
    wide = size + 2 * round(0.1 * size)
    shape = volumes[0].shape
    padded = [max(0, wide - n) for n in shape]
    start = [int(rng.integers(max(1, n - wide + 1))) for n in shape]
    box = tuple(slice(a, a + wide) for a in start)
    degrees = float(rng.uniform(-10, 10)) if rng.random() < 0.35 else 0.0
    mirrored = rng.random() < 0.5
    margin = (wide - size) // 2
    inner = (slice(margin, margin + size),) * 3
    found = []
    for volume in volumes:
        part = volume[box].astype(np.float32)
        if any(padded):
            part = np.pad(part, [(p // 2, p - p // 2) for p in padded], mode="edge")
        if degrees:
            part = ndimage.rotate(part, degrees, (1, 2), reshape=False, order=1, mode="nearest")
        part = part[inner]
        found.append(np.ascontiguousarray(part[..., ::-1] if mirrored else part))
    return found
