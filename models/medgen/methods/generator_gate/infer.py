"""The gate behind every generator: can its images be told from real ones, do they copy one, do they repeat?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medgen.errors import BadInput
from medgen.method import Context
from medgen.methods.generator_gate.slices import matched, slices_of
from medgen.methods.generator_gate.two_sample import FEATURES, fit, judge
from medgen.metrics.generation import (
    Features,
    frechet_distance,
    mahalanobis,
    mahalanobis_floor,
    ms_ssim,
    template_match,
)

TEST_SHARE = 0.2
DETECTABLE, COPY, COPY_SHARE, REPEAT = 0.75, 0.95, 0.05, 0.05  # limits of the flags (spec s1-10, Gaps)
STANDARD_ERRORS = 3
BINS = 40


@dataclass(frozen=True)
class Structure:
    """Greatest MS-SSIM of every slice: synthetic to real, synthetic to other synthetic ones, real to real ones of other
    images; nearest: index of the real slice that each synthetic one is most like."""

    to_real: Tensor
    to_synthetic: Tensor
    real_to_real: Tensor
    nearest: Tensor

    @property
    def copied_share(self) -> float:
        """Of the synthetic slices: nearer to a real one than 95 % of the real ones are to each other, and than 0.95."""
        limit = max(float(torch.quantile(self.real_to_real, 0.95)), COPY)
        return float((self.to_real > limit).float().mean())

    @property
    def copied_limit(self) -> float:
        """A perfect generator has a share of 5 % by construction; above it by three standard errors of the difference
        of two shares is no chance any more."""
        among = COPY_SHARE * (1 - COPY_SHARE) * (1 / len(self.to_real) + 1 / len(self.real_to_real))
        return COPY_SHARE + STANDARD_ERRORS * among**0.5

    @property
    def repetition(self) -> float:
        """Median likeness of the synthetic ones among themselves above that of the real ones."""
        return float(self.to_synthetic.median() - self.real_to_real.median())


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """Tables `flags`, `scores`, `closest`, `map` and the histogram `similarity`. Raises BadInput for fewer than four
    images of a kind or an image that shows nothing."""
    cut = (parameters["slices"], parameters["axis"], parameters["size"])
    real, owner = _slices(inputs["real"], "real", cut)
    synthetic, source = _slices(inputs["synthetic"], "synthetic", cut)
    if parameters["normalisation"] == "histogram":
        synthetic = matched(synthetic, real)
    context.progress.report("Comparing structure", 0.02)
    structure = compare_structure(real, owner, synthetic, source, context.progress.raise_if_cancelled)
    runs = two_sample_runs((real, owner), (synthetic, source), parameters, context)
    flags = raised_flags(structure, float(np.mean([r.accuracy for r in runs])))
    return {
        "flags": flags,
        "scores": _scores(runs, structure),
        "closest": _closest(real, owner, synthetic, source, structure),
        "similarity": _histograms(structure),
        "map": _map(runs[0]),
    }


def _slices(images: list[sitk.Image], kind: str, cut: tuple[int, str, int]) -> tuple[Tensor, Tensor]:
    if len(images) < 4:
        raise BadInput(f"At least four {kind} images are needed, not {len(images)}.")
    return slices_of(images, *cut)


# -------------------------------------------------------------------------------------------------------- structure


def compare_structure(
    real: Tensor, owner: Tensor, synthetic: Tensor, source: Tensor, tick: Callable[[], None] = lambda: None
) -> Structure:
    """Slices (n, size, size) in [0, 1] and the image of each. Within a set only slices of different images are
    compared: the neighbouring slice of one's own head is no measure of how alike two heads are. tick: as of
    `ms_ssim`."""
    to_real = ms_ssim(synthetic, real, tick).max(dim=1)
    to_synthetic, real_to_real = _nearest_other(synthetic, source, tick), _nearest_other(real, owner, tick)
    return Structure(to_real.values, to_synthetic, real_to_real, to_real.indices)


def _nearest_other(slices: Tensor, owner: Tensor, tick: Callable[[], None]) -> Tensor:
    similarity = ms_ssim(slices, slices, tick)
    similarity[owner[:, None] == owner[None, :]] = -1
    return similarity.max(dim=1).values


def raised_flags(structure: Structure, accuracy: float) -> dict[str, list[Any]]:
    copied, repetition = structure.copied_share, structure.repetition
    rows = [
        (
            "MEMORISED",
            copied > structure.copied_limit,
            f"{copied:.0%} of the slices are nearer to a real one than two patients are",
        ),
        ("COLLAPSED", repetition > REPEAT, f"synthetic images are {repetition:+.3f} more alike than real ones"),
        ("DETECTABLE", accuracy > DETECTABLE, f"a small network tells them from real ones in {accuracy:.0%} of cases"),
    ]
    return {
        "flag": [r[0] for r in rows],
        "raised": ["yes" if r[1] else "no" for r in rows],
        "why": [r[2] for r in rows],
    }


# ----------------------------------------------------------------------------------------------------- two-sample test


@dataclass(frozen=True)
class TwoSample:
    recall: float  # share of the synthetic test slices found
    specificity: float  # share of the real test slices found
    real: Features
    synthetic: Features

    @property
    def accuracy(self) -> float:
        return (self.recall + self.specificity) / 2


Owned = tuple[Tensor, Tensor]  # slices and the image that each comes from


def two_sample_runs(real: Owned, synthetic: Owned, parameters: dict[str, Any], context: Context) -> list[TwoSample]:
    """Every run draws its own test images (a fifth, at least one) and trains its own network."""
    found = []
    for number in range(parameters["runs"]):

        def step(share: float, number: int = number) -> None:
            context.progress.raise_if_cancelled()
            done = 0.1 + 0.9 * (number + share) / parameters["runs"]
            context.progress.report("Training the test network", done, f"run {number + 1} of {parameters['runs']}")

        generator = torch.Generator().manual_seed(context.seed + number)
        real_parts, synthetic_parts = _split(*real, generator), _split(*synthetic, generator)
        seed = context.seed + number
        network = fit(real_parts[0], synthetic_parts[0], parameters["epochs"], seed, context.device, step)
        real_features, real_taken = judge(network, real_parts[1], context.device)
        features, taken = judge(network, synthetic_parts[1], context.device)
        found.append(TwoSample(float(taken.mean()), float(1 - real_taken.mean()), real_features, features))
    return found


def _split(slices: Tensor, owner: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Training and test slices (n, 1, size, size), by image."""
    images = int(owner.max()) + 1
    order = torch.randperm(images, generator=generator)
    tested = torch.isin(owner, order[: max(1, round(TEST_SHARE * images))])
    return slices[~tested][:, None], slices[tested][:, None]


