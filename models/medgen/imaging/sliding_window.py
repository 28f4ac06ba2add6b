"""A network that knows patches, run over a whole volume: overlapping windows blended with Gaussian weights.

Window positions, weights and blending are those of `monai.inferers.SlidingWindowInferer(mode="gaussian")` (sigma 1/8 of
the patch, weights not below 0.001), so the result in the foreground is the same to rounding. What differs is the cost:
windows that hold no foreground never reach the network, and class scores live only in a ring of planes as thick as one
patch, inside the foreground's bounding box; each plane is reduced (to labels, say) as soon as no later window adds to
it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

Reduce = Literal["logits", "probability", "argmax"]
Box = tuple[slice, ...]


def window_starts(size: int, patch: int, overlap: float) -> list[int]:
    """First index of every window along one axis; the last window ends with the volume. size >= patch."""
    if size == patch:
        return [0]
    step = max(1, int(patch * (1 - overlap)))
    count = math.ceil((size - patch) / step) + 1
    return [min(i * step, size - patch) for i in range(count)]


def gaussian_weights(patch: Sequence[int]) -> torch.Tensor:
    """float32 [*patch], largest in the middle, at least 0.001."""
    weights = torch.ones(())
    for n in patch:
        x = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        weights = weights.unsqueeze(-1) * torch.exp(-(x**2) / (2 * (n / 8) ** 2))
    return weights.clamp_(min=max(float(weights.min()), 1e-3))


@dataclass(frozen=True)
class Scheme:
    """How windows lie and blend: starts(size, patch, overlap) along one axis in rising order; weights(patch); the
    type of the sums, which float16 keeps small at the price of its rounding."""

    starts: Callable[[int, int, float], list[int]]
    weights: Callable[[Sequence[int]], torch.Tensor]
    dtype: torch.dtype = torch.float32


MONAI = Scheme(window_starts, gaussian_weights)


def sliding_window(
    volume: torch.Tensor,
    network: Callable[[torch.Tensor], torch.Tensor],
    patch: Sequence[int],
    overlap: float = 0.5,
    *,
    batch: int = 1,
    device: str | torch.device = "cpu",
    foreground: torch.Tensor | None = None,
    fill: float | Sequence[float] = 0.0,
    pad_value: float = 0.0,
    half: bool = False,
    reduce: Reduce = "logits",
    scheme: Scheme = MONAI,
    progress: Callable[[float], None] | None = None,
) -> torch.Tensor:
    """Runs `network` ([B, C, *patch] -> [B, K, *patch]) in windows over `volume` [C, *spatial], 2D or 3D.

    foreground: bool [*spatial]; windows without any are skipped, and voxels outside it get `fill` (one value, or one
    for each of the K channels). Without it every window runs.
    patch may exceed the volume, which is then padded on both sides with `pad_value`; overlap: part of a patch, [0, 1).
    half: float16 in the network, on a GPU only; blending is in the scheme's type all the same.
    reduce: 'logits' the blended scores, [K, *spatial] of the scheme's type; 'probability' their softmax (sigmoid
    where K = 1); 'argmax' the label, uint8 (int16 where K > 256) [*spatial], where K = 1 the label is 1 for scores
    above 0. progress: called with the fraction done, from 0 to 1, after each batch of windows; what it raises ends
    the run.

    Returns a tensor on the volume's device. The network must be in eval mode, on `device`.
    Raises ValueError for an overlap outside [0, 1) or shapes that do not match.
    """
    spatial, patch = tuple(volume.shape[1:]), tuple(patch)
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), not {overlap}")
    if len(patch) != len(spatial) or (foreground is not None and tuple(foreground.shape) != spatial):
        raise ValueError(f"patch {patch}, volume {spatial} and foreground must have the same axes")
    device = torch.device(device)
    before = [max(0, p - n) // 2 for n, p in zip(spatial, patch, strict=True)]
    volume = _pad(volume, patch, before, pad_value)
    rows = _rows(tuple(volume.shape[1:]), patch, overlap, before, foreground, scheme)
    total, done = sum(len(row) for row in rows), 0
    blend = _Blend(spatial, patch, before, foreground, fill, reduce, scheme, device, volume.device)
    with torch.no_grad(), torch.autocast(device.type, torch.float16, enabled=half and device.type == "cuda"):
        for row in rows:
            blend.finish_before(row[0][0])
            for starts in (row[i : i + batch] for i in range(0, len(row), batch)):
                windows = [volume[(slice(None), *_window(start, patch))] for start in starts]
                for start, scores in zip(starts, network(torch.stack(windows).to(device)), strict=True):
                    blend.add(start, scores)
                done += len(starts)
                if progress is not None:
                    progress(done / total)
        return blend.result()


def _pad(volume: torch.Tensor, patch: tuple[int, ...], before: list[int], value: float) -> torch.Tensor:
    sides: list[int] = []
    for n, p, b in zip(reversed(volume.shape[1:]), reversed(patch), reversed(before), strict=True):
        sides += [b, max(0, p - n) - b]
    return F.pad(volume, sides, value=value) if any(sides) else volume


def _window(start: Sequence[int], patch: Sequence[int]) -> Box:
    return tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))


def _bounding_box(foreground: torch.Tensor | None, spatial: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and one-past-last index along each axis; the whole volume without a mask or with an empty one."""
    if foreground is None or not foreground.any():
        return [(0, n) for n in spatial]
    box, axes = [], range(len(spatial))
    for axis in axes:
        others = [a for a in axes if a != axis]
        inside = torch.nonzero(foreground.any(others[0]) if len(others) == 1 else torch.amax(foreground, others))
        box.append((int(inside[0]), int(inside[-1]) + 1))
    return box


