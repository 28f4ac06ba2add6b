"""How well a score ranks the inside of a mask above the outside."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata


def auroc(scores: npt.NDArray[np.floating], inside: npt.NDArray[np.bool_]) -> float:
    """Area under the receiver operating characteristic, 0..1: the chance that a number inside the mask scores above one
    outside, ties counting half. Arrays of the same shape; nan where either side is empty."""
    scores, inside = scores.ravel(), inside.ravel().astype(bool)
    positive = int(inside.sum())
    negative = inside.size - positive
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[inside].sum() - positive * (positive + 1) / 2) / (positive * negative))
