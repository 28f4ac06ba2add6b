"""The gate: what it says of sets with known faults, through the method as a panel calls it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medgen.errors import BadInput, Cancelled
from medgen.method import Context, SilentProgress
from medgen.methods.generator_gate.infer import run
from medgen.methods.generator_gate.spec import SPECS
from medgen.metrics.generation import (
    frechet_distance,
    mahalanobis,
    mahalanobis_floor,
    ms_ssim,
    scale_count,
    template_match,
)

PARAMETERS = SPECS[0].check_parameters({"slices": 2, "runs": 1, "epochs": 2, "size": 48})


def volume(seed: int, size: tuple[int, int, int] = (40, 44, 36)) -> sitk.Image:
    """A bright ball in the dark with a pattern that the seed draws: another patient for every seed."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[: size[2], : size[1], : size[0]].astype(np.float32)
    ball = ((x - size[0] / 2) ** 2 + (y - size[1] / 2) ** 2 + (z - size[2] / 2) ** 2) < (min(size) / 2.2) ** 2
    frequency, phase = rng.uniform(0.2, 0.9, 3), rng.uniform(0, 6, 3)
    pattern = np.sin(frequency[0] * x + phase[0]) * np.sin(frequency[1] * y + phase[1]) * np.sin(frequency[2] * z)
    return sitk.GetImageFromArray((ball * (600 + 300 * pattern)).astype(np.int16))


def gate(real: list[sitk.Image], synthetic: list[sitk.Image]) -> dict[str, Any]:
    return run({"real": real, "synthetic": synthetic}, PARAMETERS, Context(seed=1))


def raised(result: dict[str, Any]) -> dict[str, str]:
    return dict(zip(result["flags"]["flag"], result["flags"]["raised"], strict=True))


REAL = [volume(seed) for seed in range(12)]


def test_copies_are_called_memorised_and_named() -> None:
    result = gate(REAL, [volume(seed) for seed in (3, 8, 1, 5)])
    assert raised(result)["MEMORISED"] == "yes"
    pairs = dict(zip(result["closest"]["synthetic image"], result["closest"]["real image"], strict=True))
    assert pairs == {1: 4, 2: 9, 3: 2, 4: 6}
    assert min(result["closest"]["MS-SSIM"]) > 0.99


def test_a_repeating_generator_is_called_collapsed() -> None:
    rng = np.random.default_rng(0)
    first = sitk.GetArrayFromImage(volume(100))
    same = [sitk.GetImageFromArray(first + rng.normal(0, 3, first.shape).astype(np.int16)) for _ in range(6)]
    assert raised(gate(REAL, same))["COLLAPSED"] == "yes"


def test_other_patients_get_no_structural_flag() -> None:
    result = gate(REAL, [volume(seed, (44, 40, 40)) for seed in range(50, 60)])  # images of another size
    assert raised(result)["MEMORISED"] == raised(result)["COLLAPSED"] == "no"
    assert np.isclose(sum(result["similarity"]["real to real"]), 1)
    assert len(result["map"]["set"]) == len(result["map"]["component 1"])


def test_same_seed_same_scores() -> None:
    first, second = (gate(REAL[:6], REAL[6:])["scores"] for _ in range(2))
    assert first == second


def test_a_cancel_is_heard_while_structure_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cancelling(SilentProgress):
        def raise_if_cancelled(self) -> None:
            raise Cancelled

    monkeypatch.setattr("medgen.methods.generator_gate.infer.two_sample_runs", pytest.fail)
    images = [volume(seed) for seed in range(4)]
    with pytest.raises(Cancelled):
        run({"real": images, "synthetic": images}, SPECS[0].check_parameters({}), Context(Cancelling()))


def test_too_few_or_empty_images_are_refused() -> None:
    with pytest.raises(BadInput, match="four real"):
        gate(REAL[:3], REAL)
    with pytest.raises(BadInput, match="shows nothing"):
        gate(REAL, [*REAL[:4], sitk.Image(20, 20, 20, sitk.sitkInt16)])


def test_ms_ssim_knows_same_and_different() -> None:
    images = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    similarity = ms_ssim(images, images)
    assert torch.allclose(similarity.diagonal(), torch.ones(3), atol=1e-5)
    assert (similarity[~torch.eye(3, dtype=torch.bool)] < 0.3).all()
    assert ms_ssim(torch.rand(1, 16, 16, 16), torch.rand(2, 16, 16, 16)).shape == (1, 2)
    assert (scale_count((80, 80)), scale_count((176, 176)), scale_count((10, 80))) == (3, 5, 0)


def test_ms_ssim_is_that_of_monai() -> None:
    from monai.metrics.regression import MultiScaleSSIMMetric

    generator = torch.Generator().manual_seed(0)
    a = torch.nn.functional.interpolate(torch.rand(1, 1, 24, 24, generator=generator), size=192, mode="bicubic")
    b = (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    theirs = MultiScaleSSIMMetric(spatial_dims=2, data_range=1.0, kernel_size=11, kernel_sigma=1.5)(a.clamp(0, 1), b)
    assert abs(float(theirs) - float(ms_ssim(a[:, 0].clamp(0, 1), b[:, 0]))) < 2e-3


def test_distances() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 8))
    assert abs(frechet_distance(a, a)) < 1e-9
    assert abs(frechet_distance(a, a + 2) - 8 * 4) < 1e-9  # a shift only
    fresh = mahalanobis(rng.normal(size=(5000, 128)), rng.normal(size=(225, 128)), shrink=False)
    assert abs(fresh / mahalanobis_floor(225, 128) - 1) < 0.05
    with pytest.raises(ValueError, match="more samples"):
        mahalanobis(a, a[:8], shrink=False)


def test_template_matching_finds_a_moved_copy() -> None:
    picture = np.random.default_rng(0).random((40, 40))
    assert template_match(np.roll(picture, 5, 0)[10:-4, 4:-4], picture) > 0.99
