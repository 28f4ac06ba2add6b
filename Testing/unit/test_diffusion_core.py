"""The diffusion core against formulas: parameter counts, samplers, inversion, guidance, loss. No training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgen.diffusion.guidance import more_or_less, toward_class, toward_mask, toward_value
from medgen.diffusion.loss import bound_term, hybrid_loss
from medgen.diffusion.networks import NoiseNetwork, compile_for_gpu
from medgen.diffusion.sampling import (
    Draws,
    ancestral,
    clamped,
    decode,
    encode,
    model_variance,
    round_trip_error,
    stochastic_ddim,
)
from medgen.diffusion.schedule import Schedule
from medgen.diffusion.toys import BrightPixels, OneGaussian, TwoClasses
from medgen.method import Context, SilentProgress
from medgen.metrics.calibration import expected_calibration_error
from medgen.metrics.ranking import auroc
from medgen.nets.diffusion_unet import (
    DiffusionUNet,
    EncoderClassifier,
    Layout,
    LocalClassifier,
    faces_unet,
    paper_classifier,
    paper_unet,
)

SCHEDULE = Schedule()
TINY = Layout(2, 4, width=8, multipliers=(1, 2), blocks=1, attention=(2,), groups=4, classes=2, patch=2)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (paper_unet(4, 8, classes=2), 113_681_160),
        (paper_unet(5, 2), 113_674_370),
        (paper_unet(4, 1), 113_672_065),
        (faces_unet(), 85_606_150),
    ],
)
def test_the_papers_unets_have_the_papers_parameters(layout: Layout, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(DiffusionUNet(layout)) == expected


@pytest.mark.parametrize(
    ("outputs", "channels", "width", "side", "expected"),
    [(2, 4, 32, 256, 5_452_962), (1, 4, 32, 256, 5_452_833), (1, 3, 128, 128, 67_061_121)],
)
def test_the_papers_classifiers_have_the_papers_parameters(
    outputs: int, channels: int, width: int, side: int, expected: int
) -> None:
    with torch.device("meta"):
        assert parameters(EncoderClassifier(paper_classifier(outputs, channels, width, side), side)) == expected


def test_networks_give_what_they_promise_and_start_from_nought() -> None:
    torch.manual_seed(0)
    network, x = DiffusionUNet(TINY), torch.randn(3, 2, 16, 8)
    out = network(x, torch.tensor([1, 500, 1000]), torch.tensor([0, 1, 1]))
    assert out.shape == (3, 4, 16, 8)
    assert not out.any()  # the last convolution is zero at first
    with pytest.raises(ValueError, match="label"):
        network(x, torch.tensor([1, 2, 3]))
    layout = Layout(2, 3, 8, (1, 2), 1, (1, 2), 4, 4, scale_shift=True, block_resampling=True)
    assert EncoderClassifier(layout, 16)(torch.randn(3, 2, 16, 16), torch.ones(3)).shape == (3, 3)
    assert Layout.from_json(layout.to_json()) == layout


def test_schedule_is_the_linear_one() -> None:
    assert SCHEDULE.alpha_bar[0] == 1
    assert SCHEDULE.alpha_bar[1] == pytest.approx(1 - 1e-4)
    assert SCHEDULE.alpha_bar[1000] == pytest.approx(4.0358e-5, rel=1e-3)
    assert SCHEDULE.times(500, 4) == [0, 125, 250, 375, 500]
    closer = SCHEDULE.times(200, 25, 1.5)
    assert closer[:3] == [0, 2, 5] and closer[-1] == 200 and (np.diff(np.diff(closer)) >= -1).all()
    assert SCHEDULE.times(200, 200, 1.5) == list(range(201))  # no level twice
    for top, steps in ((500, 0), (10, 11), (1001, 5)):
        with pytest.raises(ValueError, match="not possible"):
            SCHEDULE.times(top, steps)


def test_chances_become_the_noise_of_independent_pixels() -> None:
    """A network that knows nothing but each pixel's prior gives the formula's noise: Bayes adds what the pixel says."""
    chance = torch.linspace(0.02, 0.98, 64)
    toy = BrightPixels(SCHEDULE, chance, 0.0)

    class Prior(torch.nn.Module):
        layout = Layout(1, 1, predicts="chance")

        def forward(self, x: torch.Tensor, t: torch.Tensor, label: None) -> torch.Tensor:
            return toy.prior.expand(x.shape)

    network = NoiseNetwork(Prior())  # type: ignore[arg-type]
    for level in (1, 100, 500, 1000):
        x = SCHEDULE.signal(level) * toy.sample(20) + SCHEDULE.sigma(level) * torch.randn(20, 1, 1, 64).double()
        assert torch.allclose(network(x, level), toy.noise(x, level), atol=1e-5)


# ----------------------------------------------------------------------------------- encoding, decoding, class guidance


def trip(solver: str, step: int) -> float:
    toy = TwoClasses(SCHEDULE)
    x, times = toy.sample(200, 1), SCHEDULE.times(500, 500 // step)
    back = decode(encode(x, toy.noise, SCHEDULE, times, solver), toy.noise, SCHEDULE, times, solver)
    return round_trip_error(x, back)


def test_inversion_error_grows_with_the_step_as_specified() -> None:
    errors = [trip("ddim", step) for step in (1, 5, 10, 25)]
    assert all(error <= bar for error, bar in zip(errors, (0.012, 0.06, 0.11, 0.25), strict=True))
    assert errors == sorted(errors)


def test_second_order_returns_closer_at_the_same_number_of_evaluations() -> None:
    for step in (5, 10, 25):
        assert trip("dpm2", step) < 0.7 * trip("ddim", step)


def test_class_guidance_crosses_over_and_leaves_the_rest() -> None:
    toy, times = TwoClasses(SCHEDULE), SCHEDULE.times(500, 500)
    x = toy.sample(100, 1)
    latent = encode(x, toy.noise, SCHEDULE, times, "ddim")
    plain = decode(latent, toy.noise, SCHEDULE, times, "ddim")
    changed = decode(latent, toy.noise, SCHEDULE, times, "ddim", [toward_class(toy.classify, 0, 3.0)])
    assert (plain[..., 0] > 0).all()
    assert (changed[..., 0] < 0).all()
    assert changed[..., 0].mean() == pytest.approx(-1.02, abs=0.05)
    across = (changed - x)[..., 1:].pow(2).mean().sqrt()
    # the ablation: noise at random, then ancestral sampling with the same guidance
    noisy = SCHEDULE.add_noise(x, Draws([(0, i) for i in range(100)]).like(x), torch.full((100,), 500))
    draws = Draws([(1, i) for i in range(100)])
    guides = [toward_class(toy.classify, 0, 3.0)]
    ablation = ancestral(noisy, lambda y, t: (toy.noise(y, t), None), SCHEDULE, times, draws, guides)
    assert (ablation[..., 0] < 0).all()
    assert (ablation - x)[..., 1:].pow(2).mean().sqrt() / across >= 50


def test_a_healthy_input_moves_a_little_under_guidance() -> None:
    """Guidance has no fixed point: the shift is reported, not hidden."""
    toy, times = TwoClasses(SCHEDULE), SCHEDULE.times(500, 100)
    x = toy.sample(100, 0)
    latent = encode(x, toy.noise, SCHEDULE, times, "dpm2")
    moved = decode(latent, toy.noise, SCHEDULE, times, "dpm2", [toward_class(toy.classify, 0, 3.0)])
    assert (moved - x)[..., 0].mean() == pytest.approx(-0.15, abs=0.05)


def test_clamping_breaks_inversion() -> None:
    toy, times = TwoClasses(SCHEDULE), SCHEDULE.times(500, 100)
    x = toy.sample(100, 1)
    noise = clamped(toy.noise, SCHEDULE, -0.5, 0.5)
    back = decode(encode(x, noise, SCHEDULE, times, "ddim"), noise, SCHEDULE, times, "ddim")
    assert round_trip_error(x, back) > 3 * trip("ddim", 5)


# ------------------------------------------------------------------------------------------- value and mask guidance


def test_value_guidance_reaches_the_value() -> None:
    toy, times = OneGaussian(SCHEDULE, 0.5), SCHEDULE.times(400, 400)
    x = toy.sample(50)
    latent = encode(x, toy.noise, SCHEDULE, times, "ddim")
    for wanted, c100, c5 in ((-0.5, -0.522, -0.354), (0.5, 0.522, 0.323), (1.0, 1.044, 0.662)):
        misses = []
        for c in (1, 5, 20, 100):
            guide = toward_value(toy.regress, wanted, c)
            out = decode(latent, toy.noise, SCHEDULE, times, "ddim", [guide])
            misses.append(float((out[..., 0] - wanted).abs().mean()))
            assert (out - x)[..., 1:].pow(2).mean().sqrt() <= 0.005
            expected = {5: c5, 100: c100}.get(c)
            assert expected is None or out[..., 0].mean() == pytest.approx(expected, abs=0.06)
        assert misses[3] <= 0.05
        assert misses[0] > misses[1] > misses[2]


def test_more_and_less_shift_both_ways() -> None:
    toy, times = OneGaussian(SCHEDULE, 0.5), SCHEDULE.times(400, 400)
    x = toy.sample(50)
    latent = encode(x, toy.noise, SCHEDULE, times, "ddim")
    for sign in (1.0, -1.0):
        out = decode(latent, toy.noise, SCHEDULE, times, "ddim", [more_or_less(toy.regress, sign, 5.0)])
        assert (out - x)[..., 0].mean() == pytest.approx(0.952 * sign, abs=0.02)


def test_mask_guidance_goes_toward_the_mask_and_the_printed_sign_away_from_it() -> None:
    toy, times = BrightPixels(SCHEDULE, torch.full((64,), 0.16), 0.2), SCHEDULE.times(400, 200)
    x = toy.sample(100)
    wanted = torch.zeros(100, 1, 1, 64, dtype=torch.float64)
    wanted[..., :16] = 1
    latent = encode(x, toy.noise, SCHEDULE, times, "ddim")

    def share(scale: float) -> float:
        guide = toward_mask(toy.segment, wanted, scale)
        return toy.right(decode(latent, toy.noise, SCHEDULE, times, "ddim", [guide]), wanted)

    assert toy.right(x, wanted) == pytest.approx(0.16, abs=0.04)
    assert share(1.0) >= 0.9
    assert share(-1.0) <= 0.05


def test_normalised_mask_guidance_has_unit_size() -> None:
    toy = BrightPixels(SCHEDULE, torch.full((64,), 0.3), 0.2)
    x, wanted = toy.sample(3), torch.ones(3, 1, 1, 64, dtype=torch.float64)
    gradient = toward_mask(toy.segment, wanted, 2.0, normalise=True)(x, 100)
    assert torch.allclose(gradient.pow(2).mean(dim=(1, 2, 3)).sqrt(), torch.full((3,), 2.0, dtype=torch.float64))


# -------------------------------------------------------------------------------------------------------- drawn samples

CHANCES = (0.0, 0.1, 0.3, 0.5, 0.9, 1.0)


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 100), ("ddpm", 50), ("ddim", 100), ("dpm2", 50)])
def test_masks_are_drawn_with_their_probabilities(sampler: str, steps: int) -> None:
    chance = torch.tensor(CHANCES).repeat_interleave(11)[:64]
    toy, times = BrightPixels(SCHEDULE, chance, 0.0), SCHEDULE.times(1000, steps)
    draws = Draws([(steps, i) for i in range(2000)])
    x = draws.like(torch.empty(2000, 1, 1, 64, dtype=torch.float64))
    if sampler == "ddpm":
        out = ancestral(x, lambda y, t: (toy.noise(y, t), None), SCHEDULE, times, draws)
    else:
        out = decode(x, toy.noise, SCHEDULE, times, sampler)
    for value in CHANCES:
        drawn = out[:, 0, 0, chance == torch.tensor(value)]
        assert abs(drawn.mean() - value) < 0.03
        assert abs(drawn.var() - value * (1 - value)) < 0.03


def test_a_draw_does_not_depend_on_its_batch() -> None:
    x = torch.empty(2, 1, 4, 4)
    both, alone = Draws([(5, 0), (5, 1)]).like(x), Draws([(5, 1)]).like(x[:1])
    assert torch.equal(both[1:], alone)
    assert not torch.equal(both[0], both[1])


def test_the_variance_lies_between_its_bounds() -> None:
    low, high = (model_variance(0.02, 0.01, torch.tensor(v)) for v in (0.0, 1.0))
    assert low == pytest.approx(0.01)
    assert high == pytest.approx(0.02)
    assert model_variance(0.02, 0.01, None) == 0.01


# --------------------------------------------------------------------------------------------------------------- loss


def test_bound_is_nought_for_the_posterior_and_trains_the_variance_alone() -> None:
    torch.manual_seed(0)
    x0, noise = torch.rand(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    t = torch.tensor([2, 100, 500, 1000])
    xt = SCHEDULE.add_noise(x0, noise, t)
    place = torch.full_like(x0, -1.0)  # the posterior's own variance
    assert bound_term(noise, place, x0, xt, t, SCHEDULE, 1 / 255).abs().max() < 1e-4
    assert (bound_term(noise + 0.5, place, x0, xt, t, SCHEDULE, 1 / 255) > 0).all()

    output = torch.cat([noise + 0.1, place], dim=1).requires_grad_(True)
    loss = hybrid_loss(output, x0, xt, noise, t, SCHEDULE)
    loss.sum().backward()
    assert output.grad is not None
    # the error of the noise is 0.1 everywhere: 2 * 0.1 / 64 is the whole gradient of its channel
    assert torch.allclose(output.grad[:, 0], torch.full((4, 8, 8), 0.2 / 64), atol=1e-6)
    assert output.grad[:, 1].abs().min() > 0


def test_last_level_is_a_likelihood_of_grey_levels() -> None:
    x0 = torch.full((1, 1, 4, 4), 0.5)
    t, noise = torch.tensor([1]), torch.zeros(1, 1, 4, 4)
    xt = SCHEDULE.add_noise(x0, noise, t)
    good = bound_term(noise, torch.zeros_like(x0), x0, xt, t, SCHEDULE, 1 / 255)
    bad = bound_term(noise + 3, torch.zeros_like(x0), x0, xt, t, SCHEDULE, 1 / 255)
    assert 0 < good < bad


def test_auroc_counts_pairs() -> None:
    scores, inside = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    assert auroc(scores, inside) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert auroc(-scores, inside) == pytest.approx(1 - auroc(scores, inside))
    assert np.isnan(auroc(scores, np.zeros(4, bool)))


def test_ddim_with_all_its_randomness_is_ddpm_and_with_none_is_ddim() -> None:
    toy, times = BrightPixels(SCHEDULE, torch.full((64,), 0.3), 0.2), SCHEDULE.times(1000, 50)
    x = Draws([(i,) for i in range(20)]).like(torch.empty(20, 1, 1, 64, dtype=torch.float64))

    def drawn(eta: float) -> torch.Tensor:
        return stochastic_ddim(x, toy.noise, SCHEDULE, times, Draws([(7, i) for i in range(20)]), eta)

    ddpm = ancestral(x, lambda y, t: (toy.noise(y, t), None), SCHEDULE, times, Draws([(7, i) for i in range(20)]))
    assert torch.allclose(drawn(1.0), ddpm, atol=1e-9)
    assert torch.allclose(drawn(0.0), decode(x, toy.noise, SCHEDULE, times, "ddim"), atol=1e-9)
    assert not torch.allclose(drawn(0.5), drawn(0.0), atol=0.05)


def test_a_local_classifier_says_healthy_only_where_every_place_does() -> None:
    torch.manual_seed(0)
    network = LocalClassifier(Layout(1, 1, width=8, multipliers=(1, 2), blocks=1, attention=(), groups=4, patch=2))
    x, t = torch.rand(2, 1, 32, 32), torch.tensor([5, 5])
    torch.nn.init.normal_(network.last.weight, std=1.0)
    chance = network.evidence(x, t).sigmoid().flatten(1)
    healthy = torch.softmax(network(x, t), dim=1)[:, 0]
    assert torch.allclose(healthy, (1 - chance).prod(1), atol=1e-5)
    # the pull toward healthy stays where the evidence is
    x = x.requires_grad_(True)
    network.evidence(x, t)[0, 0, 2, 2].backward()
    assert x.grad is not None
    far, near = x.grad[0, 0, 24:, 24:].abs().max(), x.grad[0, 0, 4:16, 4:16].abs().max()
    assert near > 5 * far  # which only the group norms' statistics reach


def test_calibration_error_counts_what_is_claimed_too_much() -> None:
    truth = np.arange(100) < 30
    assert expected_calibration_error(np.full(100, 0.3), truth) == pytest.approx(0.0, abs=1e-9)
    assert expected_calibration_error(np.full(100, 0.9), truth) == pytest.approx(0.6)
    assert expected_calibration_error(np.where(truth, 1.0, 0.0), truth) == 0.0


def test_a_network_is_compiled_for_a_gpu_and_a_cpu_says_that_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    network, told = DiffusionUNet(TINY), list[str]()
    progress = SilentProgress()
    monkeypatch.setattr(progress, "notice", told.append)
    compile_for_gpu(network, Context(progress, "cpu"))
    assert told == ["Networks are compiled for a GPU only; this ran as it is."]
    x, level = torch.randn(2, TINY.channels_in, 16, 16), torch.tensor([3, 40])
    label = torch.tensor([0, 1])
    expected = network(x, level, label)
    whole = torch.compile(network, backend="eager", fullgraph=True, dynamic=True)  # no place that stops the compiler
    assert torch.equal(whole(x, level, label), expected)
