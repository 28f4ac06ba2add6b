"""The claims of Wolleb et al., arXiv 2204.02641, that this project repeats, and the figures of the starter weights.

`medgen prove diffusion_edit`; what each check is, README.md tells. Data: formulas (`medgen.diffusion.toys`), and
rendered slices of heads 17 to 20, which need the shared data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from medgen.diffusion.guidance import more_or_less, toward_mask, toward_value
from medgen.diffusion.held_out import HeldOut, available, held_out_slices
from medgen.diffusion.sampling import Guide, decode, encode
from medgen.diffusion.schedule import Schedule
from medgen.diffusion.toys import BrightPixels, OneGaussian
from medgen.diffusion.translation import Setting
from medgen.errors import BadInput
from medgen.imaging.brain_study import Float32, Mask
from medgen.imaging.phantoms import TEST_HEADS
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.diffusion_edit.infer import (
    change_outside,
    guide_of,
    labels_of,
    networks_of,
    seen_lesion,
    translate,
)
from medgen.methods.diffusion_edit.spec import SPEC
from medgen.methods.diffusion_edit.train import SEGMENTER
from medgen.metrics.overlap import dice
from medgen.nets.diffusion_unet import DiffusionUNet, EncoderClassifier, faces_unet, paper_classifier, paper_unet
from medgen.proofs import Mode, check, verdict
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
DEFAULTS = {parameter.name: parameter.default for parameter in SPEC.parameters}
SIZES = (0.0, 0.05, 0.1, 0.2)


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: formulas; normal and full: also edits of rendered slices of four heads, with the starter weights."""
    progress = progress or SilentProgress()
    checks, skipped = [*_parameters(), *_values(), *_masks()], []
    try:
        context = Context(weights=checked_weights(SPEC.id, SPEC.weights[0])[0])
    except BadInput:
        skipped.append("There are no weights yet, so nothing is measured on images.")
        return verdict(SPEC.id, checks, skipped)
    if mode == "quick" or not available():
        skipped.append("Edits of rendered heads are left out by --quick, and need the shared data.")
        return verdict(SPEC.id, checks, skipped)
    progress.report("Painting lesions in", 0.3)
    checks += _insertion(networks_of(context), context, seed)
    progress.report("Changing sizes", 0.6)
    checks += _sizes(networks_of(context), context, seed)
    progress.report("Training with painted lesions", 0.75)
    checks += _as_data(networks_of(context), context, seed)
    return verdict(SPEC.id, checks, skipped)


def _parameters() -> Checks:
    with torch.device("meta"):
        counts = {
            113_681_160: DiffusionUNet(paper_unet(4, 8, classes=2)),
            85_606_150: DiffusionUNet(faces_unet()),
            5_452_833: EncoderClassifier(paper_classifier(1), 256),
            67_061_121: EncoderClassifier(paper_classifier(1, 3, 128, 128), 128),
        }
    return [
        check(f"Parameters away from the paper's {expected:,}",
              abs(sum(p.numel() for p in network.parameters()) - expected), 0, 0, higher=False)
        for expected, network in counts.items()
    ]  # fmt: skip


def _values() -> Checks:
    schedule = Schedule()
    toy, times = OneGaussian(schedule, 0.5), schedule.times(400, 400)
    x = toy.sample(50)
    latent = encode(x, toy.noise, schedule, times, "ddim")

    def steered(guide: Guide) -> torch.Tensor:
        return decode(latent, toy.noise, schedule, times, "ddim", [guide])

    miss, across, rises = 0.0, 0.0, 1.0
    for wanted in (-0.5, 0.5, 1.0):
        misses = []
        for c in (1, 5, 20, 100):
            out = steered(toward_value(toy.regress, wanted, c))
            misses.append(float((out[..., 0] - wanted).abs().mean()))
            across = max(across, float((out - x)[..., 1:].pow(2).mean().sqrt()))
        miss, rises = max(miss, misses[3]), min(rises, misses[0] - misses[1], misses[1] - misses[2])
    shift = float((steered(more_or_less(toy.regress, 1.0, 5.0)) - x)[..., 0].mean())
    return [
        check("Formula: distance to the wanted value, c = 100", miss, 0.05, 0, higher=False),
        check("Formula: the distance falls with c (1, 5, 20), least fall", rises, 0, 0),
        check("Formula: change across", across, 0.005, 0, higher=False),
        check("Formula: shift by 'more' (spec: 0.952)", abs(shift - 0.952), 0.02, 0, higher=False),
    ]


def _masks() -> Checks:
    schedule = Schedule()
    toy, times = BrightPixels(schedule, torch.full((64,), 0.16), 0.2), schedule.times(400, 200)
    x, wanted = toy.sample(100), torch.zeros(100, 1, 1, 64, dtype=torch.float64)
    wanted[..., :16] = 1
    latent = encode(x, toy.noise, schedule, times, "ddim")
    shares = [
        toy.right(decode(latent, toy.noise, schedule, times, "ddim", [toward_mask(toy.segment, wanted, s)]), wanted)
        for s in (1.0, -1.0)
    ]
    return [
        check("Formula: share of the mask that is filled", shares[0], 0.90, 0),
        check("Formula: the same with the sign as printed", shares[1], 0.05, 0, higher=False),
    ]


