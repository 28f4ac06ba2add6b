"""Phantoms: the truth that a proof measures against must itself be right, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging import phantoms
from medgen.imaging.phantoms.deformation import MAXIMUM_GRADIENT, largest_gradient
from medgen.imaging.phantoms.tissue import ALL_LABELS, BRAIN, FAT, LESIONS, MUSCLE, WHITE_MATTER
from medgen.imaging.water_path import spr_from_hu
from medgen.shared_data import shared_folder

QUIET = phantoms.Scan(psf_fwhm_mm=0.0, bias=0.0, texture=0.0, noise=0.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def head() -> sitk.Image:
    return phantoms.analytic_head(rng(1), spacing_mm=2.0)


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


@pytest.mark.parametrize("contrast", ["T1", "T2", "PD", "FLAIR", "T1c", "random"])
def test_the_same_seed_renders_the_same_voxels_on_the_labels_grid(head: sitk.Image, contrast: str) -> None:
    first, second = (phantoms.render_mr(head, contrast, rng(5)) for _ in range(2))
    assert np.array_equal(array(first), array(second))
    assert not np.array_equal(array(first), array(phantoms.render_mr(head, contrast, rng(6))))
    assert (first.GetSize(), first.GetSpacing(), first.GetOrigin()) == (
        head.GetSize(),
        head.GetSpacing(),
        head.GetOrigin(),
    )


def test_contrasts_look_as_radiologists_expect(head: sitk.Image) -> None:
    labels = array(head)
    mean = {
        name: {tissue: array(phantoms.render_mr(head, name, rng(), QUIET))[labels == label].mean()
               for tissue, label in (("white", 2), ("grey", 3), ("csf", 4), ("fat", FAT), ("bone", 515))}
        for name in ("T1", "T2", "FLAIR")
    }  # fmt: skip
    assert mean["T1"]["fat"] > mean["T1"]["white"] > mean["T1"]["grey"] > mean["T1"]["csf"]
    assert mean["T2"]["csf"] > mean["T2"]["grey"] > mean["T2"]["white"] > mean["T2"]["bone"]
    assert mean["FLAIR"]["grey"] > mean["FLAIR"]["csf"]  # fluid is nulled


def test_ct_numbers_are_those_of_the_tissues(head: sitk.Image) -> None:
    hu, labels = array(phantoms.render_ct(head, rng(), noise_hu=0, psf_fwhm_mm=0)), array(head)
    for label, expected, tolerance in ((0, -1000, 5), (515, 1150, 60), (2, 28, 3), (FAT, -95, 5), (4, 7, 3)):
        assert abs(hu[labels == label].mean() - expected) < tolerance
    assert hu.min() >= -1024 and hu.max() <= 3071


def test_stopping_power_is_that_of_the_ct(head: sitk.Image) -> None:
    hu, spr = array(phantoms.render_ct(head, rng(3), noise_hu=0)), array(phantoms.render_spr(head, rng(3)))
    assert np.allclose(spr, spr_from_hu(hu), atol=1e-6)


def test_fat_and_muscle_part_alike_in_mr_ct_and_dixon(head: sitk.Image) -> None:
    labels = array(head)
    assert (labels == FAT).sum() > 1000 and (labels == MUSCLE).sum() > 1000
    hu = array(phantoms.render_ct(head, rng(), noise_hu=0, psf_fwhm_mm=0))
    t1 = array(phantoms.render_mr(head, "T1", rng(), QUIET))
    water, fat = (array(image) for image in phantoms.render_dixon(head, rng(), QUIET))
    assert hu[labels == FAT].mean() < -60 < 30 < hu[labels == MUSCLE].mean()
    assert t1[labels == FAT].mean() > t1[labels == MUSCLE].mean()
    assert (fat > water)[labels == FAT].all() and (water > fat)[labels == MUSCLE].all()


def test_noise_in_air_is_rayleigh(head: sitk.Image) -> None:
    scan = phantoms.Scan(psf_fwhm_mm=0, bias=0, texture=0, noise=0.05)
    air = array(phantoms.render_mr(head, "T1", rng(), scan))[array(head) == 0]
    assert air.mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.02)
    assert air.std() == pytest.approx(0.05 * np.sqrt(2 - np.pi / 2), rel=0.03)


def test_thick_slices_blur_across_them_only(head: sitk.Image) -> None:
    sharp = array(phantoms.render_mr(head, "T1", rng(), QUIET))
    thick = array(phantoms.render_mr(head, "T1", rng(), phantoms.Scan(0.0, 10.0, 0, bias=0, texture=0, noise=0)))
    steps = [np.abs(np.diff(thick, axis=a)).mean() / np.abs(np.diff(sharp, axis=a)).mean() for a in range(3)]
    assert steps[0] < 0.7 * min(steps[1:])


@pytest.mark.parametrize("kind", ["wmh", "tumour", "stroke"])
def test_lesions_lie_in_the_brain_and_shine_in_flair(head: sitk.Image, kind: str) -> None:
    sick, mask = phantoms.insert_lesions(head, kind, rng(4))  # type: ignore[arg-type]
    lesion, before = array(mask) > 0, array(head)
    assert lesion.sum() > 20 and np.isin(before[lesion], BRAIN).all()
    assert np.array_equal(array(sick)[~lesion], before[~lesion])
    flair = array(phantoms.render_mr(sick, "FLAIR", rng(), QUIET))
    if kind == "wmh":
        assert np.isin(before[lesion], WHITE_MATTER).all()
    if kind != "tumour":
        assert flair[lesion].mean() > 1.2 * flair[np.isin(before, WHITE_MATTER) & ~lesion].mean()
    else:  # the rim takes up contrast agent
        t1, t1c = (array(phantoms.render_mr(sick, name, rng(), QUIET)) for name in ("T1", "T1c"))
        rim = array(sick) == 603
        assert t1c[rim].mean() > 1.3 * t1[rim].mean()


def test_a_lesion_needs_white_matter() -> None:
    with pytest.raises(BadInput, match="white matter"):
        phantoms.insert_lesions(sitk.Image(8, 8, 8, sitk.sitkUInt16), "wmh", rng())


def test_deformations_never_fold_and_keep_every_structure(head: sitk.Image) -> None:
    transform = phantoms.random_deformation(head, rng(7), displacement_mm=30.0, scale_mm=20.0)
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *_grid(head))
    assert np.linalg.det(_jacobian(array(field), head)).min() > 0
    bent = array(phantoms.deform_labels(head, phantoms.random_deformation(head, rng(8))))
    for label in (2, 3, 4, 515, 511):
        assert 0.5 < (bent == label).sum() / (array(head) == label).sum() < 2


def test_the_gradient_bound_is_met(head: sitk.Image) -> None:
    transform = phantoms.random_deformation(head, rng(2), 40.0, 15.0, rotation_degrees=0, size_change=0)
    field = array(sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *_grid(head)))
    assert largest_gradient(np.moveaxis(field, -1, 0), head) == pytest.approx(MAXIMUM_GRADIENT, rel=0.05)


def _grid(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()


def _jacobian(displacement: np.ndarray, image: sitk.Image) -> np.ndarray:
    """[z, y, x, 3, 3] of position + displacement."""
    rows = [np.stack(np.gradient(displacement[..., c], *image.GetSpacing()[::-1])[::-1], -1) for c in range(3)]
    return np.stack(rows, -2) + np.eye(3)


def test_stripped_and_defaced_heads_keep_their_brain(head: sitk.Image) -> None:
    brain = np.isin(array(head), BRAIN)
    for changed in (phantoms.strip_skull(head), phantoms.deface(head, rng())):
        assert np.array_equal(np.isin(array(changed), BRAIN), brain)
        assert (array(changed) > 0).sum() < (array(head) > 0).sum()


def test_the_analytic_head_has_what_the_real_maps_have() -> None:
    for spacing_mm in (1.5, 2.0):
        labels = set(np.unique(array(phantoms.analytic_head(rng(0), spacing_mm))).tolist())
        assert labels == set(ALL_LABELS) - set(LESIONS)


@pytest.mark.skipif(shared_folder() is None, reason="no shared data folder on this machine")
def test_a_real_head_is_upright_and_in_one_piece() -> None:
    head = phantoms.load_head(17)
    labels = array(head)
    assert head.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    z = {label: np.argwhere(labels == label)[:, 0].mean() for label in (2, 16)}
    y = {label: np.argwhere(labels == label)[:, 1].mean() for label in (506, 8)}
    assert z[2] > z[16] and y[506] < y[8]  # cerebrum above brain stem, eyes before cerebellum
    pieces = sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(head > 0)))
    assert pieces.max() == 1
