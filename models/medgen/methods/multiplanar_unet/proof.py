"""The claims of Laprade et al. 2021 that this project repeats, and the figures of the starter weights.

`medgen prove multiplanar_unet`; what each check is, README.md tells. Data: generated; MNI152 from nilearn; the rendered
and the real heads of the shared data, where they are.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage

from medgen.imaging.geometry import to_array
from medgen.imaging.head_labels import CLASSES, LABELS, SOURCES
from medgen.imaging.phantoms import TEST_HEADS, crop_to_head, load_head, render_mr
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.multiplanar_unet.infer import load_network, segment
from medgen.methods.multiplanar_unet.learning import fit, masked_cross_entropy, probabilities
from medgen.methods.multiplanar_unet.sampling import (
    SparseVolume,
    cut,
    near_plane,
    painted_planes,
    plane_points,
    random_rotation,
    training_planes,
    vote,
)
from medgen.methods.multiplanar_unet.spec import HEAD
from medgen.metrics.overlap import dice, dice_by_label
from medgen.nets.unet2d import UNet2d
from medgen.proofs import Mode, check, verdict
from medgen.shared_data import shared_folder
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
SIDE, STEPS, BATCH, LEARNING_RATE = 64, 220, 16, 2e-3
AXES, CONTRASTS = (0, 1, 2), ("T1", "T2", "PD")
GREY, WHITE = (2, 5, 6, 7, 8, 10, 11, 12, 13, 14), (1, 4, 9)  # the MNI152 maps hold the brain stem as grey
BRAIN = tuple(range(1, 17))


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: what a short training learns, MNI152 from one direction; normal: all, with three seeds of the paper's
    claim; full: with ten. The verdict has one more key, figures: mean Dice of every structure on the rendered heads."""
    progress = progress or _Lines()
    skipped: list[str] = []
    figures: dict[str, float] = {}
    checks = [_parameters(), _mask(seed), *_geometry(seed)]
    progress.report("Real T1", 0.02)
    context = Context(progress=_Inner(progress), weights=checked_weights(HEAD.id, HEAD.weights[0])[0])
    checks += _mni((0,) if mode == "quick" else AXES, context, skipped)
    if mode == "quick":
        skipped.append("Rendered and real heads, and the paper's claim over several seeds, are left out by --quick.")
    elif shared_folder() is None:
        skipped.append("Rendered and real heads need the shared data, which is not on this machine.")
    else:
        checks += _real(context, progress) + _rendered(context, seed, figures, progress)
    progress.report("Few planes", 0.7)
    checks += [_learns(seed)] if mode == "quick" else _few_planes(seed, 3 if mode == "normal" else 10, progress)
    return {**verdict(HEAD.id, checks, skipped), "figures": figures}


class _Lines(SilentProgress):
    """A proof takes minutes: tells on the error stream what it is at."""

    def report(self, stage: str, fraction: float, message: str = "") -> None:
        print(f"{stage} {fraction:.0%} {message}", file=sys.stderr, flush=True)


class _Inner(SilentProgress):
    """Lets a cancel through, keeps the bar of each single run to itself."""

    def __init__(self, outer: Progress) -> None:
        self.outer = outer

    def raise_if_cancelled(self) -> None:
        self.outer.raise_if_cancelled()


# ------------------------------------------------------------------------------------------------------- small claims


def _parameters() -> dict[str, Any]:
    with torch.device("meta"):
        count = sum(p.numel() for p in UNet2d(1, 64, 4).parameters())
    return check("Parameters away from the paper's 31,044,289", abs(count - 31_044_289), 0, 0, higher=False)


def _mask(seed: int) -> dict[str, Any]:
    """Every label off the known pixels is drawn at random: no number of loss or gradient may change."""
    torch.manual_seed(seed)
    network, image = UNet2d(1, 8, 3), torch.randn(4, 1, 64, 64)
    known = torch.rand(4, 64, 64) < 0.03
    labels = torch.randint(0, 2, known.shape)
    results = []
    for truth in (labels, torch.where(known, labels, torch.randint(0, 2, known.shape))):
        network.zero_grad()
        loss = masked_cross_entropy(network(image), truth, known)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    changed = sum(not torch.equal(a, b) for a, b in zip(*results, strict=True))
    return check("Tensors that unknown labels change", changed, 0, 0, higher=False)


