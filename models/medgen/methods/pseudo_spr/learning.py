"""What training and inference share: the working grid, channels made ready, masks damaged on purpose, the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn

from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import from_array, to_array
from medgen.imaging.intensity import z_score
from medgen.method import Context
from medgen.methods.pseudo_spr.spec import CHANNELS
from medgen.nets.half_precision import half_precision
from medgen.nets.unet3d import UNet3d
from medgen.weights import fitting

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SPACING_MM = 1.5
PATCH = 64
INPUTS = len(CHANNELS) + 1  # the bone channel comes last
SPR_MEAN, SPR_STD = 0.7, 0.5  # of the target's z-score: about those of a patch on the head's surface
AIR_SPR = 0.001
BONE_HU = 300.0  # and above is bone in `segments`


def patient_mask(images: Sequence[sitk.Image], coarse_mm: float = 3.0) -> sitk.Image:
    """uint8 on the one grid of the channels: where the patient is in their sum, since fat is dark in one of them and
    brain in another. coarse_mm: as in `foreground_mask`; 3 mm take some air along, in which the network is trained."""
    arrays = [to_array(image).astype(np.float32) for image in images]
    total = sum(values / max(float(np.percentile(values, 99)), 1e-6) for values in arrays)
    return foreground_mask(from_array(np.asarray(total), images[0]), coarse_mm)


def network_input(channels: Mapping[str, Float32], bone: Mask | None, body: Mask) -> Float32:
    """float32 [INPUTS, z, y, x]: each channel's z-score in the body, 0 where there is no such channel; last the leading
    channel inside the bone, 0 elsewhere (all 0 without a bone segment).

    channels: of CHANNELS, any of them, arrays [z, y, x]. The paper feeds raw intensities of its one scanner.
    """
    scaled = {name: z_score(values, body) for name, values in channels.items()}
    stack = [scaled.get(name, np.zeros(body.shape, np.float32)) for name in CHANNELS]
    leading = next(scaled[name] for name in CHANNELS if name in scaled)
    stack.append(leading * bone if bone is not None else np.zeros(body.shape, np.float32))
    return np.stack(stack)


def load_network(context: Context) -> UNet3d:
    """The network of `context.weights`, kept for the next job."""
    path = context.weights
    assert path is not None

    def load() -> UNet3d:
        state = load_file(path)
        with fitting(path):
            pools = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("up."))
            widest = state[f"encoder.blocks.{pools}.0.0.weight"].shape[0]
            network = UNet3d(INPUTS, 1, state["head.weight"].shape[1], pools, widest=widest)
            network.load_state_dict({name: value.float() for name, value in state.items()})
        return network.eval().to(context.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    return context.cached(("pseudo_spr", str(path), context.device), load)


def in_half_precision(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network, quicker: in half precision where the device has it, channels last."""

    def forward(windows: Tensor) -> Tensor:
        with half_precision(windows.device):
            return network(windows.contiguous(memory_format=torch.channels_last_3d))

    return forward


def to_target(spr: Tensor) -> Tensor:
    return (spr - SPR_MEAN) / SPR_STD


def from_target(values: Tensor) -> Tensor:
    return values * SPR_STD + SPR_MEAN


def spr_loss(found: Tensor, spr: Tensor) -> Tensor:
    """L1 + L2, 1:1, of the z-scored SPR (the paper gives no weights; on SPR itself L2 would hardly count)."""
    difference = found - to_target(spr)
    return difference.abs().mean() + (difference**2).mean()


def damaged(bone: Mask, rng: np.random.Generator, reach: int = 2) -> Mask:
    """A bone segment as a hurried hand would leave it: dilated or eroded by up to `reach` voxels."""
    by = int(rng.integers(-reach, reach + 1))
    if by == 0:
        return bone
    change = ndimage.binary_dilation if by > 0 else ndimage.binary_erosion
    return np.asarray(change(bone, iterations=abs(by)))


@dataclass(frozen=True)
class Case:
    """A head to learn from on the working grid: arrays [z, y, x], cropped to the body.

    channels: float of CHANNELS (any of them), as scanned; spr: float, relative to water, air outside the body.
    """

    channels: Mapping[str, Array]
    bone: Array
    body: Array
    spr: Array


@dataclass(frozen=True)
class Recipe:
    """channels: to learn from; drop: chance that a channel is left out (one always stays); drop_bone: the same of the
    bone channel, 1 to learn without; reach: of `damaged`; patch, batch: voxels, patches."""

    channels: Sequence[str] = CHANNELS
    drop: float = 0.35
    drop_bone: float = 0.2
    reach: int = 2
    patch: int = PATCH
    batch: int = 4


def draw_batch(cases: Sequence[Case], recipe: Recipe, seed: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """float32 [batch, INPUTS, patch...] and SPR [batch, 1, patch...]; seed: (run, step), the same gives the same."""
    rng = np.random.default_rng(seed)
    pairs = [_draw(cases[int(rng.integers(len(cases)))], recipe, rng) for _ in range(recipe.batch)]
    inputs, targets = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    return inputs, targets[:, None]


def _draw(case: Case, recipe: Recipe, rng: np.random.Generator) -> tuple[Float32, Float32]:
    window = _window(case.body, recipe.patch, rng)
    names = [name for name in recipe.channels if name in case.channels]
    kept = [name for name in names if rng.random() >= recipe.drop] or [names[int(rng.integers(len(names)))]]
    inputs = np.zeros((INPUTS, *(recipe.patch,) * 3), np.float32)
    for name in kept:
        inputs[CHANNELS.index(name)] = _rescanned(np.asarray(case.channels[name][window], np.float32), rng)
    if rng.random() >= recipe.drop_bone:
        leading = min(CHANNELS.index(name) for name in kept)
        inputs[-1] = inputs[leading] * damaged(np.asarray(case.bone[window]) != 0, rng, recipe.reach)
    spr = np.asarray(case.spr[window], np.float32)
    if rng.random() < 0.5:  # left and right
        inputs, spr = inputs[..., ::-1], spr[..., ::-1]
    return np.ascontiguousarray(inputs), np.ascontiguousarray(spr)


def _window(body: Array, patch: int, rng: np.random.Generator) -> tuple[slice, ...]:
    """A patch whose middle lies in the body where that is possible: the paper drops most background patches."""
    start = [0, 0, 0]
    for _ in range(10):
        start = [int(rng.integers(max(1, n - patch + 1))) for n in body.shape]
        if body[tuple(s + patch // 2 for s in start)]:
            break
    return tuple(slice(s, s + patch) for s in start)


def _rescanned(values: Float32, rng: np.random.Generator) -> Float32:
    """z-scores as another coil, window of normalisation and noise level would give them."""
    values = values * np.float32(np.exp(rng.normal(0, 0.12))) + np.float32(rng.normal(0, 0.12))
    if rng.random() < 0.5:
        values = values + np.float32(rng.uniform(0, 0.15)) * rng.standard_normal(values.shape, np.float32)
    return values
