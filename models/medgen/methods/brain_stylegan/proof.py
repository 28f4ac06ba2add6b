"""The claims of Hong et al. 2021 that this project repeats, on the starter weights: `medgen prove brain_stylegan`.

What each check is, README.md tells. Quick needs only what ships. Normal and full measure against the rendered brains of
heads that no training saw: those in the folder that MEDGEN_BRAINS names (what `medgen train brain_stylegan --data` has
filled), else rendered anew (ten minutes), where the shared data is there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from medgen.catalogue import find_method, load_run
from medgen.errors import BadInput
from medgen.imaging.brain_alignment import align_brain, pooled, strip_brain, to_model
from medgen.imaging.phantoms import TEST_HEADS, TRAIN_HEADS
from medgen.imaging.phantoms.aligned_brains import AlignedBrains, load_aligned_brains, render_aligned_brains
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.brain_stylegan.codes import Code, drawn
from medgen.methods.brain_stylegan.infer import as_image, picture
from medgen.methods.brain_stylegan.learning import Config, path_lengths
from medgen.methods.brain_stylegan.projection import project
from medgen.methods.brain_stylegan.spec import ID, PROJECT, SAMPLE, TRAINING_SET
from medgen.methods.brain_stylegan.stored import Stored, load_stored
from medgen.methods.brain_stylegan.train import VARIANTS, Material, principal_codes, train_stage
from medgen.metrics.generation import batch_mmd, frechet_distance, ms_ssim
from medgen.nets.stylegan3d import Architecture, ModulatedConv
from medgen.nets.vgg import load_vgg
from medgen.proofs import Mode, check, verdict
from medgen.weights import checked_weights

BRAINS = "MEDGEN_BRAINS"
RATE = float(PROJECT.parameter("rate").default)
SLICE = 96  # pixels of a slice's side in the feature network
DARK, LIGHT = 0.15, 0.45  # intensities of CSF, and of what is none
Checks = list[dict[str, Any]]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Real:
    """Brains in the network's voxels, float32 [n, k, j, i], 0..1. train: learnt from; test: of heads 17 to 20, with
    their ventricles in ml; share: of each voxel that is lateral ventricle."""

    train: Float32
    test: Float32
    volumes: Float32
    share: Float32


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: 12 pairs, one brain projected in 40 steps, nothing trained or gated; normal: all; full: 1000 steps as in
    the paper."""
    progress = progress or SilentProgress()
    skipped: list[str] = []
    stored = load_stored(checked_weights(ID, SAMPLE.weights[0])[0])
    checks = identities(stored, seed)
    real = kept_brains(stored) if mode == "quick" else rendered_brains(stored, progress, skipped)
    progress.report("Coarse and fine", 0.3)
    checks += hierarchy(stored, 12 if mode == "quick" else 32, seed)
    checks += ventricles(stored, real, 12 if mode == "quick" else 64, seed)
    progress.report("Projection", 0.4)
    steps = {"quick": 40, "normal": 200, "full": 1000}[mode]
    checks += projection(stored, real, 1 if mode == "quick" else 6, steps, seed)
    if mode == "quick":
        skipped.append("Samples against real brains, the gate, a real scan and the training with and without the path "
                       "length regulariser are left out by --quick.")  # fmt: skip
        return verdict(ID, checks, skipped)
    checks += real_scan(stored, real, steps, seed, skipped)
    progress.report("Samples", 0.6)
    checks += quality(stored, real, seed, skipped)
    progress.report("The gate", 0.7)
    checks += gate(stored, real, seed)
    progress.report("Path length", 0.8)
    checks += path_spread(real, seed)
    return verdict(ID, checks, skipped)


# ---------------------------------------------------------------------------------------------------------------- data


def kept_brains(stored: Stored) -> Real:
    """Those that ship: two of each training head, heads 15 to 20 as they are."""
    path = checked_weights(ID, TRAINING_SET)[0]
    kept = load_file(path)
    shape = stored.network.architecture.shape()

    def sized(values: Tensor) -> Float32:
        pool = values.shape[1] // shape[0]
        return np.stack([pooled(v.numpy().astype(np.float32), pool) for v in values])

    test = sized(kept["tested"][-len(TEST_HEADS) :]) / np.float32(255)
    volumes = kept["tested_ventricles"][-len(TEST_HEADS) :].numpy().astype(np.float32)
    return Real(sized(kept["images"]) / np.float32(255), test, volumes, sized(kept["ventricles"][None])[0])


