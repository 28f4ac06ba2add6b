"""Figures of synthetic CT against the true one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.metrics.synthetic_ct import (
    HU,
    SPR,
    bone_dice,
    compare,
    edge_band,
    figures,
    metrics_table,
    regions,
    ssim_map,
)

SPACING = (2.0, 1.0, 1.0)


def head(size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """HU of a ball with a bony shell and an air pocket, and the mask of the ball."""
    z, y, x = np.ogrid[:size, :size, :size]
    r = np.sqrt((z - size / 2) ** 2 + (y - size / 2) ** 2 + (x - size / 2) ** 2)
    hu = np.full((size,) * 3, -1000.0, np.float32)
    hu[r < 0.45 * size] = 60
    hu[(r < 0.4 * size) & (r > 0.3 * size)] = 900
    hu[r < 0.1 * size] = -1000
    return hu, r < 0.45 * size


def test_the_regions_are_told_apart() -> None:
    hu, body = head()
    found = regions(hu, SPACING, body)
    assert found["whole"].all() and np.array_equal(found["body"], body)
    assert (hu[found["bone"]] == 900).all() and (hu[found["soft"]] == 60).all() and (hu[found["air"]] == -1000).all()
    parts = [found[name] for name in ("bone", "soft", "air")]
    assert np.array_equal(np.sum(parts, axis=0), body.astype(int))
    assert (found["bone edge"] & body).sum() == found["bone edge"].sum() > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1, 6))
def test_the_edge_band_holds_what_lies_near_the_surface_and_nothing_else(seed: int, width: float) -> None:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=(8, 14, 16)), 1.5) > 0.08
    band = edge_band(mask, SPACING, width)
    points = np.argwhere(np.ones(mask.shape)) * SPACING
    flat = mask.ravel()
    for index in rng.integers(0, flat.size, 12):
        others = points[flat != flat[index]]
        near = len(others) > 0 and np.linalg.norm(others - points[index], axis=1).min() <= width
        assert band.ravel()[index] == near


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 3000), st.floats(1, 70000), st.booleans())
def test_psnr_never_exceeds_what_the_mean_error_allows(seed: int, size: float, q: float, constant: bool) -> None:
    """The figures as computed, and as printed."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 500, (4, 5, 6)).astype(np.float32)
    error = np.full_like(reference, size) if constant else rng.normal(0, size, reference.shape)
    synthetic = (reference + error).astype(np.float32)
    found = compare(synthetic, reference, SPACING, q=q)
    for each in found.values():
        assert each.rmse >= each.mae >= abs(each.me) - 1e-9
        assert each.psnr_db <= (20 * math.log10(q / each.mae) if each.mae else math.inf)
    table = metrics_table(found, SPACING, q=q)
    for mae, psnr in zip(table["MAE (HU)"], table[f"PSNR (dB, Q={q:g})"], strict=True):
        assert psnr == "equal" or mae == 0 or psnr <= 20 * math.log10(q / mae)


def test_known_errors_give_known_figures() -> None:
    hu, body = head()
    synthetic = hu.copy()
    synthetic[hu == 900] += 100
    found = compare(synthetic, hu, SPACING, body)
    bone = found["bone"]
    assert (bone.mae, bone.me, bone.rmse) == pytest.approx((100, 100, 100)) and bone.dice == 1.0
    assert bone.psnr_db == pytest.approx(20 * math.log10(40.95))
    assert found["soft"].mae == 0 and math.isinf(found["soft"].psnr_db)
    assert found["body"].mae == pytest.approx(100 * (hu == 900).sum() / body.sum())
    assert found["soft"].ssim < 1 and found["whole"].ssim > found["bone edge"].ssim
    table = metrics_table(found, SPACING)
    assert list(table) == [
        *("region", "MAE (HU)", "ME (HU)", "RMSE (HU)", "PSNR (dB, Q=4095)", "SSIM", "Dice", "volume (ml)"),
    ]
    assert len({len(column) for column in table.values()}) == 1
    row = table["region"].index("soft")
    assert table["PSNR (dB, Q=4095)"][row] == "equal" and table["MAE (HU)"][row] == 0
    assert table["Dice"][table["region"].index("body")] == ""
    assert table["volume (ml)"][0] == pytest.approx(24**3 * 2 / 1000, abs=0.1)


def test_equal_images_are_equal() -> None:
    hu, body = head()
    for each in compare(hu, hu, SPACING, body).values():
        assert each.mae == 0 and each.ssim == pytest.approx(1) and each.dice in (None, 1.0)


def test_dice_of_bone_tells_a_shifted_skull() -> None:
    hu, body = head()
    shifted = np.roll(hu, 2, axis=2)
    found = compare(shifted, hu, SPACING, body)["bone"].dice
    assert found == bone_dice(shifted, hu, body) and 0.3 < found < 0.9
    assert bone_dice(hu, hu) == 1


def test_stopping_power_has_its_own_thresholds() -> None:
    hu, body = head()
    from medgen.imaging.water_path import spr_from_hu

    found, wanted = regions(spr_from_hu(hu), SPACING, body, SPR), regions(hu, SPACING, body)
    for name, mask in wanted.items():
        assert np.array_equal(found[name], mask), name
    assert "MAE (SPR)" in metrics_table(compare(spr_from_hu(hu), spr_from_hu(hu), SPACING, body, SPR), SPACING, SPR)


def test_thin_images_have_no_ssim_and_empty_regions_no_row() -> None:
    reference = np.zeros((3, 9, 9), np.float32)
    assert ssim_map(reference, reference) is None
    found = compare(reference + 1, reference, SPACING)
    assert set(found) == {"whole", "body", "soft"} and math.isnan(found["body"].ssim)
    assert metrics_table(found, SPACING)["SSIM"] == ["", "", ""]


def test_what_cannot_be_compared_is_refused() -> None:
    image = np.zeros((4, 4, 4), np.float32)
    with pytest.raises(ValueError, match="shape"):
        figures(image, image[1:])
    with pytest.raises(ValueError, match="empty"):
        figures(image, image, np.zeros(image.shape, bool))
    assert HU.q == 4095
