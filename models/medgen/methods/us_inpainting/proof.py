"""What of Hung et al. 2021 holds for the shipped weights, on frames that no training saw.

`medgen prove us_inpainting`. The comparators are the shipped networks trained beside it on the same batches: with the
squared error alone, and with all losses but without latents; and the biharmonic fill. Real frames: the test groups of
`training/ultrasound_frames` (without the shared data, the two pydicom files alone).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from scipy import ndimage

from medgen.imaging.phantoms.bmode import Machine, image_scene, random_scene
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.us_inpainting.filling import (
    Filler,
    Grey,
    Mask,
    biharmonic_fill,
    grown,
    local_variance,
    regions,
)
from medgen.methods.us_inpainting.infer import run
from medgen.methods.us_inpainting.masks import brush_mask
from medgen.methods.us_inpainting.needle import find_needle
from medgen.methods.us_inpainting.net import HierarchicalInpainter, from_state
from medgen.methods.us_inpainting.spec import INPAINTING
from medgen.proofs import Mode, check, verdict
from medgen.training.ultrasound_frames import UltrasoundFrame, random_patch, real_frames
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
Fill = Callable[[Grey, Mask], Grey]
SIZE, FEATHER, SAMPLES = 96, 4, 16
ARMS = {"HPI": "b_mode.safetensors", "L2": "b_mode_l2.safetensors", "no VI": "b_mode_no_vi.safetensors"}


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: 25 holes and 10 needles, no memory check; normal: 100 and 60; full: 400 and 200."""
    progress = progress or SilentProgress()
    holes, needles = {"quick": (25, 10), "normal": (100, 60), "full": (400, 200)}[mode]
    skipped: list[str] = []
    networks = {name: load_arm(file) for name, file in ARMS.items()}
    frames = real_frames("test")
    if len({frame.source for frame in frames}) < 3:
        skipped.append("Most held-out frames are in the shared data, which is not on this machine.")
    found = _measure(networks, frames, holes, seed, progress)
    checks = [*_speckle(found), *_fidelity(found), *_diversity(found), *_seams(found)]
    progress.report("Needles", 0.7)
    checks.append(needle_check(networks["HPI"], needles, seed))
    progress.report("Speed", 0.9)
    checks.append(_speed(networks["HPI"]))
    if mode == "quick":
        skipped.append("The memory of a 500-frame cine is left out by --quick.")
    else:
        checks.append(_memory())
    return verdict(INPAINTING.id, checks, skipped)


def load_arm(file: str) -> HierarchicalInpainter:
    return from_state(load_file(checked_weights(INPAINTING.id, file)[0]))


def draws(network: HierarchicalInpainter, grey: Grey, hole: Mask, seed: int, samples: int = SAMPLES) -> Grey:
    """float32 [samples, h, w]; the whole patch is the fan."""
    found = regions(hole, np.ones_like(hole), FEATHER, 2.5)
    temperature = INPAINTING.parameter("temperature").default
    return Filler(found, network, samples, temperature, torch.Generator().manual_seed(seed)).fill(grey)


# ------------------------------------------------------------------------------------------------------------ measuring


@dataclass
class Figures:
    """Lists with one number a hole."""

    speckle: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    beyond: list[float] = field(default_factory=list)
    across: list[float] = field(default_factory=list)
    along: list[float] = field(default_factory=list)


def speckle_ratio(fill: Grey, truth: Grey, hole: Mask) -> float:
    """Mean local variance (5 x 5) of the fill to that of the truth, where the window lies in the hole."""
    deep = ndimage.binary_erosion(hole, np.ones((5, 5)))
    where = deep if deep.sum() >= 20 else hole
    return float(local_variance(fill)[where].mean() / max(local_variance(truth)[where].mean(), 1e-7))


def box_around(hole: Mask, margin: int = 5) -> tuple[slice, slice]:
    """The hole's bounding box and 5 pixels, where the paper measures."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )


def seam(image: Grey, hole: Mask, ring: int = 3) -> tuple[float, float]:
    """Mean difference of neighbouring pixels across the hole's border, and of those near it on one side."""
    near = grown(hole, ring) & grown(~hole, ring)
    across, along = [], []
    for axis in (0, 1):
        difference = np.abs(np.diff(image, axis=axis))
        first, second = (np.delete(hole, index, axis) for index in (-1, 0))
        both_near = np.delete(near, -1, axis) & np.delete(near, 0, axis)
        across.append(difference[first != second])
        along.append(difference[both_near & (first == second)])
    return float(np.concatenate(across).mean()), float(np.concatenate(along).mean())


