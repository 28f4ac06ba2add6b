"""What a physicist looks at before trusting a synthetic CT: errors by region, where they lie, histogram, water path."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import from_array, to_array
from medgen.imaging.resampling import resample, resample_labels
from medgen.imaging.spr_table import SPR_KNOTS
from medgen.imaging.water_path import Knots, Profile, hu_from_spr, knots_of_table, spr_from_hu, water_path
from medgen.method import Context
from medgen.methods.synthetic_ct_review.spec import DEPTH, REFERENCE, SYNTHETIC, VALUE
from medgen.metrics.synthetic_ct import SCALES, Scale, compare, metrics_table

Array = npt.NDArray[Any]
NOWHERE = -1e6  # no CT number, no stopping power: marks what the reference does not cover
STEP_MM = 0.5  # of the printed profile; the depths themselves are exact
BINS = {"HU": np.arange(-1050.0, 2550.0, 20.0), "SPR": np.arange(-0.01, 2.4, 0.02)}


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """Images are compared on the synthetic image's grid; lines are measured in each image's own."""
    report = context.progress.report
    knots = knots_of_table(inputs["calibration"]) if "calibration" in inputs else SPR_KNOTS
    synthetic = inputs["synthetic"]
    unit = unit_of(synthetic) if parameters["unit"] == "auto" else parameters["unit"]
    reference = _in_unit(inputs["reference"], unit, knots, context) if "reference" in inputs else None
    report("Finding the body", 0.05)
    body = _body(inputs, reference, unit, knots)
    outputs: dict[str, Any] = {}
    images: dict[str, Array] = {SYNTHETIC: to_array(synthetic)}
    if reference is not None:
        report("Comparing with the reference", 0.2)
        context.progress.raise_if_cancelled()
        images[REFERENCE] = to_array(resample(reference, synthetic, fill=NOWHERE))
        covered = np.asarray(images[REFERENCE] > NOWHERE / 2)
        images[REFERENCE][~covered] = images[SYNTHETIC][~covered]
        body &= covered
        if not body.any():
            raise BadInput("The reference does not cover any of the body: are the two in the same frame?")
        outputs |= _comparison(images, body, covered, synthetic, SCALES[unit], parameters)
        context.progress.raise_if_cancelled()
    report("Counting values", 0.8)
    outputs["histogram"] = _histogram({name: values[body] for name, values in images.items()}, BINS[unit])
    if "lines" in inputs:
        report("Measuring along lines", 0.9)
        outputs |= _water(inputs["lines"], synthetic, reference, unit, knots)
    return outputs


def unit_of(image: sitk.Image) -> str:
    """'HU' or 'SPR', by the range of the values."""
    values = sitk.GetArrayViewFromImage(image)
    return "HU" if float(values.min()) < -50 or float(values.max()) > 20 else "SPR"


def _in_unit(image: sitk.Image, unit: str, knots: Knots, context: Context) -> sitk.Image:
    own = unit_of(image)
    if own == unit:
        return image
    context.progress.notice(f"The reference is in {own}: it was turned into {unit} by the HU to SPR table.")
    return from_array((spr_from_hu if unit == "SPR" else hu_from_spr)(to_array(image), knots), image)


def _body(inputs: dict[str, Any], reference: sitk.Image | None, unit: str, knots: Knots) -> npt.NDArray[np.bool_]:
    """On the synthetic image's grid: what was given, else what the reference (or the image itself) shows."""
    synthetic = inputs["synthetic"]
    if "body" in inputs:
        body = resample_labels(inputs["body"], synthetic, "nearest")
    else:
        source = synthetic if reference is None else reference
        hu = source if unit == "HU" else from_array(hu_from_spr(to_array(source), knots), source)
        body = resample_labels(foreground_mask(hu), synthetic, "nearest")
    found = to_array(body) != 0
    if not found.any():
        raise BadInput("The body is empty where the synthetic image is.")
    return found


def _comparison(
    images: dict[str, Array],
    body: npt.NDArray[np.bool_],
    covered: npt.NDArray[np.bool_],
    grid: sitk.Image,
    scale: Scale,
    parameters: dict[str, Any],
) -> dict[str, Any]:
    """Table and signed map. The rest of the image, where the reference ends, counts as nowhere."""
    box = _box(covered)
    mine, true = (images[name][box].astype(np.float32) for name in (SYNTHETIC, REFERENCE))
    spacing = grid.GetSpacing()[::-1]
    q = parameters["q"] * (1.0 if scale.unit == "HU" else 0.001)
    found = compare(mine, true, spacing, body[box], scale, parameters["edge_mm"], q)
    difference = np.zeros(body.shape, np.float32)
    difference[body] = images[SYNTHETIC][body].astype(np.float32) - images[REFERENCE][body]
    return {"metrics": metrics_table(found, spacing, scale, q), "difference": from_array(difference, grid)}


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    ends = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(int(end[0]), int(end[-1]) + 1) for end in ends)


def _histogram(values: dict[str, Array], edges: Array) -> dict[str, list[float]]:
    """Per cent of the body in each bin; values beyond the ends count in the end bins."""
    table = {VALUE: ((edges[:-1] + edges[1:]) / 2).round(4).tolist()}
    for name, each in values.items():
        counts = np.histogram(np.clip(each, edges[0], edges[-1]), edges)[0]
        table[name] = (100 * counts / len(each)).round(4).tolist()
    return table


# ---------------------------------------------------------------------------------------------------------- water path


def _water(
    points: list[list[float]], synthetic: sitk.Image, reference: sitk.Image | None, unit: str, knots: Knots
) -> dict[str, Any]:
    """Every line's thickness, and the first one's profiles. Raises BadInput for half a line, or one that misses."""
    if not points or len(points) % 2:
        raise BadInput("A line needs two points: place one more, or remove the last.")
    lines = list(zip(points[::2], points[1::2], strict=True))
    maps = {SYNTHETIC: synthetic} | ({} if reference is None else {REFERENCE: reference})
    if unit == "HU":
        maps = {name: from_array(spr_from_hu(to_array(image), knots), image) for name, image in maps.items()}
    paths = {name: [water_path(image, start, end) for start, end in lines] for name, image in maps.items()}
    profiles = _profiles({name: found[0] for name, found in paths.items()})
    return {"water_paths": _thickness(paths), "water_depth": profiles, "spr_profile": profiles}


def _thickness(paths: dict[str, list[Profile]]) -> dict[str, list[float]]:
    mine = paths[SYNTHETIC]
    table = {
        "line": [float(n + 1) for n in range(len(mine))],
        "WET synthetic (mm)": [round(p.total_mm, 2) for p in mine],
    }
    if REFERENCE in paths:
        true = [p.total_mm for p in paths[REFERENCE]]
        table["WET reference (mm)"] = [round(value, 2) for value in true]
        table["difference (mm)"] = [round(p.total_mm - value, 2) for p, value in zip(mine, true, strict=True)]
    table["length (mm)"] = [round(p.length_mm, 2) for p in mine]
    return table | {"outside the image (mm)": [round(p.outside_mm, 2) for p in mine]}


def _profiles(paths: dict[str, Profile]) -> dict[str, list[float]]:
    length = next(iter(paths.values())).length_mm
    depth = np.append(np.arange(0.0, length, STEP_MM), length)
    table: dict[str, list[float]] = {DEPTH: depth.round(3).tolist()}
    table |= {f"SPR {name}": path.spr_at(depth).round(4).tolist() for name, path in paths.items()}
    return table | {f"WEPL {name} (mm)": path.wet_at(depth).round(3).tolist() for name, path in paths.items()}