def _rows(
    padded: tuple[int, ...],
    patch: tuple[int, ...],
    overlap: float,
    before: list[int],
    foreground: torch.Tensor | None,
    scheme: Scheme,
) -> list[list[tuple[int, ...]]]:
    """Starts (in the padded volume) of the windows to run, in rows of the same first start, rows in rising order."""
    axes = [scheme.starts(n, p, overlap) for n, p in zip(padded, patch, strict=True)]

    def wanted(start: tuple[int, ...]) -> bool:
        if foreground is None:
            return True
        lows = (max(0, s - b) for s, b in zip(start, before, strict=True))
        highs = (max(0, s - b + p) for s, b, p in zip(start, before, patch, strict=True))
        return bool(foreground[tuple(slice(lo, hi) for lo, hi in zip(lows, highs, strict=True))].any())

    rows = ([(first, *rest) for rest in itertools.product(*axes[1:]) if wanted((first, *rest))] for first in axes[0])
    # an empty foreground still runs one window: only the network knows how many channels it gives
    return [row for row in rows if row] or [[tuple(0 for _ in patch)]]


@dataclass
class _Blend:
    """Weighted sum of window scores, kept for one patch's worth of planes along the first axis (a ring).

    before: voxels of padding at the low ends; home: the device of the result.
    """

    spatial: tuple[int, ...]
    patch: tuple[int, ...]
    before: list[int]
    foreground: torch.Tensor | None
    fill: float | Sequence[float]
    reduce: Reduce
    scheme: Scheme
    device: torch.device
    home: torch.device
    output: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.box = _bounding_box(self.foreground, self.spatial)
        self.weights = self.scheme.weights(self.patch).to(self.device, self.scheme.dtype)
        self.next_plane = self.box[0][0]  # first plane not yet finished
        self.end_plane = self.box[0][0]  # planes from here on have had no window yet

    def _start(self, channels: int) -> None:
        face = [high - low for low, high in self.box[1:]]
        depth = min(self.patch[0], self.box[0][1] - self.box[0][0])
        self.sums = torch.zeros((depth, channels, *face), dtype=self.weights.dtype, device=self.device)
        self.norms = torch.zeros((depth, *face), dtype=self.weights.dtype, device=self.device)
        if self.reduce == "argmax":
            dtype = torch.uint8 if channels <= 256 else torch.int16
            self.output = torch.full(self.spatial, int(float(self.fill)), dtype=dtype, device=self.home)  # type: ignore
            return
        fill = torch.as_tensor(self.fill, dtype=self.weights.dtype, device=self.home).reshape(
            -1, *(1 for _ in self.spatial)
        )
        self.output = fill.expand(channels, *self.spatial).clone(memory_format=torch.contiguous_format)

    def add(self, start: tuple[int, ...], scores: torch.Tensor) -> None:
        """scores: [K, *patch] of the window that starts at `start` in the padded volume."""
        if self.output is None:
            self._start(scores.shape[0])
        # the window's part inside the box, in the window's own indices and in the box's
        inner, outer = [], []
        for s, p, b, (low, high) in zip(start, self.patch, self.before, self.box, strict=True):
            first, last = max(s - b, low), min(s - b + p, high)
            if first >= last:
                return
            inner.append(slice(first - (s - b), last - (s - b)))
            outer.append(slice(first - low, last - low))
        planes_first, weights = scores[(slice(None), *inner)].transpose(0, 1), self.weights[tuple(inner)]
        for here, ring in self._ring(outer[0].start, outer[0].stop):
            self.sums[(ring, slice(None), *outer[1:])] += planes_first[here] * weights[here].unsqueeze(1)
            self.norms[(ring, *outer[1:])] += weights[here]
        self.end_plane = max(self.end_plane, outer[0].stop + self.box[0][0])

    def _ring(self, first: int, last: int) -> Iterator[tuple[slice, slice]]:
        """Parts of the planes first..last of the box: (indices from `first` on, indices in the ring)."""
        depth, done = self.norms.shape[0], 0
        while first + done < last:
            at = (first + done) % depth
            length = min(depth - at, last - first - done)
            yield slice(done, done + length), slice(at, at + length)
            done += length

    def finish_before(self, start: int) -> None:
        """No window from now on starts before plane `start` (of the padded volume): reduces the planes before it."""
        plane = start - self.before[0]
        for z in range(self.next_plane, min(plane, self.end_plane)):
            self._finish(z)
        self.next_plane = max(self.next_plane, plane)

    def _finish(self, z: int) -> None:
        ring = (z - self.box[0][0]) % self.norms.shape[0]
        sums, norms = self.sums[ring], self.norms[ring]
        if self.reduce == "argmax":  # the same before and after the division by the weights' sum
            values = sums.argmax(0) if sums.shape[0] > 1 else sums[0] > 0
        else:
            values = sums.div_(norms.masked_fill_(norms == 0, 1))
            if self.reduce == "probability":
                values = values.softmax(0) if sums.shape[0] > 1 else values.sigmoid()
        assert self.output is not None
        face = tuple(slice(low, high) for low, high in self.box[1:])
        plane: tuple[int | slice, ...] = (z, *face)
        target = self.output[plane if self.reduce == "argmax" else (slice(None), *plane)]
        values = values.to(self.home, target.dtype)
        if self.foreground is not None:
            values = torch.where(self.foreground[z][face].to(self.home), values, target)
        target.copy_(values)
        sums.zero_()
        norms.zero_()

    def result(self) -> torch.Tensor:
        for z in range(self.next_plane, self.end_plane):
            self._finish(z)
        assert self.output is not None
        return self.output