# -------------------------------------------------------------------------------------------------------------- slices


def _edited(
    slices: HeldOut, edit: dict[str, Any], region: Mask, networks: dict[str, nn.Module], context: Context
) -> Float32:
    chosen = {**DEFAULTS, **edit}
    setting = Setting(chosen["noise_level"], chosen["steps"], chosen["solver"])

    def guides_of(part: slice) -> list[Guide]:
        if chosen["strength"] == 0:
            return []
        return [guide_of(chosen, networks, region[part], slices.brain[part], context.device)]

    found, _ = translate(slices.images, networks, setting, labels_of(chosen["edit"], "own"), guides_of, context)
    return np.clip(found, 0, 1)


def _insertion(networks: dict[str, nn.Module], context: Context, seed: int) -> Checks:
    """A ball of lesion into 20 healthy slices; the judge, which guided nothing, says what it sees."""
    slices = held_out_slices(TEST_HEADS, 0, 2, seed)
    slices = slices.rows(np.arange(len(slices)) < 20)
    region = balls(slices.brain, seed)
    guided = _edited(slices, {"edit": "region"}, region, networks, context)
    free = _edited(slices, {"edit": "region", "strength": 0}, region, networks, context)
    overlap = [
        float(np.mean([dice(s, r) for s, r in zip(seen_lesion(e, networks["judge"], context), region, strict=True)]))
        for e in (guided, free)
    ]
    change = np.abs(guided - slices.images).sum(1)
    outside = float(np.mean(change_outside(change, region, slices.brain, np.arange(len(region)))))
    return [
        check(f"Painted in: Dice of what the judge sees, {len(region)} slices", overlap[0], 0.6, 0),
        check("Painted in: the same without guidance", overlap[1], 0.1, 0, higher=False),
        check("Painted in: change outside over that inside", outside / float(change[region].mean()), 0.25, 0,
              higher=False),
    ]  # fmt: skip


def balls(brains: Mask, seed: int) -> Mask:
    """A disc of 5 to 10 pixels somewhere deep in each brain [n, h, w]."""
    rng, regions = np.random.default_rng(seed), []
    y, x = np.mgrid[: brains.shape[1], : brains.shape[2]]
    for brain in brains:
        centre = rng.permutation(np.argwhere(_deep(brain)))[0]
        regions.append((np.hypot(y - centre[0], x - centre[1]) < rng.uniform(5, 10)) & brain)
    return np.stack(regions)


def _as_data(networks: dict[str, nn.Module], context: Context, seed: int) -> Checks:
    """A segmenter trained on 20 slices of two heads with lesions, and another on these and 100 healthy ones with a
    lesion painted in: same steps, same seed, measured on slices of two other heads."""
    first, last = list(TEST_HEADS)[:2], list(TEST_HEADS)[2:]
    few = held_out_slices(first, 4, 0, seed)
    few = few.rows(np.arange(len(few)) < 20)
    quiet = held_out_slices(first, 0, 17, seed)
    quiet = quiet.rows(np.arange(len(quiet)) < 100)
    region = balls(quiet.brain, seed)
    painted = _edited(quiet, {"edit": "region"}, region, networks, context)
    tested = held_out_slices(last, 33, 0, seed + 1)
    scores = []
    for images, lesions in (
        (few.images, few.lesion),
        (np.concatenate([few.images, painted]), np.concatenate([few.lesion, region])),
    ):
        segmenter = _segmenter(images, lesions, seed)
        seen = seen_lesion(tested.images, segmenter, context) & tested.brain
        scores.append(float(np.mean([dice(s, t) for s, t in zip(seen, tested.lesion, strict=True)])))
    title = f"Painted slices as training data: Dice on {len(tested)} slices over that without them"
    return [check(title, scores[1], scores[0], 0.0)]


def _segmenter(images: Float32, lesions: Mask, seed: int, steps: int = 400) -> nn.Module:
    torch.manual_seed(seed)
    network = DiffusionUNet(SEGMENTER["small"])
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    for number in range(steps):
        rows = np.random.default_rng((seed, number)).integers(0, len(images), 8)
        x, wanted = torch.from_numpy(images[rows]), torch.from_numpy(lesions[rows, None].astype(np.float32))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x, torch.ones(len(x))).float()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits, wanted).backward()
        optimizer.step()
    return network.eval()


def _deep(brain: Mask) -> Mask:
    from scipy import ndimage

    deep = ndimage.binary_erosion(brain, iterations=12)
    return deep if deep.any() else brain


def _sizes(networks: dict[str, nn.Module], context: Context, seed: int) -> Checks:
    """Does the lesion that the judge sees follow the size that was asked for?"""
    slices = held_out_slices(TEST_HEADS, 1, 0, seed)
    wanted, seen = [], []
    brain = slices.brain.reshape(len(slices), -1).sum(1)
    for size in SIZES:
        edited = _edited(slices, {"edit": "size", "size": 100 * size}, slices.lesion, networks, context)
        found = seen_lesion(edited, networks["judge"], context).reshape(len(slices), -1).sum(1) / brain
        wanted += [size] * len(slices)
        seen += found.tolist()
    return [check("Sizes: rank correlation of asked and seen", float(spearmanr(wanted, seen).statistic), 0.9, 0)]
