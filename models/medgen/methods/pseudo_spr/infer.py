"""SPR of a head from the MR channels at hand, on the grid of the leading one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from medgen.errors import BadInput
from medgen.imaging.geometry import canonical, crop_to_mask, from_array, overlap_fraction, paste_back, to_array
from medgen.imaging.head_labels import BONE
from medgen.imaging.head_structures import HU, UNKNOWN, fitted, structures
from medgen.imaging.resampling import grid_like, resample, resample_labels
from medgen.imaging.sliding_window import sliding_window
from medgen.imaging.spr_table import SPR_KNOTS
from medgen.imaging.water_path import hu_from_spr, knots_of_table, spr_from_hu, water_path
from medgen.method import Context
from medgen.methods.pseudo_spr.learning import (
    AIR_SPR,
    BONE_HU,
    PATCH,
    SPACING_MM,
    from_target,
    in_half_precision,
    load_network,
    network_input,
    patient_mask,
)
from medgen.methods.pseudo_spr.spec import CHANNELS

Array = npt.NDArray[Any]
BATCH = 4
AIR_BELOW = 0.5  # SPR of what counts as air in `segments`


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: at least one of the channels; see `spec.SPR`. Images come back on the leading channel's grid."""
    knots = knots_of_table(inputs["calibration"]) if "calibration" in inputs else SPR_KNOTS
    lines = _lines(inputs.get("lines", []))
    channels = _channels(inputs, context)
    leading = next(iter(channels.values()))
    segments: dict[str, sitk.Image] = {name: inputs[name] for name in ("bone", "body") if name in inputs}
    if not parameters["use_bone"]:
        segments.pop("bone", None)
    labels = _structures(channels, segments.get("bone"), context) if parameters["structures"] else None
    if labels is not None and "bone" not in segments:
        segments["bone"] = from_array(np.isin(to_array(labels), BONE), labels)
    spr_image, body = predict(channels, segments, float(parameters["overlap"]), context)
    context.progress.report("Finishing", 0.96)
    spr = to_array(spr_image).astype(np.float32)
    if "calibration" in inputs:
        spr = spr_from_hu(hu_from_spr(spr), knots)
    if labels is not None:
        ranges = {value: tuple(spr_from_hu(row, knots)) for value, row in HU.items()}
        spr = fitted(from_array(spr, leading), labels, ranges)
    spr[to_array(body) == 0] = parameters["air_spr"]
    for name in ("air", "metal"):
        if name in inputs:
            spr[to_array(resample_labels(inputs[name], leading)) != 0] = parameters[f"{name}_spr"]
    outputs = {"spr": from_array(spr, leading)}
    found = np.where(spr >= spr_from_hu(BONE_HU, knots), 1, np.where(spr < AIR_BELOW, 2, 0)).astype(np.uint8)
    outputs["segments"] = from_array(found * (to_array(body) != 0), leading)
    if parameters["scale"] != "none":
        outputs["scaled"] = from_array(scaled(spr, parameters["scale"]), leading)
    if parameters["synthetic_ct"]:
        outputs["ct"] = from_array(hu_from_spr(spr, knots), leading)
    return {**outputs, **depths(outputs["spr"], lines)}


def scaled(spr: Array, scale: str) -> npt.NDArray[np.int16]:
    """1000 (SPR - 1) for 'relative', 1000 SPR for 'times', rounded."""
    return np.rint(1000 * (spr.astype(np.float64) - (scale == "relative"))).astype(np.int16)


def depths(spr: sitk.Image, lines: list[list[list[float]]]) -> dict[str, Any]:
    """Table of all lines and the profile of the first; nothing without lines. Raises BadInput for a line that misses
    the image."""
    if not lines:
        return {}
    paths = [water_path(spr, start, end) for start, end in lines]
    first = paths[0]
    return {
        "depths": {
            "line": list(range(1, len(paths) + 1)),
            "length_mm": [round(path.length_mm, 2) for path in paths],
            "water_equivalent_mm": [round(path.total_mm, 2) for path in paths],
            "outside_image_mm": [round(path.outside_mm, 2) for path in paths],
        },
        "profile": {
            "depth_mm": first.edges_mm.round(3).tolist(),
            "water_equivalent_depth_mm": first.wet_mm.round(3).tolist(),
        },
    }


