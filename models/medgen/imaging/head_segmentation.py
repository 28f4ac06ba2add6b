"""The network that tells the structures of `head_labels` apart in a head MR: slices along each axis, labelled one by
one, and the axes vote. Its weights are those of the method multiplanar_unet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from medgen.imaging.head_labels import CLASSES
from medgen.method import Context
from medgen.nets.half_precision import half_precision
from medgen.nets.unet2d import UNet2d, unet_from_state
from medgen.weights import fitting

METHOD, WEIGHTS = "multiplanar_unet", "head_mr.safetensors"
SPACING_MM = 1.0
BATCH = 8


def robust_scale(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intensities of a head in its bounding box, brought to about 0 to 1 as the training images are: divided by the
    98th percentile of what is brighter than the mean, cut off at 2."""
    values = values - min(float(values.min()), 0.0)
    bright = values[values > values.mean()]
    scale = float(np.percentile(bright, 98)) if bright.size else 1.0
    return np.clip(values / np.float32(scale), 0, 2)


def load_head_network(path: Path, context: Context) -> UNet2d:
    """The network of a weights file, kept for the next job. Raises BadInput for weights of another method."""

    def load() -> UNet2d:
        with fitting(path):
            network = unet_from_state(load_file(path)).eval()
        return network.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    return context.cached((METHOD, str(path), context.device), load)


def vote(
    volume: torch.Tensor, network: UNet2d, axes: tuple[int, ...], context: Context, tell: Callable[[float], None]
) -> torch.Tensor:
    """volume: float32 [z, y, x], 1 mm, scaled by `robust_scale`; tell: hears what part is done. Returns the sum over
    `axes` of the class probabilities, float16 [classes, z, y, x]: the only copy of all classes that is held."""
    scores = torch.zeros((CLASSES, *volume.shape), dtype=torch.float16)
    batch = max(1, round(BATCH * context.batch_scale))
    total, done = sum(volume.shape[axis] for axis in axes), 0
    for axis in axes:
        planes, sums = volume.movedim(axis, 0), scores.movedim(axis + 1, 0)
        for start in range(0, len(planes), batch):
            context.progress.raise_if_cancelled()
            here = slice(start, min(start + batch, len(planes)))
            if planes[here].any():
                sums[here] += probabilities(planes[here], network, context.device)
            else:
                sums[here, 0] += 1
            done += here.stop - here.start
            tell(done / total)
    return scores


@torch.no_grad()
def probabilities(planes: torch.Tensor, network: UNet2d, device: str) -> torch.Tensor:
    """float32 [n, h, w] to float16 [n, classes, h, w] on the CPU; padded with air to what the pooling needs."""
    height, width = planes.shape[1:]
    block = 2**network.pools
    padded = torch.zeros((len(planes), 1, -(-height // block) * block, -(-width // block) * block))
    padded[:, 0, :height, :width] = planes
    padded = padded.to(device, memory_format=torch.channels_last)
    with half_precision(device):
        logits = network(padded)
    return logits[..., :height, :width].float().softmax(1).to("cpu", torch.float16)
