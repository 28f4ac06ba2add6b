"""What a run tells of its synthetic images: their place in the latent space and the images that they are most like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medgen.methods.rhvae_sampling.learning import Fitted
from medgen.metrics.generation import WINDOW, ms_ssim

GRID = 24  # points along a side of the map
SIDE = 32  # pixels: pictures below it are enlarged before they are compared, volumes above it reduced
CANDIDATES = 3  # nearest by difference, of which structure chooses
COPY = 0.95  # MS-SSIM, as the gate has it (spec s1-10)
NAN = float("nan")


class LatentMap:
    """The plane in which one class is shown: the codes themselves where they are two numbers, else the two principal
    components of the cohort's codes."""

    def __init__(self, label: str, model: Fitted) -> None:
        self.label, self.metric = label, model.metric
        self.centre = model.codes.mean(0)
        self.axes = torch.eye(2, dtype=torch.float64)
        if model.codes.shape[1] == 2:
            self.centre = torch.zeros(2, dtype=torch.float64)
        else:
            self.axes = torch.linalg.svd(model.codes - self.centre, full_matrices=False)[2][:2]
        self.limit = float(self.metric.log_volume(model.codes).min())
        self.rows: dict[str, list[Any]] = {n: [] for n in ("class", "kind", "name", *COMPONENTS, "log volume")}
        span = self.place(model.codes)
        low, high = span.min(0).values, span.max(0).values
        margin = 0.25 * (high - low)
        steps = torch.linspace(0, 1, GRID, dtype=torch.float64)
        x, y = torch.meshgrid(steps, steps, indexing="ij")
        plane = low - margin + torch.stack([x.flatten(), y.flatten()], 1) * (high - low + 2 * margin)
        self.add("grid", self.centre + plane @ self.axes, [""] * len(plane))

    def place(self, codes: Tensor) -> Tensor:
        """(n, 2)"""
        return (codes - self.centre) @ self.axes.T

    def add(self, kind: str, codes: Tensor, names: Sequence[str]) -> None:
        places, volumes = self.place(codes).tolist(), self.metric.log_volume(codes).tolist()
        for name, (x, y), volume in zip(names, places, volumes, strict=True):
            for column, value in zip(self.rows.values(), (self.label, kind, name, x, y, volume), strict=True):
                column.append(value)

    def chart(self) -> dict[str, list[float]]:
        """A column for what is to be drawn in one colour. Of the grid only what is as sure as the cohort itself."""
        kinds, x, y, volumes = (self.rows[n] for n in ("kind", *COMPONENTS, "log volume"))
        inside = [k == "grid" and v >= self.limit for k, v in zip(kinds, volumes, strict=True)]
        shown = {"inside the cohort": inside}
        shown |= {kind: [k == kind for k in kinds] for kind in ("cohort", "synthetic", "geodesic")}
        columns = {name: [b if m else NAN for b, m in zip(y, marks, strict=True)] for name, marks in shown.items()}
        return {COMPONENTS[0]: x, **columns}


COMPONENTS = ("component 1", "component 2")


def closest_pairs(
    synthetic: Tensor, cohort: Tensor, names: Sequence[str], classes: Sequence[str], report: Callable[[float], None]
) -> dict[str, list[Any]]:
    """One row a synthetic image (n, *shape), most alike first; names: of the cohort's images (m, *shape); classes: of
    the synthetic ones. 'nearly a copy' is one nearer than 0.95 and than 95 % of the cohort are to each other."""
    made, real = comparable(synthetic), comparable(cohort)
    likeness, twins = _most_alike(made, real, False, report)
    among = _most_alike(real, real, True, lambda share: None)[0]
    limit = max(COPY, float(torch.quantile(among, 0.95)))
    rows = []
    for number in likeness.argsort(descending=True).tolist():
        value, twin = float(likeness[number]), int(twins[number])
        rms = float((made[number] - real[twin]).square().mean().sqrt())
        rows.append((number + 1, classes[number], names[twin], value, rms, "yes" if value > limit else "no"))
    columns = ("synthetic image", "class", "cohort image", "MS-SSIM", "difference (RMS)", "nearly a copy")
    return {name: [row[column] for row in rows] for column, name in enumerate(columns)}


def comparable(images: Tensor) -> Tensor:
    """Images (n, *shape) at a size at which structural similarity has at least two scales and is soon counted."""
    sizes = images.shape[1:]
    flat = len(sizes) == 2
    factor = max(1.0, SIDE / min(sizes)) if flat else min(1.0, SIDE / max(sizes))
    wanted = [max(WINDOW, round(n * factor)) for n in sizes]
    if wanted == list(sizes):
        return images
    mode = "bilinear" if flat else "area"
    return torch.cat([F.interpolate(part[:, None], size=wanted, mode=mode)[:, 0] for part in images.split(16)])


def _most_alike(images: Tensor, others: Tensor, same: bool, report: Callable[[float], None]) -> tuple[Tensor, Tensor]:
    """Greatest MS-SSIM of each image to one of the others, and which. same: leave out itself."""
    apart = torch.cdist(images.flatten(1), others.flatten(1))
    if same:
        apart.fill_diagonal_(torch.inf)
    near = apart.topk(min(CANDIDATES, len(others) - same), dim=1, largest=False).indices
    likeness, found = [], []
    for number, candidates in enumerate(near):
        values = ms_ssim(images[number : number + 1], others[candidates])[0]
        likeness.append(values.max())
        found.append(candidates[values.argmax()])
        report((number + 1) / len(near))
    return torch.stack(likeness), torch.stack(found)
