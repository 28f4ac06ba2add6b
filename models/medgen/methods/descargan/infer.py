"""Redraw every slice in one pass, and map what changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from safetensors import safe_open
from scipy import ndimage
from torch import nn

from medgen.errors import BadInput
from medgen.imaging.brain_study import BRAIN_SEQUENCES, brain_study
from medgen.imaging.islands import without_islands
from medgen.imaging.xray_set import xray_slice, xray_to_scan
from medgen.method import Context
from medgen.methods.descargan.net import Discriminator, Generator, Size

BATCH = 16
SMALLEST_SLICE = 200  # pixels of brain
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
ToScan = Callable[[npt.NDArray[Any]], sitk.Image]


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: image, and brain. outputs: as the spec says, on the image's grid. Raises BadInput."""
    context.progress.report("Loading the networks", 0.0)
    generator, discriminator, size, kind = networks_of(context)
    slices, inside, spacing_mm, to_scan, centres = _slices(inputs, kind, size.side)
    rows = np.flatnonzero(inside.reshape(len(inside), -1).sum(1) >= SMALLEST_SLICE)
    redrawn = slices.copy()
    chance = np.zeros(len(slices), np.float32)
    wanted = 0 if parameters["branch"] == "healthy" else 1
    redrawn[rows], chance[rows] = redraw(slices[rows], generator, discriminator, size.side, wanted, context)
    redrawn = np.where(inside, redrawn, -1).astype(np.float32)
    difference = (redrawn - slices) * inside
    voxel = float(np.prod(spacing_mm))
    change = smoothed(difference, parameters["smoothing"])
    found, cut = segment(change, inside, rows, parameters, voxel)
    return {
        "anomaly": to_scan(found.astype(np.uint8)),
        "anomaly_map": to_scan(change * inside),
        "difference": to_scan(difference),
        "redrawn": to_scan((redrawn + 1) / 2),
        "diseased": {
            "position_mm": (rows * spacing_mm[0]).round(1).tolist(),
            "p_diseased": chance[rows].round(4).tolist(),
            **{name: centres[rows, axis].round(2).tolist() for axis, name in enumerate(("r_mm", "a_mm", "s_mm"))},
        },
        "report": {
            "quantity": ["slices", "slices likely diseased", "anomaly, ml", "mean |difference|", "threshold"],
            "value": [len(rows), int((chance >= 0.5).sum()), round(found.sum() * voxel / 1000, 2),
                      round(float(np.abs(difference[inside]).mean()) if inside.any() else 0.0, 4), round(cut, 4)],
        },
    }  # fmt: skip


def networks_of(context: Context) -> tuple[Generator, Discriminator, Size, str]:
    """Kept for the next job, with their size and the kind of image they know. Raises BadInput for another file."""
    path = context.weights
    assert path is not None
    return context.cached(("descargan", str(path), context.device), lambda: load(path, context.device))


def load(path: Path, device: str) -> tuple[Generator, Discriminator, Size, str]:
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("descargan")
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a file, not a dict)
    if text is None:
        raise BadInput(f"'{path.name}' does not hold a DeScarGAN.")
    fields = json.loads(text)
    kind = fields.pop("kind")
    size = Size(**fields)
    networks = size.networks()
    networks[1].critics = nn.ModuleList()  # only training needs them, and they are not in the file
    for network, name in zip(networks, ("generator.", "discriminator."), strict=True):
        own = {
            k[len(name) :]: v.float() if v.is_floating_point() else v for k, v in state.items() if k.startswith(name)
        }
        network.load_state_dict(own)
        network.eval().requires_grad_(False).to(device)
    return *networks, size, kind


def _slices(
    inputs: dict[str, Any], kind: str, side: int
) -> tuple[Float32, Mask, tuple[float, float, float], ToScan, npt.NDArray[np.float64]]:
    """Slices -1..1 [n, side, side], where to look, their spacing (z, y, x), the way back to the image's grid, and the
    middle of each [n, 3], RAS."""
    image: sitk.Image = inputs["image"]
    if kind == "brain":
        study = brain_study({"FLAIR": image}, inputs.get("brain"))
        x, y, z = study.grid.spacing_mm
        flair = study.slices[:, BRAIN_SEQUENCES.index("FLAIR")] * 2 - 1
        return flair, study.brain, (z, y, x), study.to_scan, study.centres_ras
    values = xray_slice(image, side) * 2 - 1
    x, y = (n * s / side for n, s in zip(image.GetSize()[:2], image.GetSpacing()[:2], strict=True))
    inside = np.ones((1, side, side), bool)
    return values[None], inside, (1.0, y, x), lambda array: xray_to_scan(array[0], image), np.zeros((1, 3))


@torch.no_grad()
def redraw(
    slices: Float32, generator: Generator, discriminator: Discriminator, side: int, wanted: int, context: Context
) -> tuple[Float32, Float32]:
    """slices [n, h, h], -1..1: redrawn as class `wanted` [n, h, h], and P(diseased) of the originals [n]. side: of the
    images that the networks know; where it is smaller than h, what they change is enlarged and put on the original."""
    drawn, chance = np.empty_like(slices), np.zeros(len(slices), np.float32)
    batch = max(1, round(BATCH * context.batch_scale))
    for start in range(0, len(slices), batch):
        context.progress.raise_if_cancelled()
        here = slice(start, start + batch)
        whole = torch.from_numpy(slices[here])[:, None].to(context.device)
        x = F.avg_pool2d(whole, whole.shape[-1] // side)
        redrawn = generator(x, wanted)
        if x.shape != whole.shape:
            redrawn = whole + F.interpolate(redrawn - x, size=whole.shape[2:], mode="bilinear")
            redrawn = redrawn.clamp(-1, 1)
        drawn[here] = redrawn[:, 0].cpu().numpy()
        chance[here] = discriminator.classify(x).softmax(1)[:, 1].cpu().numpy()
        context.progress.report("Redrawing", 0.1 + 0.8 * min(1.0, (start + batch) / len(slices)))
    return drawn, chance


def smoothed(difference: Float32, sigma: float) -> Float32:
    """|difference| after a Gaussian of so many pixels within each slice."""
    return np.abs(ndimage.gaussian_filter(difference, (0, sigma, sigma)))


def segment(
    change: Float32, inside: Mask, rows: npt.NDArray[np.int64], parameters: dict[str, Any], voxel_mm3: float
) -> tuple[Mask, float]:
    """Where the change exceeds the threshold, which is given back too."""
    values = change[rows][inside[rows]]
    if not values.size or values.max() <= 0:
        return np.zeros(change.shape, bool), 0.0
    if parameters["threshold"] == "otsu":
        from skimage.filters import threshold_otsu

        cut = float(threshold_otsu(values))
    else:
        cut = parameters["value"]
    return without_islands((change > cut) & inside, round(parameters["smallest"] / voxel_mm3)), cut
