"""The claims of Wolleb et al., MICCAI 2022, that this project repeats, and the figures of the starter weights.

`medgen prove diffusion_anomaly`; what each check is, README.md tells. Data: formulas (`medgen.diffusion.toys`), and
rendered slices of heads 17 to 20, which need the shared data.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import nn

from medgen.diffusion.guidance import toward_class
from medgen.diffusion.held_out import HeldOut, available, held_out_slices
from medgen.diffusion.networks import NoiseNetwork
from medgen.diffusion.real_cases import ms_cases, tumour_cases
from medgen.diffusion.sampling import Draws, ancestral, decode, encode, round_trip_error
from medgen.diffusion.schedule import Schedule
from medgen.diffusion.toys import TwoClasses
from medgen.diffusion.training import CLEAR_LESION
from medgen.diffusion.translation import Setting
from medgen.errors import BadInput
from medgen.imaging.brain_study import BRAIN_SEQUENCES, SIDE, Float32, brain_study
from medgen.imaging.geometry import canonical, to_array
from medgen.imaging.phantoms import TEST_HEADS
from medgen.imaging.resampling import resample_labels
from medgen.imaging.xray_set import load_xrays
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.diffusion_anomaly.infer import (
    HEALTHY,
    Redrawing,
    anomaly_map,
    at_random,
    equalised,
    guides_of,
    networks_of,
    probability_diseased,
    shrunk,
    translated,
)
from medgen.methods.diffusion_anomaly.spec import SPEC, XRAY
from medgen.metrics.overlap import dice
from medgen.metrics.ranking import auroc
from medgen.nets.diffusion_unet import DiffusionUNet, EncoderClassifier, paper_classifier, paper_unet
from medgen.proofs import Mode, check, verdict
from medgen.shared_data import shared_folder
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
SCALES = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
GUIDANCE, LEVEL, STEPS = (SPEC.parameter(name).default for name in ("guidance", "noise_level", "steps"))
RIM, SMOOTHING, PERCENTILE = (SPEC.parameter(name).default for name in ("rim", "smoothing", "percentile"))


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: formulas and a few slices of one head; normal: all checks on four heads; full: more slices."""
    progress = progress or SilentProgress()
    skipped: list[str] = []
    checks = [*_parameters(), *_inversion(), *_guidance()]
    progress.report("Held-out slices", 0.2)
    try:
        context = Context(weights=checked_weights(SPEC.id, SPEC.weights[0])[0])
    except BadInput:
        skipped.append("There are no weights yet, so nothing is measured on images.")
        return verdict(SPEC.id, checks, skipped)
    if not available():
        skipped.append("The rendered heads need the shared data, which is not on this machine.")
        return verdict(SPEC.id, checks, skipped)
    if mode == "quick":
        slices = held_out_slices([TEST_HEADS[0]], 1, 0, seed)
        skipped.append("Three slices of one head in --quick; no ablation and no sweep.")
    else:
        count = 4 if mode == "normal" else 16
        slices = held_out_slices(TEST_HEADS, count, 2, seed)
    checks += on_slices(slices, networks_of(context), context, mode != "quick", progress)
    if mode != "quick":
        progress.report("Real lesions", 0.9)
        checks += _real(networks_of(context), context)
        checks += _xrays(skipped)
    return verdict(SPEC.id, checks, skipped)


# ------------------------------------------------------------------------------------------------------------ formulas


def _parameters() -> Checks:
    with torch.device("meta"):
        counts = {
            113_681_160: DiffusionUNet(paper_unet(4, 8, classes=2)),
            5_452_962: EncoderClassifier(paper_classifier(2), 256),
        }
    return [
        check(f"Parameters away from the paper's {expected:,}",
              abs(sum(p.numel() for p in network.parameters()) - expected), 0, 0, higher=False)
        for expected, network in counts.items()
    ]  # fmt: skip


