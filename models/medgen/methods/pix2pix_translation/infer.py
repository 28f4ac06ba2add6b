"""Whole volumes slice by slice, in the geometry of the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy import ndimage
from torch import nn

from medgen.errors import BadInput
from medgen.imaging.bulk_density import bulk_density
from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import canonical, crop_to_mask, from_array, paste_back, to_array
from medgen.imaging.head_structures import HU, fitted, structures
from medgen.imaging.intensity import unit_to_hu
from medgen.imaging.resampling import resample, resample_labels
from medgen.method import Context
from medgen.methods.pix2pix_translation.learning import HIGH_HU, LOW_HU
from medgen.methods.pix2pix_translation.net import UNetGenerator, generator_from_state
from medgen.methods.pix2pix_translation.slices import ct_unit, mr_unit, slice_grid
from medgen.metrics.overlap import dice
from medgen.weights import fitting

Array = npt.NDArray[Any]
BATCH = 8
SAMPLES = 8  # of the dropout, for the spread
MARGIN_MM = 12.0
BODY_HU, BONE_HU = -300.0, 250.0  # of the tables
MR_SCALE = 1000.0
FLICKER = "gradient across slices over gradient within (1: no flicker)"


def mr_to_ct(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: mr; optional masks body, bone and air. See `spec.MR_TO_CT`."""
    image, fit = inputs["mr"], parameters["structures"]
    unit, spread, body = translate(image, inputs.get("body"), mr_unit, parameters, context, 0.5 if fit else 0.9)
    inside = to_array(body) != 0
    hu = unit_to_hu(to_array(unit).astype(np.float32), LOW_HU, HIGH_HU)
    if fit:

        def tell(done: float) -> None:
            context.progress.report("Finding the head's structures", 0.55 + 0.4 * done)

        hu = fitted(from_array(hu, image), structures(image, context, tell), HU)
    if parameters["fill_outside"]:
        hu[~inside] = parameters["air_hu"]
    rows = [("body: Dice of the outline and of what is above -300 HU", _outline_dice(hu, inside))]
    if "bone" in inputs:
        bone = to_array(resample_labels(inputs["bone"], image)) != 0
        rows.append(("bone: Dice of the segment and of what is above 250 HU", dice(bone, hu > BONE_HU)))
        hu[bone & (hu < BONE_HU)] = parameters["bone_hu"]
    if "air" in inputs:
        hu[to_array(resample_labels(inputs["air"], image)) != 0] = parameters["air_hu"]
    rows.append((FLICKER, flicker(hu, image.GetSpacing(), inside)))
    outputs = {"ct": from_array(hu, image), "checks": _table(rows)}
    if spread is not None:
        outputs["spread"] = sitk.Cast(spread * ((HIGH_HU - LOW_HU) / 2), sitk.sitkFloat32)
    return outputs