def _geometry(seed: int) -> Checks:
    """An identity network on a smooth sphere, three random rotations; one plane at identity orientation."""
    z, y, x = np.mgrid[:SIDE, :SIDE, :SIDE].astype(np.float32) - (SIDE - 1) / 2
    sphere = (1 / (1 + np.exp(np.sqrt(z**2 + y**2 + x**2) - 20))).astype(np.float32)
    rng = np.random.default_rng(seed)
    ways = [random_rotation(rng) for _ in range(3)]
    result = vote(sphere, 0.0, ways, lambda planes: planes)
    overlap = dice(result.mean[0].numpy() >= 0.5, sphere >= 0.5)
    missed = int((result.visits != 3).sum())
    stored = SparseVolume(sphere, (sphere > 0.5).astype(np.uint8), np.ones(sphere.shape, bool), 0.0)
    middle = (SIDE - 1) / 2
    plane = cut(stored, plane_points((17.0, middle, middle), (0, 1, 0), (0, 0, 1), SIDE))
    wrong = int((plane[0] != stored.image[17]).sum() + (plane[1] != stored.labels[17]).sum())
    return [
        check("Geometry: Dice of a sphere turned, sliced and turned back", overlap, 0.98, 0),
        check("Geometry: voxels not seen exactly K = 3 times", missed, 0, 0, higher=False),
        check("Geometry: pixels of an untilted plane unlike the stored slice", wrong, 0, 0, higher=False),
    ]


# ------------------------------------------------------------------------------------------------- claim of the paper


def blobs(rng: np.random.Generator) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A 64^3 volume (IQR about 1): ellipsoids, the targets, among hollow and small ones as bright, and noise."""
    image = ndimage.gaussian_filter(rng.standard_normal((SIDE,) * 3, np.float32), 6)
    image *= 0.3 / image.std()
    truth = np.zeros(image.shape, np.uint8)
    grid = np.indices((SIDE,) * 3).astype(np.float32)
    taken = np.zeros(image.shape, bool)
    for number in range(48):
        kind = ("target", "hollow", "small")[number % 3]
        low, high = {"target": (5, 9), "hollow": (5, 9), "small": (2.5, 4)}[kind]
        matrix = random_rotation(rng) / rng.uniform(low, high, 3)[:, None]
        offset = grid - rng.uniform(4, SIDE - 5, 3)[:, None, None, None].astype(np.float32)
        radius = np.sqrt((np.tensordot(matrix.astype(np.float32), offset, 1) ** 2).sum(0))
        if (taken & (radius < 1.2)).any():
            continue
        taken |= radius < 1.2
        image[(radius < 1) & ((radius > 0.62) | (kind != "hollow"))] += rng.uniform(0.9, 2.0)
        truth[(radius < 1) & (kind == "target")] = 1
    image = ndimage.gaussian_filter(image, 0.7) + 0.5 * rng.standard_normal(image.shape, np.float32)
    return image / np.float32(np.subtract(*np.percentile(image, (75, 25)))), truth


def few_planes_dice(planes: int, cuts: int, seed: int, updates: int = STEPS) -> float:
    """Test Dice on a second volume after learning from `planes` random planes of a first, cut `cuts` times (0: the
    planes as they are). Same seed: same volumes, same planes, same first weights."""
    rng = np.random.default_rng(seed)
    (image, truth), (test_image, test_truth) = blobs(rng), blobs(rng)
    rng = np.random.default_rng(seed + 1000)
    chosen: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    while len(chosen) < planes:
        plane = (rng.uniform(12, SIDE - 12, 3), random_rotation(rng)[0])
        if truth[near_plane(image.shape, *plane)].mean() > 0.02:  # a slice that shows the structure, as one would paint
            chosen.append(plane)
    known = np.zeros(image.shape, bool)
    for plane in chosen:
        known |= near_plane(image.shape, *plane)
    sparse = SparseVolume(image, truth, known, float(np.percentile(image, 1)))
    cut_planes = (
        training_planes(sparse, cuts, SIDE, rng) if cuts else painted_planes(sparse, chosen, SIDE, 128 // planes, rng)
    )
    torch.manual_seed(seed)
    network = UNet2d(1, 8, 3)
    fit(network, cut_planes, updates, LEARNING_RATE, torch.Generator().manual_seed(seed), batch=BATCH)
    with torch.inference_mode():
        turn = np.random.default_rng(seed + 2000)
        ways = [random_rotation(turn) for _ in range(3)]  # as in the paper
        result = vote(test_image, sparse.pad, ways, lambda p: probabilities(network(p)), 8)
    return dice(result.mean[0].numpy() >= 0.5, test_truth)


def threshold_dice(seed: int) -> float:
    """What brightness alone gives on the second volume: the threshold best on the whole first, both smoothed."""
    rng = np.random.default_rng(seed)
    (image, truth), (test_image, test_truth) = (
        (ndimage.gaussian_filter(volume, 1.0), labels) for volume, labels in (blobs(rng), blobs(rng))
    )
    levels = np.quantile(image, np.linspace(0.5, 0.999, 60))
    best = max(levels, key=lambda level: dice(image > level, truth))
    return dice(test_image > best, test_truth)


def _learns(seed: int) -> dict[str, Any]:
    """A short training must find the ellipsoids among look-alikes as bright, which a threshold cannot."""
    found = few_planes_dice(12, 128, seed, updates=150)
    return check("12 planes, 128 cuts, 150 updates against brightness alone, Dice", found, threshold_dice(seed), 0.05)


def _few_planes(seed: int, seeds: int, progress: Progress) -> Checks:
    settings = [(4, 0), (4, 128), (12, 0)]
    figures: dict[tuple[int, int], list[float]] = {setting: [] for setting in settings}
    for number in range(seeds):
        for setting in settings:
            progress.raise_if_cancelled()
            figures[setting].append(few_planes_dice(*setting, seed + number))
        progress.report("Few planes", 0.7 + 0.3 * (number + 1) / seeds)
    mean = {setting: float(np.mean(values)) for setting, values in figures.items()}
    spread = {setting: float(np.std(values)) for setting, values in figures.items()}
    return [
        check(f"4 planes, 128 cuts against the 4 planes alone, Dice (seeds: {seeds})", mean[4, 128], mean[4, 0], 0.02),
        check("the same, standard deviation over seeds", spread[4, 128], spread[4, 0], 0, higher=False),
        check("4 planes, 128 cuts against 12 planes alone, Dice", mean[4, 128], mean[12, 0], -0.03),
    ]


# ----------------------------------------------------------------------------------------------------- starter weights


def _half(probability: sitk.Image) -> npt.NDArray[np.bool_]:
    return to_array(probability > 127) != 0


def _mni(axes: tuple[int, ...], context: Context, skipped: list[str]) -> Checks:
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        skipped.append("MNI152 needs the package nilearn (extra 'demo').")
        return []
    folder = Path(found.origin).parent / "datasets" / "data"
    t1, grey, white = (
        sitk.ReadImage(str(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"))
        for kind in ("t1", "gm", "wm")
    )
    labels = to_array(segment(t1, load_network(context), axes, context)[0])
    return [
        check("MNI152: Dice of grey matter (bar 0.80)", dice(np.isin(labels, GREY), _half(grey)), 0.80, 0),
        check("MNI152: Dice of white matter (bar 0.80)", dice(np.isin(labels, WHITE), _half(white)), 0.80, 0),
    ]


def classes_of(labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Values of a head label map to those of `labels.LABELS`."""
    table = np.zeros(1024, np.uint8)
    for value, sources in SOURCES.items():
        table[list(sources)] = value
    return table[labels]