def psnr_ssim(fill: Grey, truth: Grey, hole: Mask) -> tuple[float, float]:
    """In the box around the hole, of intensities 0 to 1."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    box = box_around(hole)
    with np.errstate(divide="ignore"):  # the truth itself is infinitely good
        psnr = peak_signal_noise_ratio(truth[box], fill[box], data_range=1.0)
    return float(psnr), float(structural_similarity(truth[box], fill[box], data_range=1.0))


def _add(figures: Figures, fills: Grey, truth: Grey, hole: Mask) -> None:
    """fills: float32 [samples, h, w]. Speckle and seam of the first sample, the rest of their mean."""
    mean = fills.mean(0)
    psnr, ssim = psnr_ssim(mean, truth, hole)
    across, along = seam(fills[0], hole)
    spread = fills.astype(np.float64).std(0)
    untouched = ~grown(hole, FEATHER)
    figures.speckle.append(speckle_ratio(fills[0], truth, hole))
    figures.psnr.append(psnr)
    figures.ssim.append(ssim)
    figures.error.append(float(np.abs(mean - truth)[hole].mean()))
    figures.spread.append(float(spread[hole].mean()))
    figures.beyond.append(float(np.abs(fills - truth)[:, untouched].max()) if untouched.any() else 0.0)
    figures.across.append(across)
    figures.along.append(along)


def _measure(
    networks: dict[str, HierarchicalInpainter],
    frames: Sequence[UltrasoundFrame],
    holes: int,
    seed: int,
    progress: Progress,
) -> dict[str, Figures]:
    """By arm, and 'hard paste': the network's image cut into the frame without blending."""
    rng = np.random.default_rng((seed, 1))
    found = {name: Figures() for name in (*networks, "biharmonic", "hard paste", "truth")}
    done = 0
    while done < holes:
        progress.raise_if_cancelled()
        truth = random_patch(frames, rng, SIZE, (1.0, 1.5))
        if truth.mean() < 0.05:
            continue  # anechoic: there is no speckle to keep
        hole = brush_mask(rng, SIZE)
        for name, network in networks.items():
            _add(found[name], draws(network, truth, hole, seed + done), truth, hole)
        smooth = biharmonic_fill(truth, regions(hole, np.ones_like(hole), FEATHER, 2.5))
        _add(found["biharmonic"], smooth, truth, hole)
        _add(found["hard paste"], hard_paste(networks["HPI"], truth, hole, seed + done)[None], truth, hole)
        _add(found["truth"], truth[None], truth, hole)
        done += 1
        progress.report("Holes", 0.7 * done / holes)
    return found


@torch.inference_mode()
def hard_paste(network: HierarchicalInpainter, truth: Grey, hole: Mask, seed: int) -> Grey:
    image, mask = (torch.from_numpy(part.astype(np.float32))[None, None] for part in (truth, hole))
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn((1, *s), generator=generator) for s in network.noise_shapes(*truth.shape)]
    made = network.complete(network.encode(image * (1 - mask), mask), noise)[0, 0].numpy()
    return np.where(hole, made, truth)


# --------------------------------------------------------------------------------------------------------------- checks


def _speckle(found: dict[str, Figures]) -> Checks:
    """Medians over the holes: a few nearly anechoic ones would rule a mean."""
    ratio = {name: float(np.median(figures.speckle)) for name, figures in found.items()}
    return [
        check("Speckle variance of a fill to the truth's, at least", ratio["HPI"], 0.7, 0),
        check("Speckle variance of a fill to the truth's, at most", ratio["HPI"], 1.3, 0, higher=False),
        check("the same, trained on squared error alone", ratio["L2"], 0.5, 0, higher=False),
        check("the same, biharmonic", ratio["biharmonic"], 0.5, 0, higher=False),
    ]


def _fidelity(found: dict[str, Figures]) -> Checks:
    psnr, ssim, error = (
        {name: float(np.mean(getattr(figures, what))) for name, figures in found.items()}
        for what in ("psnr", "ssim", "error")
    )
    return [
        check("PSNR of the mean of 16 against the squared-error arm, dB", psnr["HPI"], psnr["L2"], -0.5),
        check("SSIM of the mean of 16 against the squared-error arm", ssim["HPI"], ssim["L2"], -0.02),
        check("PSNR of the mean of 16 against no VI, dB", psnr["HPI"], psnr["no VI"], 0),
        check("SSIM of the mean of 16 against no VI", ssim["HPI"], ssim["no VI"], 0),
        check("L1 of the mean of 16 to biharmonic's", error["HPI"] / error["biharmonic"], 1.1, 0, higher=False),
    ]


