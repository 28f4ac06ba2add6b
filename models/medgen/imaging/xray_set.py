"""Chest X-rays with an image-level label, from a folder with labels.csv (columns file, patient_id, label)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from medgen.errors import BadInput
from medgen.imaging.geometry import from_array
from medgen.imaging.intensity import percentile_scale

HEALTHY = "no_finding"


@dataclass(frozen=True)
class XraySet:
    """images: float32 [n, side, side], 0..1; diseased: int64 [n], 0 or 1; held_out: bool [n], every fifth patient of
    either label, for tests."""

    images: npt.NDArray[np.float32]
    diseased: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]


def xray_slice(image: sitk.Image, side: int) -> npt.NDArray[np.float32]:
    """One 2D image, grey or colour, squeezed to side x side pixels; 0..1 between its 0.5th and 99.5th percentile."""
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = sitk.VectorIndexSelectionCast(image, 0)
    values = np.squeeze(sitk.GetArrayFromImage(image)).astype(np.float32)
    if values.ndim != 2:
        raise BadInput("An X-ray must be a single image.")
    return percentile_scale(squeezed(values, (side, side)), 0.5, 99.5)


def xray_to_scan(array: npt.NDArray[np.generic], image: sitk.Image) -> sitk.Image:
    """[side, side] on the grid of the X-ray it was made of; labels (integers) stay labels."""
    shape = tuple(n for n in reversed(image.GetSize()) if n > 1)
    back = squeezed(array.astype(np.float32), (shape[0], shape[1]))
    if not np.issubdtype(array.dtype, np.floating):
        back = (back > 0.5).astype(np.uint8)
    return from_array(back.reshape(tuple(reversed(image.GetSize()))), image)


def squeezed(values: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """[h, w] resized edge to edge to another shape, blurred first where it shrinks."""
    from skimage.transform import resize

    return resize(values, shape, order=1, anti_aliasing=True, preserve_range=True).astype(np.float32)


def load_xrays(folder: Path, side: int) -> XraySet:
    """Raises BadInput where labels.csv or an image cannot be read."""
    try:
        with (folder / "labels.csv").open(newline="", encoding="utf-8-sig") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: (row["label"], row["patient_id"], row["file"]))
        images = [xray_slice(sitk.ReadImage(str(folder / row["file"])), side) for row in rows]
    except (OSError, KeyError, RuntimeError) as error:
        raise BadInput(f"The X-rays in '{folder}' cannot be read ({error}).") from None
    diseased = np.array([row["label"] != HEALTHY for row in rows], np.int64)
    patients: dict[tuple[str, str], int] = {}
    for row in rows:
        patients.setdefault((row["label"], row["patient_id"]), len(patients))
    held_out = np.array([patients[row["label"], row["patient_id"]] % 5 == 4 for row in rows])
    return XraySet(np.stack(images), diseased, held_out)


@dataclass(frozen=True)
class XraySampler:
    """Random batches of the X-rays that are not held out, every other one diseased; the same number gives the same
    batch. Each is mirrored or not, turned, moved and sized a little, and made brighter or darker: there are few."""

    source: XraySet
    seed: int
    batch: int

    def __call__(self, step: int) -> dict[str, Tensor]:
        """'image' float32 [n, 1, side, side], 0..1; 'label' int64 [n], 0 is healthy."""
        rng = np.random.default_rng((self.seed, step))
        labels = np.arange(self.batch) % 2
        rows = [np.flatnonzero((self.source.diseased == label) & ~self.source.held_out) for label in (0, 1)]
        images = self.source.images[[int(rng.choice(rows[label])) for label in labels]]
        mirrored = rng.random(self.batch) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
        return {"image": _moved(torch.from_numpy(images)[:, None], rng), "label": torch.from_numpy(labels)}


def _moved(images: Tensor, rng: np.random.Generator) -> Tensor:
    """[n, 1, h, w] turned by up to 6 degrees, sized by up to 8 %, moved by up to 4 % of the side, gamma 0.8 to 1.25."""
    n = len(images)
    turn, size = np.radians(rng.uniform(-6, 6, n)), rng.uniform(0.92, 1.08, n)
    rows = np.stack([size * np.cos(turn), -size * np.sin(turn), size * np.sin(turn), size * np.cos(turn)], axis=1)
    maps = np.concatenate([rows.reshape(n, 2, 2), rng.uniform(-0.08, 0.08, (n, 2, 1))], axis=2).astype(np.float32)
    where = F.affine_grid(torch.from_numpy(maps), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, where, padding_mode="border", align_corners=False).clamp(0, 1)
    gamma = np.exp(rng.uniform(np.log(0.8), np.log(1.25), (n, 1, 1, 1))).astype(np.float32)
    return moved ** torch.from_numpy(gamma)
