"""Stopping power from CT numbers, and water-equivalent lengths of lines."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.errors import BadInput
from medgen.imaging.geometry import Grid, from_array
from medgen.imaging.spr_table import SPR_KNOTS, SPR_TABLE
from medgen.imaging.water_path import hu_from_spr, knots_of_table, spr_from_hu, water_path

angles = st.floats(0, 2 * np.pi)


def rotation(a: float, b: float, c: float) -> np.ndarray:
    def about(i: int, j: int, angle: float) -> np.ndarray:
        m = np.eye(3)
        m[[i, j], [i, j]], m[i, j], m[j, i] = np.cos(angle), -np.sin(angle), np.sin(angle)
        return m

    return about(0, 1, a) @ about(1, 2, b) @ about(0, 1, c)


def volume(array: np.ndarray, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), axes=None) -> sitk.Image:
    direction = tuple((np.eye(3) if axes is None else axes).ravel().tolist())
    return from_array(array.astype(np.float32), Grid(array.shape[::-1], tuple(spacing), tuple(origin), direction))


@settings(max_examples=60, deadline=None)
@given(angles, angles, angles, angles, st.floats(-1, 1), st.booleans())
def test_100_mm_of_water_are_100_mm_for_any_line_on_any_grid(a, b, c, phi, z, mirrored) -> None:
    axes = rotation(a, b, c) * [-1.0 if mirrored else 1.0, 1.0, 1.0]
    image = volume(np.ones((50, 70, 100)), (1.3, 1.9, 2.7), (13.0, -40.0, 7.0), axes)
    middle = Grid.of(image).to_world([[49.5, 34.5, 24.5]])[0]
    way = 50 * np.array([np.cos(phi) * np.sqrt(1 - z * z), np.sin(phi) * np.sqrt(1 - z * z), z])
    profile = water_path(image, middle - way, middle + way)
    assert profile.total_mm == pytest.approx(100.0, abs=1e-6)
    assert profile.outside_mm == 0
    assert (np.diff(profile.wet_mm) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_fine_sampling_and_is_the_same_backwards(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = volume(
        rng.uniform(0, 2, (9, 11, 13)), (1.0, 1.5, 2.0), rng.normal(0, 20, 3), rotation(*rng.uniform(0, 6, 3))
    )
    grid = Grid.of(image)
    start, end = grid.to_world(rng.uniform(-3, [15, 13, 11], (2, 3)))
    try:
        profile = water_path(image, start, end, outside=0.5)
    except BadInput:  # it passes the image by
        return
    at = (np.arange(20_000) + 0.5) / 20_000
    index = np.rint(grid.to_index(start + at[:, None] * (end - start))).astype(int)
    known = ((index >= 0) & (index < grid.size)).all(1)
    values = np.full(len(at), 0.5)
    i, j, k = index[known].T
    values[known] = sitk.GetArrayFromImage(image)[k, j, i]
    length = float(np.linalg.norm(end - start))
    assert profile.total_mm == pytest.approx(values.mean() * length, abs=0.02 + 1e-3 * length)
    assert profile.outside_mm == pytest.approx((~known).mean() * length, abs=0.02 + 1e-3 * length)
    assert water_path(image, end, start, outside=0.5).total_mm == pytest.approx(profile.total_mm, abs=1e-6)
    half = (start + end) / 2
    assert profile.wet_at(length / 2) == pytest.approx(_total(image, start, half), abs=1e-5)


def _total(image: sitk.Image, start: np.ndarray, end: np.ndarray) -> float:
    try:
        return water_path(image, start, end, outside=0.5).total_mm
    except BadInput:
        return 0.5 * float(np.linalg.norm(end - start))


def test_a_line_through_bone_counts_each_layer() -> None:
    spr = np.ones((4, 4, 30))
    spr[:, :, 10:15] = 1.6
    spr[:, :, 20:22] = 0.001
    profile = water_path(volume(spr, (2.0, 1.0, 1.0)), (-1, 1, 1), (59, 1, 1))  # edge to edge
    assert profile.length_mm == 60 and len(profile.spr) == 30
    assert profile.total_mm == pytest.approx(46 + 16 + 0.004)
    assert profile.wet_at(25.0) == pytest.approx(20 + 1.6 * 5)
    assert profile.spr_at([1.0, 25.0, 43.0]) == pytest.approx([1.0, 1.6, 0.001])


def test_a_line_that_cannot_be_measured_is_refused() -> None:
    image = volume(np.ones((5, 5, 5)))
    with pytest.raises(BadInput, match="no length"):
        water_path(image, (1, 1, 1), (1, 1, 1))
    with pytest.raises(BadInput, match="misses"):
        water_path(image, (50, 0, 0), (50, 9, 0))


@given(st.floats(-2000, 5000), st.floats(-2000, 5000))
def test_stopping_power_rises_with_hu_and_turns_back(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0.001 - 1e-6 <= spr_from_hu(low) <= spr_from_hu(high) <= 2.6 + 1e-6
    inside = float(np.clip(a, SPR_KNOTS[0][0], SPR_KNOTS[0][-1]))
    assert hu_from_spr(spr_from_hu(a)) == pytest.approx(inside, abs=0.01)


def test_the_knots_are_met_exactly() -> None:
    assert spr_from_hu(SPR_KNOTS[0]) == pytest.approx(SPR_KNOTS[1], abs=1e-6)
    assert spr_from_hu(np.full((2, 3), 0.0)).shape == (2, 3)


def test_a_site_s_own_table() -> None:
    assert knots_of_table(SPR_TABLE) == tuple(list(k) for k in SPR_KNOTS)
    assert knots_of_table({"spr": [1.0, 0.0, 2.0], "hu ": [0, -1000, 1000]}) == ([-1000, 0, 1000], [0, 1, 2])
    assert knots_of_table({"a": ["-1000", "0"], "b": ["0", "1"]}) == ([-1000, 0], [0, 1])
    for wrong in (
        {"HU": [0, 0], "SPR": [1, 2]},
        {"HU": [0, 1], "SPR": [1, 1]},
        {"HU": [0, 1], "SPR": [-1, 1]},
        {"HU": [0], "SPR": [1]},
        {"HU": [0, 1], "SPR": [1, float("nan")]},
        {"HU": ["air", "water"], "SPR": [0, 1]},
        {"HU": [0, 1]},
    ):
        with pytest.raises(BadInput, match="HU to SPR table"):
            knots_of_table(wrong)