def rendered_brains(stored: Stored, progress: Progress, skipped: list[str]) -> Real:
    try:
        named = os.environ.get(BRAINS)
        if named:
            brains = load_aligned_brains(Path(named))
        else:
            with tempfile.TemporaryDirectory() as folder:
                brains = render_aligned_brains(VARIANTS, 0, Path(folder), progress)
    except BadInput as error:
        skipped.append(f"Measured on the brains that ship, not on all: {error}")
        return kept_brains(stored)
    return sized_brains(brains, stored)


def sized_brains(brains: AlignedBrains, stored: Stored) -> Real:
    pool = brains.images.shape[1] // stored.network.architecture.shape()[0]
    test = brains.of_heads(TEST_HEADS)
    coarse = pooled(brains.ventricles, brains.ventricles.shape[0] // stored.network.architecture.shape()[0])
    return Real(
        brains.values(brains.of_heads(TRAIN_HEADS), pool), brains.values(test, pool), brains.table[test, 2], coarse
    )


# ---------------------------------------------------------------------------------------------------------- identities


@torch.no_grad()
def identities(stored: Stored, seed: int) -> Checks:
    torch.manual_seed(seed)
    layer = ModulatedConv(32, 32, 8)
    layer.style.weight.zero_()
    worst = 0.0
    for scale in (0.1, 0.3, 1.0, 3.0, 10.0):
        layer.style.bias.copy_(scale * torch.linspace(0.5, 1.5, 32))
        made = layer(torch.randn(4, 32, 10, 10, 10), torch.zeros(4, 8))[..., 1:-1, 1:-1, 1:-1]
        worst = max(worst, abs(float(made.std()) - 1))
    a, b = torch.randn(2, 8, 500)
    b = 2 * b + 0.3
    distance = float((a.double().mean(0) - b.double().mean(0)).square().sum())
    first, second = (drawn(stored.network, number, 0.0) for number in (seed + 1, seed + 2))
    apart = np.abs(picture(stored, first) - picture(stored, replace(second, noise=first.noise))).max()
    return [
        check("demodulated spread's distance from 1, styles of 0.1 to 10", worst, 0.05, 0, higher=False),
        check("bMMD^2 against the squared distance of the batch means", abs(batch_mmd(a, b) - distance), 1e-4, 0,
              higher=False),
        check("largest difference of two seeds at truncation 0", float(apart), 0.0, 0, higher=False),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ coarse and fine


def _pairs(stored: Stored, count: int, seed: int) -> list[tuple[Code, Code]]:
    codes = [drawn(stored.network, seed + 1000 + n, 1.0) for n in range(2 * count)]
    return list(zip(codes[::2], codes[1::2], strict=True))


def coarse_share(change: Float32) -> float:
    """Part of the energy of a change that is left of it in means over blocks of 4 x 4 x 4 voxels."""
    return float((pooled(change, 4) ** 2).sum() * 64 / (change**2).sum())


def hierarchy(stored: Stored, count: int, seed: int) -> Checks:
    middle = stored.network.architecture.styles // 2
    shares = []
    for first, second in _pairs(stored, count, seed):
        second = replace(second, noise=first.noise)
        base = picture(stored, first)
        of_coarse = coarse_share(picture(stored, second.mixed_with(first, middle)) - base)
        of_fine = coarse_share(picture(stored, first.mixed_with(second, middle)) - base)
        shares.append((of_coarse, of_fine))
    coarse, fine = np.mean(shares, 0)
    return [check(f"coarse share of the change, coarse swap over fine swap ({count} pairs)", coarse / fine, 1.5, 0)]


def dark_volume(values: Float32, share: Float32, voxel_mm: float) -> float:
    """ml of what is as dark as CSF where ventricles lie."""
    dark = np.clip((LIGHT - values) / (LIGHT - DARK), 0, 1)
    return float((dark * (share > 0.1)).sum() * voxel_mm**3 / 1000)


def ventricles(stored: Stored, real: Real, count: int, seed: int) -> Checks:
    """Mixes at the middle layer, which take either half from either brain."""
    middle, voxel = stored.network.architecture.styles // 2, stored.voxel_mm
    volumes = []
    for first, second in _pairs(stored, count, seed + 500):
        three = (first.mixed_with(second, middle), first, second)
        volumes.append([dark_volume(picture(stored, code), real.share, voxel) for code in three])
    mix, coarse, fine = np.array(volumes).T
    measured = [dark_volume(values, real.share, voxel) for values in real.test]
    of_coarse, of_fine = np.corrcoef(mix, coarse)[0, 1], np.corrcoef(mix, fine)[0, 1]
    return [
        check("r of a mix's ventricles with the coarse donor's", of_coarse, 0.5, 0),
        check("r of a mix's ventricles with the fine donor's", of_fine, 0.5, 0, higher=False),
        check("r of this measure of ventricles with the truth, real brains", np.corrcoef(measured, real.volumes)[0, 1],
              0.8, 0),
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- projection


def _error(a: Float32, b: Float32) -> float:
    return float(((a - b) ** 2).mean())


def _fitted(stored: Stored, target: Float32, steps: int, seed: int, with_pooled: bool = True) -> tuple[float, float]:
    """Squared errors, whole and pooled, of intensities in 0..1."""
    wanted = torch.from_numpy(2 * target - 1)[None, None]
    found = project(stored.network, wanted, steps, rate=RATE, pooled=with_pooled, seed=seed)
    return found.errors[-1][0] / 4, found.errors[-1][1] / 4


def projection(stored: Stored, real: Real, count: int, steps: int, seed: int) -> Checks:
    """Brains of the test heads, spread over them."""
    mean, ratios, nearest, pooled_ratio = real.train.mean(0), [], [], []
    for number in np.linspace(0, len(real.test) - 1, count).astype(int):
        target = real.test[number]
        whole, coarse = _fitted(stored, target, steps, seed)
        ratios.append(whole / _error(mean, target))
        nearest.append(whole / min(_error(brain, target) for brain in real.train))
        pooled_ratio.append(coarse / _fitted(stored, target, steps, seed, with_pooled=False)[1])
    of = f"{count} held-out brain{'s' if count > 1 else ''}, {steps} steps"
    return [
        check(f"projection's error over the mean brain's ({of})", float(np.mean(ratios)), 0.5, 0, higher=False),
        check(f"projection's error over the nearest training brain's ({of})", float(np.mean(nearest)), 1.0, 0,
              higher=False),
        check("pooled error with the pooled term over that without", float(np.mean(pooled_ratio)), 1.0, 0,
              higher=False),
    ]  # fmt: skip


def real_scan(stored: Stored, real: Real, steps: int, seed: int, skipped: list[str]) -> Checks:
    """The skull-stripped MNI152 T1 that nilearn carries."""
    try:
        from nilearn import datasets
    except ImportError:
        skipped.append("No real scan was projected: nilearn, which carries one, is not installed.")
        return []
    path = Path(datasets.__file__).parent / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    brain = strip_brain(sitk.ReadImage(str(path), sitk.sitkFloat32))
    target = to_model(brain.image, align_brain(brain.image, stored.template), stored.voxel_mm)
    whole, _ = _fitted(stored, target, steps, seed)
    mean, nearest = _error(real.train.mean(0), target), min(_error(b, target) for b in real.train)
    return [
        check("projection's error over the mean brain's, MNI152 (a real scan)", whole / mean, 0.5, 0, higher=False),
        check("projection's error over the nearest training brain's, MNI152", whole / nearest, 1.0, 0, higher=False),
    ]


# -------------------------------------------------------------------------------------------------------------- samples


def samples(stored: Stored, count: int, seed: int) -> Float32:
    return np.stack([picture(stored, drawn(stored.network, seed + 3000 + n, 1.0)) for n in range(count)])


@torch.no_grad()
def slice_features(brains: Sequence[Float32] | Float32, axis: int, network: torch.nn.Module) -> npt.NDArray[np.float64]:
    """[n, 256]: the middle slice along an axis, through a VGG16's third block, averaged over the slice."""
    found = []
    for values in brains:
        plane = torch.from_numpy(np.ascontiguousarray(np.take(values, values.shape[axis] // 2, axis)))[None, None]
        square = F.interpolate(plane, (SLICE, SLICE), mode="bilinear")
        found.append(network(square, blocks=3)[2].mean((2, 3))[0].double().numpy())
    return np.stack(found)


def quality(stored: Stored, real: Real, seed: int, skipped: list[str]) -> Checks:
    """200 samples (truncation 1) against the test heads; 32 among themselves against 32 training brains."""
    made = samples(stored, 200, seed)
    rng = np.random.default_rng(seed)
    mean, spread = real.train.mean(0), float(real.train.std(0).mean())
    blurred = np.clip(mean + spread * rng.standard_normal((len(made), *mean.shape)), 0, 1).astype(np.float32)
    network = load_vgg()
    if not network.sha256:
        skipped.append(f"The feature distances are of {network.source}.")
    checks = []
    for axis, name in enumerate(("axial", "coronal", "sagittal")):
        reference = slice_features(real.test, axis, network)
        distance, baseline = (
            frechet_distance(slice_features(brains, axis, network), reference) for brains in (made, blurred)
        )
        checks.append(check(f"slice-Frechet over that of mean brain and noise, {name}", distance / baseline, 0.35, 0,
                            higher=False))  # fmt: skip
    among = [_likeness(real.train[rng.choice(len(real.train), 32, replace=False)]), _likeness(made[:32])]
    checks.append(check("MS-SSIM between samples, distance from that between training brains",
                        abs(among[1] - among[0]), 0.05, 0, higher=False))  # fmt: skip
    return checks


def _likeness(brains: Float32) -> float:
    values = torch.from_numpy(brains)
    similarity = ms_ssim(values, values)
    return float(similarity[~torch.eye(len(brains), dtype=torch.bool)].mean())


def gate(stored: Stored, real: Real, seed: int, count: int = 48) -> Checks:
    """`generator_gate` with as many samples as training brains, four slices of each, two runs of ten epochs."""
    spec = find_method("generator_gate")
    chosen = np.random.default_rng(seed).choice(len(real.train), min(count, len(real.train)), replace=False)
    images = {
        "real": [as_image(real.train[n], stored.voxel_mm) for n in chosen],
        "synthetic": [as_image(values, stored.voxel_mm) for values in samples(stored, count, seed)],
    }
    parameters = spec.check_parameters({"runs": 2, "epochs": 10, "slices": 4})
    flags = load_run(spec)(images, parameters, Context(seed=seed))["flags"]
    raised = dict(zip(flags["flag"], flags["raised"], strict=True))
    return [
        check(f"the gate's flag {name} (1 raised)", float(raised[name] == "yes"), 0.0, 0, higher=False)
        for name in ("MEMORISED", "COLLAPSED")
    ]


# ---------------------------------------------------------------------------------------------------------- path length


def path_spread(real: Real, seed: int, steps: int = 300) -> Checks:
    """Networks of 12 x 14 x 10 voxels, the same seed and steps, with and without the regulariser: trained by the
    paper's losses alone, and as the shipped ones are."""
    pool = real.train.shape[1] // 12
    images = np.stack([2 * pooled(values, pool) - 1 for values in real.train])
    shipped = Config(Architecture((16, 16), 16), steps=steps, warm=50, batch=8, path_every=2)
    brains = Material(images, principal_codes(images, shipped.architecture.latent), images[0])
    checks = []
    for how, config in (("the paper's losses", replace(shipped, warm=0, anchor=0.0)), ("losses as shipped", shipped)):
        spreads = [_spread(replace(config, path=weight), brains, seed) for weight in (config.path, 0.0)]
        checks.append(check(f"relative spread of path lengths, with the regulariser and without ({how}, {steps} steps)",
                            spreads[0], spreads[1], 0, higher=False))  # fmt: skip
    return checks


def _spread(config: Config, brains: Material, seed: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        network, _ = train_stage(config, brains, Path(folder), seed=seed)
    torch.manual_seed(seed)
    z = torch.randn(64, config.architecture.latent)
    lengths = path_lengths(network, network.for_layers(network.mapped(z))).detach()
    return float(lengths.std() / lengths.mean())
