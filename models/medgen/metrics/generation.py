"""How like real images generated ones are, and whether they copy or repeat: feature distances and structural
similarity. Tronchin et al. 2021 (`specs` s1-10); MS-SSIM of Wang, Simoncelli and Bovik 2003.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Features = npt.NDArray[np.floating]

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, finest scale first
WINDOW, SIGMA = 11, 1.5  # pixels
C1, C2 = 0.01**2, 0.03**2  # for values in [0, 1]
PAIR_VALUES = 2_000_000  # pixels of pairs that are compared at once


# --------------------------------------------------------------------------------------------------- feature distances


def frechet_distance(a: Features, b: Features) -> float:
    """Squared Frechet distance of two sets of features (n, p), as Gaussians: |mean difference|^2 + tr(A + B -
    2 (A B)^1/2). The square root is taken of the symmetric A^1/2 B A^1/2, which has the same trace."""
    mean = a.mean(axis=0) - b.mean(axis=0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(mean @ mean + np.trace(first) + np.trace(second) - 2 * cross)


def mahalanobis(features: Features, reference: Features, shrink: bool = True) -> float:
    """Mean Mahalanobis distance of `features` (n, p) to the Gaussian of `reference` (m, p).

    shrink: Ledoit-Wolf's covariance, which has an inverse for m <= p too; off: the plain one, for which
    `mahalanobis_floor` holds. Raises ValueError off and with m <= p.
    """
    from sklearn.covariance import EmpiricalCovariance, LedoitWolf

    if not shrink and len(reference) <= reference.shape[1]:
        raise ValueError("the plain covariance needs more samples than features")
    # squared distances of scikit-learn; its covariance divides by m, the plain estimate by m - 1
    fitted = (LedoitWolf() if shrink else EmpiricalCovariance()).fit(reference)
    unbiased = 1.0 if shrink else (len(reference) - 1) / len(reference)
    return float(np.sqrt(fitted.mahalanobis(features).clip(0) * unbiased).mean())


def mahalanobis_floor(samples: int, dimensions: int) -> float:
    """What new samples of the very same Gaussian score, with a plain covariance of `samples`; infinite below
    dimensions + 3 samples."""
    n, p = samples, dimensions
    return math.sqrt(p * (n * n - 1) / (n * (n - p - 2))) if n > p + 2 else math.inf


def batch_mmd(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of two batches [n, ...] with the dot product as kernel: (sum of the products
    within a + within b - 2 between) / n^2. That is |mean a - mean b|^2: it is blind to how a batch varies."""
    x, y = a.flatten(1).double(), b.flatten(1).double()
    n = len(x)
    return float(((x @ x.T).sum() + (y @ y.T).sum() - 2 * (x @ y.T).sum()) / n**2)


# ------------------------------------------------------------------------------------------------ structural similarity


def scale_count(shape: tuple[int, ...]) -> int:
    """Scales at which the window still fits, 5 at most: 3 for 80 pixels, where the paper says 5 but not how."""
    return sum(min(shape) // 2**scale >= WINDOW for scale in range(len(SCALE_WEIGHTS)))


def ms_ssim(a: Tensor, b: Tensor, tick: Callable[[], None] = lambda: None) -> Tensor:
    """Multi-scale structural similarity of every image of `a` with every one of `b`.

    a: (n, *spatial), b: (m, *spatial), two or three spatial axes of 11 pixels or more, values in [0, 1]. Returns
    (n, m) in [0, 1]. With fewer than five scales the weights of the others are scaled up to a sum of 1. tick: called
    again and again; what it raises ends the comparison.
    """
    scales = scale_count(tuple(a.shape[1:]))
    if not scales:
        raise ValueError(f"images need {WINDOW} pixels along every axis")
    total = torch.ones(len(a), len(b), dtype=a.dtype)
    weights = [w / sum(SCALE_WEIGHTS[:scales]) for w in SCALE_WEIGHTS[:scales]]
    pool = F.avg_pool2d if a.ndim == 3 else F.avg_pool3d
    for scale, weight in enumerate(weights):
        structure, luminance = _similarity(a, b, tick)
        factor = structure * luminance if scale == scales - 1 else structure
        total *= factor.clamp_min(0) ** weight
        a, b = pool(a[:, None], 2)[:, 0], pool(b[:, None], 2)[:, 0]
    return total


def _similarity(a: Tensor, b: Tensor, tick: Callable[[], None]) -> tuple[Tensor, Tensor]:
    """Contrast-structure and luminance terms at one scale, both averaged over the image, (n, m)."""
    mean_a, mean_b = _window(a), _window(b)
    variance_a, variance_b = _window(a * a) - mean_a**2, _window(b * b) - mean_b**2
    structure, luminance = torch.empty(len(a), len(b)), torch.empty(len(a), len(b))
    rows = max(1, PAIR_VALUES // b[0].numel())
    for i in range(len(a)):
        for start in range(0, len(b), rows):
            tick()
            part = slice(start, start + rows)
            means = mean_a[i] * mean_b[part]
            covariance = _window(a[i] * b[part]) - means
            axes = tuple(range(1, a.ndim))
            structure[i, part] = ((2 * covariance + C2) / (variance_a[i] + variance_b[part] + C2)).mean(axes)
            luminance[i, part] = ((2 * means + C1) / (mean_a[i] ** 2 + mean_b[part] ** 2 + C1)).mean(axes)
    return structure, luminance


def _window(images: Tensor) -> Tensor:
    """Gaussian average, without padding: every axis gets 10 pixels shorter."""
    offsets = torch.arange(WINDOW, dtype=images.dtype) - WINDOW // 2
    kernel = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    dimensions = images.ndim - 1
    convolve = F.conv2d if dimensions == 2 else F.conv3d
    result = images[:, None]
    for axis in range(dimensions):
        shape = [1] * dimensions
        shape[axis] = WINDOW
        result = convolve(result, kernel.reshape(1, 1, *shape))
    return result[:, 0]


def template_match(template: npt.NDArray[np.floating], image: npt.NDArray[np.floating]) -> float:
    """Greatest normalised cross-correlation of `template` at any place in `image`, -1 to 1: finds moved copies."""
    from skimage.feature import match_template

    return float(match_template(image, template).max())
