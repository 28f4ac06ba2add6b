"""A head MR through the network, window by window, to HU on the MR's own grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor

from medgen.imaging.geometry import from_array, overlap_fraction, to_array
from medgen.imaging.head_preparation import PreparedHead, prepare_head
from medgen.imaging.head_structures import HU, fitted, structures
from medgen.imaging.resampling import resample
from medgen.imaging.sliding_window import sliding_window
from medgen.method import Context
from medgen.methods.frequency_mr_to_ct.loss import LOWEST_HU, RANGE_HU, SPACING_MM
from medgen.methods.frequency_mr_to_ct.net import FrequencyNet, network_from_state
from medgen.metrics.synthetic_ct import compare, metrics_table
from medgen.nets.half_precision import half_precision
from medgen.weights import fitting

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
AIR_HU = -1000.0
ROOM = 3  # voxels beyond the mask found automatically, for the network to place the skin
BATCH = 2  # windows at a time on a GPU; a processor is fastest with one
PLAIN = ((False, 1.0),)
VARIANTS = ((False, 0.93), (True, 0.93), (False, 1.07), (True, 1.07))  # mirrored left to right; intensities times


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs and outputs: see `spec.FREQUENCY`. Images come back on the grid of `mr`."""
    mr = inputs["mr"]
    context.progress.report("Loading the network", 0.0)
    network = load_network(context)
    context.progress.report("Preparing the image", 0.02)
    # uncut: where the windows lie moves HU, and a corrected body must not change all of the CT
    head = prepare_head(mr, inputs.get("body"), SPACING_MM, remove_bias=parameters["remove_bias"], cut=False)
    _look_at(mr, head, context)
    found = predict(head, network, parameters, context)
    if parameters["structures"]:

        def tell(done: float) -> None:
            context.progress.report("Finding the head's structures", 0.75 + 0.2 * done)

        found["ct"] = fitted(from_array(found["ct"], head.image), structures(mr, context, tell), HU)
    context.progress.report("Returning to the image's grid", 0.95)
    inside = outline(found["ct"], to_array(head.mask) != 0, "body" in inputs)
    hu = np.where(inside, found["ct"], AIR_HU) if parameters["fill_outside"] else found["ct"]
    ct = sitk.Cast(sitk.Round(head.back(hu, AIR_HU)), sitk.sitkInt16)
    body = head.mask_back(inside)
    if parameters["fill_outside"]:
        ct = sitk.Mask(ct, body, outsideValue=AIR_HU)  # interpolated voxels on the skin too
    outputs = {"ct": ct, "outline": body, "segments": segments(ct, body, parameters["bone_hu"], parameters["air_hu"])}
    for name in found.keys() - {"ct"}:
        outputs[name] = head.back(found[name] * inside, 0.0)
    if "reference" in inputs:
        outputs["metrics"] = against(ct, inputs["reference"], body, context)
    return outputs