# ------------------------------------------------------------------------------------------------------------- tables


def _scores(runs: list[TwoSample], structure: Structure) -> dict[str, list[Any]]:
    """What each measure would be for a perfect generator stands beside it: for the feature distances that of one half
    of the real test slices to the other, or the exact floor where there are slices enough for a plain covariance."""
    samples = len(runs[0].real)
    half = samples // 2
    plain = samples > FEATURES + 2
    among_real = float(structure.real_to_real.median())

    def between_halves(distance: Callable[[Features, Features], float]) -> float:
        return float(np.mean([distance(r.real[:half], r.real[half:]) for r in runs])) if half > 1 else 0.0

    floor = mahalanobis_floor(samples, FEATURES) if plain else between_halves(mahalanobis)
    measures: list[tuple[str, list[float], float]] = [
        ("synthetic found (recall)", [r.recall for r in runs], 0.5),
        ("real found (specificity)", [r.specificity for r in runs], 0.5),
        ("balanced accuracy", [r.accuracy for r in runs], 0.5),
        ("Frechet distance", [frechet_distance(r.synthetic, r.real) for r in runs], between_halves(frechet_distance)),
        ("Mahalanobis distance", [mahalanobis(r.synthetic, r.real, shrink=not plain) for r in runs], floor),
        ("MS-SSIM synthetic to real, median", [float(structure.to_real.median())], among_real),
        ("MS-SSIM synthetic to synthetic, median", [float(structure.to_synthetic.median())], among_real),
    ]
    return {
        "measure": [name for name, _, _ in measures],
        "value": [float(np.mean(values)) for _, values, _ in measures],
        "spread": [float(np.std(values)) for _, values, _ in measures],
        "perfect generator": [perfect for _, _, perfect in measures],
    }


def _closest(
    real: Tensor, owner: Tensor, synthetic: Tensor, source: Tensor, structure: Structure
) -> dict[str, list[Any]]:
    """One row a synthetic image: its slice most like a real one; most alike first. Images count from 1."""
    rows = []
    edge = synthetic.shape[-1] // 8
    for image in source.unique().tolist():
        own = torch.nonzero(source == image)[:, 0]
        best = own[structure.to_real[own].argmax()]
        twin = int(structure.nearest[best])
        middle = synthetic[best, edge:-edge, edge:-edge].numpy()  # smaller than the image, so that it can be moved
        moved = template_match(middle, real[twin].numpy())
        rows.append((image + 1, int(owner[twin]) + 1, float(structure.to_real[best]), moved))
    rows.sort(key=lambda row: -row[2])
    names = ("synthetic image", "real image", "MS-SSIM", "correlation, moved to fit")
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def _histograms(structure: Structure) -> dict[str, list[Any]]:
    """Share of the slices in each of 40 steps of MS-SSIM, over the range that occurs."""
    sets = {
        "synthetic to real": structure.to_real,
        "synthetic to synthetic": structure.to_synthetic,
        "real to real": structure.real_to_real,
    }
    lowest = min(float(values.min()) for values in sets.values())
    edges = np.linspace(lowest, 1.0, BINS + 1)
    table: dict[str, list[Any]] = {"MS-SSIM": ((edges[1:] + edges[:-1]) / 2).tolist()}
    for name, values in sets.items():
        counts = np.histogram(values.numpy(), edges)[0]
        table[name] = (counts / len(values)).tolist()
    return table


def _map(result: TwoSample) -> dict[str, list[Any]]:
    """Principal components of the real features, both sets projected on them."""
    mean = result.real.mean(axis=0)
    axes = np.linalg.svd(result.real - mean, full_matrices=False)[2][:2]
    points = np.concatenate([(result.real - mean) @ axes.T, (result.synthetic - mean) @ axes.T])
    if points.shape[1] < 2:  # a single real test slice spans no plane
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    kinds = ["real"] * len(result.real) + ["synthetic"] * len(result.synthetic)
    return {"set": kinds, "component 1": points[:, 0].tolist(), "component 2": points[:, 1].tolist()}
