"""How near a synthetic CT (HU) or stopping-power map (SPR) comes to the true one, for the whole image and by region.

All arrays have the axes of SimpleITK (k, j, i), and so have spacings here. Regions come from the reference, so that two
methods are measured on the same voxels. PSNR is 20 log10(Q / RMSE) with Q stated, over the region's voxels; as RMSE is
never below MAE it cannot exceed 20 log10(Q / MAE), and the table rounds RMSE up and PSNR down so that this holds for
the printed figures too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.imaging.water_path import spr_from_hu
from medgen.metrics.overlap import dice

Array = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
SSIM_WINDOW = 7


@dataclass(frozen=True)
class Scale:
    """A unit's thresholds: below `air` is air, above `bone` is bone. q: PSNR's and SSIM's range of values; digits: of a
    printed figure."""

    unit: str
    air: float
    bone: float
    q: float
    digits: int


HU = Scale("HU", -300.0, 250.0, 4095.0, 1)
SPR = Scale("SPR", float(spr_from_hu(-300.0)), float(spr_from_hu(250.0)), 4.095, 4)  # Q as 4095 of 1000 (SPR - 1)
SCALES = {scale.unit: scale for scale in (HU, SPR)}


@dataclass(frozen=True)
class Figures:
    """me: mean of synthetic - reference, positive where the synthetic image is too dense. psnr_db is infinite where the
    two are equal; ssim is NaN and dice None where they have no meaning."""

    voxels: int
    mae: float
    me: float
    rmse: float
    psnr_db: float
    ssim: float = math.nan
    dice: float | None = None


def regions(
    reference: Array, spacing_mm: Sequence[float], body: Mask | None = None, scale: Scale = HU, edge_mm: float = 4.0
) -> dict[str, Mask]:
    """{'whole', 'body', 'soft', 'bone', 'bone edge', 'air'}: bool masks of the reference's shape; the last four lie in
    the body, 'air' is its cavities, 'bone edge' what lies within `edge_mm` of the bone's surface on either side.

    body: None takes everything for the body. A region may be empty.
    """
    whole = np.ones(reference.shape, bool)
    body = whole if body is None else np.asarray(body != 0)
    bone, air = (reference > scale.bone) & body, (reference < scale.air) & body
    edge = edge_band(bone, spacing_mm, edge_mm) & body
    return {"whole": whole, "body": body, "soft": body & ~bone & ~air, "bone": bone, "bone edge": edge, "air": air}


def edge_band(mask: Mask, spacing_mm: Sequence[float], width_mm: float) -> Mask:
    """Voxels whose centre lies within `width_mm` of the centre of a voxel on the other side of the mask's surface."""
    mask = np.asarray(mask != 0)
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, bool)
    margin = [math.ceil(width_mm / step) + 1 for step in spacing_mm]
    box = tuple(
        slice(max(0, s.start - m), s.stop + m)
        for s, m in zip(ndimage.find_objects(mask.astype(np.uint8))[0], margin, strict=True)
    )
    band, part = np.zeros(mask.shape, bool), mask[box]
    to_other = ndimage.distance_transform_edt(part, spacing_mm) + ndimage.distance_transform_edt(~part, spacing_mm)
    band[box] = to_other <= width_mm
    return band


def figures(synthetic: Array, reference: Array, mask: Mask | None = None, q: float = HU.q) -> Figures:
    """MAE, ME, RMSE and PSNR over the mask (None: everywhere), without SSIM and Dice. Raises ValueError where the mask
    is empty or the shapes differ."""
    if synthetic.shape != reference.shape:
        raise ValueError(f"images of shape {synthetic.shape} and {reference.shape} cannot be compared")
    error = (synthetic if mask is None else synthetic[mask]).astype(np.float64)
    error -= reference if mask is None else reference[mask]
    if error.size == 0:
        raise ValueError("the region is empty")
    mae = float(np.abs(error).mean())
    rmse = max(float(np.sqrt(np.square(error).mean())), mae)  # equal errors: rounding must not turn the order
    return Figures(error.size, mae, float(error.mean()), rmse, psnr_db(rmse, q))