def ct_to_mr(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: ct; optional mask body, optional contours. See `spec.CT_TO_MR`."""
    image = inputs["ct"]
    unit, spread, body = translate(image, inputs.get("body"), lambda hu, _: ct_unit(hu), parameters, context, 0.9)
    inside = to_array(body) != 0
    mr = (to_array(unit).astype(np.float32) + 1) * np.float32(MR_SCALE / 2)
    if parameters["fill_outside"]:
        mr[~inside] = 0
    rows = [(FLICKER, flicker(mr, image.GetSpacing(), inside))]
    outputs = {"mr": from_array(mr, image), "checks": _table(rows)}
    if spread is not None:
        outputs["spread"] = sitk.Cast(spread * (MR_SCALE / 2), sitk.sitkFloat32)
    if "contours" in inputs:
        outputs["carried"] = resample_labels(inputs["contours"], image)
    return outputs


def bulk_density_ct(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: mask body; optional masks fat, bone and air, the later ones on top. See `spec.BULK_DENSITY`."""
    if not to_array(inputs["body"]).any():
        raise BadInput("The body segment is empty.")
    layers = [(inputs[name], parameters[f"{name}_hu"]) for name in ("fat", "bone", "air") if name in inputs]
    return {"ct": bulk_density(inputs["body"], layers, parameters["soft_hu"], parameters["air_hu"])}


# --------------------------------------------------------------------------------------------------------- translation


def translate(
    image: sitk.Image,
    body: sitk.Image | None,
    to_unit: Callable[[Array, Array], npt.NDArray[np.float32]],
    parameters: dict[str, Any],
    context: Context,
    share: float,
) -> tuple[sitk.Image, sitk.Image | None, sitk.Image]:
    """The image through the generator: values in [-1, 1], the spread over SAMPLES runs with dropout (or None), and the
    body mask, all on the image's grid. to_unit: (values, body) to [-1, 1]; share: of the job that the slices are.
    Raises BadInput for an empty body."""
    context.progress.report("Preparing the image", 0.0)
    network = load_network(context)
    upright, way = canonical(image)
    whole = resample(upright, slice_grid(upright))
    mask = _grown(foreground_mask(whole)) if body is None else resample_labels(body, whole)
    inside = to_array(mask) != 0
    if not inside.any():
        raise BadInput("The body segment is empty where the image is.")
    if parameters["fill_outside"]:
        box, mask_box = crop_to_mask(whole, mask, MARGIN_MM), crop_to_mask(mask, mask, MARGIN_MM)
    else:  # with the couch, if there is one
        box, mask_box = whole, mask
    values = to_unit(to_array(box), to_array(mask_box))
    if parameters["fill_outside"]:
        values[to_array(mask_box) == 0] = -1

    def back(array: Array, fill: float) -> sitk.Image:
        return way.undo(resample(paste_back(from_array(array, box), whole, fill), upright, fill=fill))

    runs = 1 + (SAMPLES if parameters["uncertainty"] else 0)

    def once(number: int) -> npt.NDArray[np.float32]:
        def tell(done: float) -> None:
            context.progress.raise_if_cancelled()
            context.progress.report("Translating slices", 0.05 + share * (number + done) / runs)

        return _through(values, network, context, tell)

    spread = _spread(once, runs - 1, network, context.seed) if runs > 1 else None
    unit = once(runs - 1)
    context.progress.report("Returning to the image's grid", 0.05 + share)
    on_grid = resample_labels(body, image) if body is not None else way.undo(resample_labels(mask, upright))
    return back(unit, -1.0), None if spread is None else back(spread, 0.0), on_grid


def load_network(context: Context) -> UNetGenerator:
    """The generator of `context.weights`, kept for the next job."""
    path = context.weights
    assert path is not None

    def load() -> UNetGenerator:
        with fitting(path):
            network = generator_from_state(load_file(path)).eval()
        return network.to(context.device)

    return context.cached(("pix2pix_translation", str(path), context.device), load)


def _grown(mask: sitk.Image) -> sitk.Image:
    """The mask is found on coarse voxels: a little room for the skin."""
    return from_array(ndimage.binary_dilation(to_array(mask)), mask)


def _spread(once: Callable[[int], Array], runs: int, network: UNetGenerator, seed: int) -> Array:
    """Standard deviation over runs with dropout on, off again afterwards; the generator's seed is the job's."""
    torch.manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.train()
    total: Array | float = 0.0
    squares: Array | float = 0.0
    for number in range(runs):
        run = once(number)
        total, squares = total + run, squares + run**2
    network.eval()
    return np.sqrt(np.maximum(squares / runs - (total / runs) ** 2, 0))


@torch.no_grad()
def _through(
    values: Array, network: UNetGenerator, context: Context, tell: Callable[[float], None]
) -> npt.NDArray[np.float32]:
    """float32 [z, y, x] in [-1, 1] through the generator, slice by slice; slices of air alone stay air. tell: hears
    what part is done."""
    block, batch = 2**network.levels, max(1, round(BATCH * context.batch_scale))
    height, width = values.shape[1:]
    sides = (0, -width % block, 0, -height % block)
    result = np.full(values.shape, -1, np.float32)
    wanted = np.flatnonzero((values > -1).any((1, 2)))
    for start in range(0, len(wanted), batch):
        tell(start / len(wanted))
        here = wanted[start : start + batch]
        planes = F.pad(torch.from_numpy(values[here])[:, None], sides, value=-1.0).to(context.device)
        result[here] = network(planes)[:, 0, :height, :width].float().cpu().numpy()
    return result


# -------------------------------------------------------------------------------------------------------------- tables


def flicker(values: Array, spacing_mm: tuple[float, ...], inside: Array) -> float:
    """Mean |gradient| along k over the mean of those along j and i, per mm, inside; 1 where slices agree as well as
    rows do, larger where they flicker. 1 for a single slice."""
    if values.shape[0] < 2:
        return 1.0
    x, y, z = spacing_mm
    across = np.abs(np.diff(values, axis=0))[inside[1:] & inside[:-1]].mean() / z
    rows = np.abs(np.diff(values, axis=1))[inside[:, 1:] & inside[:, :-1]].mean() / y
    columns = np.abs(np.diff(values, axis=2))[inside[:, :, 1:] & inside[:, :, :-1]].mean() / x
    return float(2 * across / max(rows + columns, 1e-9))


def _outline_dice(hu: Array, inside: Array) -> float:
    """The outline encloses cavities, so those of the CT are filled."""
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in hu > BODY_HU])
    return dice(filled, inside)


def _table(rows: list[tuple[str, float]]) -> dict[str, list[Any]]:
    return {"check": [name for name, _ in rows], "value": [round(value, 4) for _, value in rows]}
