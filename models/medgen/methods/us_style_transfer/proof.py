"""The claims of Hung and Galeotti 2021 that this project repeats, on the starter weights.

`medgen prove us_style_transfer`; what each check is, README.md tells. Data: real frames of groups that no training saw
(the shared data and the pydicom package), and simulated ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from medgen.method import Progress, SilentProgress
from medgen.methods.us_style_transfer.infer import SHARED, Prepared, prepared_frame, restyle, styles_around
from medgen.methods.us_style_transfer.loss import Distances, kl_to_normal
from medgen.methods.us_style_transfer.net import Kind, Posterior
from medgen.methods.us_style_transfer.proof_segmentation import REAL_LABELLED, augmentation_dice, real_mask_dice
from medgen.methods.us_style_transfer.spec import STYLE_TRANSFER
from medgen.methods.us_style_transfer.style import Styler, edge_correlation
from medgen.methods.us_style_transfer.train import (
    CONFIGS,
    frames_to_learn_from,
    patches,
    style_map_of,
    train_network,
)
from medgen.nets.vgg import gram, load_vgg
from medgen.proofs import Mode, check, verdict
from medgen.shared_data import shared_folder
from medgen.training.ultrasound_frames import UltrasoundFrame, real_frames
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
Picture = npt.NDArray[np.float32]
LONGEST = 192  # of a frame in the first two checks


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: 4 pairs, 6 samples, no segmentation; normal: all; full: also trains the deterministic baseline beside a
    variational network, same seed, steps and data, and segments with both."""
    progress = progress or SilentProgress()
    skipped: list[str] = []
    styler = Styler.load(checked_weights(STYLE_TRANSFER.id, STYLE_TRANSFER.weights[0])[0])
    vgg = load_vgg()
    checks = _kl(seed)
    frames = real_frames("test")
    distances = Distances(vgg, patches(frames, 32, 96, (seed, 3), looks=False))
    progress.report("Style moves, content stays", 0.05)
    checks += _transfer(styler, distances, frames, 4 if mode == "quick" else 20, seed, progress)
    progress.report("Sampled styles", 0.3)
    checks += _spread(styler, distances, frames, 6 if mode == "quick" else 16, seed)
    progress.report("Segmentation", 0.4)
    if mode == "quick":
        skipped.append("Segmentation with restyled data is left out by --quick.")
    else:
        checks += _augmentation({"restyled": styler}, range(seed, seed + 3), progress)
        checks += _real_masks({"restyled": styler}, range(seed, seed + 3), progress, skipped)
    if mode == "full":
        checks += _against_deterministic(seed, progress)
    else:
        skipped.append("The deterministic baseline is trained with --full only.")
    if not vgg.sha256:
        skipped.append("There is no VGG16 file on this machine: distances are of " + vgg.source + ".")
    return verdict(STYLE_TRANSFER.id, checks, skipped)


def _kl(seed: int) -> Checks:
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn((1, 8, 16, 16), generator=generator)
    sigma = torch.rand((1, 8, 16, 16), generator=generator) * 0.9 + 0.05
    true = float(kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).mean())
    ours, printed = (float(kl_to_normal([Posterior(mu, sigma)], as_printed=p)) for p in (False, True))
    return [
        check("KL divergence away from torch.distributions", abs(ours - true), 1e-5, 0, higher=False),
        check("The formula as printed, away from it", abs(printed - true), 1e-5, 0),
    ]


# ----------------------------------------------------------------------------------------------- style moves, spread


def _box(content: Prepared) -> Tensor:
    """What the network saw of a frame, [1, 1, h, w]."""
    height, width = content.size
    return content.values[..., :height, :width]


@torch.no_grad()
def _features(distances: Distances, picture: Tensor) -> list[Tensor]:
    return distances.features(picture)


def pairs_of(frames: Sequence[UltrasoundFrame], count: int, seed: int) -> list[tuple[UltrasoundFrame, UltrasoundFrame]]:
    """Content and style of two groups each, every group as likely."""
    rng = np.random.default_rng((seed, 4))
    groups = sorted({f.group for f in frames})
    found = []
    for _ in range(count):
        a, b = rng.choice(len(groups), 2, replace=False)
        members = [[f for f in frames if f.group == groups[g]] for g in (a, b)]
        content, style = (m[rng.integers(len(m))] for m in members)
        found.append((content, style))
    return found