def _diversity(found: dict[str, Figures]) -> Checks:
    beyond = max(max(figures.beyond) for figures in found.values())
    return [
        check("Standard deviation of 16 fills in the hole", float(np.mean(found["HPI"].spread)), 0.01, 0),
        check("the same, no VI (no latents)", float(np.max(found["no VI"].spread)), 0, 0, higher=False),
        check("Largest change beyond the feather", beyond, 0, 0, higher=False),
    ]


def _seams(found: dict[str, Figures]) -> Checks:
    ratio = {name: float(np.mean(f.across) / np.mean(f.along)) for name, f in found.items()}
    return [
        check(f"Seam, at least (truth {ratio['truth']:.2f})", ratio["HPI"], 0.8, 0),
        check("Seam, at most", ratio["HPI"], 1.2, 0, higher=False),
        check("Seam of a hard paste", ratio["hard paste"], 1.3, 0),
    ]


def needle_tip_errors(network: HierarchicalInpainter, count: int, seed: int) -> tuple[list[float], list[float]]:
    """Distance of the found tip from the true one, pixels of 256, on simulated needles with 30 % of their length erased
    in three boxes: without and with the fill. Where no line is found, the error is the distance to the middle."""
    rng = np.random.default_rng((seed, 2))
    before: list[float] = []
    after: list[float] = []
    while len(before) < count:
        scene = random_scene(rng, 40.0, needle=True, artefacts=False)
        frame = image_scene(scene, Machine(gain_db=rng.uniform(-26, -16)), rng)
        assert scene.needle is not None
        entry, tip = (np.array(frame.pixel(*end)) for end in (scene.needle.entry, scene.needle.tip))
        if np.hypot(*(tip - entry)) < 80:
            continue
        hole = np.zeros(frame.image.shape, bool)
        for start in rng.choice(9, 3, replace=False) / 10 + rng.uniform(0.05, 0.1):
            ends = np.stack([entry + start * (tip - entry), entry + (start + 0.1) * (tip - entry)])
            top, left = np.maximum(np.floor(ends.min(0)) - 6, 0).astype(int)
            bottom, right = np.ceil(ends.max(0)).astype(int) + 7
            hole[top:bottom, left:right] = True
        erased = np.where(hole, np.float32(0), frame.image)
        filled = draws(network, erased, hole, seed, 8).mean(0)
        for image, errors in ((erased, before), (filled, after)):
            line = find_needle(image, frame.inside, seed)
            found = np.array(line.tip) if line else np.array(image.shape) / 2
            errors.append(float(np.hypot(*(found - tip))))
    return before, after


def needle_check(network: HierarchicalInpainter, count: int, seed: int) -> dict[str, Any]:
    before, after = (float(np.mean(errors)) for errors in needle_tip_errors(network, count, seed))
    title = f"Needle tip error with the gaps filled, pixels ({count} needles; without: {before:.1f})"
    return check(title, after, 0.8 * before, 0, higher=False)


def _speed(network: HierarchicalInpainter) -> dict[str, Any]:
    grey = np.random.default_rng(0).random((256, 256), dtype=np.float32)
    hole = np.zeros(grey.shape, bool)
    hole[80:180, 80:180] = True
    filler = Filler(regions(hole, np.ones_like(hole), FEATHER, 2.56), network, 8, 1.0, torch.Generator().manual_seed(0))
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        filler.fill(grey)
        seconds.append(time.perf_counter() - start)
    title = f"Seconds for a 256 x 256 region, 8 fills, {torch.get_num_threads()} CPU threads"
    return check(title, min(seconds), 1.5, 0, higher=False)


def _memory(count: int = 500) -> dict[str, Any]:
    """Growth of the process from the first report of a cine of `count` frames to its last, less the result itself."""
    import psutil

    class Watch(SilentProgress):
        def __init__(self) -> None:
            self.levels: list[int] = []

        def report(self, stage: str, fraction: float, message: str = "") -> None:
            if message:
                self.levels.append(psutil.Process().memory_info().rss)

    rng = np.random.default_rng(0)
    frames = [sitk.GetImageFromArray(rng.integers(20, 200, (1, 240, 320), np.uint8)) for _ in range(4)]
    mask = np.zeros((1, 240, 320), np.uint8)
    mask[0, 100:120, 150:170] = 1
    watch = Watch()
    inputs = {"frames": [frames[i % 4] for i in range(count)], "mask": sitk.GetImageFromArray(mask)}
    weights = checked_weights(INPAINTING.id, INPAINTING.weights[0])[0]
    run(inputs, INPAINTING.check_parameters({"samples": 1}), Context(watch, weights=weights))
    megabytes = (watch.levels[-1] - watch.levels[20]) / 1e6 - (count - 20) * 240 * 320 / 1e6
    return check("Memory that a 500-frame cine leaves beside its result, MB", megabytes, 30, 0, higher=False)
