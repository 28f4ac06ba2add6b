"""The claims of Wolleb et al., MIDL 2022, that this project repeats, and the figures of the starter weights.

`medgen prove diffusion_segmentation`; what each check is, README.md tells. Data: formulas, generated discs, and
rendered slices of heads 17 to 20, which need the shared data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from medgen.diffusion.held_out import HeldOut, available, held_out_slices
from medgen.diffusion.networks import load_networks
from medgen.diffusion.real_cases import ms_cases, tumour_cases
from medgen.diffusion.sampling import Draws, ancestral
from medgen.diffusion.schedule import Schedule
from medgen.diffusion.toys import BrightPixels
from medgen.errors import BadInput
from medgen.imaging.brain_study import BRAIN_SEQUENCES, Float32, Mask, brain_study
from medgen.imaging.geometry import canonical, to_array
from medgen.imaging.phantoms import TEST_HEADS, VALIDATION_HEADS
from medgen.imaging.resampling import resample_labels
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.diffusion_segmentation.infer import draw_masks, network_of
from medgen.methods.diffusion_segmentation.phantom import draw_discs, draw_many, plain_logits, train_pair
from medgen.methods.diffusion_segmentation.spec import SPEC
from medgen.methods.diffusion_segmentation.train import PLAIN_WEIGHTS
from medgen.metrics.calibration import expected_calibration_error
from medgen.metrics.overlap import dice
from medgen.nets.diffusion_unet import DiffusionUNet, paper_unet
from medgen.proofs import Mode, check, verdict
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
STEPS, MANY_STEPS = SPEC.parameter("steps").default, 50
TRAINING = {"normal": 800, "full": 3000}


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: formulas and a few slices; normal: also networks trained on discs, 800 steps; full: 3000 steps."""
    progress = progress or SilentProgress()
    skipped: list[str] = []
    checks = [*_parameters(), *_bernoulli()]
    if mode == "quick":
        skipped.append("The disc phantoms, which train networks, are left out by --quick.")
    else:
        progress.report("Two raters", 0.1)
        checks += two_raters(TRAINING[mode], seed)
        progress.report("Ensembles", 0.4)
        checks += ensembles(TRAINING[mode], seed)
    progress.report("Rendered heads", 0.7)
    checks += _rendered(mode, seed, skipped)
    return verdict(SPEC.id, checks, skipped)


def _parameters() -> Checks:
    checks = []
    with torch.device("meta"):
        for expected, layout in ((113_674_370, paper_unet(5, 2)), (113_681_160, paper_unet(4, 8, classes=2))):
            away = abs(sum(p.numel() for p in DiffusionUNet(layout).parameters()) - expected)
            checks.append(check(f"Parameters away from {expected:,}", away, 0, 0, higher=False))
    return checks


def _bernoulli() -> Checks:
    """2,000 draws of pixels with known chances."""
    chances = (0.0, 0.1, 0.3, 0.5, 0.9, 1.0)
    chance = torch.tensor(chances).repeat_interleave(11)[:64]
    schedule = Schedule()
    toy, checks = BrightPixels(schedule, chance, 0.0), []
    for steps in (100, 50):
        draws = Draws([(steps, i) for i in range(2000)])
        x = draws.like(torch.empty(2000, 1, 1, 64, dtype=torch.float64))
        out = ancestral(x, lambda y, t: (toy.noise(y, t), None), schedule, schedule.times(1000, steps), draws)[:, 0, 0]
        worst = 0.0
        for value in chances:
            drawn = out[:, chance == torch.tensor(value)]
            worst = max(worst, abs(float(drawn.mean()) - value), abs(float(drawn.var()) - value * (1 - value)))
        checks.append(check(f"Formula: error of mean and variance, {steps} steps", worst, 0.03, 0, higher=False))
    return checks