def _transfer(
    styler: Styler, distances: Distances, frames: Sequence[UltrasoundFrame], count: int, seed: int, progress: Progress
) -> Checks:
    before, after, edges, coarse_edges = [], [], [], []
    for number, (content_frame, style_frame) in enumerate(pairs_of(frames, count, seed)):
        progress.raise_if_cancelled()
        content, style = (prepared_frame(f.grey, f.inside, LONGEST) for f in (content_frame, style_frame))
        vector = styles_around(styler, style, 1, 0.0, torch.Generator())[0]
        made = restyle(styler, content, vector, 1.0, True)
        wanted = [gram(f) for f in _features(distances, _box(style))]
        shown = _box(prepared_frame(made, content_frame.inside, LONGEST))
        before.append(float(distances.style(_features(distances, _box(content)), wanted)))
        after.append(float(distances.style(_features(distances, shown), wanted)))
        edges.append(edge_correlation(content.grey, made, content_frame.inside))
        inside = _box(replace(content, values=content.inside)) > 0.5
        coarse_edges.append(edge_correlation(*(p[0, 0].numpy() for p in (_box(content), shown, inside))))
        progress.report("Style moves, content stays", 0.05 + 0.25 * (number + 1) / count)
    fall = 1 - sum(after) / sum(before)
    return [
        check(f"Style distance falls by, {count} held-out pairs (bar 0.5)", fall, 0.5, 0),
        check("Edge correlation with the content, mean (bar 0.6)", float(np.mean(edges)), 0.6, 0),
        check(f"the same at {LONGEST} pixels, all of it the network's (bar 0.6)", float(np.mean(coarse_edges)), 0.6, 0),
    ]


def _spread(styler: Styler, distances: Distances, frames: Sequence[UltrasoundFrame], count: int, seed: int) -> Checks:
    """One frame in styles drawn for each channel, drawn as independent noise, and of one image without drawing (what a
    deterministic network gives)."""
    content_frame, style_frame = pairs_of(frames, 1, seed + 1)[0]
    content, style = (prepared_frame(f.grey, f.inside, LONGEST) for f in (content_frame, style_frame))

    def pictures(make: Callable[[torch.Generator], Tensor]) -> tuple[float, float]:
        made = [
            restyle(styler, content, make(torch.Generator().manual_seed(seed + n)), 1.0, True) for n in range(count)
        ]
        shown = [_box(prepared_frame(m, content_frame.inside, LONGEST)) for m in made]
        grams = [[gram(f) for f in _features(distances, picture)] for picture in shown]
        apart = [
            float(
                torch.stack(
                    [(a - b).square().mean().sqrt() / u for a, b, u in zip(g, h, distances.style_units, strict=True)]
                ).mean()
            )
            for i, g in enumerate(grams)
            for h in grams[:i]
        ]
        return float(np.std(np.stack(made), axis=0)[content_frame.inside].mean()), float(np.mean(apart))

    channels = pictures(lambda g: styler.drawn(g, 1.0, SHARED["channels"]))
    noise = pictures(lambda g: styler.drawn(g, 1.0, SHARED["noise"]))
    fixed = pictures(lambda g: styles_around(styler, style, 1, 0.0, g)[0])
    return [
        check(f"{count} drawn styles: standard deviation of a pixel (bar 0.02)", channels[0], 0.02, 0),
        check("Style spread, drawn, against 10 x deterministic", channels[1], 10 * fixed[1], 1e-6),
        check("Style spread, drawn for each channel, against 5 x independent noise", channels[1], 5 * noise[1], 0),
    ]


# --------------------------------------------------------------------------------------------------------- segmentation


def _augmentation(stylers: dict[str, Styler], seeds: range, progress: Progress) -> Checks:
    found = []
    for number, seed in enumerate(seeds):
        progress.raise_if_cancelled()
        found.append(augmentation_dice(stylers, seed))
        progress.report("Segmentation", 0.4 + 0.3 * (number + 1) / len(seeds))
    mean = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
    words = f"Dice on look B, {len(found)} seeds: 10 of B and 100 of A"
    return [check(f"{words} {name}, against 10 of B alone", mean[name], mean["target"], 0.05) for name in stylers] + [
        check(f"{words} {name}, against 100 of A as they are", mean[name], mean["raw"], 0.0) for name in stylers
    ]


def _real_masks(stylers: dict[str, Styler], seeds: range, progress: Progress, skipped: list[str]) -> Checks:
    if shared_folder() is None:
        skipped.append("The real masks are in the shared data, which is not on this machine.")
        return []
    found = []
    for number, seed in enumerate(seeds):
        progress.raise_if_cancelled()
        found.append(real_mask_dice(stylers, seed))
        progress.report("Segmentation, real masks", 0.7 + 0.3 * (number + 1) / len(seeds))
    mean = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
    words = f"Dice of real aponeuroses, {len(found)} seeds: {REAL_LABELLED} of a screen layout and all of the others"
    bars = (("the few alone", "target", 0.05), ("the others as they are", "raw", 0.0))
    return [
        check(f"{words} {name}, against {what}", mean[name], mean[arm], margin)
        for name in stylers
        for what, arm, margin in bars
    ]


def _against_deterministic(seed: int, progress: Progress) -> Checks:
    """Both kinds trained alike, then the same segmentation."""
    frames, vgg = frames_to_learn_from(CONFIGS["small"].simulated, seed), load_vgg()
    stylers: dict[str, Styler] = {}
    kinds: tuple[Kind, ...] = ("variational", "adain")
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            config = replace(CONFIGS["small"], kind=kind)
            network, _steps = train_network(config, frames, Path(folder), vgg, seed, "cpu", progress)
        stylers[kind] = Styler(network, style_map_of(network, frames)[0], "")
    found = [augmentation_dice(stylers, s) for s in range(seed, seed + 3)]
    mean = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
    return [check("Dice, restyled by drawing, against deterministic AdaIN", mean["variational"], mean["adain"], 0.0)]
