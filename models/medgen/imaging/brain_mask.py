"""A rough mask of the brain in an MR with its skull on, where none is given: for measuring, not for planning."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from medgen.imaging.foreground import filled, foreground_mask
from medgen.imaging.geometry import canonical, from_array, to_array
from medgen.imaging.resampling import grid_like, resample, resample_labels

COARSE_MM = 1.5
SCALP_MM, DEEP_MM = 7.0, 30.0  # what lies outside the skull; what is surely brain in the slices of the upper half
BRIDGE_MM = 4.0  # the widest bridge between the brain and what is left outside it
DARKEST, BRIGHTEST = 0.55, 1.8  # of the brain, times the median of what is deep inside: bone is darker, fat brighter


def rough_brain(image: sitk.Image) -> sitk.Image:
    """uint8 0/1 on the image's grid: what is brighter than bone and darker than fat inside the head, in one piece,
    after the scalp and thin bridges were taken away in every slice. Good above the skull base alone: below it, muscles
    stay."""
    upright, way = canonical(image)
    coarse = grid_like(upright, np.maximum(upright.GetSpacing(), COARSE_MM).tolist())
    values = to_array(resample(upright, coarse)).astype(np.float32)
    head = to_array(resample_labels(foreground_mask(upright), coarse)) != 0
    inner, deep = _shrunk(head, SCALP_MM), _shrunk(head, DEEP_MM)
    deep[: len(deep) // 2] = False  # nose and mouth
    if not deep.any():
        return way.undo(resample_labels(from_array(deep, coarse), upright))
    usual = float(np.median(values[deep]))
    bright = inner & (values > DARKEST * usual) & (values < BRIGHTEST * usual)
    core = _shrunk(bright, BRIDGE_MM)
    pieces, count = ndimage.label(core)
    if count:
        core = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    brain = filled(_grown(core, BRIDGE_MM + COARSE_MM) & inner)
    return way.undo(resample_labels(from_array(brain, coarse), upright))


def _shrunk(mask: np.ndarray, mm: float) -> np.ndarray:
    """Every slice by itself: slices may be thick."""
    return np.stack([ndimage.distance_transform_edt(plane) > mm / COARSE_MM for plane in mask])


def _grown(mask: np.ndarray, mm: float) -> np.ndarray:
    return np.stack([ndimage.distance_transform_edt(~plane) <= mm / COARSE_MM for plane in mask])