def _lines(points: list[list[float]]) -> list[list[list[float]]]:
    if len(points) % 2:
        raise BadInput("A beam line needs two points: place one more, or remove the last.")
    return [points[i : i + 2] for i in range(0, len(points), 2)]


def _channels(inputs: dict[str, Any], context: Context) -> dict[str, sitk.Image]:
    """The channels given, the leading one first. Raises BadInput for none, or one that does not cover it."""
    channels = {name: inputs[name] for name in CHANNELS if name in inputs}
    if not channels:
        raise BadInput("Give at least one MR: fat-suppressed, T1-weighted or water-suppressed.")
    (first, leading), *others = channels.items()
    for name, image in others:
        covered = overlap_fraction(leading, image)
        if covered < 0.1:
            raise BadInput(
                f"The channels '{first}' and '{name}' do not overlap: are they of the same patient and frame?"
            )
        if covered < 0.9:
            context.progress.notice(f"Channel '{name}' covers only {covered:.0%} of '{first}'; the rest is guessed.")
    return channels


def _structures(channels: dict[str, sitk.Image], bone: sitk.Image | None, context: Context) -> sitk.Image | None:
    """The structures in the T1 or the fat-suppressed MR (`imaging.head_structures`), UNKNOWN where a bone segment of
    the user says otherwise; None without either MR."""
    scan = channels.get("t1", channels.get("water"))
    if scan is None:
        context.progress.notice("The head's structures cannot be found in a water-suppressed MR alone.")
        return None

    def tell(done: float) -> None:
        context.progress.report("Finding the head's structures", 0.3 * done)

    labels = structures(scan, context, tell)
    if bone is None:
        return labels
    values = to_array(labels)
    agree = np.isin(values, BONE) == (to_array(resample_labels(bone, labels)) != 0)
    return from_array(np.where(agree, values, UNKNOWN), labels)


def predict(
    channels: dict[str, sitk.Image], segments: dict[str, sitk.Image], overlap: float, context: Context
) -> tuple[sitk.Image, sitk.Image]:
    """SPR (float32, air outside the body) and the body mask, both on the grid of the first channel."""
    progress = context.progress
    progress.report("Preparing the images", 0.3)
    leading = next(iter(channels.values()))
    upright, way = canonical(leading)
    whole = resample(upright, grid_like(upright, SPACING_MM))
    if "body" in segments:
        body = wide = resample_labels(segments["body"], whole)
    else:
        images = [whole, *(resample(image, whole, fill=0.0) for image in list(channels.values())[1:])]
        wide, body = patient_mask(images), patient_mask(images, SPACING_MM)  # z-scores as in training; up to the skin
    if not to_array(body).any():
        raise BadInput("The body segment is empty where the MR is.")
    box = crop_to_mask(whole, wide, margin_mm=4 * SPACING_MM)
    arrays = {name: to_array(resample(image, box, fill=0.0)).astype(np.float32) for name, image in channels.items()}
    bone = to_array(resample_labels(segments["bone"], box)) != 0 if "bone" in segments else None
    volume = network_input(arrays, bone, to_array(resample_labels(wide, box)) != 0)
    inside = to_array(resample_labels(body, box)) != 0
    progress.raise_if_cancelled()

    def report(fraction: float) -> None:
        progress.raise_if_cancelled()
        progress.report("Predicting", 0.35 + 0.6 * fraction)

    values = sliding_window(
        torch.from_numpy(volume),
        in_half_precision(load_network(context)),
        (PATCH,) * 3,
        overlap,
        batch=max(1, round(BATCH * context.batch_scale)),
        device=context.device,
        foreground=torch.from_numpy(inside),
        progress=report,
    )
    spr = from_target(values[0]).clamp(min=AIR_SPR).numpy()
    spr[~inside] = AIR_SPR
    back = resample(paste_back(from_array(spr, box), whole, AIR_SPR), upright, fill=AIR_SPR)
    on_grid = (
        resample_labels(segments["body"], leading) if "body" in segments else way.undo(resample_labels(body, upright))
    )
    return way.undo(back), on_grid
