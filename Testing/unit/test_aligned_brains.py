"""The brains that the generator learns from: what atrophy does to them, and the whole set where the heads are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.brain_alignment import model_grid, pooled, scale_t1
from medgen.imaging.phantoms.aligned_brains import (
    HeadAnatomy,
    atrophied,
    head_anatomy,
    load_aligned_brains,
    render_aligned_brains,
)
from medgen.imaging.phantoms.tissue import CSF
from medgen.shared_data import shared_folder

SIDE, VENTRICLE, WHITE, CORTEX = 56, 5.0, 16.0, 20.0  # mm: of the box, outer radii of the shells


@pytest.fixture(scope="module")
def anatomy() -> HeadAnatomy:
    """Shells: ventricle, white matter, cortex, CSF."""
    distance = np.linalg.norm(np.indices((SIDE,) * 3) - (SIDE - 1) / 2, axis=0)
    labels = np.select([distance < VENTRICLE, distance < WHITE, distance < CORTEX, distance < 24], [4, 2, 3, CSF], 0)
    return head_anatomy(sitk.GetImageFromArray(labels.astype(np.uint16)))


def radius(labels: np.ndarray, *inside: int) -> float:
    """Of the ball that has as many voxels."""
    return float((np.isin(labels, inside).sum() * 3 / (4 * np.pi)) ** (1 / 3))


def aged(anatomy: HeadAnatomy, wide: float, open_: float) -> np.ndarray:
    return atrophied(anatomy, np.indices((SIDE,) * 3).astype(np.float32), wide, open_)


def test_without_atrophy_nothing_changes(anatomy: HeadAnatomy) -> None:
    assert np.array_equal(aged(anatomy, 0.0, 0.0), sitk.GetArrayFromImage(anatomy.labels))


@pytest.mark.parametrize("wide", [2.0, 5.0])
def test_ventricles_grow_by_as_much_as_asked_and_the_brain_hardly(anatomy: HeadAnatomy, wide: float) -> None:
    labels = aged(anatomy, wide, 0.0)
    assert radius(labels, 4) == pytest.approx(VENTRICLE + wide, abs=0.6)
    assert radius(labels, 4, 2) == pytest.approx(WHITE, abs=wide * 0.6)
    assert radius(labels, 4, 2, 3) == pytest.approx(CORTEX, abs=wide * 0.5)
    assert (labels == 2).any()


def test_opened_sulci_take_of_the_cortex(anatomy: HeadAnatomy) -> None:
    thinner = aged(anatomy, 0.5, 2.0)
    assert radius(thinner, 4, 2, 3) == pytest.approx(CORTEX - 2.0, abs=0.7)
    assert (thinner == 3).any()


def test_the_brightest_tissue_is_scaled_alike_whatever_the_units() -> None:
    values = np.linspace(0, 100, 1000).reshape(10, 10, 10)
    brain = values > 20
    first, second = scale_t1(values, brain), scale_t1(7 * values, brain)
    assert np.allclose(first, second) and first[~brain].max() == 0 and first.max() <= 1
    with pytest.raises(BadInput, match="nothing"):
        scale_t1(0 * values, brain)


def test_model_grids_of_all_voxels_cover_the_same_box() -> None:
    coarse, fine = model_grid(8.0), model_grid(2.0)
    assert np.allclose(coarse.edges, fine.edges)
    assert pooled(np.arange(64, dtype=np.float32).reshape(4, 4, 4), 2)[0, 0, 0] == pytest.approx(10.5)


def test_a_folder_without_brains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no aligned brains"):
        load_aligned_brains(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shared_folder() is None, reason="the head label maps are not on this machine")
def test_a_small_set_of_real_heads(tmp_path: Path) -> None:
    made = render_aligned_brains({1: 3, 17: 1}, 0, tmp_path)
    brains = load_aligned_brains(tmp_path)
    assert np.array_equal(made.images, brains.images) and brains.images.shape == (4, 48, 56, 40)
    assert brains.of_heads(range(1, 15)).tolist() == [0, 1, 2]
    middles = [np.argwhere(image > 50).mean(0) for image in brains.images]
    assert np.abs(np.array(middles) - (23.5, 27.5, 19.5)).max() < 5  # voxels: all lie in the middle of the box
    assert (brains.table[:, 2] > 5).all() and (brains.table[1:3, 3] > 0).all()
    template = brains.template
    assert all(np.corrcoef(v.ravel(), template.ravel())[0, 1] > 0.8 for v in brains.values(np.arange(4)))
