"""Whether a chance means what it says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def expected_calibration_error(chance: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """0..1: the mean distance between what is claimed and what is so, over `bins` equal bins of the chance (0..1),
    each counting by its size (Naeini et al., AAAI 2015). Arrays of the same shape; nan where they are empty."""
    chance, truth = chance.ravel(), truth.ravel()
    if not chance.size:
        return float("nan")
    number = np.clip((chance * bins).astype(int), 0, bins - 1)
    sizes = np.bincount(number, minlength=bins)
    claimed = np.bincount(number, chance, bins)
    so = np.bincount(number, truth.astype(float), bins)
    return float(np.abs(claimed - so).sum() / sizes.sum())