def psnr_db(rmse: float, q: float) -> float:
    return 20 * math.log10(q / rmse) if rmse > 0 else math.inf


def ssim_map(synthetic: Array, reference: Array, q: float = HU.q) -> npt.NDArray[np.float32] | None:
    """Structural similarity of each voxel's 7x7x7 neighbourhood (Wang et al., IEEE TIP 2004;13:600), range of values
    `q`; None where the image is thinner than 7 voxels."""
    if min(reference.shape) < SSIM_WINDOW:
        return None
    from skimage.metrics import structural_similarity

    pair = (synthetic.astype(np.float32), reference.astype(np.float32))
    _mean, found = structural_similarity(*pair, win_size=SSIM_WINDOW, data_range=q, full=True)
    return np.asarray(found, np.float32)


def compare(
    synthetic: Array,
    reference: Array,
    spacing_mm: Sequence[float],
    body: Mask | None = None,
    scale: Scale = HU,
    edge_mm: float = 4.0,
    q: float | None = None,
) -> dict[str, Figures]:
    """{region: Figures} for each of `regions` that is not empty, with SSIM (3D) and, for bone, air and soft tissue, the
    Dice of that class in both images inside the body (bone: above 250 HU). q: None takes the scale's."""
    q = scale.q if q is None else q
    masks = regions(reference, spacing_mm, body, scale, edge_mm)
    similarity = ssim_map(synthetic, reference, q)
    bone, air = synthetic > scale.bone, synthetic < scale.air
    classes = {"bone": bone, "air": air, "soft": ~bone & ~air}
    found = {}
    for name, mask in masks.items():
        if not mask.any():
            continue
        plain = figures(synthetic, reference, mask, q)
        ssim = math.nan if similarity is None else float(similarity[mask].mean(dtype=np.float64))
        overlap = dice(classes[name] & masks["body"], mask) if name in classes else None
        found[name] = Figures(plain.voxels, plain.mae, plain.me, plain.rmse, plain.psnr_db, ssim, overlap)
    return found


def bone_dice(synthetic: Array, reference: Array, body: Mask | None = None, threshold: float = 250.0) -> float:
    """Dice of what lies above `threshold` (HU) in both images, inside the body."""
    a, b = synthetic > threshold, reference > threshold
    return dice(a, b) if body is None else dice(a & (body != 0), b & (body != 0))


def metrics_table(
    found: Mapping[str, Figures], spacing_mm: Sequence[float], scale: Scale = HU, q: float | None = None
) -> dict[str, list[Any]]:
    """`compare`'s answer as the value of a Table port, rounded for reading; Q stands in PSNR's heading. An empty text
    where a figure has no meaning."""
    q = scale.q if q is None else q
    unit, digits, ml = scale.unit, scale.digits, float(np.prod(spacing_mm)) / 1000
    rows = list(found.values())
    mae = [round(f.mae, digits) for f in rows]
    rmse = [max(_up(f.rmse, digits), m) for f, m in zip(rows, mae, strict=True)]
    return {
        "region": list(found),
        f"MAE ({unit})": mae,
        f"ME ({unit})": [round(f.me, digits) for f in rows],
        f"RMSE ({unit})": rmse,
        f"PSNR (dB, Q={q:g})": [_down(psnr_db(r, q), 2) if r > 0 else "equal" for r in rmse],
        "SSIM": ["" if math.isnan(f.ssim) else round(f.ssim, 4) for f in rows],
        "Dice": ["" if f.dice is None else round(f.dice, 4) for f in rows],
        "volume (ml)": [round(f.voxels * ml, 1) for f in rows],
    }


def _up(value: float, digits: int) -> float:
    return round(math.ceil(value * 10**digits - 1e-9) / 10**digits, digits)


def _down(value: float, digits: int) -> float:
    return round(math.floor(value * 10**digits) / 10**digits, digits)