def _inversion() -> Checks:
    schedule = Schedule()
    toy, checks = TwoClasses(schedule), []
    x, errors = toy.sample(100, 1), []
    for step, bar in ((1, 0.012), (5, 0.06), (10, 0.11), (25, 0.25)):
        times = schedule.times(500, 500 // step)
        found = {}
        for solver in ("ddim", "dpm2"):
            latent = encode(x, toy.noise, schedule, times, solver)  # type: ignore[arg-type]
            found[solver] = round_trip_error(x, decode(latent, toy.noise, schedule, times, solver))  # type: ignore[arg-type]
        errors.append(found["ddim"])
        checks.append(check(f"Formula: round-trip error, DDIM, step {step}", found["ddim"], bar, 0, higher=False))
        checks.append(
            check(f"Formula: the same, second order, step {step}", found["dpm2"], found["ddim"], 0, higher=False)
        )
    grows = float(np.diff(errors).min())
    return [*checks, check("Formula: DDIM's error grows with the step", grows, 0, 0)]


def _guidance() -> Checks:
    schedule = Schedule()
    toy, times = TwoClasses(schedule), schedule.times(500, 500)
    x, healthy = toy.sample(100, 1), toy.sample(100, 0)
    guides = [toward_class(toy.classify, HEALTHY, 3.0)]

    def redrawn(y: torch.Tensor) -> torch.Tensor:
        latent = encode(y, toy.noise, schedule, times, "ddim")
        return decode(latent, toy.noise, schedule, times, "ddim", guides)

    changed = redrawn(x)
    noisy = schedule.add_noise(x, Draws([(0, i) for i in range(100)]).like(x), torch.full((100,), 500))
    draws = Draws([(1, i) for i in range(100)])
    ablation = ancestral(noisy, lambda y, t: (toy.noise(y, t), None), schedule, times, draws, guides)
    across = [float((y - x)[..., 1:].pow(2).mean().sqrt()) for y in (ablation, changed)]
    shift = float((redrawn(healthy) - healthy)[..., 0].mean())
    return [
        check("Formula: share that crosses to healthy", float((changed[..., 0] < 0).double().mean()), 1, 0),
        check("Formula: change across, DDPM ablation over ours", across[0] / across[1], 50, 0),
        check("Formula: shift of healthy images (spec: -0.15)", abs(shift + 0.15), 0.05, 0, higher=False),
    ]


# -------------------------------------------------------------------------------------------------------------- slices


def on_slices(
    slices: HeldOut, networks: dict[str, nn.Module], context: Context, whole: bool, progress: Progress
) -> Checks:
    """Figures on slices that no training saw. whole: with the ablation, healthy slices and the sweep too."""
    sick = slices.rows(slices.diseased)
    setting = Setting(LEVEL, STEPS)
    change = changes(sick, networks, setting, GUIDANCE, context)
    area = auroc(scaled(change)[sick.brain], sick.lesion[sick.brain])
    saliency = auroc(scaled(saliency_map(sick, networks["classifier"]))[sick.brain], sick.lesion[sick.brain])
    flair = sick.images[:, BRAIN_SEQUENCES.index("FLAIR")]
    threshold = auroc(equalised(flair, sick.brain)[sick.brain], sick.lesion[sick.brain])
    checks = [
        check(f"Pixel AUROC, {len(sick)} slices", area, 0.90, 0),
        check("Pixel AUROC over classifier saliency", area, saliency, 0.10),
        check("Pixel AUROC over equalised FLAIR (for comparison)", area, threshold, 0),
    ]
    if not whole:
        return checks
    progress.report("Ablation", 0.5)
    outside = sick.brain & ~sick.lesion
    random = ablation_map(sick, networks, context)
    ratio = float(change[outside].mean() / random[outside].mean())
    checks.append(check("Change outside the lesion, as a share of the DDPM ablation's", ratio, 0.5, 0, higher=False))
    chance = probability_diseased(slices.images, networks["classifier"], context)
    checks.append(check("Slices told apart by the classifier, AUROC", auroc(chance, slices.diseased), 0.90, 0))
    quiet = slices.rows(slices.healthy)
    if len(quiet):
        calm = changes(quiet, networks, setting, GUIDANCE, context)
        share = float(calm[quiet.brain].mean() / change[sick.brain].mean())
        checks.append(check("Change of healthy slices, as a share of diseased ones'", share, 1, 0, higher=False))
    progress.report("Sweep of the guidance", 0.7)
    return checks + sweep(sick, networks, setting, context)


def changes(
    slices: HeldOut, networks: dict[str, nn.Module], setting: Setting, guidance: float, context: Context
) -> Float32:
    """The method's anomaly map of each slice, [n, h, w]."""
    noise = NoiseNetwork(cast(DiffusionUNet, networks["denoiser"]), label=HEALTHY)
    healthy, _, _ = translated(slices.images, noise, networks["classifier"], setting, guidance, context)
    return anomaly_map(slices.images, healthy, shrunk(slices.brain, RIM), SMOOTHING)


def scaled(maps: Float32) -> Float32:
    """Every slice from 0 to 1."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / np.maximum(high - low, 1e-9)


def saliency_map(slices: HeldOut, classifier: nn.Module) -> Float32:
    """|gradient of log C(healthy)| summed over the sequences, smoothed and inside the same rim as the method's map."""
    (guide,) = guides_of(classifier, 1.0)
    parts = [
        guide(torch.from_numpy(slices.images[row : row + 8]), 1).abs().sum(1).numpy()
        for row in range(0, len(slices), 8)
    ]
    smooth = ndimage.gaussian_filter(np.concatenate(parts), (0, SMOOTHING, SMOOTHING))
    return np.asarray(smooth * shrunk(slices.brain, RIM))


def ablation_map(slices: HeldOut, networks: dict[str, nn.Module], context: Context) -> Float32:
    """Noise at random up to the same level, 50 ancestral steps with the same guidance."""
    noise = NoiseNetwork(cast(DiffusionUNet, networks["denoiser"]), label=HEALTHY)
    guides = guides_of(networks["classifier"], GUIDANCE)
    drawn = at_random(slices.images, noise, guides, LEVEL, 50, context)
    return anomaly_map(slices.images, drawn, shrunk(slices.brain, RIM), SMOOTHING)


def _real(networks: dict[str, nn.Module], context: Context) -> Checks:
    """Scans with multiple sclerosis and a tumour, up to 16 of their slices with lesions, against the brightest voxels
    of the same sequence: which ranks the lesion higher, and Dice of both, the map cut by Otsu."""
    checks = []
    for kind, case in [*(("MS", c) for c in ms_cases()), *(("tumour", c) for c in tumour_cases())]:
        study = brain_study(case.images, case.brain)
        lesion = to_array(resample_labels(canonical(case.lesion)[0], study.grid)) != 0
        rows = np.flatnonzero(lesion.reshape(len(lesion), -1).sum(1) >= CLEAR_LESION)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, 16).astype(int))]
        slices = HeldOut(
            study.slices[rows], lesion[rows] & study.brain[rows], study.brain[rows], np.ones(len(rows), int)
        )
        change = changes(slices, networks, Setting(LEVEL, STEPS), GUIDANCE, context)
        channel = next(c for c in ("FLAIR", "T1c") if c in case.images)
        bright = equalised(study.slices[:, BRAIN_SEQUENCES.index(channel)], study.brain)[rows]
        inside, title = slices.brain, f"Real {kind}, {case.name}, {len(rows)} slices"
        area, rival = (auroc(m[inside], slices.lesion[inside]) for m in (scaled(change), bright))
        cut = float(threshold_otsu(change[inside]))
        masks = change > cut, (bright >= PERCENTILE / 100) & inside
        overlap, other = (dice(mask, slices.lesion) for mask in masks)
        checks.append(check(f"{title}: pixel AUROC over equalised {channel}", area, rival, 0))
        checks.append(check(f"{title}: Dice over the brightest {100 - PERCENTILE:g} % of {channel}", overlap, other, 0))
    return checks


