"""The structures of a head MR, and CT numbers (or stopping powers) that do not fit them made typical.

Networks that make a CT see windows of a few centimetres, in which dark fluid, bone and air look alike; the segmentation
network sees whole slices. Not part of any paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from medgen.imaging.foreground import filled, foreground_mask
from medgen.imaging.geometry import canonical, crop_to_mask, from_array, paste_back, to_array
from medgen.imaging.head_labels import CLASSES
from medgen.imaging.head_segmentation import METHOD, SPACING_MM, WEIGHTS, load_head_network, robust_scale, vote
from medgen.imaging.resampling import grid_like, resample, resample_labels
from medgen.method import Context

Array = npt.NDArray[Any]
Range = tuple[float, float, float]
AXES = (0, 1, 2)
UNKNOWN = CLASSES
MARGIN_MM = 3.0  # of air round the head, as the segmentation network was trained
# lowest, highest and typical HU: common ranges of radiology, narrowed on rendered heads 15 and 16, and the means of
# `phantoms.tissue`
BRAIN, FLUID = (0.0, 80.0, 35.0), (-20.0, 60.0, 10.0)
HU: dict[int, Range] = {
    **{value: BRAIN for value in range(1, CLASSES)},
    **{value: FLUID for value in (3, 15, 16, 17, 21)},  # ventricles, CSF, eyes
    0: (-2000.0, -600.0, -1000.0),
    19: (700.0, 3000.0, 1150.0),  # cortical bone
    20: (150.0, 600.0, 330.0),  # marrow
    22: (-200.0, 120.0, 35.0),  # skin
    23: (-150.0, 120.0, 50.0),  # muscle, fat and the rest
}


def structures(scan: sitk.Image, context: Context, tell: Callable[[float], None]) -> sitk.Image:
    """uint8, on an upright grid of 1 mm over `scan`, an MR of a head in any orientation: the structure (`head_labels`)
    that is likelier than all others together, 0 for air that the head encloses; UNKNOWN where there is none.

    tell: hears what part is done. Raises BadInput where the segmentation's weights cannot be used.
    """
    network = load_head_network(context.borrow(METHOD, WEIGHTS), context)
    upright, _ = canonical(scan)
    whole = resample(upright, grid_like(upright, SPACING_MM))
    box = crop_to_mask(whole, foreground_mask(whole), MARGIN_MM)
    scores = vote(torch.from_numpy(robust_scale(to_array(box).astype(np.float32))), network, AXES, context, tell)
    chance, likeliest = scores.max(0)
    found = likeliest.to(torch.uint8).numpy()
    found[(chance <= len(AXES) / 2).numpy()] = UNKNOWN
    found[(found == 0) & ~filled(found != 0)] = UNKNOWN  # where the skin lies, the other network and the user tell
    return paste_back(from_array(found, box), whole, UNKNOWN)


def fitted(values: sitk.Image, labels: sitk.Image, ranges: Mapping[int, Range]) -> Array:
    """float32 [z, y, x]: voxels out of the range of their structure get its typical value; those that `ranges` does not
    name stay as they are. labels: of `structures`, on any grid."""
    anything = (-np.inf, np.inf, 0.0)
    table = np.array([ranges.get(value, anything) for value in range(UNKNOWN + 1)], np.float32)
    here = to_array(resample_labels(labels, values, fill=UNKNOWN))
    lowest, highest, typical = (column[here] for column in table.T)
    voxels = to_array(values)
    return np.where((voxels < lowest) | (voxels > highest), typical, voxels)
