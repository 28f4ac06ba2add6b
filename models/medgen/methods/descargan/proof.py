"""The claims of Wolleb et al., MICCAI 2020, that this project repeats, on the paper's synthetic set, and the figures of
the starter weights.

`medgen prove descargan`; what each check is, README.md tells. The set is generated at 64 x 64 pixels, 300 images of
each class; every comparison has the same seed, steps and data. The weights are measured on rendered slices of heads 17
to 20 and on scans with multiple sclerosis, which need the shared data.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from torch import nn

from medgen.diffusion.held_out import HeldOut, available, held_out_slices
from medgen.diffusion.real_cases import ms_cases
from medgen.diffusion.training import CLEAR_LESION
from medgen.errors import BadInput
from medgen.imaging.brain_study import BRAIN_SEQUENCES, brain_study
from medgen.imaging.geometry import canonical, to_array
from medgen.imaging.phantoms import TEST_HEADS
from medgen.imaging.resampling import resample_labels
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.descargan.infer import networks_of, redraw, smoothed
from medgen.methods.descargan.net import Discriminator, Generator
from medgen.methods.descargan.phantom import Pairs, draw_pairs
from medgen.methods.descargan.spec import SPEC
from medgen.methods.descargan.train import DescarganStep, Weights, settle
from medgen.metrics.overlap import dice
from medgen.metrics.ranking import auroc
from medgen.proofs import Mode, check, verdict
from medgen.training.loop import LoopConfig
from medgen.training.loop import train as train_loop
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
SIDE, WIDTH, EACH, BATCH = 64, 16, 300, 10
STEPS = {"normal": 1500, "full": 10_000}
BRIGHTEST = 97.0  # percentile of the brain, the simple rival
Float32 = npt.NDArray[np.float32]


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: the networks' sizes; normal: 1500 steps, without the variants of the generator; full: 10,000, all."""
    progress = progress or SilentProgress()
    checks = _parameters()
    if mode == "quick":
        left_out = ["The synthetic set, on which networks are trained, and the weights are left out by --quick."]
        return verdict(SPEC.id, checks, left_out)
    skipped: list[str] = []
    checks += _starter_weights(seed, skipped)
    rng = np.random.default_rng(seed)
    learnt, tested = draw_pairs(EACH, SIDE, rng), draw_pairs(60, SIDE, rng)
    whole = Weights()
    variants: dict[str, tuple[dict[str, bool], Weights]] = {
        "full": ({}, whole),
        "no identity loss": ({}, replace(whole, identity=0.0)),
    }
    if mode == "full":
        variants |= {"one head": ({"one_head": True}, whole), "top skip": ({"top_skip": True}, whole)}
    else:
        skipped.append("One head, and a skip at full resolution, are compared by --full.")
    found = {}
    for number, (name, (options, weights)) in enumerate(variants.items()):
        progress.report(f"Training: {name}", number / (len(variants) + 1))
        found[name] = scores(trained(learnt, options, weights, STEPS[mode], seed), tested)
    progress.report("Training: autoencoder", 0.9)
    found["autoencoder"] = scores(autoencoder(learnt, STEPS[mode] // 5, seed), tested)
    return verdict(SPEC.id, checks + _claims(found), skipped)


def _parameters() -> Checks:
    with torch.device("meta"):
        counts = {8_528_262: Generator(), 18_170_180: Discriminator()}
    return [
        check(f"Parameters away from the paper's {expected:,}",
              abs(sum(p.numel() for p in network.parameters()) - expected), 0, 0, higher=False)
        for expected, network in counts.items()
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- starter weights


def _starter_weights(seed: int, skipped: list[str]) -> Checks:
    try:
        context = Context(weights=checked_weights(SPEC.id, SPEC.weights[0])[0])
    except BadInput:
        skipped.append("There are no weights yet, so nothing is measured on brains.")
        return []
    if not available():
        skipped.append("The rendered heads need the shared data, which is not on this machine.")
        return []
    return on_brains(held_out_slices(TEST_HEADS, 4, 2, seed), context) + _real(context)


def on_brains(slices: HeldOut, context: Context) -> Checks:
    """Figures on rendered slices that no training saw."""
    change, chance = changes(slices, context)
    sick, calm, inside = slices.diseased, slices.healthy, slices.brain
    truth = slices.lesion[sick][inside[sick]]
    area, bright = (auroc(m[sick][inside[sick]], truth) for m in (change, _flair(slices)))
    cut = float(np.mean([threshold_otsu(c[b]) for c, b in zip(change[sick], inside[sick], strict=True)]))
    rival = inside & (_flair(slices) >= np.percentile(_flair(slices)[inside], BRIGHTEST))
    overlap, other = (dice(mask[sick], slices.lesion[sick]) for mask in (change > cut, rival))
    share = float(change[calm][inside[calm]].mean() / change[sick][inside[sick]].mean())
    title = f"Brains, {int(sick.sum())} slices"
    return [
        check(f"{title}: pixel AUROC over FLAIR's own brightness", area, bright, 0),
        check(f"{title}: Dice over the brightest 3 % of FLAIR", overlap, other, 0),
        check("Brains: slices told apart, AUROC", auroc(chance, sick), 0.90, 0),
        check("Brains: change of healthy slices, as a share of diseased ones'", share, 1 / 3, 0, higher=False),
    ]


def changes(slices: HeldOut, context: Context) -> tuple[Float32, Float32]:
    """The method's map [n, h, w] and P(diseased) [n] of every slice."""
    generator, discriminator, size, _ = networks_of(context)
    x = _flair(slices) * 2 - 1
    drawn, chance = redraw(x, generator, discriminator, size.side, 0, context)
    return smoothed((drawn - x) * slices.brain, SPEC.parameter("smoothing").default) * slices.brain, chance


def _flair(slices: HeldOut) -> Float32:
    return slices.images[:, BRAIN_SEQUENCES.index("FLAIR")]


def _real(context: Context) -> Checks:
    """FLAIR scans with multiple sclerosis, all slices with lesions."""
    checks = []
    for case in ms_cases():
        study = brain_study({"FLAIR": case.images["FLAIR"]}, case.brain)
        lesion = to_array(resample_labels(canonical(case.lesion)[0], study.grid)) != 0
        rows = np.flatnonzero(lesion.reshape(len(lesion), -1).sum(1) >= CLEAR_LESION)
        slices = HeldOut(study.slices[rows], lesion[rows], study.brain[rows], np.ones(len(rows), int))
        change, flair = changes(slices, context)[0], _flair(slices)
        inside, truth = slices.brain, slices.lesion
        bright = (flair >= np.percentile(_flair_inside(study.slices, study.brain), BRIGHTEST)) & inside
        title = f"Real MS, {case.name}, {len(rows)} slices"
        area, rival = (auroc(m[inside], truth[inside]) for m in (change, flair))
        overlap = dice(change > float(threshold_otsu(change[inside])), truth)
        checks.append(check(f"{title}: pixel AUROC over FLAIR's own brightness", area, rival, 0))
        checks.append(check(f"{title}: Dice over the brightest 3 % of FLAIR", overlap, dice(bright, truth), 0))
    return checks


def _flair_inside(slices: Float32, brain: npt.NDArray[np.bool_]) -> Float32:
    return slices[:, BRAIN_SEQUENCES.index("FLAIR")][brain]


# ------------------------------------------------------------------------------------------------------- synthetic set


def trained(learnt: Pairs, options: dict[str, bool], weights: Weights, steps: int, seed: int) -> nn.Module:
    """The generator after so many steps of the discriminator."""
    torch.manual_seed(seed)
    generator = Generator(WIDTH, **options)
    generator.start_at(torch.from_numpy(np.concatenate([learnt.healthy, learnt.diseased])))
    step = DescarganStep(generator, Discriminator(WIDTH // 2, SIDE), 3e-4, weights)
    label = torch.arange(BATCH) % 2

    def sample(number: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, number))
        rows = rng.integers(0, EACH, BATCH)
        # unpaired: the two classes of a batch come from different scenes
        image = np.where((label == 0).numpy()[:, None, None, None], learnt.healthy[rows], learnt.diseased[rows])
        for axis in (2, 3):
            image = np.flip(image, axis) if rng.random() < 0.5 else image
        return {"image": torch.from_numpy(image.copy()), "label": label, "number": number}

    plan = LoopConfig(steps, seed, "cpu", "bf16-mixed", ema_decay=0.995, clip_norm=10.0, checkpoint_every=steps)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train_loop(step, sample, Path(folder), plan)
    averaged = outcome.networks["generator"]
    piles = (learnt.healthy, learnt.diseased)
    settle(averaged, [torch.from_numpy(pile[n : n + BATCH]) for n in range(0, 100, BATCH) for pile in piles])
    return averaged


def autoencoder(learnt: Pairs, steps: int, seed: int) -> nn.Module:
    """Of the generator's size but with a bottleneck and no skips, trained on healthy images alone."""
    torch.manual_seed(seed)
    widths = (1, WIDTH, 2 * WIDTH, 4 * WIDTH)
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()]
    inner = widths[-1] * (SIDE // 8) ** 2
    layers += [nn.Flatten(), nn.Linear(inner, 64), nn.Linear(64, inner)]
    layers += [nn.Unflatten(1, (widths[-1], SIDE // 8, SIDE // 8))]
    for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
        layers += [nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1)]
    network = nn.Sequential(*layers, nn.Tanh())
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for number in range(steps):
        rows = np.random.default_rng((seed, number)).integers(0, EACH, 4 * BATCH)
        image = torch.from_numpy(learnt.healthy[rows])
        optimizer.zero_grad()
        F.mse_loss(network(image), image).backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def scores(network: nn.Module, tested: Pairs) -> dict[str, float]:
    """Against the truth healthy - diseased, cut at the average Otsu threshold of its absolute values."""

    def redrawn(images: Float32) -> Float32:
        x = torch.from_numpy(images)
        return (network(x, 0) if isinstance(network, Generator) else network(x)).numpy()

    truth = np.abs(tested.truth)
    cut = float(np.mean([threshold_otsu(t) for t in truth]))
    difference = redrawn(tested.diseased) - tested.diseased
    quiet = redrawn(tested.healthy) - tested.healthy
    return {
        "dice": float(np.mean([dice(np.abs(d) > cut, t > cut) for d, t in zip(difference, truth, strict=True)])),
        "auroc": auroc(np.abs(difference), truth > cut),
        "mse": float(np.mean((difference + tested.diseased - tested.healthy) ** 2)),
        "quiet": float(np.abs(quiet).mean() / np.abs(difference).mean()),
    }


def _claims(found: dict[str, dict[str, float]]) -> Checks:
    full, bare = found["full"], found["no identity loss"]
    checks = [
        check("Pixel AUROC", full["auroc"], 0.90, 0),
        check("Pixel AUROC over that without identity loss", full["auroc"], bare["auroc"], 0.03),
        check("Error of the redrawn image without identity loss, over the full one's", bare["mse"] / full["mse"], 2, 0),
        check("Dice over an autoencoder of healthy images", full["dice"], found["autoencoder"]["dice"], 0.15),
        check("Change of healthy images, as a share of diseased ones'", full["quiet"], 1 / 3, 0, higher=False),
    ]
    if "one head" in found:
        one, skip = found["one head"], found["top skip"]
        checks.append(check("Pixel AUROC over that with one head", full["auroc"], one["auroc"], 0))
        checks.append(check("Dice over that with a skip at full resolution", full["dice"], skip["dice"], 0))
    return checks