def _xrays(skipped: list[str]) -> Checks:
    """The X-rays of the patients that were held out, with the settings that the method has for them."""
    folder = shared_folder()
    try:
        context = Context(weights=checked_weights(XRAY.id, XRAY.weights[0])[0])
    except BadInput:
        skipped.append("There are no weights for X-rays yet.")
        return []
    if folder is None:
        return []
    known, networks = load_xrays(folder / "cxr_nih", SIDE), networks_of(context)
    images, sick = known.images[known.held_out][:, None], known.diseased[known.held_out] == 1
    chance = probability_diseased(images, networks["classifier"], context)
    redrawn = Redrawing(networks, {p.name: p.default for p in XRAY.parameters}, context)(images)
    change = anomaly_map(images, redrawn, np.ones((len(images), SIDE, SIDE), bool), SMOOTHING).mean((1, 2))
    title = f"X-rays of {len(images)} patients"
    return [
        check(f"{title}: no finding and pneumonia told apart, AUROC", auroc(chance, sick), 0.75, 0),
        check(f"{title}: the same from how much is changed, AUROC", auroc(change, sick), 0.5, 0),
        check(f"{title}: change of those without a finding, as a share of the others'",
              float(change[~sick].mean() / change[sick].mean()), 1, 0, higher=False),
    ]  # fmt: skip


def sweep(slices: HeldOut, networks: dict[str, nn.Module], setting: Setting, context: Context) -> Checks:
    """Dice at each guidance, cut at the average Otsu threshold of the slices, as in the paper."""
    scores = []
    for guidance in SCALES:
        change = changes(slices, networks, setting, guidance, context)
        cut = np.mean([threshold_otsu(c[b]) for c, b in zip(change, slices.brain, strict=True)])
        scores.append(dice(change > cut, slices.lesion))
    turns = int((np.diff(np.sign(np.diff(scores))) != 0).sum())
    shown = ", ".join(f"{s:g}: {d:.3f}" for s, d in zip(SCALES, scores, strict=True))
    return [
        check(f"Dice over guidance turns at most once ({shown})", turns, 1, 0, higher=False),
        check("Dice without guidance is the lowest", scores[0], min(scores), 0, higher=False),
        check("Best Dice over the guidance over that without", max(scores), scores[0], 0.05),
    ]