def two_raters(steps: int, seed: int) -> Checks:
    """Do the draws disagree where, and as, the raters do?"""
    diffusion, plain = train_pair(steps, seed, raters=2, contrast=1.0)
    discs = draw_discs(24, np.random.default_rng((seed, 10**6)), 2)
    draws = draw_many(diffusion, discs.image, 20, 50, seed)
    variance, votes = draws.var(0), (draws > 0.5).float()
    elsewhere = torch.maximum(variance[discs.core].mean(), variance[discs.background].mean())
    filled = _rim_share(votes, discs.rim)
    chance = torch.sigmoid(plain_logits(plain, discs.image)).detach()
    generator = torch.Generator().manual_seed(seed)
    pixelwise = (torch.rand((20, *chance.shape), generator=generator) < chance).float()
    share = float(votes.mean(0)[discs.rim].mean())
    return [
        check("Two raters: variance in the rim over elsewhere", float(variance[discs.rim].mean() / elsewhere), 5, 0),
        check("Two raters: votes in the rim away from 0.5", abs(share - 0.5), 0.15, 0, higher=False),
        check("Two raters: share of draws that side with one rater", _coherent(filled), 0.70, 0),
        check("Two raters: the same, pixels drawn by a plain U-Net", _coherent(_rim_share(pixelwise, discs.rim)), 0.1,
              0, higher=False),
    ]  # fmt: skip


def _rim_share(masks: torch.Tensor, rim: torch.Tensor) -> torch.Tensor:
    """[draws, images]: how much of the rim each mask holds."""
    inside = rim.float()
    return (masks * inside).sum((2, 3, 4)) / inside.sum((1, 2, 3))


def _coherent(filled: torch.Tensor) -> float:
    return float(((filled < 0.2) | (filled > 0.8)).float().mean())


def ensembles(steps: int, seed: int) -> Checks:
    """Faint discs with one rater: is the mean of draws better than one, and as good as a plain U-Net?"""
    diffusion, plain = train_pair(steps, seed, raters=1, contrast=0.4)
    discs = draw_discs(40, np.random.default_rng((seed, 10**6)), 1, 0.4)
    draws = draw_many(diffusion, discs.image, 20, 20, seed).numpy()
    truth = discs.label.numpy()
    single = np.array([[dice(draw[i] > 0.5, truth[i]) for i in range(40)] for draw in draws[:5]]).mean(0)

    def of_mean(count: int) -> np.ndarray:
        mean = draws[:count].mean(0)
        return np.array([dice(mean[i] > 0.5, truth[i]) for i in range(40)])

    five, twenty = of_mean(5), of_mean(20)
    logits = plain_logits(plain, discs.image).detach().numpy()
    rival = float(np.mean([dice(logits[i] > 0, truth[i]) for i in range(40)]))
    return [
        check("Faint discs: share of images where five draws beat one", float((five > single).mean()), 0.80, 0),
        check("Faint discs: gain from 1 to 5 draws over that from 5 to 20", float((five - single).mean()),
              float((twenty - five).mean()), 0),
        check("Faint discs: Dice of five draws against a plain U-Net", float(five.mean()), rival, -0.03),
    ]  # fmt: skip


def _rendered(mode: Mode, seed: int, skipped: list[str]) -> Checks:
    try:
        context = Context(weights=checked_weights(SPEC.id, SPEC.weights[0])[0], seed=seed)
        plain = load_networks(checked_weights(SPEC.id, PLAIN_WEIGHTS)[0], "cpu")["plain"]
    except BadInput:
        skipped.append("There are no weights yet, so nothing is measured on rendered heads.")
        return []
    if not available():
        skipped.append("The rendered heads need the shared data, which is not on this machine.")
        return []
    quick = mode == "quick"
    slices = held_out_slices([TEST_HEADS[0]] if quick else TEST_HEADS, 1 if quick else 4, 0, seed)
    checks = _against_plain(slices, plain, context)
    if quick:
        skipped.append("Fast sampling and scans are left out by --quick.")
        return checks
    return [*checks, *_fast(context, seed), *_real(plain, context)]


