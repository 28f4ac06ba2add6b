"""Filling the hole of a frame: regions around it, draws of the network, blending into what was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from medgen.methods.us_inpainting.net import HierarchicalInpainter
from medgen.methods.us_inpainting.pyramid import blended

Grey = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
SMALLEST_REGION = 128
BATCH = 4

Network = Callable[[Tensor, Tensor, list[list[Tensor]]], Tensor]


@dataclass(frozen=True)
class Region:
    """A box of the frame that is filled at once; hole, wide: bool, float32 [h, w], the pixels to fill and the blending
    weight; ramp: float32 [h, w], 1 in the hole, falling to 0 at the end of the feather, 0 outside the fan."""

    box: tuple[slice, slice]
    hole: Mask
    wide: Grey
    ramp: Grey


def grown(mask: Mask, pixels: float) -> Mask:
    """The mask and what lies within so many pixels of it."""
    if pixels <= 0:
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= pixels)


def regions(hole: Mask, inside: Mask, feather: float, context: float) -> list[Region]:
    """One region for each separate hole; those that overlap become one. hole: within `inside`, the fan; feather:
    pixels around a hole over which fill and frame are mixed; context: side of a region to that of its hole."""
    away = ndimage.distance_transform_edt(~hole)
    ramp = np.clip(1 - away / (feather + 1), 0, 1).astype(np.float32) * inside
    ramp[away > feather] = 0
    wide = (away <= feather / 2).astype(np.float32)
    found = []
    for box in _boxes(hole, context):
        found.append(Region(box, hole[box], wide[box], ramp[box]))
    return found


def _boxes(hole: Mask, context: float) -> list[tuple[slice, slice]]:
    pieces, _ = ndimage.label(hole, np.ones((3, 3)))
    boxes = [_around(box, hole.shape, context) for box in ndimage.find_objects(pieces)]
    merged = True
    while merged:
        merged = False
        for first in range(len(boxes)):
            for second in range(len(boxes) - 1, first, -1):
                if all(a.start < b.stop and b.start < a.stop for a, b in zip(boxes[first], boxes[second], strict=True)):
                    pair = zip(boxes[first], boxes.pop(second), strict=True)
                    rows, columns = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pair)
                    boxes[first], merged = (rows, columns), True
    return boxes


def _around(box: tuple[slice, slice], shape: tuple[int, ...], context: float) -> tuple[slice, slice]:
    side = max(SMALLEST_REGION, round(context * max(s.stop - s.start for s in box)))
    rows, columns = (_span((s.start + s.stop) // 2, min(side, n), n) for s, n in zip(box, shape, strict=True))
    return rows, columns


def _span(middle: int, side: int, limit: int) -> slice:
    start = min(max(0, middle - side // 2), limit - side)
    return slice(start, start + side)


class Filler:
    """Fills one hole in any number of frames; keeps its noise, so that the same sample has the same speckle in every
    frame unless `renew` draws anew."""

    def __init__(
        self,
        found: list[Region],
        network: HierarchicalInpainter,
        samples: int,
        temperature: float,
        generator: torch.Generator,
        device: str = "cpu",
        batch: int = BATCH,
    ) -> None:
        self.regions, self.network, self.samples, self.temperature = found, network, samples, temperature
        self.generator, self.device, self.batch = generator, device, batch
        self.noise: list[list[Tensor]] = []
        self.renew()

    def renew(self) -> None:
        """Noise for every region and latent: [samples, channels, h, w]."""
        self.noise = []
        for region in self.regions:
            shapes = self.network.noise_shapes(*_padded_size(region.hole.shape, self.network.factor))
            self.noise.append([torch.randn((self.samples, *s), generator=self.generator) for s in shapes])

    def keep_only(self, number: int) -> None:
        """From now on this sample alone."""
        self.noise = [[n[number : number + 1] for n in noise] for noise in self.noise]
        self.samples = 1

    @torch.inference_mode()
    def fill(self, grey: Grey, pause: Callable[[], None] = lambda: None) -> Grey:
        """grey: float32 [h, w], 0 to 1 -> float32 [samples, h, w], the frame itself where no ramp reaches. pause:
        called between batches, may raise."""
        result = np.repeat(grey[None], self.samples, axis=0)
        for region, noise in zip(self.regions, self.noise, strict=True):
            result[(slice(None), *region.box)] = self._fill_region(grey[region.box], region, noise, pause)
        return result

    def _fill_region(self, grey: Grey, region: Region, noise: list[Tensor], pause: Callable[[], None]) -> Grey:
        height, width = grey.shape
        seen, hole, wide, ramp = (
            self._tensor(part) for part in (grey, region.hole.astype(np.float32), region.wide, region.ramp)
        )
        features = self.network.encode(seen * (1 - hole), hole)
        made = []
        count = self.samples if noise else 1  # without latents all samples are one
        for start in range(0, count, self.batch):
            pause()
            part = [n[start : start + self.batch].to(self.device) for n in noise]
            here = min(self.batch, count - start)
            image = self.network.complete([f.expand(here, -1, -1, -1) for f in features], part, self.temperature)
            made.append(mixed(image, seen, hole, wide, ramp)[:, 0, :height, :width].cpu())
        return torch.cat(made).expand(self.samples, -1, -1).numpy()

    def _tensor(self, values: Grey) -> Tensor:
        """[1, 1, h, w] on the device, the border repeated up to the size that the network takes."""
        height, width = _padded_size(values.shape, self.network.factor)
        padding = ((0, height - values.shape[0]), (0, width - values.shape[1]))
        padded = np.pad(np.ascontiguousarray(values, np.float32), padding, mode="edge")
        return torch.from_numpy(padded)[None, None].to(self.device)


def mixed(image: Tensor, seen: Tensor, hole: Tensor, wide: Tensor, ramp: Tensor) -> Tensor:
    """The network's image in the hole, band by band softened into the frame within the feather, the frame elsewhere.
    [n, 1, h, w] and [1, 1, h, w]."""
    both = torch.where(hole > 0, image, seen)
    soft = blended(image, both, wide.expand_as(image))
    return torch.where(ramp > 0, (seen + ramp * (soft - seen)).clamp(0, 1), seen)


def _padded_size(size: tuple[int, ...], factor: int) -> tuple[int, int]:
    height, width = (-(-n // factor) * factor for n in size)
    return height, width


def biharmonic_fill(grey: Grey, found: list[Region]) -> Grey:
    """The smooth fill (Damelin and Hoang 2018; scikit-image), for comparison: float32 [1, h, w]."""
    from skimage.restoration import inpaint_biharmonic

    result = grey.copy()
    for region in found:
        smooth = inpaint_biharmonic(grey[region.box], region.hole).clip(0, 1)
        result[region.box] = np.where(region.hole, smooth, grey[region.box])
    return result[None]


def local_variance(grey: Grey, size: int = 5) -> npt.NDArray[np.float64]:
    """Variance in a window around each pixel."""
    values = grey.astype(np.float64)
    mean = ndimage.uniform_filter(values, size)
    return np.maximum(ndimage.uniform_filter(values**2, size) - mean**2, 0)


def speckle_table(grey: Grey, found: list[Region], ring: int = 12) -> dict[str, list[Any]]:
    """Brightness and speckle in each filled region and in the ring around it, one row a region; grey values 0 to 1."""
    table: dict[str, list[Any]] = {name: [] for name in ("region", "pixels", *_STATISTICS, "speckle_ratio")}
    for number, region in enumerate(found, 1):
        part = grey[region.box]
        around = grown(region.hole, ring) & ~grown(region.hole, 1) & (part > 0)
        variance = local_variance(part)
        speckle_in, speckle_out = variance[region.hole].mean() ** 0.5, _mean(variance, around) ** 0.5
        values = (part[region.hole].mean(), _mean(part, around), speckle_in, speckle_out)
        table["region"].append(number)
        table["pixels"].append(int(region.hole.sum()))
        for name, value in zip(_STATISTICS, values, strict=True):
            table[name].append(round(float(value), 4))
        table["speckle_ratio"].append(round(float(speckle_in / speckle_out), 3) if speckle_out > 0 else 0.0)
    return table


_STATISTICS = ("mean_filled", "mean_ring", "speckle_filled", "speckle_ring")


def _mean(values: npt.NDArray[Any], where: Mask) -> float:
    return float(values[where].mean()) if where.any() else 0.0
