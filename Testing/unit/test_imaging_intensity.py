"""Intensity scaling, bias field, foreground, and the measures of agreement."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import Grid, from_array, same_grid, to_array
from medgen.imaging.intensity import hu_to_unit, n4, percentile_scale, robust_z_score, unit_to_hu, z_score
from medgen.metrics.overlap import assd_mm, dice

GRID = Grid((64, 70, 60), (3.0, 3.0, 3.0), (-96.0, -105.0, -90.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))


def radius(scale: tuple[float, float, float] = (75.0, 92.0, 80.0)) -> np.ndarray:
    """1 on a head-sized ellipsoid amid the grid, axes k, j, i."""
    k, j, i = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * 3.0 for n in GRID.size[::-1]), indexing="ij")
    return np.sqrt((i / scale[0]) ** 2 + (j / scale[1]) ** 2 + (k / scale[2]) ** 2)


def test_scaling_looks_at_the_mask_alone() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(300, 40, (20, 20, 20)).astype(np.float32)
    mask = np.zeros(values.shape, bool)
    mask[5:15, 5:15, 5:15] = True
    values[~mask] = 9000
    z = z_score(values, mask)[mask]
    assert abs(z.mean()) < 1e-4 and abs(z.std() - 1) < 1e-4
    q = np.percentile(robust_z_score(values, mask)[mask], (25, 50, 75))
    assert abs(q[1]) < 1e-4 and abs(q[2] - q[0] - 1) < 1e-4
    p = percentile_scale(values, 1, 99, mask)
    assert p.min() == 0 and p.max() == 1 and abs(np.mean(p[mask] == 0) - 0.01) < 2e-3
    for scale in (z_score, robust_z_score, percentile_scale):
        assert not scale(np.full((3, 3), 7)).any()


def test_hu_go_there_and_back() -> None:
    hu = np.array([-3000, -1024, -700, 0, 40, 3071, 9000], np.int16)
    unit = hu_to_unit(hu)
    assert unit.min() == -1 and unit.max() == 1
    np.testing.assert_allclose(unit_to_hu(unit), np.clip(hu, -1024, 3071), atol=1e-3)


def test_n4_flattens_a_bias_field() -> None:
    head = radius() < 1
    i = np.linspace(-1, 1, GRID.size[0])
    tissue = np.where(radius() < 0.6, 200.0, 120.0) * head
    mask = from_array(head, GRID)
    corrected = n4(from_array((tissue * np.exp(0.4 * i)).astype(np.float32), GRID), mask, shrink_mm=9, iterations=10)
    assert same_grid(corrected, mask)
    core = radius() < 0.5

    def spread(values: np.ndarray) -> float:
        return float(values[core].std() / values[core].mean())

    assert spread(to_array(corrected)) < 0.35 * spread(tissue * np.exp(0.4 * i))


def scene(kind: str) -> np.ndarray:
    rng, r = np.random.default_rng(3), radius()
    if kind == "ct":  # with a sinus, a head rest close by, and a scanner's padding in the corners
        hu = np.where(r < 1, 40.0, -1000.0) + np.where((r < 0.95) & (r > 0.88), 900, 0)
        hu[28:34, 12:18, 30:36] = -1000
        hu[:, 66:68, 5:60] = 150
        hu += rng.normal(0, 15, r.shape)
        hu[:, :8, :8] = -3024
        return hu
    mr = np.select([r < 0.8, r < 0.9, r < 1], [0.5, 0.05, 1.0], 0.0)  # brain, dark bone, bright fat
    if kind == "stripped":
        return np.where(r < 0.8, mr, 0)
    return np.hypot(mr + rng.normal(0, 0.02, r.shape), rng.normal(0, 0.02, r.shape))  # Rician


@pytest.mark.parametrize(("kind", "rim"), [("ct", 1.0), ("mr", 1.0), ("stripped", 0.8)])
def test_the_foreground_is_the_whole_head_in_one_piece(kind: str, rim: float) -> None:
    image = from_array(scene(kind).astype(np.float32), GRID)
    mask = foreground_mask(image)
    assert same_grid(mask, image) and mask.GetPixelID() == sitk.sitkUInt8
    inside = to_array(mask)
    assert dice(inside, radius() < rim) > 0.97
    assert inside[radius() < rim - 0.05].all()  # no holes: bone and sinus are inside
    assert sitk.GetArrayFromImage(sitk.ConnectedComponent(mask)).max() == 1


def test_without_contrast_all_is_foreground() -> None:
    for size in ((5, 4, 3), (1, 1, 1), (6, 1)):
        assert to_array(foreground_mask(sitk.Image(size, sitk.sitkInt16))).all()


def test_an_mr_whose_values_all_lie_far_below_zero_has_a_foreground() -> None:
    values = (1000 * scene("mr")).astype(np.float32)
    plain, lowered = (to_array(foreground_mask(from_array(v, GRID))) for v in (values, values - 5000))
    assert np.array_equal(plain, lowered)


def test_dice() -> None:
    a, b = np.zeros((4, 4), int), np.zeros((4, 4), int)
    assert dice(a, b) == 1
    a[0, :2], b[0, 1:3] = 1, 5
    assert dice(a, b) == 0.5


def test_surface_distance_counts_millimetres_along_each_axis() -> None:
    a, b = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    a[5, 4:16, 4:16], b[8, 4:16, 4:16] = True, True
    assert assd_mm(a, a, (1, 1, 1)) == 0
    assert assd_mm(a, b, (2.5, 1, 1)) == pytest.approx(7.5)
    assert assd_mm(a, np.zeros_like(a), (1, 1, 1)) == float("inf")
