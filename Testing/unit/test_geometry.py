"""Geometry: whatever the grid, the same place in the world gets the same answer, and what need not change does not."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.imaging.geometry import (
    Grid,
    canonical,
    crop_to_mask,
    from_array,
    ijk_to_ras,
    overlap_fraction,
    pad,
    paste_back,
    same_grid,
    to_array,
)
from medgen.imaging.resampling import grid_like, resample, resample_labels
from medgen.metrics.overlap import dice

few = settings(max_examples=25, deadline=None)


@st.composite
def grids(draw: st.DrawFn, smallest: int = 1, largest: int = 9, dimensions: tuple[int, ...] = (2, 3)) -> Grid:
    """Any direction cosines (left-handed ones too), spacing 0.3 to 6 mm, sizes down to one voxel."""
    n = draw(st.sampled_from(dimensions))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    oblique = draw(st.booleans())
    axes = np.linalg.qr(rng.normal(size=(n, n)))[0] if oblique else np.eye(n)[rng.permutation(n)]
    axes = axes * draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * n))
    size = draw(st.tuples(*[st.integers(smallest, largest)] * n))
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0)] * n))
    return Grid(size, spacing, tuple(rng.uniform(-200, 200, n).tolist()), tuple(axes.ravel().tolist()))


def numbered(grid: Grid) -> sitk.Image:
    return from_array(np.arange(np.prod(grid.size), dtype=np.int16).reshape(grid.size[::-1]), grid)


def world_of_voxels(grid: Grid) -> np.ndarray:
    """LPS mm of every voxel, [*kji, n], by SimpleITK itself."""
    image = from_array(np.zeros(grid.size[::-1], np.uint8), grid)
    points = [image.TransformIndexToPhysicalPoint([int(v) for v in i[::-1]]) for i in np.ndindex(*grid.size[::-1])]
    return np.array(points).reshape(*grid.size[::-1], len(grid.size))


def places(grid: Grid) -> np.ndarray:
    """LPS mm of every voxel, [*kji, n], by the matrices (which the first test holds to SimpleITK's)."""
    shape = grid.size[::-1]
    return grid.to_world(np.indices(shape).reshape(len(shape), -1).T[:, ::-1]).reshape(*shape, len(shape))


@few
@given(grids())
def test_matrices_are_those_of_simpleitk(grid: Grid) -> None:
    world = world_of_voxels(grid)
    indices = np.array(list(np.ndindex(*grid.size[::-1])))[:, ::-1]
    np.testing.assert_allclose(grid.to_world(indices), world.reshape(-1, len(grid.size)), atol=1e-9)
    np.testing.assert_allclose(grid.to_index(world.reshape(-1, len(grid.size))), indices, atol=1e-9)
    first_ras = ijk_to_ras(numbered(grid))[:-1, -1]
    np.testing.assert_allclose(first_ras[:2], -np.array(grid.origin[:2]))


@few
@given(grids())
def test_reorientation_moves_no_voxel_and_comes_back_identical(grid: Grid) -> None:
    image = numbered(grid)
    turned, way = canonical(image)
    where = {int(v): p for v, p in zip(to_array(image).ravel(), world_of_voxels(grid).reshape(-1, len(grid.size)))}
    for value, place in zip(
        to_array(turned).ravel(), world_of_voxels(Grid.of(turned)).reshape(-1, len(grid.size)), strict=True
    ):
        np.testing.assert_allclose(place, where[int(value)], atol=1e-8)
    axes = Grid.of(turned).axes
    assert (np.diag(axes) >= 0).all()
    if not np.any((np.abs(axes) > 1e-9) & (np.abs(axes) < 1 - 1e-9)):  # not oblique: exactly L, P, S
        assert np.array_equal(axes, np.eye(len(grid.size)))
    back = way.undo(turned)
    assert np.array_equal(to_array(back), to_array(image))
    assert Grid.of(back) == Grid.of(image)


@few
@given(grids())
def test_on_its_own_grid_nothing_is_interpolated(grid: Grid) -> None:
    image = numbered(grid)
    for spline in ("linear", "bspline"):
        result = resample(image, grid_like(image, grid.spacing_mm), spline)
        assert np.array_equal(to_array(result), to_array(image))
        assert Grid.of(result) == Grid.of(image)
    assert np.array_equal(to_array(resample_labels(image, image)), to_array(image))


@few
@given(grids(), st.floats(0.5, 4.0))
def test_a_models_grid_covers_the_image_and_not_more(grid: Grid, spacing: float) -> None:
    model = grid_like(grid, spacing)
    beyond = np.abs(grid.to_index(model.edges) - (np.array(grid.size) - 1) / 2) - np.array(grid.size) / 2
    beyond_mm = beyond * grid.spacing_mm
    assert beyond_mm.min() > -2e-3 * spacing
    assert beyond_mm.max() < 0.5 * spacing + 1e-6
    assert overlap_fraction(grid, model) > 0.99


@few
@given(grids(smallest=6, largest=14, dimensions=(3,)))
def test_the_world_sees_the_same_result_as_on_an_axis_aligned_copy(grid: Grid) -> None:
    """A function of the place, taken to a model's canonical 1.5 mm grid, worked on there and brought back."""
    slope, shift = np.array([0.7, -0.4, 1.1]), np.array(grid.to_world((np.array(grid.size) - 1) / 2))

    def scene(points: np.ndarray) -> np.ndarray:  # linear, so that interpolation adds nothing of its own
        return (points - shift) @ slope

    image = from_array(scene(places(grid)).astype(np.float32), grid)
    turned, way = canonical(image)
    model = grid_like(turned, 1.5)
    on_model = resample(turned, model)
    worked = from_array(2 * to_array(on_model) + places(model)[..., 2].astype(np.float32), model)
    result = to_array(way.undo(resample(worked, turned)))
    world = places(grid)
    expected = 2 * scene(world) + world[..., 2]
    # at the rim, half a voxel repeats its neighbour, and the blur before coarsening sees the edge
    rim = tuple(slice(max(2, int(np.ceil(3 / s))), -max(2, int(np.ceil(3 / s)))) for s in grid.spacing_mm[::-1])
    np.testing.assert_allclose(result[rim], expected[rim], atol=0.05)


def ball(grid: Grid, radius: float) -> np.ndarray:
    middle = grid.to_world((np.array(grid.size) - 1) / 2)
    return np.linalg.norm(places(grid) - middle, axis=-1) < radius


def oblique_labels() -> sitk.Image:
    axes = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    grid = Grid((30, 28, 20), (1.0, 1.0, 1.6), (5.0, -7.0, 60.0), tuple(axes.ravel().tolist()))
    return from_array((7 * ball(grid, 11) - 4 * ball(grid, 6)).astype(np.uint8), grid)


def test_labels_keep_their_values_and_their_volume() -> None:
    labels = oblique_labels()
    there = resample_labels(labels, grid_like(labels, 1.3))
    assert set(np.unique(to_array(there))) == {0, 3, 7}
    back = to_array(resample_labels(there, labels))
    for label in (3, 7):
        assert dice(back == label, to_array(labels) == label) > 0.93


def test_nearest_takes_the_label_of_the_nearest_voxel() -> None:
    labels = oblique_labels()
    model = grid_like(labels, 1.3)
    there = resample_labels(labels, model, "nearest", fill=None)
    index = np.rint(Grid.of(labels).to_index(places(model).reshape(-1, 3))).astype(int)
    index = np.clip(index, 0, np.array(labels.GetSize()) - 1)
    expected = to_array(labels)[tuple(index.T[::-1])].reshape(to_array(there).shape)
    assert (to_array(there) == expected).mean() > 0.9999  # half-way between two voxels either is right


def test_coarsening_does_not_alias() -> None:
    stripes = np.zeros((4, 4, 64), np.float32)
    stripes[..., ::2] = 1  # finer than the coarse grid can hold: must become grey
    image = from_array(stripes, Grid((64, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1)))
    coarse = to_array(resample(image, grid_like(image, (3.0, 1.0, 1.0))))[1, 1, 3:-3]
    assert np.abs(coarse - 0.5).max() < 0.05


def test_outside_the_image_is_fill_or_the_nearest_voxel() -> None:
    image = from_array(
        np.full((4, 4, 4), 50.0, np.float32), Grid((4,) * 3, (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    )
    wide = Grid((8,) * 3, (1.0,) * 3, (-2.0,) * 3, tuple(np.eye(3).ravel()))
    assert to_array(resample(image, wide, fill=-1000))[0, 0, 0] == -1000
    assert to_array(resample(image, wide))[0, 0, 0] == 50


@few
@given(grids(largest=6), st.data())
def test_crop_and_pad_come_back_and_stay_in_place(grid: Grid, data: st.DataObject) -> None:
    image = numbered(grid)
    seed = tuple(data.draw(st.integers(0, n - 1)) for n in grid.size[::-1])
    mask = np.zeros(grid.size[::-1], np.uint8)
    mask[seed] = 1
    part = crop_to_mask(image, from_array(mask, image), margin_mm=data.draw(st.floats(0, 5)))
    full = paste_back(part, image, fill=-1)
    kept = to_array(full) >= 0
    assert kept[seed] and same_grid(full, image)
    assert np.array_equal(to_array(full)[kept], to_array(image)[kept])
    wider = pad(part, [1] * len(grid.size), [2] * len(grid.size), -1)
    np.testing.assert_allclose(Grid.of(wider).to_world([[1] * len(grid.size)])[0], Grid.of(part).origin, atol=1e-8)


def test_same_grid_and_overlap() -> None:
    grid = Grid((10, 10, 10), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))
    nudged = Grid(grid.size, grid.spacing_mm, (1e-5, 0.0, 0.0), grid.direction)
    shifted = Grid(grid.size, grid.spacing_mm, (5.0, 0.0, 0.0), grid.direction)
    away = Grid(grid.size, grid.spacing_mm, (500.0, 0.0, 0.0), grid.direction)
    assert same_grid(grid, nudged) and not same_grid(grid, shifted)
    assert overlap_fraction(grid, nudged) > 0.99 and overlap_fraction(grid, away) == 0
    assert abs(overlap_fraction(grid, shifted) - 0.5) < 0.06
    mirrored = Grid(grid.size, grid.spacing_mm, (9.0, 0.0, 0.0), (-1.0, 0, 0, 0, 1, 0, 0, 0, 1))
    assert not same_grid(grid, mirrored) and overlap_fraction(grid, mirrored) > 0.99


def test_an_array_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        from_array(np.zeros((3, 4, 5)), sitk.Image(3, 4, 5, sitk.sitkUInt8))