def load_network(context: Context) -> FrequencyNet:
    """The network of `context.weights`, kept for the next job."""
    path = context.weights
    assert path is not None

    def load() -> FrequencyNet:
        with fitting(path):
            network = network_from_state(load_file(path)).eval()
        return network.to(context.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    return context.cached(("frequency_mr_to_ct", str(path), context.device), load)


def _look_at(mr: sitk.Image, head: PreparedHead, context: Context) -> None:
    """Tells what may spoil the result and shows only now: a head that the image cuts, wide signal voids."""
    mask = to_array(head.mask) != 0
    sides = {"right": (2, 0), "left": (2, -1), "front": (1, 0), "back": (1, -1), "top": (0, -1)}  # of L, P, S axes
    cut = [side for side, (axis, end) in sides.items() if mask.take(end, axis).mean() > 0.02]
    if cut:
        context.progress.notice(f"The field of view cuts the head at the {', '.join(cut)}: no CT of what lies outside.")
    values = to_array(head.image)
    deep = ndimage.binary_erosion(mask[::2, ::2, ::2], iterations=6)
    void = ndimage.binary_opening(deep & (values[::2, ::2, ::2] < np.percentile(values[~mask], 50) + 0.1), iterations=4)
    if void.sum() * (2 * SPACING_MM) ** 3 > 60_000:
        context.progress.notice("There is a large region without signal inside the head; metal? Check the CT there.")


Network = Callable[[Tensor], Tensor]


def predict(
    head: PreparedHead, network: FrequencyNet, parameters: dict[str, Any], context: Context
) -> dict[str, Array]:
    """HU of a prepared head, float32 [z, y, x]: 'ct', clamped to the range that the network knows; 'uncertainty',
    'high' (HU) and 'share' (0 to 1) where the parameters ask for them."""
    mask = to_array(head.mask) != 0
    wide = ndimage.binary_dilation(mask, iterations=ROOM)
    foreground = torch.from_numpy(wide) if parameters["fill_outside"] else None
    volume = torch.from_numpy(to_array(head.image))[None]
    variants = VARIANTS if parameters["uncertainty"] else PLAIN
    maps = bool(parameters["frequency_maps"])

    def forward(windows: Tensor) -> Tensor:
        with half_precision(windows.device):
            split = network(windows.contiguous(memory_format=torch.channels_last_3d))
        return torch.cat([split.ct, split.high, split.share], 1) if maps else split.ct

    total = torch.zeros(3 if maps else 1, *volume.shape[1:])
    passes: list[Tensor] = []
    for number, (mirrored, times) in enumerate(variants):

        def tell(fraction: float, number: int = number) -> None:
            context.progress.raise_if_cancelled()
            context.progress.report("Making the CT", 0.15 + 0.6 * (number + fraction) / len(variants))

        turned = (volume * times).flip(-1) if mirrored else volume * times
        here = foreground.flip(-1) if mirrored and foreground is not None else foreground
        scores = windowed(turned, forward, here, int(parameters["patch"]), float(parameters["overlap"]), context, tell)
        scores = scores.flip(-1) if mirrored else scores
        total += scores
        passes.append(scores[0].clamp(0, 1))
    mean = total / len(variants)
    unit = mean[0].clamp(0, 1)
    found = {"ct": (unit * RANGE_HU + LOWEST_HU).numpy()}
    if len(variants) > 1:
        found["uncertainty"] = (torch.stack(passes).std(0, correction=0) * RANGE_HU).numpy()
    if maps:
        found |= {"high": (mean[1] * RANGE_HU).numpy(), "share": mean[2].clamp(0, 1).numpy()}
    return found


def windowed(
    volume: Tensor,
    network: Network,
    foreground: Tensor | None,
    patch: int,
    overlap: float,
    context: Context,
    tell: Callable[[float], None],
) -> Tensor:
    """The network over [1, z, y, x]; windows without foreground are skipped and left as air."""
    return sliding_window(
        volume,
        network,
        (patch,) * 3,
        overlap,
        batch=max(1, round(BATCH * context.batch_scale)) if context.device != "cpu" else 1,
        device=context.device,
        foreground=foreground,
        fill=(AIR_HU - LOWEST_HU) / RANGE_HU if foreground is not None else 0.0,
        pad_value=float(volume.min()),
        half=True,
        progress=tell,
    )


def outline(hu: Array, mask: Mask, given: bool) -> Mask:
    """The body: the mask itself where the user gave it; else the skin as the CT shows it near the mask found in the MR,
    in one piece, cavities inside."""
    if given:
        return mask
    core = ndimage.binary_erosion(mask, iterations=ROOM)
    inside = core | ((hu > -500) & ndimage.binary_dilation(mask, iterations=ROOM))
    pieces, count = ndimage.label(inside)
    return inside if count < 2 else pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def segments(ct: sitk.Image, body: sitk.Image, bone_hu: float, air_hu: float) -> sitk.Image:
    hu: Array = to_array(ct)
    found = np.where(hu > bone_hu, 1, np.where(hu < air_hu, 2, 0)) * (to_array(body) != 0)
    return from_array(found.astype(np.uint8), ct)


def against(ct: sitk.Image, reference: sitk.Image, body: sitk.Image, context: Context) -> dict[str, list[Any]]:
    """The table of errors; where the two overlap by less than nine tenths, a notice says so."""
    if overlap_fraction(ct, reference) < 0.9:
        context.progress.notice("The reference CT covers only a part of the MR; the rest of it counts as air.")
    truth: Array = to_array(resample(reference, ct, fill=AIR_HU))
    spacing = tuple(reversed(ct.GetSpacing()))
    found = compare(to_array(ct).astype(np.float32), truth, spacing, to_array(body) != 0)
    return metrics_table(found, spacing)