def _against_plain(slices: HeldOut, plain: nn.Module, context: Context) -> Checks:
    draws = _five(slices, STEPS, context)
    single = float(np.mean([_mean_dice(draw > 0.5, slices) for draw in draws]))
    mean = draws.mean(0)
    ensemble = _mean_dice(mean > 0.5, slices)
    wrong = (mean > 0.5) != slices.lesion
    variance, inside = draws.var(0), slices.brain
    votes = (draws > 0.5).mean(0)
    claims = [expected_calibration_error(chance[inside], slices.lesion[inside]) for chance in (votes, draws[0] > 0.5)]
    return [
        check(f"Rendered heads: Dice of five draws over one, {len(slices)} slices", ensemble, single, 0),
        check("Rendered heads: Dice of five draws against a plain U-Net", ensemble,
              _mean_dice(plain_mask(slices.images, plain) & inside, slices), -0.03),
        check("Rendered heads: variance where the mask is wrong over where it is right",
              float(variance[wrong & inside].mean()), float(variance[~wrong & inside].mean()), 0),
        check("Rendered heads: calibration error of the votes, against one draw's", claims[0], claims[1], 0,
              higher=False),
    ]  # fmt: skip


def _five(slices: HeldOut, steps: int, context: Context) -> Float32:
    """[5, n, h, w]: draws in the brain."""
    return draw_masks(slices.images, network_of(context), 5, "dpm2", steps, context) * slices.brain


def _mean_dice(masks: Mask, slices: HeldOut) -> float:
    return float(np.mean([dice(mask, truth) for mask, truth in zip(masks, slices.lesion, strict=True)]))


@torch.no_grad()
def plain_mask(images: Float32, plain: nn.Module, batch: int = 16) -> Mask:
    """[n, h, w]: what the plain U-Net says."""
    parts = [torch.from_numpy(images[start : start + batch]) for start in range(0, len(images), batch)]
    return np.concatenate([(plain(part, torch.ones(len(part))) > 0)[:, 0].numpy() for part in parts])


def _fast(context: Context, seed: int) -> Checks:
    """Heads 15 and 16: the default number of steps against many more."""
    slices = held_out_slices(VALIDATION_HEADS, 2, 0, seed)
    few, many = (_mean_dice(_five(slices, steps, context).mean(0) > 0.5, slices) for steps in (STEPS, MANY_STEPS))
    return [check(f"Fast sampling: Dice of {STEPS} steps against {MANY_STEPS}, {len(slices)} slices", few, many, -0.01)]


def _real(plain: nn.Module, context: Context) -> Checks:
    """Whole scans with multiple sclerosis and a tumour, against the plain U-Net and the brightest 3 % of a sequence."""
    checks = []
    for kind, case in [*(("MS", c) for c in ms_cases()), *(("tumour", c) for c in tumour_cases())]:
        study = brain_study(case.images, case.brain)
        lesion = (to_array(resample_labels(canonical(case.lesion)[0], study.grid)) != 0) & study.brain
        slices = HeldOut(study.slices, lesion, study.brain, np.ones(len(lesion), int))
        found = _five(slices, STEPS, context).mean(0) > 0.5
        channel = next(c for c in ("FLAIR", "T1c") if c in case.images)
        values = study.slices[:, BRAIN_SEQUENCES.index(channel)]
        bright = (values >= np.percentile(values[study.brain], 97)) & study.brain
        rival = plain_mask(study.slices, plain) & study.brain
        overlap, baseline, other = (dice(mask, lesion) for mask in (found, rival, bright))
        millilitres = lesion.sum() * np.prod(study.grid.spacing_mm) / 1000
        title = f"Real {kind}, {case.name}, {millilitres:.1f} ml"
        checks.append(check(f"{title}: Dice against a plain U-Net", overlap, baseline, -0.03))
        checks.append(check(f"{title}: Dice over the brightest 3 % of {channel}", overlap, other, 0))
    return checks