def _rendered(context: Context, seed: int, figures: dict[str, float], progress: Progress) -> Checks:
    """Heads that no training saw, in three contrasts: mean Dice over the structures of more than 5 ml. figures: gets
    the mean of every structure."""
    network = load_network(context)
    found: dict[tuple[str, int], list[float]] = {}
    for number in TEST_HEADS:
        head = crop_to_head(load_head(number))
        truth = classes_of(to_array(head))
        sizes = np.bincount(truth.ravel(), minlength=CLASSES)
        large = [label.value for label in LABELS if sizes[label.value] > 5000]
        for contrast in CONTRASTS:
            image = render_mr(head, contrast, np.random.default_rng(seed + number))
            labels = to_array(segment(image, network, AXES, context)[0])
            overlaps = dice_by_label(labels, truth, large)
            said = f"head {number}, {contrast}: mean Dice {np.mean(list(overlaps.values())):.3f}"
            progress.report("Rendered heads", 0.15 + 0.13 * (number - TEST_HEADS[0]), said)
            for value, overlap in overlaps.items():
                found.setdefault((contrast, value), []).append(overlap)
    for label in LABELS:
        of_label = [d for (_, value), several in found.items() if value == label.value for d in several]
        if of_label:
            figures[f"Rendered, {label.name}"] = round(float(np.mean(of_label)), 4)
    means = {c: [d for (name, _), several in found.items() if name == c for d in several] for c in CONTRASTS}
    checks = [check(f"Rendered {c}, heads 17 to 20: mean Dice", float(np.mean(means[c])), 0.85, 0) for c in CONTRASTS]
    return [
        *checks,
        check(
            "Rendered T1, T2, PD: mean Dice (bar 0.85)", float(np.mean(np.concatenate(list(means.values())))), 0.85, 0
        ),
    ]


def _real(context: Context, progress: Progress) -> Checks:
    """Two real T1 with skull: nearly all of the brain in one piece, and of a plausible size."""
    folder, network, checks = shared_folder(), load_network(context), []
    assert folder is not None
    for name in ("studyforrest_T1w_1mm", "colin27_ch2_T1_1mm"):
        short = name.split("_")[0]
        progress.report("Real heads", 0.08, short)
        image = sitk.ReadImage(str(folder / "mr_heads" / f"{name}.nii.gz"))
        brain = np.isin(to_array(segment(image, network, AXES, context)[0]), BRAIN)
        pieces, _ = ndimage.label(brain)
        sizes = np.bincount(pieces.ravel())[1:]
        checks.append(check(f"{short}: share of the brain in one piece", float(sizes.max() / sizes.sum()), 0.98, 0))
        litres = float(sizes.max()) * float(np.prod(image.GetSpacing())) / 1e6
        checks.append(check(f"{short}: litres away from 1.35", abs(litres - 1.35), 0.35, 0, higher=False))
    return checks
