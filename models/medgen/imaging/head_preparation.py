"""What a head network sees of a scan, the same in training and in use: upright, isotropic, without bias field, cut to
the head or not, intensities as z-scores in the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import Grid, Reorientation, canonical, crop_to_mask, from_array, paste_back, to_array
from medgen.imaging.intensity import n4, z_score
from medgen.imaging.resampling import grid_like, resample, resample_labels

MARGIN_MM = 12.0  # of air round the head that the network sees


@dataclass(frozen=True)
class PreparedHead:
    """image: z-scores, float32, isotropic, index axes L, P, S, cut to the head and MARGIN_MM or whole; mask: the head,
    uint8, on its grid; whole: the uncut isotropic image; upright, way: the scan with turned axes and the way back."""

    image: sitk.Image
    mask: sitk.Image
    whole: sitk.Image
    upright: sitk.Image
    way: Reorientation

    def back(self, values: npt.NDArray[Any], fill: float) -> sitk.Image:
        """float [z, y, x] on the image's grid to a float32 image on the scan's own grid; `fill` round it."""
        whole = paste_back(from_array(values.astype(np.float32), self.image), self.whole, fill)
        return self.way.undo(resample(whole, self.upright, fill=fill))

    def mask_back(self, mask: npt.NDArray[np.bool_]) -> sitk.Image:
        whole = paste_back(from_array(mask, self.image), self.whole)
        return self.way.undo(resample_labels(whole, self.upright))


def prepare_head(
    scan: sitk.Image,
    mask: sitk.Image | None = None,
    spacing_mm: float = 1.0,
    remove_bias: bool = True,
    cut: bool = True,
) -> PreparedHead:
    """scan: an MR of a head, any orientation and spacing; mask: of the head, on any grid, found where None; cut: to the
    head. Without it the bias is removed near the head all the same, where alone it is known.

    Raises BadInput for an image that is not 3D, is constant, or a mask that lies outside it.
    """
    if scan.GetDimension() != 3 or min(scan.GetSize()) < 4:
        raise BadInput("The MR must be a volume of at least four slices.")
    upright, way = canonical(scan)
    whole = resample(upright, grid_like(upright, spacing_mm))
    inside = foreground_mask(whole) if mask is None else resample_labels(sitk.Cast(mask != 0, sitk.sitkUInt8), whole)
    voxels = to_array(inside) != 0
    values = to_array(whole)
    if not voxels.any():
        raise BadInput("The head mask lies outside the MR, or is empty.")
    if not np.isfinite(values).all() or values[voxels].std() == 0:
        raise BadInput("The MR has no contrast inside the head, or holds values that are no numbers.")
    box = crop_to_mask(inside, inside, MARGIN_MM)
    image = crop_to_mask(whole, inside, MARGIN_MM)
    if remove_bias:
        image = n4(image, box)
    if not cut:
        start = np.rint(Grid.of(whole).to_index(image.GetOrigin())).astype(int).tolist()
        image, box = sitk.Paste(whole, sitk.Cast(image, whole.GetPixelID()), image.GetSize(), [0] * 3, start), inside
    z_scores = z_score(to_array(image).astype(np.float32), to_array(box) != 0)
    return PreparedHead(from_array(z_scores, box), box, whole, upright, way)
