"""Filling holes in B-mode frames: the exact facts, and what a user meets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file

from medgen.errors import BadInput, Cancelled
from medgen.imaging.phantoms import bmode
from medgen.method import Context, SilentProgress
from medgen.methods.us_inpainting import train
from medgen.methods.us_inpainting.filling import Filler, grown, regions
from medgen.methods.us_inpainting.infer import run
from medgen.methods.us_inpainting.loss import Weights, mean_loss, reconstruction_loss
from medgen.methods.us_inpainting.masks import distance_inside, random_hole
from medgen.methods.us_inpainting.needle import find_needle
from medgen.methods.us_inpainting.net import HierarchicalInpainter, Shape, from_state, residual_kl, to_state
from medgen.methods.us_inpainting.pyramid import blended, collapsed, laplacian_pyramid
from medgen.methods.us_inpainting.spec import INPAINTING
from medgen.nets.vgg import VGGFeatures, _random_kernels

TINY = Shape((4, 8, 8, 8, 8, 8))
Fills = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of strong contrast: what is checked here holds for any weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    network = HierarchicalInpainter(TINY)
    torch.nn.init.normal_(network.last.weight, std=20)
    save_file({k: v.contiguous() for k, v in to_state(network).items()}, path)
    return path


@pytest.fixture(scope="module")
def fill(weights: Path) -> Fills:
    cache: dict[Any, Any] = {}

    def call(images: list[sitk.Image], mask: sitk.Image, seed: int = 0, **parameters: Any) -> dict[str, Any]:
        context = Context(seed=seed, weights=weights, cache=cache)
        return run({"frames": images, "mask": mask}, INPAINTING.check_parameters({"samples": 3, **parameters}), context)

    return call


@pytest.fixture(scope="module")
def still() -> sitk.Image:
    rng = np.random.default_rng(0)
    machine = bmode.Machine(kind="convex", depth_mm=80, width_mm=80, radius_mm=30, gain_db=-12)
    frame = bmode.image_scene(bmode.random_scene(rng, 80, needle=False), machine, rng, (160, 200))
    image = sitk.GetImageFromArray((255 * frame.image).round().astype(np.uint8)[None])
    image.SetSpacing((0.4, 0.4, 1.0))
    image.SetOrigin((5, -7, 30))
    return image


def painted(like: sitk.Image, rows: slice, columns: slice) -> sitk.Image:
    values = np.zeros(sitk.GetArrayViewFromImage(like).shape[:3], np.uint8)
    values[..., rows, columns] = 1
    mask = sitk.GetImageFromArray(values)
    mask.CopyInformation(like)
    return mask


@pytest.fixture(scope="module")
def mask(still: sitk.Image) -> sitk.Image:
    return painted(still, slice(70, 90), slice(90, 120))


def values(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image).astype(np.float64)


# -------------------------------------------------------------------------------------------------------- exact facts


def test_residual_kl_is_that_of_monte_carlo() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, sigma, delta_mean, delta_sigma = (torch.tensor(v, dtype=torch.float64) for v in (0.3, 0.7, -0.4, 0.6))
    posterior = torch.distributions.Normal(mean + delta_mean, sigma * delta_sigma)
    draws = posterior.mean + posterior.stddev * torch.randn(400_000, generator=generator, dtype=torch.float64)
    measured = (posterior.log_prob(draws) - torch.distributions.Normal(mean, sigma).log_prob(draws)).mean()
    assert float(residual_kl(delta_mean, delta_sigma, sigma)) == pytest.approx(float(measured), rel=0.02)
    exact = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(mean, sigma))
    assert float(residual_kl(delta_mean, delta_sigma, sigma)) == pytest.approx(float(exact), abs=1e-12)
    # equation 11 as printed, with log sigma, is another number
    printed = 0.5 * (delta_mean**2 / sigma**2 + delta_sigma**2 - torch.log(sigma**2) - 1)
    assert abs(float(printed) - float(exact)) > 0.1


@pytest.mark.parametrize("size", [(64, 64), (61, 90)])
def test_pyramid_gives_the_image_back(size: tuple[int, int]) -> None:
    image = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(collapsed(laplacian_pyramid(image)), image, atol=1e-12, rtol=0)
    assert laplacian_pyramid(image)[-1].shape[-1] == math.ceil(size[1] / 8)


def test_blending_keeps_either_side_where_the_mask_is_plain() -> None:
    a, b = torch.rand(1, 1, 64, 64), torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(blended(a, b, torch.ones_like(a)), a)
    torch.testing.assert_close(blended(a, b, torch.zeros_like(a)), b)


def test_reconstruction_weighs_the_depth_of_the_hole_and_the_level() -> None:
    truth = torch.zeros(1, 1, 32, 32)
    error = truth.clone()
    error[..., 16, 16] = 1
    near, far = (reconstruction_loss(error, truth, torch.full_like(truth, d), Weights()) for d in (0.0, 10.0))
    assert float(far / near) == pytest.approx(1.1**-10, rel=1e-4)
    # a constant error lives in the coarsest level alone, whose weight is r^0
    whole = reconstruction_loss(truth + 0.5, truth, truth, Weights(reconstruction=100))
    assert float(whole) == pytest.approx(100 * 0.25, rel=1e-5)


def test_the_loss_of_the_mean_asks_for_no_blur() -> None:
    torch.manual_seed(0)
    truth = torch.full((1, 1, 400, 400), 0.5)
    one, other = (truth + 0.1 + 0.3 * torch.randn_like(truth) for _ in range(2))
    assert mean_loss(one, other, truth, Weights(mean=1.0)).item() == pytest.approx(0.1**2, abs=2e-3)  # not + 0.3**2


def test_posterior_equal_to_prior_has_no_kl_and_temperature_zero_no_spread() -> None:
    torch.manual_seed(0)
    network = HierarchicalInpainter(TINY).eval()
    for head in network.posterior_heads:  # tanh(0) = 0, exp(0) = 1
        torch.nn.init.zeros_(head.convolution.weight)
        torch.nn.init.zeros_(head.convolution.bias)
    image, hole = torch.rand(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)
    with torch.no_grad():
        _, kls = network.reconstruct(network.encode(image, hole), image, hole)
        assert len(kls) == 4 and all(float(kl.abs().max()) == 0 for kl in kls)
        features = network.encode(image, hole)
        draws = []
        for _ in range(2):
            noise = [torch.randn(2, *s) for s in network.noise_shapes(32, 32)]
            draws.append((network.complete(features, noise, 0.0), network.complete(features, noise, 1.0)))
    assert torch.equal(draws[0][0], draws[1][0]) and not torch.equal(draws[0][1], draws[1][1])


def test_network_comes_back_from_its_weights_without_the_posterior() -> None:
    torch.manual_seed(0)
    network = HierarchicalInpainter(TINY).eval()
    state = to_state(network)
    assert not any(name.startswith("posterior") for name in state)
    again = from_state(state)
    image, hole = torch.rand(1, 1, 32, 48), (torch.rand(1, 1, 32, 48) > 0.7).float()
    noise = [torch.randn(1, *s) for s in network.noise_shapes(32, 48)]
    with torch.no_grad():
        one, other = (n.complete(n.encode(image, hole), noise) for n in (network, again))
    torch.testing.assert_close(one, other)


def test_holes_are_of_every_kind_and_leave_something_to_see() -> None:
    rng = np.random.default_rng(0)
    shares = [random_hole(rng, 64).mean() for _ in range(200)]
    assert min(shares) > 0 and max(shares) < 0.75 and np.std(shares) > 0.03
    hole = np.zeros((9, 9), bool)
    hole[2:7, 2:7] = True
    assert distance_inside(hole)[4, 4] == 3 and distance_inside(hole)[0, 0] == 0


# ------------------------------------------------------------------------------------------------------- what is filled


def test_everything_beyond_the_feather_keeps_its_bits(fill: Fills, still: sitk.Image, mask: sitk.Image) -> None:
    found = fill([still], mask, dilation=2, feather=5)
    before = values(still)[0]
    reach = grown(values(mask)[0] > 0, 2 + 5 + 1e-6)
    label = values(found["filled"])[0]
    assert not (label[~grown(values(mask)[0] > 0, 2 + 5 + 2)] > 0).any()
    for image in [*found["inpainted"], *found["samples"], found["mean"]]:
        assert image.GetPixelID() == still.GetPixelID()
        np.testing.assert_array_equal(values(image)[0][label == 0], before[label == 0])
    spread = values(found["spread"])[0]
    assert not spread[label == 0].any() and not spread[~reach & (label == 0)].any()
    assert (spread[label == 1] > 0).mean() > 0.9
    np.testing.assert_array_equal(label == 1, grown(values(mask)[0] > 0, 2))


def test_results_lie_on_the_frames_grid_and_record_what_was_filled(
    fill: Fills, still: sitk.Image, mask: sitk.Image
) -> None:
    found = fill([still], mask)
    for image in [*found["inpainted"], *found["samples"], found["mean"], found["spread"], found["filled"]]:
        assert image.GetOrigin() == still.GetOrigin() and image.GetSpacing() == still.GetSpacing()
    assert len(found["samples"]) == 3
    assert found["speckle"]["region"] == [1]
    np.testing.assert_array_equal(values(found["inpainted"][0]), values(found["samples"][0]))


def test_same_seed_same_fill(fill: Fills, still: sitk.Image, mask: sitk.Image) -> None:
    first, again, other = (values(fill([still], mask, seed=seed)["samples"][0]) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_fill_does_not_see_what_was_in_the_hole(fill: Fills, still: sitk.Image, mask: sitk.Image) -> None:
    spoilt = values(still)
    spoilt[0, 70:90, 90:120] = 255
    changed = sitk.GetImageFromArray(spoilt.astype(np.uint8))
    changed.CopyInformation(still)
    one, other = (values(fill([image], mask)["inpainted"][0]) for image in (still, changed))
    hole = values(mask) > 0
    np.testing.assert_array_equal(one[hole], other[hole])


def test_cine_keeps_its_length_and_its_frames_outside_the_range(
    fill: Fills, still: sitk.Image, mask: sitk.Image
) -> None:
    cine = [still] * 4
    found = fill(cine, mask, frames="range", first=2, last=3)
    assert len(found["inpainted"]) == 4
    changed = [(values(image) != values(still)).any() for image in found["inpainted"]]
    assert changed == [False, True, True, False]


def test_steady_seed_keeps_the_speckle_of_a_still_cine(fill: Fills, still: sitk.Image, mask: sitk.Image) -> None:
    steady = fill([still] * 3, mask)["inpainted"]
    np.testing.assert_array_equal(values(steady[0]), values(steady[2]))
    free = fill([still] * 3, mask, steady=False)["inpainted"]
    assert (values(free[0]) != values(free[2])).any()


def test_colour_frames_and_flat_frames_are_filled_too(fill: Fills, still: sitk.Image, mask: sitk.Image) -> None:
    colour = sitk.Compose([still] * 3)
    found = fill([colour], mask)["inpainted"][0]
    assert found.GetNumberOfComponentsPerPixel() == 3
    grey = fill([still], mask)["inpainted"][0]
    difference = values(found)[..., 0] - values(grey)
    assert np.abs(difference).max() <= 1
    flat = fill([still[:, :, 0]], mask[:, :, 0])["inpainted"][0]
    np.testing.assert_array_equal(values(flat), values(grey)[0])


def test_smooth_fill_needs_no_network_draws(fill: Fills, still: sitk.Image, mask: sitk.Image) -> None:
    one, other = (values(fill([still], mask, seed=s, result="biharmonic")["inpainted"][0]) for s in (0, 1))
    np.testing.assert_array_equal(one, other)


def test_holes_that_are_far_apart_are_regions_of_their_own() -> None:
    hole = np.zeros((400, 600), bool)
    hole[50:60, 50:60] = hole[55:70, 65:75] = hole[300:320, 500:530] = True
    found = regions(hole, np.ones_like(hole), 4, 2.5)
    assert len(found) == 2
    assert sum(region.hole.sum() for region in found) == hole.sum()
    assert all(min(region.hole.shape) >= 128 for region in found)


@pytest.mark.parametrize(
    ("rows", "columns", "sentence"),
    [
        (slice(0), slice(0), "empty"),
        (slice(0, 8), slice(0, 8), "outside the fan"),
        (slice(10, 150), slice(20, 180), "of the fan"),
    ],
)
def test_masks_that_cannot_be_filled_are_refused(
    fill: Fills, still: sitk.Image, rows: slice, columns: slice, sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        fill([still], painted(still, rows, columns))


def test_colour_doppler_is_refused(fill: Fills, still: sitk.Image, mask: sitk.Image) -> None:
    zero = still * 0
    flow = painted(still, slice(40, 80), slice(60, 140)) * 200
    image = sitk.Compose([sitk.Maximum(still, flow), sitk.Maximum(still, flow * 0), sitk.Maximum(zero, zero)])
    with pytest.raises(BadInput, match="Doppler"):
        fill([image], mask)


def test_a_range_past_the_end_and_another_size_are_refused(fill: Fills, still: sitk.Image, mask: sitk.Image) -> None:
    with pytest.raises(BadInput, match="only 1 frames"):
        fill([still], mask, frames="range", first=1, last=2)
    with pytest.raises(BadInput, match="another size"):
        fill([still[:100]], mask)
    with pytest.raises(BadInput, match="too small"):
        fill([still[:8, :8]], mask[:8, :8])


def test_cancelling_ends_a_cine(weights: Path, still: sitk.Image, mask: sitk.Image) -> None:
    class Impatient(SilentProgress):
        seen = 0.0

        def report(self, stage: str, fraction: float, message: str = "") -> None:
            assert fraction >= self.seen
            self.seen = fraction

        def raise_if_cancelled(self) -> None:
            if self.seen > 0.3:
                raise Cancelled("cancelled")

    progress = Impatient()
    with pytest.raises(Cancelled):
        parameters = INPAINTING.check_parameters({"samples": 1})
        run({"frames": [still] * 10, "mask": mask}, parameters, Context(progress, weights=weights))
    assert 0.3 < progress.seen < 0.6


def test_filler_is_exact_outside_the_fan() -> None:
    torch.manual_seed(0)
    network = HierarchicalInpainter(TINY).eval()
    grey = np.random.default_rng(0).random((140, 140), dtype=np.float32)
    inside = np.zeros(grey.shape, bool)
    inside[:, :70] = True
    hole = np.zeros(grey.shape, bool)
    hole[60:80, 50:70] = True
    filled = Filler(regions(hole, inside, 6, 2.5), network, 2, 1.0, torch.Generator().manual_seed(0)).fill(grey)
    np.testing.assert_array_equal(filled[:, ~inside], np.repeat(grey[None], 2, 0)[:, ~inside])
    assert (filled[:, hole] != grey[hole]).mean() > 0.95


def test_training_writes_weights_that_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still: sitk.Image, mask: sitk.Image
) -> None:
    monkeypatch.setattr(train, "real_frames", lambda split: ())  # what is simulated will do
    monkeypatch.setattr(train, "load_vgg", lambda: VGGFeatures(_random_kernels(), True, "random"))
    path = train.train(tmp_path, tmp_path / "out", "smoke")
    found = run({"frames": [still], "mask": mask}, INPAINTING.check_parameters({"samples": 1}), Context(weights=path))
    assert (values(found["inpainted"][0]) != values(still)).any()


# --------------------------------------------------------------------------------------------------------------- needle


def test_needle_is_found_where_it_was_put() -> None:
    rng = np.random.default_rng(2)
    errors = []
    for _ in range(12):
        scene = bmode.random_scene(rng, 40.0, needle=True, artefacts=False)
        frame = bmode.image_scene(scene, bmode.Machine(gain_db=-22), rng)
        assert scene.needle is not None
        line = find_needle(frame.image, frame.inside)
        tip = np.array(frame.pixel(*scene.needle.tip))
        errors.append(np.hypot(*(np.array(line.tip) - tip)) if line else 256)
    assert np.median(errors) < 8  # of 256 pixels
