"""Units, the low-pass filter that parts the target, and the losses of Shi et al. 2021."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from torch import Tensor

from medgen.methods.frequency_mr_to_ct.net import BOX, Split

Array = npt.NDArray[Any]
SPACING_MM = 1.0  # of the grid that the network works on
LOWEST_HU, RANGE_HU = -1024.0, 3276.7  # the network's unit is (HU + 1024) / 3276.7


def low_frequencies(hu: Array, sigma: float = 15.0) -> Array:
    """The smooth part of a CT [z, y, x], float32: a Gaussian of `sigma` voxels, or a box of 16 where sigma is BOX.

    The paper prints 'size sigma = 15', its code has the box (whose standard deviation is 4.6 voxels), a patch at a time
    with zeros around. Here the whole volume is filtered once, its border values going on outside.
    """
    from scipy.ndimage import uniform_filter

    hu = hu.astype(np.float32)
    if sigma == BOX:
        return np.asarray(uniform_filter(hu, 16, mode="nearest"))
    # recursive: the time does not grow with sigma
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(hu), sigma))


def frequency_loss(found: Split, ct: Tensor, high: Tensor, high_weight: float = 1.0) -> tuple[Tensor, Tensor]:
    """(high_weight |Yh^ - Yh| + |Y^ - Y|, the second term alone), mean absolute errors over all voxels.

    ct, high: the target and its high frequencies, [batch, 1, z, y, x] in the network's unit. There is no term for the
    low frequencies: the paper leaves them to the difference of the two.
    """
    whole = (found.ct - ct).abs().mean()
    return high_weight * (found.high - high).abs().mean() + whole, whole
